"""vectors: an inverted-file index in shards that share one coarse quantizer, trained once.

With the quantizer shared and the same number of probed lists, the merged result of the shards is that of one index.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rag_hpc.algo.rank import kmeans
from rag_hpc.algo.types import Array
from rag_hpc.core.comm import Comm
from rag_hpc.core.stage import Context, Inputs, Launch, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError, RagHpcError
from rag_hpc.search.ivf import default_lists, enough_probes, new_index, shard_recall
from rag_hpc.stores.chunks import split_evenly
from rag_hpc.stores.shards import INVERTED, probes_of, read_centroids, write_trained
from rag_hpc.stores.vectors import VectorStore

NUM_BLOCKS = 16  # of the training sample; fixed, so that partial sums do not depend on the number of ranks


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
    identity = ()  # as of the shards
    collective = True

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit of training."""
        num_rows = len(VectorStore(inputs["encode"]))
        num_sampled = min(num_rows, self.config.train_rows)
        lists = self.config.num_lists or default_lists(num_sampled)
        if lists > num_sampled:
            raise ConfigError(
                f"stage.vectors.num_lists={lists}: the sample has {num_sampled} vectors; set it to 0 "
                "(automatic), or raise stage.vectors.train_rows"
            )
        return [Unit(0, {"num_lists": lists})]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write centroids.npy [lists, dimensions] float32."""
        store = VectorStore(ctx.inputs["encode"])
        sample = np.unique(np.linspace(0, len(store) - 1, min(len(store), self.config.train_rows)).astype(np.int64))
        ranges = split_evenly(len(sample), NUM_BLOCKS)
        mine = {
            b: store.take(sample[start:stop]).astype(np.float32)
            for b, (start, stop) in enumerate(ranges)
            if b % ctx.world_size == ctx.rank
        }
        settings = kmeans.KMeansConfig(
            num_centroids=unit.inputs["num_lists"], num_iters=self.config.iterations, seed=ctx.seed, spherical=True
        )
        centroids = kmeans.train(mine, len(ranges), settings, lambda parts: sum_in_block_order(parts, ctx.comm))
        probes = self.config.num_probes
        if ctx.rank == 0:
            like_a_shard = store.take(sample[:: self.config.num_shards]).astype(np.float32)
            probes = probes or enough_probes(centroids, like_a_shard, self.config.min_recall)
            write_trained(out, centroids, probes)
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
        trained = ctx.inputs["vectors.train"]
        self._probes = probes_of(trained)
        self._centroids = ctx.comm.broadcast(read_centroids(trained) if ctx.rank == 0 else None)
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
        faiss.write_index(index, str(out / INVERTED))
        return Counts(items_in=stop - start, items_out=int(index.ntotal))


def sum_in_block_order(parts: dict[int, Array], comm: Comm) -> Array:
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
