"""One index of ours in a process of its own: python -m rag_hpc.eval.bench.vectors.side KIND FOLDER THREADS.

As peer.py, with {"num_probes", "shortlist", "ef_search"} for an effort. KIND may be `exact`: FAISS over all rows.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.rank.topk import longest, rescore
from rag_hpc.algo.types import F32, I64, Array
from rag_hpc.search import indexes
from rag_hpc.stores.shards import Effort, Kind

K = 10
SAMPLE = 65_536


class Side:
    """An index over all rows; a thread answers its share of the questions, as a rank of ours would."""

    def __init__(self, kind: Kind, rows_ND: Array, centroids_LD: F32, threads: int) -> None:
        sample = rows_ND[np.linspace(0, len(rows_ND) - 1, min(SAMPLE, len(rows_ND))).astype(np.int64)]
        trained = indexes.template(kind, centroids_LD, sample)
        self._index = indexes.empty_index(kind, centroids_LD if trained is None else trained)
        indexes.add(self._index, rows_ND, np.arange(len(rows_ND), dtype=np.int64))
        self._rows_ND, self._longest, self._threads = rows_ND, longest(rows_ND), threads
        self._shards: dict[Effort, indexes.Shards] = {}

    @property
    def num_bytes(self) -> int:
        """The index with the float16 rows that exact scores come from."""
        import faiss

        return len(faiss.serialize_index(self._index)) + self._rows_ND.nbytes

    def search(self, queries_QD: F32, effort: Effort) -> I64:
        """Return the ids of the ten best."""
        shards = self._shards.setdefault(effort, indexes.Shards([self._index], effort))

        def answer(part_QD: F32) -> I64:
            ids = shards.shortlist(part_QD, max(K, effort.shortlist))[1]
            return rescore(part_QD, self._rows_ND, ids, K, longest_row=self._longest)[1]

        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(answer, np.array_split(queries_QD, self._threads))))


class Exact:
    """FAISS's own search of all rows in float32."""

    def __init__(self, rows_ND: Array, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self._flat = faiss.IndexFlatIP(rows_ND.shape[1])
        self._flat.add(rows_ND.astype(np.float32))
        self.num_bytes = 4 * rows_ND.size

    def search(self, queries_QD: F32, effort: Effort) -> I64:
        """Return the ids of the ten best."""
        ids: I64 = self._flat.search(queries_QD, K)[1]
        return ids


def main(name: str, folder: str, threads: str) -> None:
    """Build the index, print its bytes and the seconds, then answer commands."""
    rows, queries, centroids = (np.load(Path(folder) / f"{part}.npy") for part in ("rows", "queries", "centroids"))
    begun = time.monotonic()
    side: Any = Exact(rows, int(threads)) if name == "exact" else Side(Kind[name], rows, centroids, int(threads))
    print(json.dumps({"bytes": side.num_bytes, "built_s": time.monotonic() - begun}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        asked = queries[told.pop("half") :: 2]
        out = told.pop("out")
        effort = Effort(kind=Kind.flat if name == "exact" else Kind[name], **told)
        begun = time.monotonic()
        ids = side.search(asked, effort)
        seconds = time.monotonic() - begun
        np.save(out, ids)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
