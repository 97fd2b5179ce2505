"""dedup: exact and near duplicates in three steps, sign -> group -> drop.

Documents are numbered by their row in the clean stage, in unit order; of each group the smallest number stays.
Signatures follow datasketch's hash family, so its estimate of Jaccard similarity is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.algo import components, minhash, shingle
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import Rejects, TableWriter, read_column, read_table
from rag_hpc.errors import ConfigError, IncompleteError

SIGNATURES, EXACT, PAIRS, DOCUMENTS = "signatures.npy", "exact.npy", "pairs.npy", "documents.parquet"
HIGHEST = 0.99


@dataclass(kw_only=True)
class DedupConfig:
    """Settings of the three dedup steps."""

    threshold: float = 0.8  # estimated Jaccard similarity of word shingles from which two documents are duplicates
    num_perm: int = 128
    ngram: int = 5  # words in a shingle
    num_groups: int = 4  # units of the group step, each takes its share of the bands

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise ConfigError(f"stage.dedup.threshold={self.threshold}: between 0 (excluded) and 1; try 0.8")
        if self.num_perm < 16 or self.ngram < 1 or self.num_groups < 1:
            raise ConfigError("stage.dedup: num_perm >= 16, ngram >= 1 and num_groups >= 1 are needed")


class Sign(Stage):
    """Computes each document's MinHash signature and the hash of its normalised text."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.sign"
    version = 1
    needs = ("clean",)
    counts_from = "clean"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per clean unit."""
        return [Unit(i, {"clean_unit": unit["index"]}) for i, unit in enumerate(inputs["clean"].units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write signatures.npy [documents, num_perm] and exact.npy [documents] uint64."""
        path = ctx.inputs["clean"].unit_dir(unit.inputs["clean_unit"]) / DOCUMENTS
        texts = read_column(path, "text")
        perms = minhash.permutations(self.config.num_perm)
        signatures = minhash.signatures([shingle.shingles(text, self.config.ngram) for text in texts], perms)
        np.save(out / SIGNATURES, signatures, allow_pickle=False)
        np.save(out / EXACT, np.array([text_hash(t) for t in texts], dtype=np.uint64), allow_pickle=False)
        return Counts(items_in=len(texts), items_out=len(texts))


class Group(Stage):
    """Finds pairs of documents that share a band, checks them against the threshold, and keeps the pairs."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.group"
    version = 1
    needs = ("dedup.sign",)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per range of bands; the first unit pairs exact copies too."""
        check_whole(inputs["dedup.sign"])
        bands, _ = self._bands()
        ranges = [r for r in np.array_split(np.arange(bands), self.config.num_groups) if len(r)]
        return [Unit(i, {"bands": [int(r[0]), int(r[-1]) + 1], "exact": i == 0}) for i, r in enumerate(ranges)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write pairs.npy [pairs, 2] int64, sorted, smaller document number first."""
        signed = ctx.inputs["dedup.sign"]
        signatures, exact = _stack(signed.files(SIGNATURES)), _stack(signed.files(EXACT))
        # copies of one text would make buckets of their number; the first stands for all. No word means no likeness.
        singles = np.sort(np.unique(exact, return_index=True)[1])
        singles = singles[(signatures[singles] != np.iinfo(signatures.dtype).max).any(axis=1)]
        keys = minhash.band_keys(signatures[singles], *self._bands())
        found = [np.zeros((0, 2), dtype=np.int64)]
        for band in range(*unit.inputs["bands"]):
            ctx.check_stop()
            pairs = minhash.pairs_from_bands(keys[:, band], singles.astype(np.int64))
            found.append(pairs[minhash.estimate_pairs(signatures, pairs) >= self.config.threshold])
        if unit.inputs["exact"]:
            pairs = minhash.pairs_from_bands(exact, np.arange(len(exact), dtype=np.int64))
            found.append(pairs[minhash.estimate_pairs(signatures, pairs) == 1.0])  # unlike texts of equal hash differ
        pairs = minhash.unique_pairs(np.concatenate(found))
        np.save(out / PAIRS, pairs, allow_pickle=False)
        return Counts(items_in=len(pairs), items_out=len(pairs))

    def _bands(self) -> tuple[int, int]:
        """Return (bands, rows of a band); a missed pair weighs four times a needless one, which the estimate drops."""
        threshold = min(self.config.threshold, HIGHEST)  # bands are undefined at 1; the estimate decides
        return minhash.optimal_bands(self.config.num_perm, threshold, 0.2, 0.8)


class Drop(Stage):
    """Keeps one document of each group of duplicates."""

    Config: ClassVar[type] = DedupConfig
    name = "dedup.drop"
    version = 1
    needs = ("clean", "dedup.sign", "dedup.group")
    counts_from = "clean"

    def setup(self, ctx: Context) -> None:
        """Find the groups: the same pairs give the same labels in whatever order."""
        clean = ctx.inputs["clean"]
        pairs = np.concatenate([np.load(path, allow_pickle=False) for path in ctx.inputs["dedup.group"].files(PAIRS)])
        self._first = np.concatenate([[0], np.cumsum(clean.rows(DOCUMENTS))])
        self._labels = components.components(pairs, int(self._first[-1]))
        self._exact = _stack(ctx.inputs["dedup.sign"].files(EXACT))
        self._clean = clean
        self._ids: dict[int, list[str]] = {}

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per clean unit."""
        return [Unit(i, {"clean_unit": unit["index"], "position": i}) for i, unit in enumerate(inputs["clean"].units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write documents.parquet without the duplicates; rejects name the document that stays."""
        rejects = Rejects()
        first = int(self._first[unit.inputs["position"]])
        table = read_table(ctx.inputs["clean"].unit_dir(unit.inputs["clean_unit"]) / DOCUMENTS)
        columns = {name: str(table.schema.field(name).type) for name in table.column_names}
        with TableWriter(out / DOCUMENTS, columns) as documents:
            for number, row in enumerate(table.to_pylist(), start=first):
                keeper = int(self._labels[number])
                if keeper == number:
                    documents.add(*row.values())
                else:
                    same = bool(self._exact[number] == self._exact[keeper])
                    rejects.add(row["doc_id"], "exact-duplicate" if same else "near-duplicate", self._doc_id(keeper))
        return Counts(items_in=table.num_rows, items_out=documents.num_rows, dropped=rejects.write(out))

    def _doc_id(self, number: int) -> str:
        position = int(np.searchsorted(self._first, number, side="right")) - 1
        if position not in self._ids:
            path = self._clean.unit_dir(self._clean.units[position]["index"]) / DOCUMENTS
            self._ids[position] = read_column(path, "doc_id")
        return self._ids[position][number - int(self._first[position])]


def check_whole(signed: Manifest) -> None:
    """Raise IncompleteError when units are quarantined: rows are documents by position, later ones would be others."""
    if signed.quarantined:
        raise IncompleteError(
            f"dedup.sign: {len(signed.quarantined)} units are quarantined, and documents are numbered by position "
            f"across all of them; remove {signed.folder}/manifest.json and run: rag-hpc retry"
        )


def text_hash(text: str) -> int:
    """Return a 64-bit hash of the text that case and white space do not change."""
    import xxhash

    return xxhash.xxh3_64_intdigest(" ".join(text.lower().split()).encode())


def _stack(paths: list[Path]) -> Any:
    return np.concatenate([np.load(path, allow_pickle=False) for path in paths])
