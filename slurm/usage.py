"""What accounting says that jobs took: the text of sacct with its steps, read into one `Taken` for each start of a job.

An empty MaxRSS was not sampled, and no energy is told where no plugin measures it: both are missing, never 0. A job
that was requeued has a row for each of its starts, and each is counted once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rag_hpc.slurm.states import parse_elapsed

COLUMNS = ("JobID", "Start", "ElapsedRaw", "AllocTRES", "TotalCPU", "MaxRSS", "ConsumedEnergyRaw")
FORMAT = ",".join(COLUMNS)
NO_VALUE = 2**63  # Slurm's marks for "not measured" lie above
_KIB = {"": 2.0**-10, "K": 1.0, "M": 2.0**10, "G": 2.0**20, "T": 2.0**30}


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One start of a job or array task. None is what was not told."""

    elapsed_s: int
    cpus: int
    gpus: int
    nodes: int
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    energy_j: float | None = None


def parse_taken(text: str) -> dict[str, list[Taken]]:
    """Return the starts of each job, by id or id_task, in `sacct -n -P -D -o FORMAT`. Jobs that never ran have none."""
    rows = [dict(zip(COLUMNS, line.split("|"), strict=True)) for line in text.split("\n") if line.count("|") == 6]
    jobs = {(row["JobID"], row["Start"]): _job(row) for row in rows if "." not in row["JobID"]}
    for (name, start), job in jobs.items():
        steps = [r for r in rows if r["JobID"].startswith(f"{name}.") and _within(r["Start"], start, name, jobs)]
        jobs[name, start] = _with_steps(job, steps)
    found: dict[str, list[Taken]] = {}
    for (name, _), job in jobs.items():
        if job.elapsed_s:
            found.setdefault(name, []).append(job)
    return found


def _job(row: Mapping[str, str]) -> Taken:
    tres = dict(part.split("=", 1) for part in row["AllocTRES"].split(",") if "=" in part)
    return Taken(
        elapsed_s=_whole(row["ElapsedRaw"]) or 0,
        cpus=_whole(tres.get("cpu", "")) or 0,
        gpus=_whole(tres.get("gres/gpu", "")) or 0,
        nodes=_whole(tres.get("node", "")) or 0,
        cpu_s=_cpu_s(row["TotalCPU"]),
        max_rss_bytes=_bytes(row["MaxRSS"]),
        energy_j=_joules(row["ConsumedEnergyRaw"]),
    )


def _with_steps(job: Taken, steps: Sequence[Mapping[str, str]]) -> Taken:
    """Add what only steps tell: the largest memory of any, and their energies where the job has none."""
    rss = [size for row in steps if (size := _bytes(row["MaxRSS"])) is not None]
    energies = [joules for row in steps if (joules := _joules(row["ConsumedEnergyRaw"])) is not None]
    return replace(
        job,
        max_rss_bytes=max(rss, default=job.max_rss_bytes),
        energy_j=job.energy_j if job.energy_j is not None or not energies else sum(energies),
    )


def _within(begun: str, start: str, name: str, jobs: Mapping[tuple[str, str], Taken]) -> bool:
    """Return whether a step is of this start of the job: the last one that is not after it."""
    starts = sorted(other for job, other in jobs if job == name and other <= begun)
    return bool(starts) and starts[-1] == start


def _cpu_s(text: str) -> float | None:
    """Return the seconds in `[days-]hours:minutes:seconds` or `minutes:seconds.thousandths`; 0 was not sampled."""
    whole, _, part = text.partition(".")
    seconds = parse_elapsed(whole) if ":" in whole else None
    total = None if seconds is None else seconds + (float(f"0.{part}") if part.isdigit() else 0.0)
    return total or None


def _bytes(text: str) -> int | None:
    matched = re.fullmatch(r"([\d.]+)([KMGT]?)", text.strip())
    return int(float(matched[1]) * _KIB[matched[2]] * 1024) or None if matched else None


def _joules(text: str) -> float | None:
    value = _whole(text)
    return float(value) if value and value < NO_VALUE else None


def _whole(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None
