"""Manifests: the file written last, that makes a stage's output exist."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rag_hpc.core.commit import RECORD, UNITS, committed, num_rows, read_record
from rag_hpc.core.failures import failures
from rag_hpc.core.fs import drop_dir, publish_file
from rag_hpc.core.hashing import hash_file, hash_value
from rag_hpc.core.ledger import mend, run_handle
from rag_hpc.core.plan import Plan, stage_folder
from rag_hpc.core.record import granted_cpus
from rag_hpc.core.stored import check_members, read_object, sealed_json, typed
from rag_hpc.errors import CorruptOutput, IncompleteError, UnitFailed

MANIFEST = "manifest.json"
EVERY, NEVER = 0, sys.maxsize  # times since which files that changed are read: all of them, and none
_UNIT: dict[str, Any] = {
    "index": int,
    "items_in": int,
    "items_out": int,
    "dropped": dict[str, int],
    "extra": dict[str, float],
    "files": dict[str, dict[str, Any]],
}
_Units = Sequence[tuple[int, dict[str, Any] | None]]  # index, and the unit as a manifest lists it
_IDENTITY_BEFORE: dict[str, list[str]] = {  # of the manifests that version 0.1.0 wrote, which do not say it themselves
    "lexical": [],
    "vectors.train": [],
    "vectors.build": [],
    "retrieve.search": ["hits.parquet"],
    "evaluate": ["metrics.json"],
}


@dataclass(kw_only=True)
class Manifest:
    """A stage's finished output. It holds nothing that depends on p, hosts or clocks."""

    stage: str
    version: int
    fingerprint: str
    config: dict[str, Any]  # the settings that affect output
    inputs: dict[str, str]  # stage name -> output hash
    units: list[dict[str, Any]]  # index, files, items_in, items_out, dropped, extra
    quarantined: list[int]
    output_hash: str
    identity: list[str] | None = None  # files that any layout of the stage must reproduce; None = every file
    counts_from: str | None = (
        None  # the input whose items it takes in, one for one: STAGE, or STAGE:FIGURE of its extra
    )
    seal: str | None = field(default=None, compare=False)  # hash of all of the above; version 0.1.0 wrote none
    folder: Path = field(default=Path("."), compare=False)  # where it was read from

    def unit_dir(self, index: int) -> Path:
        """Return the folder of a committed unit; its files are read through `file`."""
        return self.folder / UNITS / f"unit-{index:05d}"

    def file(self, index: int, *names: str) -> Path:
        """Return the path of the file of a unit, of these names the first that it has, for reading.

        Its size is compared now, its hash once a process. Raises CorruptOutput when either is not what was promised.
        """
        files = self._files.get(index, {})
        name = next((name for name in names if name in files), names[0])
        path = self.unit_dir(index) / name
        try:
            flaw = _flaw(path, files.get(name, {}), _hash_once)
        except OSError as error:
            flaw = f"cannot be read ({error.strerror})"
        if flaw:
            raise CorruptOutput(f"{path}: {flaw}; {_redo(path.parent)}")
        return path

    def files(self, name: str) -> list[Path]:
        """Return the paths of every unit's file `name`, checked, in unit order, leaving out units without it."""
        return [self.file(index, name) for index in self.holders(name)]

    def holders(self, name: str) -> list[int]:
        """Return the indices of the units that have a file of that name, in unit order."""
        return [index for index, files in self._files.items() if name in files]

    def checked(self, position: int, name: str) -> Path:
        """Return the path of an index file: its parser trusts it, so others must not be able to write it either."""
        path = self.file(self.units[position]["index"], name)
        if path.stat().st_mode & 0o022:
            raise CorruptOutput(f"{path}: writable by group or others; run: chmod -R go-w {self.folder}")
        return path

    @cached_property
    def _files(self) -> dict[int, dict[str, dict[str, Any]]]:
        return {unit["index"]: unit["files"] for unit in self.units}

    def rows(self, name: str) -> list[int]:
        """Return the number of rows of each unit's file `name`, in unit order (0 where a unit lacks it)."""
        return [u["files"].get(name, {}).get("rows") or 0 for u in self.units]

    def total(self, key: str) -> int:
        """Return the sum over units of 'items_in' or 'items_out'."""
        return sum(int(u[key]) for u in self.units)

    def given(self, inputs: Mapping[str, Manifest]) -> int | None:
        """Return how many items the input, all rounds of it, put out for this stage; None when that is not known."""
        name, _, figure = (self.counts_from or "").partition(":")
        rounds = [found for stage, found in inputs.items() if re.fullmatch(rf"{re.escape(name)}(\.\d+)?", stage)]
        return sum(int(r.extra()[figure]) if figure else r.total("items_out") for r in rounds) if rounds else None

    def dropped(self) -> dict[str, int]:
        """Return how many items were dropped for each reason, reasons sorted."""
        return add_up([u["dropped"] for u in self.units])

    def extra(self) -> dict[str, float]:
        """Return the further figures that the units counted, summed."""
        return add_up([u["extra"] for u in self.units])

    def file_hash(self, name: str) -> str:
        """Return the hash over all units' files of that name: what two layouts of the same work must share."""
        return hash_value([[u["index"], u["files"][name]["sha256"]] for u in self.units if name in u["files"]])

    def flaws(self, since_ns: int = NEVER) -> list[Flaw]:
        """Return what is not as promised, in unit order: files absent or of another size, and wrong bytes or records
        among those that changed since a time in nanoseconds (EVERY: read all)."""
        return _flaws(self.folder, [(unit["index"], unit) for unit in self.units], since_ns)


@dataclass(frozen=True)
class Flaw:
    """A file of a unit that is not what was promised."""

    path: Path
    text: str
    certain: bool = True  # not when it could not be read, which says little of its bytes

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def add_up(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the key-wise sum, keys sorted."""
    total: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return dict(sorted(total.items()))


def build(plan: Plan, stage_dir: Path) -> Manifest:
    """Return the verified manifest of the stage's committed units.

    Raises IncompleteError while units are absent, UnitFailed when more are quarantined than the plan allows, and
    CorruptOutput when a file's size, rows or hash is not what its record says, or its counts do not add up.
    """
    quarantined = check_complete(plan, stage_dir)
    units = _verified(stage_dir, [unit.index for unit in plan.units if unit.index not in quarantined])
    return Manifest(
        stage=plan.stage,
        version=plan.version,
        fingerprint=plan.fingerprint,
        config=plan.output_config,
        inputs=plan.input_hashes,
        units=units,
        quarantined=quarantined,
        output_hash=_hash_of(units),
        identity=None if plan.identity is None else list(plan.identity),
        counts_from=plan.counts_from,
        folder=stage_dir,
    )


def check_complete(plan: Plan, stage_dir: Path) -> list[int]:
    """Return the quarantined units' indices; raise IncompleteError or UnitFailed when the stage cannot be closed."""
    absent = sorted({unit.index for unit in plan.units} - committed(stage_dir / UNITS))
    failed = failures(stage_dir) if absent else {}
    quarantined = [index for index in absent if len(failed.get(index, [])) >= plan.policy.max_attempts]
    waiting = [index for index in absent if index not in quarantined]
    if waiting:
        raise IncompleteError(
            f"{plan.stage}: {len(waiting)} of {len(plan.units)} units are absent ({_some(waiting)}); "
            f"run: rag-hpc retry run={run_handle(stage_dir.parent)}"
        )
    if len(quarantined) > plan.policy.allow_failed_units:
        last = failed[quarantined[0]][-1]
        raise UnitFailed(
            f"{plan.stage}: {len(quarantined)} of {len(plan.units)} units failed {plan.policy.max_attempts} times "
            f"({_some(quarantined)}); the first: {last['error']}: {last['message'].rstrip('.')}. Mend the cause and "
            f"run: rag-hpc retry run={run_handle(stage_dir.parent)}, or allow it with "
            f"allow_failed_units={len(quarantined)}"
        )
    return quarantined


def publish(manifest: Manifest) -> None:
    """Write the manifest; a second writer finds the same bytes there."""
    value = dataclasses.asdict(manifest)
    del value["folder"], value["seal"]
    data = sealed_json(value)
    path = manifest.folder / MANIFEST
    if not publish_file(path, data) and path.read_bytes() != data:
        raise CorruptOutput(
            f"{path}: another manifest is there; two different outputs claim the fingerprint "
            f"{manifest.fingerprint[:12]}. Remove {manifest.folder} and run again"
        )


def load(stage_dir: Path) -> Manifest:
    """Return the manifest in a stage's folder; raises IncompleteError when there is none yet."""

    def checked(value: dict[str, Any]) -> Manifest:
        value.setdefault("identity", _IDENTITY_BEFORE.get(value["stage"]))
        found = typed(Manifest, {**value, "folder": stage_dir})
        if found.output_hash != _hash_of(found.units):
            raise ValueError("its hash is not that of its units")
        if stage_dir.name != stage_folder(found.stage, found.fingerprint):
            raise ValueError(f"it is of {stage_folder(found.stage, found.fingerprint)}")
        for unit in found.units:
            check_members(unit, _UNIT)
        return found

    try:
        return read_object(stage_dir / MANIFEST, mend(stage_dir.parent), checked)
    except FileNotFoundError:
        raise IncompleteError(f"{stage_dir}: no manifest yet, the stage is not finished; run: rag-hpc retry") from None


def reopen(stage_dir: Path) -> bool:
    """Remove the manifest of a stage that was closed without its quarantined units; return whether it was."""
    path = stage_dir / MANIFEST
    if not path.exists() or not load(stage_dir).quarantined:
        return False
    path.unlink()
    return True


def take_back(stage_dir: Path, *, every_byte: bool = False) -> list[str]:
    """Remove the units that are not whole, and the manifest when one is gone or it is damaged itself; say what was.

    The stage is then open again, and what is done anew gives the same bytes. Sizes are compared, and bytes where a file
    changed after its manifest (before there is one: its record) was written, or all. Raises CorruptOutput, with nothing
    removed, for what cannot be read.
    """
    path = stage_dir / MANIFEST
    try:
        units: _Units = [(unit["index"], unit) for unit in load(stage_dir).units]
        since_ns, wrong = path.stat().st_mtime_ns, []
    except (IncompleteError, CorruptOutput) as error:
        if isinstance(error.__cause__, OSError) and path.exists():
            raise  # that it cannot be read says little of its bytes
        units = [(index, None) for index in sorted(committed(stage_dir / UNITS))]
        since_ns, wrong = NEVER, [str(error)] if isinstance(error, CorruptOutput) else []
    flaws = _flaws(stage_dir, units, EVERY if every_byte else since_ns)
    for flaw in flaws:
        if not flaw.certain:
            raise CorruptOutput(f"{flaw}; see that it can be read, then go on: rag-hpc retry")
    for folder in {flaw.path.parent for flaw in flaws}:
        drop_dir(folder)
    wrong += [f"{flaw}; its unit is done again" for flaw in flaws]
    if wrong:
        path.unlink(missing_ok=True)
    return wrong


def _verified(stage_dir: Path, indices: list[int]) -> list[dict[str, Any]]:
    """Return the units as a manifest lists them, every file read once, as many at a time as there are CPUs.

    Threads are enough: both reading and hashing let others run.
    """
    folders = [stage_dir / UNITS / f"unit-{index:05d}" for index in indices]
    with ThreadPoolExecutor(granted_cpus()) as pool:
        records = list(pool.map(_checked_record, folders, indices))
        files = [
            (folder, *item) for folder, record in zip(folders, records, strict=True) for item in record["files"].items()
        ]
        list(pool.map(lambda file: _check_file(*file), files))  # raises what the first wrong file raised
    return [listed(record) for record in records]


def listed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a unit as a manifest lists it."""
    return {key: record["unit" if key == "index" else key] for key in _UNIT}


def _flaws(stage_dir: Path, units: _Units, since_ns: int) -> list[Flaw]:
    """Return what is wrong with units, in their order, as many looked at at a time as there are CPUs."""
    folders = [stage_dir / UNITS / f"unit-{index:05d}" for index, _ in units]
    with ThreadPoolExecutor(granted_cpus()) as pool:
        found = pool.map(_unit_flaws, folders, [unit for _, unit in units], [since_ns] * len(units))
        return [flaw for flaws in found for flaw in flaws]


def _unit_flaws(unit_dir: Path, unit: dict[str, Any] | None, since_ns: int) -> list[Flaw]:
    """Return what is wrong with a unit, a line a file. unit: as the manifest lists it; None: what its record says."""
    path, flaws = unit_dir / RECORD, []
    try:
        changed_ns = path.stat().st_mtime_ns
        if unit is None or changed_ns >= since_ns:
            record = _checked_record(unit_dir, int(unit_dir.name[5:]))
            if unit not in (None, listed(record)):
                flaws.append(Flaw(path, "it is not of what the manifest lists"))
            unit, since_ns = unit or listed(record), min(since_ns, changed_ns)
    except FileNotFoundError:
        flaws.append(Flaw(path, "it is gone"))
    except (OSError, CorruptOutput) as error:
        flaws.append(Flaw(path, str(error), certain=not isinstance(error.__cause__ or error, OSError)))
    for name, promised in unit["files"].items() if unit else ():
        try:
            flaw = _flaw(unit_dir / name, promised, partial(_hash_since, since_ns))
        except OSError as error:
            flaws.append(Flaw(unit_dir / name, f"cannot be read ({error.strerror})", certain=False))
        else:
            flaws += [Flaw(unit_dir / name, flaw)] if flaw else []
    return flaws


def _flaw(path: Path, promised: dict[str, Any], sha256: Callable[[Path, os.stat_result], str | None]) -> str | None:
    """Return what is wrong with a file, None when nothing is; OSError when that cannot be told.

    sha256: gives the hash of its bytes, None where they are not to be read.
    """
    try:
        found = path.stat()
        if found.st_size != promised.get("bytes"):
            return f"{found.st_size} bytes instead of the {promised.get('bytes')} that the manifest promises"
        if sha256(path, found) not in (None, promised["sha256"]):
            return "its bytes are not what the manifest promises"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return "it is gone"
    return None


_hashes: dict[tuple[Path, int, int, int], str] = {}  # of the files that this process has read


def _hash_once(path: Path, found: os.stat_result) -> str:
    key = (path, found.st_size, found.st_mtime_ns, found.st_ino)
    if key not in _hashes:
        _hashes[key] = hash_file(path)
    return _hashes[key]


def _hash_since(since_ns: int, path: Path, found: os.stat_result) -> str | None:
    return hash_file(path) if found.st_mtime_ns >= since_ns else None


def _check_file(unit_dir: Path, name: str, promised: dict[str, Any]) -> None:
    path = unit_dir / name
    try:
        found: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        if found["sha256"] == promised.get("sha256"):  # parsers come after the hash: they trust their input
            found["rows"] = num_rows(path)
    except (OSError, ValueError) as error:
        raise CorruptOutput(f"{path}: cannot be read ({error}); {_redo(unit_dir)}") from error
    if found != promised:
        raise CorruptOutput(f"{path}: {found} is not what its record promises, {promised}; {_redo(unit_dir)}")


def _checked_record(unit_dir: Path, index: int) -> dict[str, Any]:
    record = read_record(unit_dir)
    unaccounted = record["items_in"] - record["items_out"] - sum(record["dropped"].values())
    if unaccounted or record["unit"] != index:
        raise CorruptOutput(
            f"{unit_dir / RECORD}: it is of unit {record['unit']} and leaves {unaccounted} items unaccounted for; "
            f"{_redo(unit_dir)}"
        )
    return record


def _hash_of(units: list[dict[str, Any]]) -> str:
    return hash_value([[u["index"], {name: file["sha256"] for name, file in u["files"].items()}] for u in units])


def _redo(unit_dir: Path) -> str:
    return mend(unit_dir.parents[2])


def _some(indices: list[int]) -> str:
    shown = ", ".join(f"unit-{i:05d}" for i in indices[:5])
    return shown + (f" and {len(indices) - 5} more" if len(indices) > 5 else "")
