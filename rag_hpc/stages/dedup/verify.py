"""dedup.verify: judges the candidate pairs and keeps those that are alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from rag_hpc.algo.dedup.components import unique_pairs
from rag_hpc.algo.types import F64, I64, U32
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.stages.dedup.signed import (
    CANDIDATES,
    COPIES,
    PAIR,
    VERIFIED,
    DedupConfig,
    RowReader,
    SignedCorpus,
    SignedUnit,
    VerifyBy,
    check_whole,
    older_generations,
)
from rag_hpc.stores.arrays import ArrayFile


class Verify(Stage):
    """Compares the documents of a unit with the earlier ones they may be duplicates of."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.verify"
    version = 1
    needs = ("dedup.sign", "dedup.group")

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per unit of dedup.sign, for the pairs whose larger number is of that unit."""
        check_whole(inputs["dedup.group"])
        older = [generation.identity for generation in older_generations(self.config)]
        return [Unit(i, {"position": i, "older": older}) for i in range(len(inputs["dedup.sign"].units))]

    def setup(self, ctx: Context) -> None:
        """Number the signed documents."""
        self._corpus = SignedCorpus(ctx.inputs["dedup.sign"], older_generations(self.config))
        grouped = ctx.inputs["dedup.group"]
        self._candidates = [ArrayFile(path) for path in grouped.files(CANDIDATES)]
        self._copies = ArrayFile(grouped.files(COPIES)[0])

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write verified.npy [pairs] of PAIR, sorted by the larger number, then the smaller."""
        ctx.check_stop()
        self._corpus.check_older(unit.inputs["older"])
        signed = self._corpus.units[self._corpus.num_older_units + unit.inputs["position"]]
        copies = _slice(self._copies, signed)
        near = [_slice(file, signed) for file in self._candidates]
        pairs = unique_pairs(np.concatenate([copies, *near]))
        exact = np.isin(pairs[:, 1], copies[:, 1])  # a copy is represented by its first, and is in no other pair
        jaccard = self._jaccard(pairs, signed, ctx)
        # of two copies the texts have equal hashes: their sets are equal too, or they are no copies
        alike = np.where(exact, (jaccard == 1.0) | np.isnan(jaccard), jaccard >= self.config.threshold)
        kept = np.zeros(int(alike.sum()), dtype=PAIR)
        kept["first"], kept["second"] = pairs[alike].T
        kept["jaccard"], kept["exact"] = np.nan_to_num(jaccard[alike], nan=1.0), exact[alike]
        np.save(out / VERIFIED, kept[np.lexsort((kept["first"], kept["second"]))], allow_pickle=False)
        return Counts(items_in=len(kept), items_out=len(kept), extra={"candidates": len(pairs)})

    def _jaccard(self, pairs: I64, signed: SignedUnit, ctx: Context) -> F64:
        """Return the similarity of each of the pairs, which come sorted; NaN for two documents without words."""
        jaccard = np.empty(len(pairs), dtype=np.float64)
        if not len(pairs):
            return jaccard
        own = np.unique(pairs[:, 1])
        own_flat, own_sizes = RowReader(signed, self.config.verify).read(own - signed.first)
        for numbers, flat, sizes in self._others(np.unique(pairs[:, 0]), ctx):
            begin, end = np.searchsorted(pairs[:, 0], [numbers[0], numbers[-1] + 1])
            places = np.stack(
                [
                    np.searchsorted(numbers, pairs[begin:end, 0]),
                    np.searchsorted(own, pairs[begin:end, 1]) + len(numbers),
                ],
                axis=1,
            )
            jaccard[begin:end] = self._compare(
                np.concatenate([flat, own_flat]), np.concatenate([sizes, own_sizes]), places
            )
        return jaccard

    def _others(self, numbers: I64, ctx: Context) -> Iterator[tuple[I64, U32, I64]]:
        """Yield (numbers, flat, sizes) of these documents, in order, as many at a time as the memory allows."""
        waiting: list[tuple[I64, U32, I64]] = []
        num_bytes = 0
        for unit, rows in self._corpus.by_unit(numbers):
            ctx.check_stop()
            flat, sizes = RowReader(unit, self.config.verify).read(rows)
            waiting.append((rows + unit.first, flat, sizes))
            num_bytes += flat.nbytes
            if num_bytes > self.config.memory_bytes // 4:
                yield _joined(waiting)
                waiting, num_bytes = [], 0
        if waiting:
            yield _joined(waiting)

    def _compare(self, flat: U32, sizes: I64, places: I64) -> F64:
        from rag_hpc.algo.dedup.minhash import estimate_pairs
        from rag_hpc.algo.dedup.sketch import jaccard_pairs

        if self.config.verify is VerifyBy.estimate:
            return estimate_pairs(flat.reshape(-1, self.config.num_perm), places)
        jaccard = jaccard_pairs(flat, np.cumsum(sizes), places)
        jaccard[(sizes[places] == 0).all(axis=1)] = np.nan
        return jaccard


def _slice(file: ArrayFile, signed: SignedUnit) -> I64:
    """Return the pairs whose larger number is of this unit."""
    rows: I64 = file.rows(file.rank_of(signed.first, 1), file.rank_of(signed.stop, 1))
    return rows


def _joined(parts: list[tuple[I64, U32, I64]]) -> tuple[I64, U32, I64]:
    numbers, flat, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return numbers, flat, sizes
