"""dedup.link: groups of duplicates over all units, and which document of each stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from rag_hpc.algo.dedup.components import Partition
from rag_hpc.algo.types import F32, I64, U8, Array, Bools
from rag_hpc.core.comm import Comm
from rag_hpc.core.stage import Context, Inputs, Launch, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.stages.dedup.signed import (
    KEEP_MAP,
    LABELS,
    VERIFIED,
    DedupConfig,
    SignedCorpus,
    SignedUnit,
    check_whole,
    older_generations,
)
from rag_hpc.stores.arrays import ArrayFile, ArrayWriter
from rag_hpc.stores.tables import FORMAT

BLOCK = 1 << 18  # rows that a rank sends to rank 0 at a time
PIECE = 1 << 20  # pairs that are read at a time: a unit of documents that are all alike has hundreds for each
ROWS = 65_536  # of a row group


class Link(Stage):
    """Finds connected components with the documents divided among ranks; the smallest number of each stays."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.link"
    version = 1
    launch = Launch.mpi
    needs = ("dedup.sign", "dedup.verify")
    counts_from = "dedup.sign"
    collective = True

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit."""
        check_whole(inputs["dedup.verify"])
        return [Unit(0, {"older": [generation.identity for generation in older_generations(self.config)]})]

    def setup(self, ctx: Context) -> None:
        """Divide the documents among the ranks, at edges of units."""
        self._corpus = SignedCorpus(ctx.inputs["dedup.sign"], older_generations(self.config))
        self._verified = ctx.inputs["dedup.verify"]
        edges, p = self._corpus.edges, ctx.world_size
        wanted = edges[0] + (edges[-1] - edges[0]) * np.arange(1, p, dtype=np.int64) // p
        self._partition = Partition(
            np.concatenate([edges[:1], edges[np.searchsorted(edges, wanted)], edges[-1:]]), ctx.comm
        )

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write labels.npy [documents] int64, the number of the document that stays for each, and keep_map.parquet.

        keep_map.parquet: number, doc_id, kept_id, kept_run (of an earlier generation, else null), reason (exact or
        near) and jaccard (null where the two were not compared) of each document that goes, in order.
        """
        self._corpus.check_older(unit.inputs["older"])
        part = self._partition
        labels = part.components(self._edges(ctx))
        own = slice(max(0, -part.low), None)  # labels of this run's documents
        numbers = np.arange(part.low, part.high, dtype=np.int64)[own]
        gone = labels[own] != numbers
        self._write_labels(labels[own], out, ctx)
        self._write_keep_map(numbers[gone], labels[own][gone], out, ctx)
        num_docs, num_gone = (int(n) for n in ctx.comm.sum(np.array([len(numbers), gone.sum()], dtype=np.int64)))
        return Counts(items_in=num_docs, items_out=num_docs, extra={"duplicates": num_gone})

    def _edges(self, ctx: Context) -> Iterator[I64]:
        """Yield the pairs whose larger number is of this rank, those that earlier runs found too."""
        for unit in self._corpus.units[: self._corpus.num_older_units]:
            if self._is_ours(unit):
                yield unit.links()
        for pairs in self._pairs(ctx):
            yield np.stack([pairs["first"], pairs["second"]], axis=1)

    def _pairs(self, ctx: Context) -> Iterator[Array]:
        """Yield the verified pairs whose larger number is of this rank."""
        for unit, index in zip(
            self._corpus.units[self._corpus.num_older_units :], self._verified.holders(VERIFIED), strict=True
        ):
            if self._is_ours(unit):
                file = ArrayFile(self._verified.file(index, VERIFIED))
                for start in range(0, len(file), PIECE):
                    ctx.check_stop()
                    yield file.rows(start, min(start + PIECE, len(file)))

    def _is_ours(self, unit: SignedUnit) -> bool:
        return bool(unit.num_docs) and self._partition.low <= unit.first < self._partition.high

    def _write_labels(self, labels: I64, out: Path, ctx: Context) -> None:
        with ArrayWriter(out / LABELS, np.int64) if ctx.rank == 0 else nullcontext() as writer:
            for span in turns(ctx, len(labels)):
                block = to_root(ctx.comm, labels[span])
                if writer:
                    writer.add(block)

    def _write_keep_map(self, gone: I64, kept: I64, out: Path, ctx: Context) -> None:
        jaccard, exact = self._likeness(gone, kept, ctx)
        with RowGroups(out / KEEP_MAP) if ctx.rank == 0 else nullcontext() as writer:
            for span in turns(ctx, len(gone)):
                table = self._columns(gone[span], kept[span], jaccard[span], exact[span])
                block = to_root(ctx.comm, _packed(table))
                if writer and len(block):
                    writer.add(_unpacked(block))

    def _likeness(self, gone: I64, kept: I64, ctx: Context) -> tuple[F32, Bools]:
        """Return (jaccard, exact) of each pair of documents, NaN and False where it is not among the verified."""
        jaccard, exact = np.full(len(gone), np.nan, dtype=np.float32), np.zeros(len(gone), dtype=bool)
        for pairs in self._pairs(ctx):
            at = np.searchsorted(gone, pairs["second"])  # each second of a pair goes
            direct = kept[at] == pairs["first"]
            jaccard[at[direct]], exact[at[direct]] = pairs["jaccard"][direct], pairs["exact"][direct]
        return jaccard, exact

    def _columns(self, gone: I64, kept: I64, jaccard: F32, exact: Bools) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        runs: Any = pa.array([unit.run or None for unit in self._corpus.units], pa.string())
        return pa.table(
            {
                "number": pa.array(gone),
                "doc_id": self._names(gone),
                "kept_id": self._names(kept),
                "kept_run": runs.take(pa.array(np.searchsorted(self._corpus.edges[:-1], kept, side="right") - 1)),
                "reason": pc.if_else(pa.array(exact), "exact", "near"),
                "jaccard": pa.array(jaccard, mask=np.isnan(jaccard)),
            },
            schema=keep_map_schema(),
        )

    def _names(self, numbers: I64) -> Any:
        """Return the doc_ids of any rank's documents as an Arrow column: their owners read them."""
        import pyarrow as pa

        part, (asked, back) = self._partition, np.unique(numbers, return_inverse=True)
        replies = part.ranks.exchange([_packed(self._own_names(own)) for own in part.send(asked, asked)])
        names = [_unpacked(reply) for reply in replies if len(reply)]
        return pa.concat_tables(names).column("doc_id").take(back.reshape(-1)) if names else pa.array([], pa.string())

    def _own_names(self, numbers: I64) -> Any:
        """Return a table of the doc_ids of this rank's documents, which come in ascending order."""
        import pyarrow as pa

        tables = [unit.columns(["doc_id"]).take(rows) for unit, rows in self._corpus.by_unit(numbers)]
        return pa.concat_tables([pa.table({"doc_id": pa.array([], pa.string())}), *tables])


def turns(ctx: Context, num_rows: int) -> Iterator[slice]:
    """Yield a block of rows of one rank at a time, in rank order: the slice of it to that rank, an empty one to all
    others, which take part in what is done with it."""
    counts = np.zeros(ctx.world_size, dtype=np.int64)
    counts[ctx.rank] = -(-num_rows // BLOCK)
    for source, count in enumerate(ctx.comm.sum(counts)):
        for number in range(int(count)):
            ctx.check_stop()
            yield slice(number * BLOCK, (number + 1) * BLOCK) if source == ctx.rank else slice(0, 0)


def to_root(comm: Comm, rows: Array) -> Array:
    """Return on rank 0 the rows of all ranks, joined; the others get none."""
    return np.concatenate(comm.exchange([rows if rank == 0 else rows[:0] for rank in range(comm.world_size)]))


def _packed(table: Any) -> U8:
    """Return the table as Arrow's stream format has it; nothing when it has no rows."""
    import pyarrow as pa

    sink: Any = pa.BufferOutputStream()
    if table.num_rows:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8)


def _unpacked(data: Any) -> Any:
    import pyarrow as pa

    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


class RowGroups:
    """Writes tables as Parquet in row groups of ROWS rows, wherever one table ends and the next begins."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(path, keep_map_schema(), **FORMAT)
        self._waiting: Any = keep_map_schema().empty_table()

    def add(self, table: Any) -> None:
        """Append the table's rows."""
        import pyarrow as pa

        self._waiting = pa.concat_tables([self._waiting, table])
        whole = self._waiting.num_rows // ROWS * ROWS
        if whole:
            self._writer.write_table(self._waiting.slice(0, whole), row_group_size=ROWS)
            self._waiting = self._waiting.slice(whole)

    def __enter__(self) -> RowGroups:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._waiting.num_rows:
            self._writer.write_table(self._waiting, row_group_size=ROWS)
        self._writer.close()


def keep_map_schema() -> Any:
    """Return the columns of keep_map.parquet."""
    import pyarrow as pa

    texts: list[Any] = [(name, pa.string()) for name in ("doc_id", "kept_id", "kept_run", "reason")]
    return pa.schema([("number", pa.int64()), *texts, ("jaccard", pa.float32())])
