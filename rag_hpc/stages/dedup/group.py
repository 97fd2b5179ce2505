"""dedup.group: candidate pairs, from documents that share a band's key, by external sorting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rag_hpc.algo.dedup.candidates import Buckets
from rag_hpc.algo.dedup.ids import Numbers, id_keys
from rag_hpc.algo.types import I64
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.stages.dedup.signed import (
    CANDIDATES,
    COPIES,
    NO_WORDS,
    REPEATS,
    DedupConfig,
    SignedCorpus,
    SignedUnit,
    band_name,
    check_whole,
    older_generations,
)
from rag_hpc.stores.arrays import ArrayFile, ArrayWriter
from rag_hpc.stores.extsort import Sorter

PAIR_BYTES = 8 * 64  # of the budget for a pair while it is made: 64 bytes, and no more than an eighth in all


class Group(Stage):
    """Sorts the keys of a range of bands and pairs the documents of each bucket."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.group"
    version = 3
    needs = ("dedup.sign",)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per range of bands, the first one for the pairs of exact copies too, and one for ids."""
        check_whole(inputs["dedup.sign"])
        older = [generation.identity for generation in older_generations(self.config)]
        ranges = [r for r in np.array_split(np.arange(self.config.bands()[0]), self.config.num_groups) if len(r)]
        bands = [[int(r[0]), int(r[-1]) + 1] for r in ranges]
        return [Unit(i, {"bands": span, "older": older}) for i, span in enumerate([*bands, []])]

    def setup(self, ctx: Context) -> None:
        """Number the signed documents."""
        self._corpus = SignedCorpus(ctx.inputs["dedup.sign"], older_generations(self.config))

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write pairs.npy [pairs, 2] int64: unique, the smaller number first, sorted by the larger, then the smaller.

        Of exact copies the first stands for all; copies.npy [copies, 2] pairs it with each other one, in the same
        order. It is small beside the keys, and each unit finds it anew rather than wait for another one.

        The unit of ids writes repeats.npy [documents, 2] int64: those whose id stood before, and a number for each.
        """
        self._corpus.check_older(unit.inputs["older"])
        if not unit.inputs["bands"]:
            repeats = self._repeats(ctx)
            np.save(out / REPEATS, repeats, allow_pickle=False)
            return Counts(items_in=len(repeats), items_out=len(repeats))
        copies = (out if unit.index == 0 else ctx.scratch) / COPIES
        num_pairs = self._write_copies(copies, ctx)
        num_pairs = self._write_pairs(out / CANDIDATES, ArrayFile(copies), unit.inputs["bands"], ctx) + (
            num_pairs if unit.index == 0 else 0
        )
        if unit.index:
            copies.unlink()
        return Counts(items_in=num_pairs, items_out=num_pairs)

    def _write_copies(self, path: Path, ctx: Context) -> int:
        rows, pairs = self._sorter(ctx, "exact", np.uint64), self._sorter(ctx, "copies", np.int64)
        for signed in self._corpus.units:
            ctx.check_stop()
            numbers = signed.numbers()
            rows.add(signed.columns(["exact"]).column("exact").to_numpy()[numbers - signed.first], numbers)
        self._pair(rows, Buckets(0), pairs, ctx)
        return _write(path, pairs.blocks(), ctx)

    def _write_pairs(self, path: Path, copies: ArrayFile, bands: tuple[int, int], ctx: Context) -> int:
        rows, pairs = self._sorter(ctx, "keys", np.uint64), self._sorter(ctx, "pairs", np.int64)
        names = [band_name(band) for band in range(*bands)]
        for signed in self._corpus.units:
            ctx.check_stop()
            numbers = signed.numbers()
            begin, end = copies.rank_of(signed.first, 1), copies.rank_of(signed.stop, 1)
            numbers = np.setdiff1d(numbers, copies.rows(begin, end)[:, 1], assume_unique=True)
            table = signed.columns(names)
            for name in names:  # keys of two bands do not meet: a band's number is part of its hash
                keys = table.column(name).to_numpy()[numbers - signed.first]
                rows.add(keys[keys != NO_WORDS], numbers[keys != NO_WORDS])
        self._pair(rows, Buckets(self.config.window), pairs, ctx, least=0)  # what earlier runs compared is known
        return _write(path, pairs.unique_blocks(), ctx)

    def _repeats(self, ctx: Context) -> I64:
        """Return (number, what makes it unique) of this run's documents whose id an earlier one has."""
        rows, own = self._sorter(ctx, "ids", np.uint64), self._corpus.units[self._corpus.num_older_units :]
        for unit in own:
            ctx.check_stop()
            rows.add(id_keys(_ids(unit).to_pylist()), np.arange(unit.first, unit.stop, dtype=np.int64))
        repeated = np.sort(np.concatenate([np.empty(0, np.int64), *_again(rows)]))
        if not len(repeated):
            return np.empty((0, 2), np.int64)
        by_unit = self._corpus.by_unit(repeated)
        numbers = Numbers(chain.from_iterable(_ids(unit).take(places).to_pylist() for unit, places in by_unit))
        for unit in own:
            ctx.check_stop()
            numbers.add(_ids(unit, "#").to_pylist())
        return np.stack([repeated, numbers.given()], axis=1)

    def _pair(self, rows: Sorter, buckets: Buckets, pairs: Sorter, ctx: Context, least: float = -np.inf) -> None:
        """Add the pairs of each bucket, the larger number first, unless that is less than `least`.

        A row may make window + 1 pairs, so a block of rows is taken in steps: its pairs at once would be many times
        the memory that the sorters are held to.
        """
        step = max(1, self.config.memory_bytes // (PAIR_BYTES * (self.config.window + 1)))
        for keys, numbers in rows.blocks():
            for start in range(0, len(keys), step):
                ctx.check_stop()
                neighbours = buckets.pairs(keys[start : start + step], numbers[start : start + step])
                neighbours = neighbours[neighbours[:, 1] >= least]
                pairs.add(neighbours[:, 1], neighbours[:, 0])

    def _sorter(self, ctx: Context, name: str, first: npt.DTypeLike) -> Sorter:
        return Sorter(ctx.scratch / f"{name}.runs", [first, np.int64], self.config.memory_bytes // 2)


def _write(path: Path, blocks: Iterable[list[I64]], ctx: Context) -> int:
    with ArrayWriter(path, np.int64, width=2) as writer:
        for larger, smaller in blocks:
            ctx.check_stop()
            writer.add(np.stack([smaller, larger], axis=1))
    return writer.num_rows


def _ids(unit: SignedUnit, part: str = "") -> Any:
    """Return the ids of a unit's documents, those that hold `part`, as an Arrow column."""
    import pyarrow.compute as pc

    column = unit.columns(["doc_id"]).column("doc_id")
    return column.filter(pc.match_substring(column, part)) if part else column


def _again(rows: Sorter) -> Iterator[I64]:
    """Yield the numbers of the rows, in order, whose key the row before has."""
    last = None
    for keys, numbers in rows.blocks():
        again = np.empty(len(keys), bool)
        again[0] = last is not None and keys[0] == last
        again[1:] = keys[1:] == keys[:-1]
        last = keys[-1]
        yield numbers[again]
