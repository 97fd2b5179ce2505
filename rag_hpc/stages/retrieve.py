"""retrieve.search: scatter blocks of queries, search local shards, merge by (score, ordinal) on rank 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.stage import Context, Inputs, Launch, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError
from rag_hpc.search.exact import Exact, check_exact, resolved, sampled
from rag_hpc.search.filters import allowed
from rag_hpc.search.searcher import Searcher, SearchSettings, as_checked, knowledge
from rag_hpc.search.shards import num_threads
from rag_hpc.stores.chunks import ChunkStore, split_evenly
from rag_hpc.stores.hits import ANN, HITS, SEARCHED_EXACTLY, Method, ranked_table
from rag_hpc.stores.questions import read_question_vectors, read_questions
from rag_hpc.stores.tables import write_table
from rag_hpc.stores.vectors import VectorStore

SHARDS_ASKED = "shards_asked"  # in a record's timings, though no seconds: by a query, of an index divided by lists


@dataclass(kw_only=True)
class RetrieveConfig(SearchSettings):
    """Settings of retrieval: those of the search, and what is kept of it."""

    method: Method = Method.fused  # the ranking that is handed on; all are kept and evaluated
    k: int = 10  # passages given to the generator, and the cut of recall
    queries_per_unit: int = 256  # a sixth less time a question than 64; hits of a unit take 5 MB

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.depth:
            raise ConfigError(f"stage.retrieve: k={self.k} must lie between 1 and depth={self.depth}")
        if self.queries_per_unit < 1:
            raise ConfigError("stage.retrieve: queries_per_unit >= 1 is needed")


class Retrieve(Stage):
    """Answers all queries by every method."""

    Config: ClassVar[type] = RetrieveConfig
    name = "retrieve.search"
    version = 3
    launch = Launch.mpi
    needs = ("chunk", "lexical", "encode", "retrieve.queries")
    wants = ("vectors.train", "vectors.build", "vectors.check")
    counts_from = "retrieve.queries"
    collective = True
    identity = (HITS,)  # the same where all questions are searched exactly; an index is judged by its recall

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per block of queries."""
        check_method(self.config.method, inputs, self.config.exact)
        as_checked(self.config, inputs)  # for what it refuses
        num_queries = inputs["retrieve.queries"].total("items_out")
        blocks = split_evenly(num_queries, -(-num_queries // self.config.queries_per_unit))
        known = knowledge(inputs)  # in the fingerprint: it is a count of the input, no file of it
        return [Unit(i, {"start": a, "stop": b, "found_again": known}) for i, (a, b) in enumerate(blocks)]

    def setup(self, ctx: Context) -> None:
        """Open this rank's shards; rank 0 also reads the ids that hits are written under."""
        inputs = ctx.inputs
        self._searcher = Searcher(
            inputs["lexical"],
            inputs["encode"],
            inputs.get("vectors.build"),
            search_settings(self.config, inputs),
            ctx.comm,
            ctx.scratch,
            knowledge(inputs),
        )
        self._searcher.restrict(self._allowed(ctx))
        queries = inputs["retrieve.queries"]
        self._questions = read_questions(queries)
        self._judged = sampled(len(self._questions) if self._searcher.exact is Exact.sample else 0)
        self._vectors = ctx.comm.broadcast(read_question_vectors(queries) if ctx.rank == 0 else None)
        if ctx.rank == 0:
            chunks = ChunkStore(inputs["chunk"])
            self._names = {name: chunks.arrow(name) for name in ("chunk_id", "doc_id")}

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write hits.parquet (bm25, dense, fused) and, with a vector index, ann.parquet.

        Where not all questions are searched exactly, dense has those that are.
        """
        start, stop = unit.inputs["start"], unit.inputs["stop"]
        questions = self._questions[start:stop]
        judged = self._judged[(self._judged >= start) & (self._judged < stop)] - start
        always = self._searcher.exact is Exact.always
        texts = [q["text"] for q in questions]
        results = self._searcher.search(texts, self._vectors[start:stop], judged if len(judged) else None)
        if ctx.rank == 0:
            query_ids = [q["query_id"] for q in questions]
            tables = {HITS: {method: hits for method, hits in results.hits.items() if method != "ann"}}
            if "ann" in results.hits:
                tables[ANN] = {"ann": results.hits["ann"]}

            def write(name: str) -> None:
                write_table(out / name, ranked_table(query_ids, tables[name], self._names))

            with ThreadPoolExecutor(min(num_threads(), len(tables))) as pool:
                list(pool.map(write, tables))
        extra = {} if always else {SEARCHED_EXACTLY: float(len(judged))}
        asked = {} if results.shards_asked is None else {SHARDS_ASKED: results.shards_asked}
        return Counts(items_in=stop - start, items_out=stop - start, extra=extra, timings=results.seconds | asked)

    def _allowed(self, ctx: Context) -> Array | None:
        """Return which passages may be found, read by rank 0; None: all may."""
        if not self.config.filter:
            return None
        found = allowed(ChunkStore(ctx.inputs["chunk"]), self.config.filter).astype(np.uint8) if ctx.rank == 0 else None
        return ctx.comm.broadcast(found).astype(bool)


def check_method(method: Method, stages: Iterable[str], exact: Exact = Exact.auto) -> None:
    """Raise ConfigError where the ranking to hand on needs a stage that is not among these, or exact search."""
    indexed = "vectors.build" in stages
    check_exact(exact, method, indexed=indexed)
    if method is Method.ann and not indexed:
        raise ConfigError(
            "stage.retrieve.method=ann: no vector index is built; use pipeline=cluster, or method=dense, which "
            "searches the same vectors exactly"
        )


def search_settings(config: RetrieveConfig, inputs: Inputs) -> SearchSettings:
    """Return the settings of a search, whose effort is what the index's recall was checked with."""
    names = [field.name for field in dataclasses.fields(SearchSettings)]
    settings = SearchSettings(**{name: getattr(config, name) for name in names})
    num, indexed = len(VectorStore(inputs["encode"])) if "encode" in inputs else 0, "vectors.build" in inputs
    settings.exact = resolved(config.exact, num, indexed=indexed, method=config.method)
    return as_checked(settings, inputs)
