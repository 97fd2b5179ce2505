"""Manifests: the file written last, that makes a stage's output exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.commit import RECORD, UNITS, committed, num_rows, read_record
from rag_hpc.core.failures import failures
from rag_hpc.core.fs import canonical_json, publish_file, read_json
from rag_hpc.core.hashing import hash_file, hash_value
from rag_hpc.core.plan import Plan, run_handle
from rag_hpc.core.record import granted_cpus
from rag_hpc.errors import CorruptOutput, IncompleteError, UnitFailed

MANIFEST = "manifest.json"


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
    folder: Path = field(default=Path("."), compare=False)  # where it was read from

    def unit_dir(self, index: int) -> Path:
        """Return the folder of a committed unit."""
        return self.folder / UNITS / f"unit-{index:05d}"

    def files(self, name: str) -> list[Path]:
        """Return the paths of every unit's file `name`, in unit order, leaving out units without it."""
        return [self.unit_dir(u["index"]) / name for u in self.units if name in u["files"]]

    def checked(self, position: int, name: str) -> Path:
        """Return the path of a file after comparing its hash: parsers of index files trust their input too much.

        Raises CorruptOutput when the bytes differ or when others than the owner could have written them.
        """
        unit = self.units[position]
        path = self.unit_dir(unit["index"]) / name
        try:
            mode, sha256 = path.stat().st_mode, hash_file(path)
        except OSError as error:
            raise CorruptOutput(f"{path}: cannot be read ({error}); {_redo(path.parent)}") from error
        if mode & 0o022:
            raise CorruptOutput(f"{path}: writable by group or others; run: chmod -R go-w {self.folder}")
        if sha256 != unit["files"][name]["sha256"]:
            raise CorruptOutput(f"{path}: its bytes are not what the manifest promises; {_redo(path.parent)}")
        return path

    def rows(self, name: str) -> list[int]:
        """Return the number of rows of each unit's file `name`, in unit order (0 where a unit lacks it)."""
        return [u["files"].get(name, {}).get("rows") or 0 for u in self.units]

    def total(self, key: str) -> int:
        """Return the sum over units of 'items_in' or 'items_out'."""
        return sum(int(u[key]) for u in self.units)

    def dropped(self) -> dict[str, int]:
        """Return how many items were dropped for each reason, reasons sorted."""
        return add_up([u["dropped"] for u in self.units])

    def extra(self) -> dict[str, float]:
        """Return the further figures that the units counted, summed."""
        return add_up([u["extra"] for u in self.units])

    def file_hash(self, name: str) -> str:
        """Return the hash over all units' files of that name: what two layouts of the same work must share."""
        return hash_value([[u["index"], u["files"][name]["sha256"]] for u in self.units if name in u["files"]])


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
        stage=plan.stage, version=plan.version, fingerprint=plan.fingerprint, config=plan.output_config,
        inputs=plan.input_hashes, units=units, quarantined=quarantined, output_hash=_hash_of(units), folder=stage_dir,
    )


def check_complete(plan: Plan, stage_dir: Path) -> list[int]:
    """Return the quarantined units' indices; raise IncompleteError or UnitFailed when the stage cannot be closed."""
    absent = sorted({unit.index for unit in plan.units} - committed(stage_dir / UNITS))
    failed = failures(stage_dir)
    quarantined = [index for index in absent if len(failed.get(index, [])) >= plan.max_attempts]
    waiting = [index for index in absent if index not in quarantined]
    if waiting:
        raise IncompleteError(
            f"{plan.stage}: {len(waiting)} of {len(plan.units)} units are absent ({_some(waiting)}); "
            f"run: rag-hpc retry run={run_handle(stage_dir.parent)}"
        )
    if len(quarantined) > plan.allow_failed_units:
        last = failed[quarantined[0]][-1]
        raise UnitFailed(
            f"{plan.stage}: {len(quarantined)} of {len(plan.units)} units failed {plan.max_attempts} times "
            f"({_some(quarantined)}); the first: {last['error']}: {last['message'].rstrip('.')}. Mend the cause and "
            f"run: rag-hpc retry run={run_handle(stage_dir.parent)}, or allow it with "
            f"allow_failed_units={len(quarantined)}"
        )
    return quarantined


def publish(manifest: Manifest) -> None:
    """Write the manifest; a second writer finds the same bytes there."""
    value = dataclasses.asdict(manifest)
    del value["folder"]
    data = canonical_json(value)
    path = manifest.folder / MANIFEST
    if not publish_file(path, data) and path.read_bytes() != data:
        raise CorruptOutput(f"{path}: another manifest is there; two different outputs claim the fingerprint "
                            f"{manifest.fingerprint[:12]}. Remove {manifest.folder} and run again")


def load(stage_dir: Path) -> Manifest:
    """Return the manifest in a stage's folder; raises IncompleteError when there is none yet."""
    try:
        value = read_json(stage_dir / MANIFEST)
    except FileNotFoundError:
        raise IncompleteError(f"{stage_dir}: no manifest yet, the stage is not finished; run: rag-hpc retry") from None
    except ValueError as error:
        raise CorruptOutput(f"{stage_dir / MANIFEST}: not valid JSON ({error}); remove it and run again") from None
    try:
        found = Manifest(**value, folder=stage_dir)
        intact = found.output_hash == _hash_of(found.units)
    except (TypeError, KeyError, AttributeError) as error:
        raise CorruptOutput(f"{stage_dir / MANIFEST}: not a manifest ({error}); remove it and run again") from error
    if not intact:
        raise CorruptOutput(f"{stage_dir / MANIFEST}: its hash is not that of its units; remove it and run again")
    return found


def reopen(stage_dir: Path) -> bool:
    """Remove the manifest of a stage that was closed without its quarantined units; return whether it was."""
    path = stage_dir / MANIFEST
    if not path.exists() or not load(stage_dir).quarantined:
        return False
    path.unlink()
    return True


def _verified(stage_dir: Path, indices: list[int]) -> list[dict[str, Any]]:
    """Return the units as a manifest lists them, every file read once, as many at a time as there are CPUs.

    Threads are enough: both reading and hashing let others run.
    """
    folders = [stage_dir / UNITS / f"unit-{index:05d}" for index in indices]
    with ThreadPoolExecutor(granted_cpus()) as pool:
        records = list(pool.map(_checked_record, folders, indices))
        files = [(folder, *item) for folder, record in zip(folders, records, strict=True)
                 for item in record["files"].items()]
        list(pool.map(lambda file: _check_file(*file), files))  # raises what the first wrong file raised
    kept = ("items_in", "items_out", "dropped", "extra", "files")
    return [{key: record[key] for key in kept} | {"index": index}
            for index, record in zip(indices, records, strict=True)]


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
    path = unit_dir / RECORD
    try:
        record = read_record(unit_dir)
        unaccounted = record["items_in"] - record["items_out"] - sum(record["dropped"].values())
        kept = (record["unit"], record["extra"], dict(record["files"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptOutput(f"{path}: cannot be read ({type(error).__name__}: {error}); {_redo(unit_dir)}") from error
    if unaccounted or kept[0] != index:
        raise CorruptOutput(f"{path}: it is of unit {kept[0]} and leaves {unaccounted} items unaccounted for; "
                            f"{_redo(unit_dir)}")
    return record


def _hash_of(units: list[dict[str, Any]]) -> str:
    return hash_value([[u["index"], {name: file["sha256"] for name, file in u["files"].items()}] for u in units])


def _redo(unit_dir: Path) -> str:
    return f"remove {unit_dir} and run again to redo the unit"


def _some(indices: list[int]) -> str:
    shown = ", ".join(f"unit-{i:05d}" for i in indices[:5])
    return shown + (f" and {len(indices) - 5} more" if len(indices) > 5 else "")
