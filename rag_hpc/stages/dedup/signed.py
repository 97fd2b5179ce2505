"""What the steps of dedup share: their settings, and the signed documents of this run and of earlier ones.

Documents are numbered by their row in the clean stage, in unit order, from 0. Those of earlier generations that take
part (`stage.dedup.against`) have negative numbers, so that of two documents the smaller number always stays.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.dedup.minhash import MAX_PERM, Family, bands_for
from rag_hpc.algo.types import I64, U32
from rag_hpc.core import manifest
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import plan_path, read_plan
from rag_hpc.core.stage import output_config
from rag_hpc.errors import ConfigError, IncompleteError, InputError
from rag_hpc.stores.arrays import ArrayFile

SIGNED = 4  # the version of dedup.sign: signatures of another one mean something else
BANDS, SHINGLES, SIGNATURES = "bands.parquet", "shingles.npy", "signatures.npy"  # of dedup.sign
CANDIDATES, COPIES, REPEATS = "pairs.npy", "copies.npy", "repeats.npy"  # of dedup.group
VERIFIED = "verified.npy"  # of dedup.verify
LABELS, KEEP_MAP = "labels.npy", "keep_map.parquet"  # of dedup.link
PAIR = np.dtype([("first", "<i8"), ("second", "<i8"), ("jaccard", "<f4"), ("exact", "?")])
NO_WORDS = np.uint64(0xFFFFFFFFFFFFFFFF)  # in place of a band's key: no evidence of likeness
MIN_RECALL = 0.998  # of the bands for a pair that is just as alike as the threshold asks
MAX_NGRAM = 1000
UNKNOWN = np.int64(np.iinfo(np.int64).min)  # in place of the number of a document that does not take part
GAP = 1 << 14  # values between two wanted rows that are read along: cheaper than another read


class VerifyBy(enum.Enum):
    """By what a candidate pair is judged: the sets of shingles, or the signatures (less space, not exact)."""

    exact = "exact"
    estimate = "estimate"


@dataclass(kw_only=True)
class DedupConfig:
    """Settings of the dedup steps."""

    threshold: float = 0.8  # Jaccard similarity of the sets of word shingles from which two documents are duplicates
    num_perm: int = 128
    ngram: int = 5  # words in a shingle
    verify: VerifyBy = VerifyBy.exact
    family: Family = Family.fast  # of hashes; affine32 (or datasketch) and legacy give datasketch's own signatures
    window: int = 16  # neighbours that a document is paired with in a bucket; all of up to window + 1 documents
    num_groups: int = 4  # units of the group step, each takes its share of the bands
    memory_mib: int = field(default=512, metadata={"output": False})  # of a worker for sorting and comparing
    keep_all: bool = False  # duplicates are found and named in keep_map.parquet, and none is dropped
    # earlier runs, oldest first; their documents are part of the units, so where these runs lie does not matter
    against: list[str] = field(default_factory=list, metadata={"output": False, "run": True})

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise ConfigError(f"stage.dedup.threshold={self.threshold}: between 0 (excluded) and 1; try 0.8")
        if not 16 <= self.num_perm <= MAX_PERM or not 1 <= self.ngram <= MAX_NGRAM or self.num_groups < 1:
            raise ConfigError(
                f"stage.dedup: num_perm from 16 to {MAX_PERM}, ngram from 1 to {MAX_NGRAM} and "
                "num_groups >= 1 are needed"
            )
        if self.window < 1 or self.memory_mib < 1:
            raise ConfigError("stage.dedup: window >= 1 and memory_mib >= 1 are needed; try window=16 memory_mib=512")
        if self.family is not Family.fast and self.verify is VerifyBy.exact:
            raise ConfigError(
                f"stage.dedup.family={self.family.value}: its signatures are written where they verify; "
                "set stage.dedup.verify=estimate too"
            )
        if self.keep_all and self.against:
            raise ConfigError("stage.dedup.against drops what earlier runs have: set stage.dedup.keep_all=false too")
        self.bands()  # raises where no bands find the pairs

    @property
    def memory_bytes(self) -> int:
        """The budget in bytes."""
        return self.memory_mib << 20

    def bands(self) -> tuple[int, int]:
        """Return (number of bands, rows of a band)."""
        return bands_for(self.num_perm, self.threshold, MIN_RECALL)


@dataclass(frozen=True)
class Generation:
    """A finished earlier run whose documents take part."""

    run: str
    signed: Manifest
    linked: Manifest
    older: list[list[str]]  # the runs that it was itself compared with, by their identity

    @property
    def identity(self) -> list[str]:
        """What stands for it in the units of a plan."""
        return [self.run, self.signed.output_hash, self.linked.output_hash]


@dataclass(frozen=True)
class Labels:
    """What an earlier run found of its own documents: which document stays for each, in its numbers."""

    file: ArrayFile
    origin: int  # the number here of its first document
    reach: bool  # whether the runs that it was compared with come just before it here, as they did there

    def rows(self, start: int, stop: int) -> I64:
        """Return the numbers here of what stays for its rows [start, stop), UNKNOWN where that does not take part."""
        labels = self.file.rows(start, stop)
        return np.where((labels >= 0) | self.reach, labels + self.origin, UNKNOWN)


@dataclass(frozen=True)
class SignedUnit:
    """One unit of dedup.sign and the number of its first document; `labels` where it is an earlier run's."""

    output: Manifest
    index: int
    first: int
    num_docs: int
    run: str = ""
    labels: Labels | None = None

    @property
    def stop(self) -> int:
        """The number after its last document's."""
        return self.first + self.num_docs

    def columns(self, names: Sequence[str]) -> Any:
        """Return these columns of bands.parquet as an Arrow table."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.output.file(self.index, BANDS)).read(columns=list(names), use_threads=False)

    def numbers(self) -> I64:
        """Return the numbers of the documents that take part.

        All of this run do. Of an earlier run those do that it, or one that takes part too, has a document for.
        """
        numbers = np.arange(self.first, self.stop, dtype=np.int64)
        return numbers if self.labels is None else numbers[self._stays() != UNKNOWN]

    def links(self) -> I64:
        """Return the pairs that an earlier run found, the document that stays and the one that went."""
        if self.labels is None:
            return np.empty((0, 2), dtype=np.int64)
        pairs = np.stack([self._stays(), np.arange(self.first, self.stop, dtype=np.int64)], axis=1)
        known: I64 = pairs[(pairs[:, 0] != UNKNOWN) & (pairs[:, 0] != pairs[:, 1])]
        return known

    def _stays(self) -> I64:
        start = self.first - self.labels.origin if self.labels else 0
        return self.labels.rows(start, start + self.num_docs) if self.labels else np.empty(0, dtype=np.int64)


class SignedCorpus:
    """All signed units in the order of their documents' numbers: of earlier generations, then of this run."""

    def __init__(self, signed: Manifest, older: Sequence[Generation]) -> None:
        """Raises IncompleteError when units are quarantined: documents are numbered by position."""
        check_whole(signed)
        origin = -sum(generation.linked.total("items_out") for generation in older)
        before: list[list[str]] = []
        self.units: list[SignedUnit] = []
        for generation in older:
            reach = before[len(before) - len(generation.older) :] == generation.older
            labels = Labels(ArrayFile(generation.linked.files(LABELS)[0]), origin, reach)
            self._append(generation.signed, origin, generation.run, labels)
            origin += len(labels.file)
            before.append(generation.identity)
        self.older = before
        self.num_older_units = len(self.units)
        self._append(signed, 0)
        self._firsts = np.array([unit.first for unit in self.units], dtype=np.int64)

    def check_older(self, planned: list[list[str]]) -> None:
        """Raise InputError when the earlier runs are not those that a unit was planned with."""
        if planned != self.older:
            runs = ", ".join(run for run, *_ in planned) or "no runs"
            raise InputError(
                f"stage.dedup.against: {runs} changed since this was planned; plan anew: give the same "
                "rag-hpc run command again"
            )

    @property
    def edges(self) -> I64:
        """The numbers of the units' first documents, and the number after the last document's."""
        return np.append(self._firsts, self.units[-1].stop)

    def by_unit(self, numbers: I64) -> Iterator[tuple[SignedUnit, I64]]:
        """Yield each unit that holds some of these ascending numbers, with the rows in it."""
        positions = np.searchsorted(self._firsts, numbers, side="right") - 1  # of empty units the last is never meant
        holding, starts = np.unique(positions, return_index=True)
        for position, part in zip(holding, np.split(numbers, starts[1:]), strict=False):  # of no numbers: no unit
            yield self.units[position], part - self.units[position].first

    def _append(self, signed: Manifest, first: int, run: str = "", labels: Labels | None = None) -> None:
        for unit, num_docs in zip(signed.units, signed.rows(BANDS), strict=True):
            self.units.append(SignedUnit(signed, unit["index"], first, num_docs, run, labels))
            first += num_docs


class RowReader:
    """Reads what documents of a unit are verified by: rows of different lengths, or signatures of one length."""

    def __init__(self, unit: SignedUnit, verify: VerifyBy) -> None:
        name = SHINGLES if verify is VerifyBy.exact else SIGNATURES
        self._file = ArrayFile(unit.output.file(unit.index, name))
        if verify is VerifyBy.exact:
            self._ends = self._file.values(0, 2 * (unit.num_docs + 1)).view(np.int64)
        else:
            self._ends = np.arange(unit.num_docs + 1, dtype=np.int64) * self._file.shape[1]

    def read(self, rows: I64) -> tuple[U32, I64]:
        """Return (flat, sizes) of these ascending rows; those near each other are read at once."""
        begins, stops = self._ends[rows], self._ends[rows + 1]
        far = np.flatnonzero(begins[1:] - stops[:-1] > GAP) + 1
        parts = [np.empty(0, dtype=np.uint32)]
        for group in np.split(np.arange(len(rows)), far):
            if len(group):
                start = int(begins[group[0]])
                block = self._file.values(start, int(stops[group[-1]]))
                parts.append(block[ragged(begins[group] - start, stops[group] - begins[group])])
        return np.concatenate(parts), stops - begins


def pack_sets(flat: U32, sizes: I64) -> U32:
    """Return what shingles.npy holds: where each set begins and the last ends, as int64 in two words, and the sets."""
    begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64) + 2 * (len(sizes) + 1)
    return np.concatenate([begins.view(np.uint32), flat])


def ragged(begins: I64, sizes: I64) -> I64:
    """Return begins[0], begins[0] + 1, ... for sizes[0] places, then the same of the next."""
    ends = np.cumsum(sizes)
    places: I64 = np.repeat(begins - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)
    return places


def band_name(band: int) -> str:
    """Return the column of a band's keys."""
    return f"band_{band:03d}"


def check_whole(output: Manifest) -> None:
    """Raise IncompleteError when units are quarantined: documents are numbered across units, and a pair is in one."""
    if output.quarantined:
        raise IncompleteError(
            f"{output.stage}: {len(output.quarantined)} units are quarantined, and the next step needs all of them: "
            f"duplicates may be in any; remove {output.folder}/manifest.json and run: rag-hpc retry"
        )


def older_generations(config: DedupConfig) -> list[Generation]:
    """Return the earlier runs to compare with. Raises ConfigError when one is not finished or was signed otherwise."""
    generations = [_generation(Path(folder)) for folder in config.against]
    for generation in generations:
        theirs = _what_is_signed(generation.signed.version, generation.signed.config)
        ours = _what_is_signed(SIGNED, output_config(config))
        differing = [
            f"{key} is {theirs[key]} there, {ours[key]} here"
            for key in ours
            if key in theirs and ours[key] != theirs[key]
        ]
        if differing:
            remedy = "use its settings" if "ngram" in theirs else "make that run again with this version of rag-hpc"
            raise ConfigError(
                f"stage.dedup.against: {generation.run} cannot be compared with: {'; '.join(differing)}; "
                f"{remedy}, or leave it out"
            )
        check_whole(generation.signed)
    return generations


def _generation(run_dir: Path) -> Generation:
    submissions = sorted(path.parent.name for path in run_dir.glob("submissions/*/dedup.link.plan.json"))
    if not submissions:
        raise ConfigError(
            f"stage.dedup.against: {run_dir} has no finished dedup; finish it: rag-hpc retry run={run_dir.name}"
        )
    plans = [read_plan(plan_path(run_dir, int(submissions[-1]), stage)) for stage in ("dedup.sign", "dedup.link")]
    try:
        signed, linked = (manifest.load(run_dir / plan.folder) for plan in plans)
    except IncompleteError as error:
        raise ConfigError(f"stage.dedup.against: {run_dir.name} is not finished ({error})") from error
    return Generation(run_dir.name, signed, linked, plans[1].units[0].inputs["older"])


def _what_is_signed(version: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two generations must have in common; of another version we cannot tell what its settings mean."""
    if version != SIGNED:
        return {"version": version}
    bands = bands_for(config["num_perm"], config["threshold"], MIN_RECALL)
    named = {name: config[name] for name in ("ngram", "num_perm", "family", "verify")}
    return {"version": version, **named, "bands": bands}
