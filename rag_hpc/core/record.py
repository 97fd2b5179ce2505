"""Records: the fixed-schema measurements of one attempt, written into the unit's folder before it is published."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.job import JobEnv
from rag_hpc.core.origin import hardware

SCHEMA = 1
POWERCAP = Path("/sys/class/powercap")


@dataclass(kw_only=True)
class Record:
    """One attempt of one unit. Seconds, bytes, and four times kept apart."""

    run: str
    stage: str
    unit: int
    attempt: int
    submission: int
    job_id: str | None
    array_task_id: str | None
    restarts: int
    host: str
    rank: int
    p: int
    launch: str
    cpus: int
    gpus: int
    items_in: int
    items_out: int
    dropped: dict[str, int]
    extra: dict[str, float]
    timings: dict[str, float]
    bytes_read: int
    bytes_written: int
    peak_rss_bytes: int
    cpu_s: float
    queue_s: float | None  # from submission to the worker's start; None when nothing queued it
    setup_s: float  # from the worker's start to its first unit
    work_s: float
    flush_s: float
    started_unix: float
    ended_unix: float
    pressure_cpu: float | None  # share of the last 10 s in which some task waited for a CPU, percent
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> bytes, sha256, rows
    energy_j: float | None = None  # of the host's processors meanwhile, whoever used them; None where it is not told
    hardware: dict[str, Any] = field(default_factory=dict)  # of the host; empty in records of before
    schema: int = SCHEMA


class Meter:
    """Measures one attempt: create it when the unit begins, `work_done()` when the files are written."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._cpu = cpu_seconds()
        self._io = io_bytes()
        self._energy = energy_uj()
        self.started_unix = time.time()
        self.work_s = 0.0

    def work_done(self) -> None:
        """Mark the end of work; what follows is flushing."""
        self.work_s = self._clock() - self._start

    def values(self) -> dict[str, Any]:
        """Return the measured fields of a Record."""
        read, written = io_bytes()
        return {
            "bytes_read": read - self._io[0],
            "bytes_written": written - self._io[1],
            "peak_rss_bytes": peak_rss_bytes(),
            "cpu_s": round(cpu_seconds() - self._cpu, 4),
            "work_s": round(self.work_s, 4),
            "flush_s": round(self._clock() - self._start - self.work_s, 4),
            "started_unix": round(self.started_unix, 3),
            "ended_unix": round(time.time(), 3),
            "pressure_cpu": pressure_cpu(),
            "energy_j": drawn_j(self._energy, energy_uj()),
        }


def where(started_unix: float) -> dict[str, Any]:
    """Return the fields of a Record that say where this process, begun at that time, runs; ids are Slurm's or None."""
    env, told = os.environ, JobEnv.from_env()
    visible = env.get("CUDA_VISIBLE_DEVICES", "")
    return {
        "job_id": env.get("SLURM_ARRAY_JOB_ID") or env.get("SLURM_JOB_ID"),
        "array_task_id": env.get("SLURM_ARRAY_TASK_ID"),
        "restarts": int(env.get("SLURM_RESTART_COUNT", "0")),
        "host": socket.gethostname(),
        "cpus": granted_cpus(),
        "gpus": len([d for d in visible.split(",") if d.strip()]),
        "queue_s": round(max(0.0, started_unix - told.submitted_unix), 3) if told.submitted_unix else None,
        "launch": told.launch,
        "hardware": hardware(),
    }


def granted_cpus() -> int:
    """Return how many CPUs this process may use: those it can run on, and no more than its job has on this node."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return max(1, min(usable, int(granted))) if granted.isdecimal() else usable


def cpu_seconds() -> float:
    """Return user and system CPU seconds of this process and its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_rss_bytes() -> int:
    """Return the largest resident size of this process so far (Linux reports KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def io_bytes() -> tuple[int, int]:
    """Return bytes read and written through system calls so far; zeros where /proc does not tell."""
    try:
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(lines["rchar"]), int(lines["wchar"])
    except (OSError, KeyError, ValueError):
        return 0, 0


def energy_uj() -> dict[str, tuple[int, int]]:
    """Return RAPL's counters of whole processors with where each begins anew, microjoules; most sites hide them."""
    found = {}
    for zone in sorted(POWERCAP.glob("intel-rapl:[0-9]*")):
        try:
            if zone.name.count(":") == 1:  # a part of a processor has two, and is counted in it
                texts = [(zone / name).read_text() for name in ("energy_uj", "max_energy_range_uj")]
                found[zone.name] = int(texts[0]), int(texts[1])
        except (OSError, ValueError):
            return {}
    return found


def drawn_j(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Return the joules between two readings, None without them; a counter that is smaller has begun anew once."""
    if not before or before.keys() != after.keys():
        return None
    drawn = [
        after[zone][0] - value + (limit if after[zone][0] < value else 0) for zone, (value, limit) in before.items()
    ]
    return sum(drawn) / 1e6


def pressure_cpu() -> float | None:
    """Return the kernel's 10 s CPU pressure in percent, None where it is not offered."""
    try:
        return float(Path("/proc/pressure/cpu").read_text().split("avg10=")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return None
