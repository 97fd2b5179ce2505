"""retrieve.search: scatter blocks of queries, search local shards, merge by (score, ordinal) on rank 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from rag_hpc.core.chunkstore import ChunkStore, split_evenly
from rag_hpc.core.stage import Context, Counts, Inputs, Launch, Stage, Unit
from rag_hpc.core.tables import as_list, read_table, write_table
from rag_hpc.errors import ConfigError
from rag_hpc.hits import ANN, HITS, hits_table
from rag_hpc.search import Searcher, SearchSettings
from rag_hpc.vectorstore import probes_of


@dataclass(kw_only=True)
class RetrieveConfig:
    """Settings of retrieval."""

    k: int = 10  # passages given to the generator, and the cut of recall
    depth: int = 100  # hits kept of each method
    k1: float = 0.9
    b: float = 0.4
    rrf_k: int = 60
    num_probes: int = 0  # of the inverted lists; 0 = as the vector index was checked with
    queries_per_unit: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.depth:
            raise ConfigError(f"stage.retrieve: k={self.k} must lie between 1 and depth={self.depth}")
        if self.k1 < 0 or not 0 <= self.b <= 1 or self.queries_per_unit < 1:
            raise ConfigError("stage.retrieve: k1 >= 0, 0 <= b <= 1 and queries_per_unit >= 1 are needed")
        if self.num_probes < 0 or self.rrf_k < 0:
            raise ConfigError("stage.retrieve: num_probes >= 0 and rrf_k >= 0 are needed; try num_probes=0 rrf_k=60")


class Retrieve(Stage):
    """Answers all queries by every method."""

    Config: ClassVar[type] = RetrieveConfig
    name = "retrieve.search"
    version = 1
    launch = Launch.mpi
    needs = ("chunk", "lexical", "encode", "retrieve.queries")
    wants = ("vectors.train", "vectors.build")
    counts_from = "retrieve.queries"
    collective = True
    identity = (HITS,)  # exact lists; the approximate ones are judged by their recall

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per block of queries."""
        num_queries = inputs["retrieve.queries"].total("items_out")
        num_blocks = -(-num_queries // self.config.queries_per_unit)
        return [Unit(i, {"start": a, "stop": b}) for i, (a, b) in enumerate(split_evenly(num_queries, num_blocks))]

    def setup(self, ctx: Context) -> None:
        """Open this rank's shards; rank 0 also reads the ids that hits are written under."""
        inputs = ctx.inputs
        self._searcher = Searcher(inputs["lexical"], inputs["encode"], inputs.get("vectors.build"),
                                  search_settings(self.config, inputs), ctx.comm, ctx.scratch)
        self._queries = read_table(inputs["retrieve.queries"].files("queries.parquet")[0])
        path = inputs["retrieve.queries"].files("vectors.npy")[0]
        self._vectors = ctx.comm.broadcast(np.load(path, allow_pickle=False) if ctx.rank == 0 else None)
        if ctx.rank == 0:
            chunks = ChunkStore(inputs["chunk"])
            self._chunk_ids, self._doc_ids = chunks.column("chunk_id"), chunks.column("doc_id")

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write hits.parquet (bm25, dense, fused) and, with a vector index, ann.parquet."""
        start, stop = unit.inputs["start"], unit.inputs["stop"]
        texts = as_list(self._queries, "text")[start:stop]
        found = self._searcher.search(texts, self._vectors[start:stop])
        if ctx.rank == 0:
            query_ids = as_list(self._queries, "query_id")[start:stop]
            exact = ("bm25", "dense", "fused")
            write_table(out / HITS, self._table(query_ids, {m: found.hits[m] for m in exact}))
            if "ann" in found.hits:
                write_table(out / ANN, self._table(query_ids, {"ann": found.hits["ann"]}))
        return Counts(items_in=stop - start, items_out=stop - start, timings=found.seconds)

    def _table(self, query_ids: list[str], by_method: dict[str, Any]) -> pa.Table:
        rows: list[tuple[str, str, int, int, str, str, float]] = []
        for method, (scores, ids) in by_method.items():
            for query_id, row_scores, row_ids in zip(query_ids, scores, ids, strict=True):
                for rank, (score, ordinal) in enumerate(zip(row_scores.tolist(), row_ids.tolist(), strict=True), 1):
                    if ordinal >= 0:
                        rows.append((query_id, method, rank, ordinal, self._chunk_ids[ordinal], self._doc_ids[ordinal],
                                     score))
        return hits_table(rows)


def search_settings(config: RetrieveConfig, inputs: Inputs) -> SearchSettings:
    """Return the settings of a search; lists are probed as many as the index's recall was checked with."""
    probes = config.num_probes
    if not probes and "vectors.build" in inputs:
        probes = probes_of(inputs["vectors.train"])
    return SearchSettings(depth=config.depth, k1=config.k1, b=config.b, rrf_k=config.rrf_k, num_probes=probes)
