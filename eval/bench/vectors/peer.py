"""One index of another library in a process of its own: python peer.py hnswlib|usearch|usearch_i8 FOLDER THREADS.

It needs NumPy and that library only. It reads FOLDER/rows.npy and queries.npy, then commands from its input, a line
each: {"ef": N, "half": 0 or 1, "out": FILE}; it writes the ids found to FILE and prints the seconds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

LINKS, EF_CONSTRUCTION, K = 16, 200, 10
Search = Callable[[Any, int], Any]


def of_hnswlib(rows: Any, threads: int) -> tuple[Search, int]:
    """Return a search of a graph of float32 vectors, and its bytes."""
    hnswlib: Any = import_module("hnswlib")

    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=0)
    index.add_items(rows.astype(np.float32), num_threads=threads)

    def search(queries: Any, ef: int) -> Any:
        index.set_ef(ef)
        return index.knn_query(queries, k=K, num_threads=threads)[0]

    return search, _saved(index.save_index)


def of_usearch(rows: Any, threads: int, dtype: str = "f16") -> tuple[Search, int]:
    """Return a search of a graph of float16 vectors, and its bytes."""
    usearch: Any = import_module("usearch.index")

    index = usearch.Index(
        ndim=rows.shape[1], metric="ip", dtype=dtype, connectivity=LINKS, expansion_add=EF_CONSTRUCTION
    )
    index.add(np.arange(len(rows)), rows.astype(np.float32), threads=threads)

    def search(queries: Any, ef: int) -> Any:
        index.expansion_search = ef
        return index.search(queries, K, threads=threads).keys

    return search, _saved(index.save)


def of_usearch_i8(rows: Any, threads: int) -> tuple[Search, int]:
    """Return the same of 8-bit vectors."""
    return of_usearch(rows, threads, "i8")


def main(name: str, folder: str, threads: str) -> None:
    """Build the index, print its bytes and the seconds, then answer commands."""
    rows, queries = (np.load(Path(folder) / f"{part}.npy") for part in ("rows", "queries"))
    begun = time.monotonic()
    search, num_bytes = {"hnswlib": of_hnswlib, "usearch": of_usearch, "usearch_i8": of_usearch_i8}[name](
        rows, int(threads)
    )
    print(json.dumps({"bytes": num_bytes, "built_s": time.monotonic() - begun}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        asked = queries[told["half"] :: 2]
        begun = time.monotonic()
        ids = search(asked, told["ef"])
        seconds = time.monotonic() - begun
        np.save(told["out"], np.asarray(ids).astype(np.int64))
        print(json.dumps({"seconds": seconds}), flush=True)


def _saved(save: Callable[[str], object]) -> int:
    """Return how many bytes an index writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "index")  # noqa: PTH118  (runs without this package, on any Python)
        save(path)
        return os.path.getsize(path)  # noqa: PTH202


if __name__ == "__main__":
    main(*sys.argv[1:])
