"""vectors: an inverted-file index in shards that share one coarse quantizer, trained once.

With the quantizer shared and the same number of probed lists, the merged result of the shards is that of one index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rag_hpc.algo import kmeans
from rag_hpc.algo.topk import canonical_scores, exact_topk
from rag_hpc.core.chunkstore import split_evenly
from rag_hpc.core.comm import Comm
from rag_hpc.core.fs import canonical_json
from rag_hpc.core.stage import Context, Counts, Inputs, Launch, Stage, Unit
from rag_hpc.errors import ConfigError, RagHpcError
from rag_hpc.vectorstore import INDEX, PROBES, VectorStore, probes_of

CENTROIDS = "centroids.npy"
NUM_BLOCKS = 16  # of the training sample; fixed, so that partial sums do not depend on the number of ranks
GATE_QUERIES = 256
NOISE = 4.0


class RecallTooLow(RagHpcError):
    """A shard's recall against exact search is below what the configuration promises."""


@dataclass(kw_only=True)
class VectorsConfig:
    """Settings of the vector index."""

    num_shards: int = 4
    num_lists: int = 0  # 0 = 4 x sqrt(rows), at least 1, and at least 39 rows of the sample to a list
    num_probes: int = 0  # lists probed by a query; 0 = the fewest that reach the recall on the training sample
    train_rows: int = 65_536
    iterations: int = 10
    min_recall: float = 0.99  # recall@10 against exact search, checked on each shard when it is built

    def __post_init__(self) -> None:
        if self.num_shards < 1 or self.num_lists < 0 or self.num_probes < 0 or self.train_rows < 1:
            raise ConfigError("stage.vectors: num_shards, train_rows >= 1 and num_lists, num_probes >= 0 are needed")
        if self.iterations < 1:
            raise ConfigError(f"stage.vectors.iterations={self.iterations}: at least 1; try 10")
        if not 0.0 <= self.min_recall <= 1.0:
            raise ConfigError(f"stage.vectors.min_recall={self.min_recall}: between 0 and 1; try 0.99")


class Train(Stage):
    """Trains the coarse quantizer by k-means over all ranks; the result does not depend on how many they are."""

    Config: ClassVar[type] = VectorsConfig
    name = "vectors.train"
    version = 1
    launch = Launch.mpi
    needs = ("encode",)
    collective = True

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit of training."""
        num_rows = len(VectorStore(inputs["encode"]))
        num_sampled = min(num_rows, self.config.train_rows)
        lists = self.config.num_lists or default_lists(num_sampled)
        if lists > num_sampled:
            raise ConfigError(f"stage.vectors.num_lists={lists}: the sample has {num_sampled} vectors; set it to 0 "
                              "(automatic), or raise stage.vectors.train_rows")
        return [Unit(0, {"num_lists": lists})]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write centroids.npy [lists, dimensions] float32."""
        store = VectorStore(ctx.inputs["encode"])
        sample = np.unique(np.linspace(0, len(store) - 1, min(len(store), self.config.train_rows)).astype(np.int64))
        ranges = split_evenly(len(sample), NUM_BLOCKS)
        mine = {b: store.take(sample[start:stop]).astype(np.float32)
                for b, (start, stop) in enumerate(ranges) if b % ctx.world_size == ctx.rank}
        settings = kmeans.KMeansConfig(num_centroids=unit.inputs["num_lists"], num_iters=self.config.iterations,
                                       seed=ctx.seed, spherical=True)
        centroids = kmeans.train(mine, len(ranges), settings, lambda parts: sum_in_block_order(parts, ctx.comm))
        probes = self.config.num_probes
        if ctx.rank == 0:
            np.save(out / CENTROIDS, centroids, allow_pickle=False)
            like_a_shard = store.take(sample[:: self.config.num_shards]).astype(np.float32)
            probes = probes or enough_probes(centroids, like_a_shard, self.config.min_recall)
            (out / PROBES).write_bytes(canonical_json({"num_probes": probes}))
        return Counts(items_in=len(sample), items_out=len(sample))


class Build(Stage):
    """Builds one shard a unit from consecutive rows, and refuses a shard whose recall is too low."""

    Config: ClassVar[type] = VectorsConfig
    name = "vectors.build"
    version = 1
    launch = Launch.mpi
    needs = ("encode", "vectors.train")
    counts_from = "encode"
    identity = ()  # the layout of shards is a choice; what they answer is compared at retrieve

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per shard."""
        ranges = split_evenly(len(VectorStore(inputs["encode"])), self.config.num_shards)
        return [Unit(i, {"start": start, "stop": stop}) for i, (start, stop) in enumerate(ranges)]

    def setup(self, ctx: Context) -> None:
        """Read the centroids on rank 0 and send them to all."""
        path = ctx.inputs["vectors.train"].files(CENTROIDS)[0]
        self._probes = probes_of(ctx.inputs["vectors.train"])
        self._centroids = ctx.comm.broadcast(np.load(path, allow_pickle=False) if ctx.rank == 0 else None)
        self._store = VectorStore(ctx.inputs["encode"])

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write index.faiss: inverted lists of float16 vectors under their global ordinals."""
        import faiss

        start, stop = unit.inputs["start"], unit.inputs["stop"]
        vectors = self._store.rows(start, stop).astype(np.float32)
        index = new_index(self._centroids)
        index.add_with_ids(vectors, np.arange(start, stop, dtype=np.int64))
        probes = self._probes
        recall = shard_recall(index, vectors, start, probes)
        if recall < self.config.min_recall:
            raise RecallTooLow(
                f"vectors: {unit.name} has recall@10 {recall:.4f} at {probes} of {len(self._centroids)} lists, below "
                f"min_recall={self.config.min_recall}; set stage.vectors.num_probes="
                f"{min(2 * probes, len(self._centroids))}, or 0: as many as the training sample needs"
            )
        faiss.write_index(index, str(out / INDEX))
        return Counts(items_in=stop - start, items_out=int(index.ntotal))


def sum_in_block_order(parts: dict[int, npt.NDArray[Any]], comm: Comm) -> npt.NDArray[Any]:
    """Return the sum of all ranks' blocks, added in block order on rank 0: float sums then do not depend on p."""
    shape = comm.sum(np.array(next(iter(parts.values())).shape if comm.rank == 0 else (0, 0), dtype=np.int64))
    ids = comm.gather_rows(np.array(sorted(parts), dtype=np.int64))
    rows = np.stack([parts[b] for b in sorted(parts)]) if parts else np.zeros((0, *shape), dtype=np.float64)
    blocks = comm.gather_rows(rows)
    total = None
    if ids is not None and blocks is not None:
        total = np.zeros(tuple(shape), dtype=np.float64)
        for position in np.argsort(ids):
            total += blocks[position]
    return comm.broadcast(total)


def new_index(centroids_LD: npt.NDArray[np.float32]) -> Any:
    """Return an empty inverted-file index (inner product, float16 codes) over the given centroids."""
    import faiss

    faiss.omp_set_num_threads(1)  # one worker is one thread; results must not depend on more
    dimensions = centroids_LD.shape[1]
    quantizer = faiss.IndexFlatIP(dimensions)
    quantizer.add(centroids_LD)
    index = faiss.IndexIVFScalarQuantizer(quantizer, dimensions, len(centroids_LD), faiss.ScalarQuantizer.QT_fp16,
                                          faiss.METRIC_INNER_PRODUCT, False)
    index.is_trained = True
    return index


def default_lists(num_rows: int) -> int:
    """Return the number of inverted lists for a training sample (FAISS asks for at least 39 rows a list)."""
    return max(1, min(int(4 * math.sqrt(num_rows)), num_rows // 39))


def enough_probes(centroids_LD: npt.NDArray[np.float32], vectors_ND: npt.NDArray[np.float32], recall: float) -> int:
    """Return how many lists to probe: growing by a fifth until the sample's misses are a quarter of what is allowed."""
    index = new_index(centroids_LD)
    index.add(vectors_ND)
    probes, num_lists = 1, len(centroids_LD)
    while probes < num_lists and shard_recall(index, vectors_ND, 0, probes) < (3 + recall) / 4:
        probes = min(num_lists, max(probes + 1, probes * 6 // 5))
    return probes


def shard_recall(index: Any, vectors_ND: npt.NDArray[np.float32], first_id: int, probes: int) -> float:
    """Return recall@10 of the shard against exact search, for distant copies of some 256 of its own vectors.

    A question lies in another direction than passages do and needs more lists than a passage would: on the demo's
    questions, recall at equal probes was that of copies with noise of 4 times a unit vector's length.
    """
    step = max(1, len(vectors_ND) // GATE_QUERIES)
    noise = np.random.default_rng(0).standard_normal(vectors_ND[::step].shape, dtype=np.float32)
    queries = vectors_ND[::step] + noise * (NOISE / math.sqrt(vectors_ND.shape[1]))
    k = min(10, len(vectors_ND))
    index.nprobe = probes
    _, found = index.search(queries, k)
    truth_QK, _ = exact_topk(queries, vectors_ND, k)
    # by score, not by id: of equal passages (a licence text in each document) any is as good as another
    rows, hits = np.nonzero(found >= 0)
    scores = np.full(found.shape, -np.inf, dtype=np.float32)
    scores[rows, hits] = canonical_scores(queries[rows], vectors_ND[found[rows, hits] - first_id])
    return float((scores >= truth_QK[:, -1:]).mean())
