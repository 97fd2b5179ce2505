"""vectors: an index in shards that share what was trained once, so that together they answer as one index would.

How hard a query searches is chosen on the training sample, again on the whole index where there are questions enough,
and judged by questions that it was not chosen on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.algo.rank import kmeans
from rag_hpc.algo.types import F32, I64
from rag_hpc.core.comm import Comm
from rag_hpc.core.fs import canonical_json
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.settings import path_field
from rag_hpc.core.stage import Context, Inputs, Launch, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError, InputError, RagHpcError
from rag_hpc.search import given, indexes, recall
from rag_hpc.search.ann import Ann, slice_of
from rag_hpc.search.choose import Choice, choose, default_lists
from rag_hpc.search.effort import LEAST_CHOOSING, least_effort, open_numbers
from rag_hpc.stores import partitions
from rag_hpc.stores.chunks import ChunkStore, split_evenly
from rag_hpc.stores.questions import read_question_vectors, read_questions
from rag_hpc.stores.shards import (
    INVERTED,
    Effort,
    IndexName,
    Kind,
    effort_of,
    read_trained,
    write_effort,
    write_trained,
)
from rag_hpc.stores.vectors import VectorStore, read_facts

log = logging.getLogger(__name__)
RECALL = "recall.json"
KNOBS = {  # what of an effort may be raised
    "num_probes": "lists probed",
    "shortlist": "hits ranked exactly",
    "ef_search": "candidates of the graph's walk",
}


class RecallTooLow(RagHpcError):
    """The index's recall against exact search is below what the configuration promises."""


@dataclass(kw_only=True)
class VectorsConfig:
    """Settings of the vector index."""

    index: IndexName = IndexName.ivf_fp16  # as FAISS calls it; auto: by size, memory and recall
    prebuilt: str = path_field("", only="folder")  # of Pyserini: `index`, and `docid` with the chunk_id of each vector
    num_shards: int = 4
    partition_by: str = ""  # as stage.lexical.partition_by
    num_lists: int = 0  # 0 = 4 x sqrt(rows), at least 1, and at least 39 rows of the sample to a list
    num_probes: int = 0  # lists probed by a query; 0 = the fewest that reach the recall on the training sample
    shortlist: int = 0  # hits by code score that exact scores rank; 0 = the fewest that reach the recall on the sample
    ef_search: int = 0  # of hnsw; 0 = the least that reaches the recall on the sample
    mem_gib: float = 0.0  # of a rank, for index=auto; 0 = no limit
    train_rows: int = 65_536
    iterations: int = 10
    min_recall: float = 0.99  # recall@10 against exact search

    def __post_init__(self) -> None:
        if self.num_shards < 1 or self.num_lists < 0 or self.num_probes < 0 or self.train_rows < 1:
            raise ConfigError("stage.vectors: num_shards, train_rows >= 1 and num_lists, num_probes >= 0 are needed")
        if self.shortlist < 0 or self.ef_search < 0 or not self.mem_gib >= 0:
            raise ConfigError("stage.vectors: shortlist, ef_search and mem_gib >= 0 are needed; try 0")
        if self.partition_by and self.prebuilt:
            raise ConfigError("stage.vectors.partition_by: an index made elsewhere has its shards; leave prebuilt away")
        if self.iterations < 1:
            raise ConfigError(f"stage.vectors.iterations={self.iterations}: at least 1; try 10")
        if not 0.0 <= self.min_recall <= 1.0:
            raise ConfigError(f"stage.vectors.min_recall={self.min_recall}: between 0 and 1; try 0.99")


class Train(Stage):
    """Trains the coarse quantizer by k-means over all ranks, and codebooks; both are the same for every p."""

    Config: ClassVar[type] = VectorsConfig
    name = "vectors.train"
    version = 2
    launch = Launch.mpi
    needs = ("encode",)
    identity = ()  # as of the shards
    collective = True

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit of training, which names the kind of index, or has the hash of one made elsewhere."""
        if self.config.prebuilt:
            return [Unit(0, {"prebuilt": given.digest(self.config.prebuilt)})]
        store = VectorStore(inputs["encode"])
        dims = read_facts(inputs["encode"]).get("dims") or store.width  # a plan reads vectors only where it must
        choice = self._choice(len(store), dims)
        self.notes = {"index": choice.text()}
        log.info("vectors: %s", choice.text())
        num_sampled = min(len(store), self.config.train_rows)
        lists = self.config.num_lists or default_lists(num_sampled)
        if lists > num_sampled:
            raise ConfigError(
                f"stage.vectors.num_lists={lists}: the sample has {num_sampled} vectors; set it to 0 "
                "(automatic), or raise stage.vectors.train_rows"
            )
        return [Unit(0, {"index": choice.kind.value, "num_lists": lists if choice.kind.has_lists else 1})]

    def setup(self, ctx: Context) -> None:
        """Refuse a job whose ranks round differently."""
        agree_on_cpu(ctx.comm)

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write probes.json, and centroids.npy [lists, dimensions] float32 or template.faiss."""
        store = VectorStore(ctx.inputs["encode"])
        if "prebuilt" in unit.inputs:
            return self._look_at(store, out, ctx)
        kind = Kind[unit.inputs["index"]]
        sample = np.unique(np.linspace(0, len(store) - 1, min(len(store), self.config.train_rows)).astype(np.int64))
        places = np.arange(len(sample))[ctx.rank :: ctx.world_size]
        settings = kmeans.KMeansConfig(
            num_centroids=unit.inputs["num_lists"], num_iters=self.config.iterations, seed=ctx.seed
        )
        centroids = kmeans.train(store.take(sample[places]), places, settings, indexes.nearest, ctx.comm.sum)
        if ctx.rank == 0:
            rows = store.take(sample)
            template = indexes.template(kind, centroids, rows)
            wanted = Effort(
                kind=kind,
                num_probes=self.config.num_probes if kind.has_lists else 0,
                shortlist=self.config.shortlist if kind.has_codes else 0,
                ef_search=self.config.ef_search if kind is Kind.hnsw else 0,
            )
            write_trained(out, centroids, template, recall.enough(wanted, centroids, template, rows, self._aim))
        return Counts(items_in=len(sample), items_out=len(sample))

    def _look_at(self, store: VectorStore, out: Path, ctx: Context) -> Counts:
        """Write what a query does of an index made elsewhere, which nothing is trained of."""
        if ctx.rank == 0:
            kind, index = given.opened(self.config.prebuilt, store.width)
            if kind.has_lists and not self.config.num_probes:
                raise ConfigError(
                    f"stage.vectors.prebuilt={self.config.prebuilt}: how many of its {index.nlist} lists a query "
                    f"probes is not known; set stage.vectors.num_probes, such as {max(1, index.nlist // 8)}"
                )
            effort = Effort(
                kind=kind,
                num_probes=min(self.config.num_probes, index.nlist) if kind.has_lists else 0,
                ef_search=self.config.ef_search if kind is Kind.hnsw else 0,
            )
            write_trained(out, given.centroids(index), None, effort)
        return Counts(items_in=len(store), items_out=len(store))

    @property
    def _aim(self) -> float:
        """On the sample, a quarter of the misses that are allowed."""
        return (3 + float(self.config.min_recall)) / 4

    def _choice(self, num_rows: int, dims: int) -> Choice:
        config = self.config
        return choose(
            config.index, num_rows, dims, num_shards=config.num_shards, mem_gib=config.mem_gib, recall=config.min_recall
        )


class Build(Stage):
    """Builds one shard a unit from consecutive rows."""

    Config: ClassVar[type] = VectorsConfig
    name = "vectors.build"
    version = 2
    launch = Launch.mpi
    needs: tuple[str, ...] = ("encode", "vectors.train")
    counts_from = "encode"
    identity = ()  # the layout of shards is a choice; what they answer is compared at retrieve

    def __init__(self, config: VectorsConfig) -> None:
        super().__init__(config)
        if config.prebuilt or config.partition_by:
            self.needs = ("encode", "vectors.train", "chunk")

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per shard; an index made elsewhere is one."""
        num_rows = len(VectorStore(inputs["encode"]))
        if self.config.prebuilt:
            return [Unit(0, {"start": 0, "stop": num_rows, "prebuilt": given.digest(self.config.prebuilt)})]
        if self.config.partition_by:
            parts = partitions.partitions(ChunkStore(inputs["chunk"]), self.config.partition_by, self.config.num_shards)
            return [Unit(i, part) for i, part in enumerate(parts)]
        ranges = split_evenly(num_rows, self.config.num_shards)
        return [Unit(i, {"start": start, "stop": stop}) for i, (start, stop) in enumerate(ranges)]

    def setup(self, ctx: Context) -> None:
        """Read on rank 0 what was trained, and send it to all."""
        agree_on_cpu(ctx.comm)
        trained = ctx.inputs["vectors.train"]
        self._effort = effort_of(trained) or Effort()
        self._trained = ctx.comm.broadcast(read_trained(trained) if ctx.rank == 0 else None)
        self._store = VectorStore(ctx.inputs["encode"])

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write index.faiss, rows under their global ordinals, a block in memory at a time; and probes.json."""
        import faiss

        start, stop = unit.inputs["start"], unit.inputs["stop"]
        if "prebuilt" in unit.inputs:
            index = self._taken_in(unit, ctx)
            faiss.write_index(index, str(out / INVERTED))
            write_effort(out, self._effort)
            return Counts(items_in=stop - start, items_out=int(index.ntotal))
        index = indexes.empty_index(self._effort.kind, self._trained)
        rows: I64 | None = None
        if self.config.partition_by:
            rows = partitions.ordinals_by(ChunkStore(ctx.inputs["chunk"]), self.config.partition_by)
        for low in range(start, stop, indexes.BLOCK):
            ctx.check_stop()
            high = min(stop, low + indexes.BLOCK)
            if rows is None:
                indexes.add(index, self._store.rows(low, high), np.arange(low, high, dtype=np.int64))
            else:
                indexes.add(index, self._store.take(rows[low:high]), rows[low:high])
        faiss.write_index(index, str(out / INVERTED))
        write_effort(out, self._effort)
        return Counts(items_in=stop - start, items_out=int(index.ntotal))

    def _taken_in(self, unit: Unit, ctx: Context) -> Any:
        """Return the index made elsewhere, its vectors under their ordinals."""
        folder = self.config.prebuilt
        kind, index = given.opened(folder, self._store.width)
        ordinals = given.ordinals_of(folder, ChunkStore(ctx.inputs["chunk"]).column("chunk_id"), int(index.ntotal))
        given.check_vectors(folder, index, ordinals, self._store)
        if given.digest(folder) != unit.inputs["prebuilt"]:
            raise InputError(f"stage.vectors.prebuilt={folder}: it changed since the plan was made; run again")
        return given.renumbered(kind, index, ordinals)


class Check(Stage):
    """Asks the whole index what exact search is asked, and refuses one that misses too much."""

    Config: ClassVar[type] = VectorsConfig
    name = "vectors.check"
    version = 2
    launch = Launch.mpi
    needs = ("encode", "vectors.build")
    wants = ("retrieve.queries",)
    identity = ()  # as of the shards
    collective = True

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit, which says what is asked."""
        queries = inputs.get("retrieve.queries")
        if queries is None or not queries.total("items_out"):
            return [Unit(0, {"asked": "noisy copies of passages"})]
        titles = all(row["stand_in"] for row in read_questions(queries))
        return [Unit(0, {"asked": "titles of documents" if titles else "questions of the run"})]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write recall.json: recall@10 and @100 over the questions, with intervals; and probes.json, what a query does.

        Where a run has questions enough and a number is to be chosen, every other question chooses the least that
        suffices, and the rest judge. Raises RecallTooLow.
        """
        store = VectorStore(ctx.inputs["encode"])
        asked = unit.inputs["asked"]
        first, stop = slice_of(len(store), ctx.comm)
        rows = store.rows(first, stop)
        index = Ann(ctx.inputs["vectors.build"], rows, first, ctx.comm)
        queries = ctx.comm.broadcast(self._queries(asked, store, ctx) if ctx.rank == 0 else None)
        truth = recall.truth_of(queries, (rows, first), ctx.comm)
        value: dict[str, Any] = {"asked": asked, "num_asked": len(queries)}
        given = Effort(
            num_probes=self.config.num_probes, shortlist=self.config.shortlist, ef_search=self.config.ef_search
        )
        counts = Counts(items_in=len(queries), items_out=len(queries))
        choosing = "retrieve.queries" in ctx.inputs and len(queries) >= 2 * LEAST_CHOOSING
        if choosing and open_numbers(index.effort.kind, given):
            chosen, queries, best = queries[::2], queries[1::2], truth[::2]
            cut = min(recall.DEPTHS)
            index.effort = least_effort(
                index, chosen, best[:, :cut], max(recall.DEPTHS), self.config.min_recall, given, ctx.comm
            )
            on_chosen, truth = recall.compare(index, chosen, best, ctx.comm), truth[1::2]
            value |= {"num_chosen_on": len(chosen), "chosen_on": {row.name: row.value() for row in on_chosen}}
            counts.extra = {f"{row.name}.chosen": row.mean for row in on_chosen}
        found = recall.compare(index, queries, truth, ctx.comm)
        if ctx.rank == 0:
            numbers = {name: getattr(index.effort, name) for name in KNOBS if getattr(index.effort, name)}
            value |= {"num_judged": len(queries), "effort": numbers, **{row.name: row.value() for row in found}}
            (out / RECALL).write_bytes(canonical_json(value))
            write_effort(out, index.effort)
            counts.extra |= {key: number for row in found for key, number in row.figures().items()}
            counts.extra |= {name: float(number) for name, number in numbers.items()}
            self._judge(found[0], asked, index.effort)
        return counts

    def _queries(self, asked: str, store: VectorStore, ctx: Context) -> F32:
        if asked.startswith("noisy"):
            return recall.noisy_copies(store, seed=1)  # seed 0 chose the effort
        vectors_QD = read_question_vectors(ctx.inputs["retrieve.queries"]).astype(np.float32)
        return np.ascontiguousarray(vectors_QD[:: max(1, len(vectors_QD) // recall.MOST_QUERIES)])

    def _judge(self, found: recall.Recall, asked: str, effort: Effort) -> None:
        if found.mean >= self.config.min_recall:
            return
        raise RecallTooLow(
            f"vectors: {effort.kind.value} has {found.name} {found.mean:.4f} [{found.low:.4f}, {found.high:.4f}] over "
            f"{found.num} {asked}, below min_recall={self.config.min_recall}; set {remedy(effort)}"
        )


def remedy(effort: Effort) -> str:
    """Return the settings to turn when an index misses too much, with twice what they are."""
    used = [name for name in KNOBS if getattr(effort, name)]
    raised = [f"stage.vectors.{name}={2 * getattr(effort, name)} ({KNOBS[name]})" for name in used]
    other = "" if effort.kind in (Kind.ivf_fp16, Kind.ivf_flat, Kind.flat) else "stage.vectors.index=ivf_fp16"
    return ", or ".join([*raised, *([other] if other else [])]) or "stage.vectors.index=ivf_fp16"


def agree_on_cpu(comm: Comm) -> None:
    """Raise ConfigError where the ranks' processors round differently: the bytes would depend on who does what."""
    from rag_hpc.models.device import cpu_class

    mine: Any = np.array([int(hash_value(cpu_class())[:15], 16)], dtype=np.int64)
    if not np.array_equal(comm.broadcast(mine), mine):
        raise ConfigError(
            f"vectors: this rank's CPU is of class {cpu_class()}, rank 0's of another; use nodes of one kind "
            "(cluster.constraint)"
        )
