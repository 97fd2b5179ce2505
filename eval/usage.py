"""What stages used, from their records: seconds of cores, GPUs and nodes, and energy.

Under a scheduler a worker holds what it was granted from its start to its last commit, whether it computes or waits;
where nothing grants anything, what was computed counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Records = Sequence[dict[str, Any]]
ESTIMATED, ACCOUNTED, RAPL, UNKNOWN = "estimated", "measured (sacct)", "measured (RAPL)", "–"
OF_RECORDS, OF_SACCT = "records", "sacct"
OF_RANKS = ("mpi", "torchrun")


@dataclass(frozen=True, kw_only=True)
class Watts:
    """What the estimate of energy assumes. core: of a busy one, TDP over cores; gpu: of one that is held."""

    core: float = 0.0
    gpu: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a stage used, in seconds and joules."""

    cpu_s: float  # computed
    core_s: float  # held
    gpu_s: float  # held
    node_s: float  # in which a node was held, all of it or a part
    energy_j: float | None
    energy_from: str  # one of ESTIMATED, ACCOUNTED, RAPL, UNKNOWN
    source: str  # of the seconds: OF_RECORDS, or OF_SACCT, which knows the starts of workers too
    at_least: bool = False  # rank 0 keeps the record of all: other nodes' shares are in accounting alone
    max_rss_bytes: int | None = None


def used(records: Records, watts: Watts, taken: Mapping[str, Sequence[Any]]) -> Usage:
    """Return what one step used, from its records (at least one), and from accounting where that knows all its jobs.

    taken: job id, or id_task -> its starts, as slurm.usage reads them.
    """
    mine = _of_records(records, watts)
    jobs = {record["job_id"] for record in records}
    by_job = {job: [start for name in taken if name.split("_")[0] == job for start in taken[name]] for job in jobs}
    if not all(by_job.values()):
        return mine
    starts = [start for found in by_job.values() for start in found]  # tasks that committed nothing among them
    energies = [start.energy_j for start in starts]
    memory = [start.max_rss_bytes for start in starts if start.max_rss_bytes is not None]
    measured = None if None in energies else sum(energies)
    core_s = sum(start.elapsed_s * start.cpus for start in starts)
    gpu_s = sum(start.elapsed_s * start.gpus for start in starts)
    computed = [start.cpu_s for start in starts]
    cpu_s = mine.cpu_s if None in computed else sum(computed)
    estimate = _estimate(cpu_s, gpu_s, watts)
    known = (mine.energy_j, RAPL) if mine.energy_from == RAPL else estimate
    return Usage(
        cpu_s=cpu_s,
        core_s=core_s,
        gpu_s=gpu_s,
        node_s=sum(start.elapsed_s * start.nodes for start in starts),
        energy_j=known[0] if measured is None else measured,
        energy_from=known[1] if measured is None else ACCOUNTED,
        source=OF_SACCT,
        max_rss_bytes=max(memory, default=mine.max_rss_bytes),
    )


def together(steps: Sequence[Usage]) -> Usage:
    """Return what steps used in sum; the weakest source is that of the sum."""
    energies = [step.energy_j for step in steps]
    kinds = [step.energy_from for step in steps]
    memory = [step.max_rss_bytes for step in steps if step.max_rss_bytes is not None]
    return Usage(
        **{key: sum(getattr(step, key) for step in steps) for key in ("cpu_s", "core_s", "gpu_s", "node_s")},
        energy_j=None if None in energies else sum(energy for energy in energies if energy is not None),
        energy_from=next(kind for kind in (UNKNOWN, ESTIMATED, RAPL, ACCOUNTED) if kind in kinds),
        source=OF_SACCT if all(step.source == OF_SACCT for step in steps) else OF_RECORDS,
        at_least=any(step.at_least for step in steps),
        max_rss_bytes=max(memory, default=None),
    )


def _of_records(records: Records, watts: Watts) -> Usage:
    holders: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        key = ("submission", "job_id", "array_task_id", "restarts", "host")
        holders.setdefault(tuple(record[name] for name in key), []).append(record)
    spans = {key: _span(held) for key, held in holders.items()}
    cpu_s = sum(record["cpu_s"] for record in records)
    core_s, gpu_s = 0.0, 0.0
    for key, held in holders.items():
        seconds = spans[key][1] - spans[key][0]
        gpu_s += max(record["gpus"] for record in held) * seconds
        granted = held[0]["job_id"] is not None
        core_s += max(r["cpus"] for r in held) * seconds if granted else sum(r["cpu_s"] for r in held)
    by_host: dict[str, list[tuple[float, float]]] = {}
    for key, span in spans.items():
        by_host.setdefault(str(key[-1]), []).append(span)
    node_s = {host: _union(found) for host, found in by_host.items()}
    energy = _rapl(records, node_s) or _estimate(cpu_s, gpu_s, watts)
    only_first = {record["rank"] for record in records} == {0} and records[0]["p"] > 1
    return Usage(
        cpu_s=cpu_s,
        core_s=core_s,
        gpu_s=gpu_s,
        node_s=sum(node_s.values()),
        energy_j=energy[0],
        energy_from=energy[1],
        source=OF_RECORDS,
        at_least=only_first and records[0]["launch"] in OF_RANKS,
        max_rss_bytes=max(record["peak_rss_bytes"] for record in records),
    )


def _span(held: Records) -> tuple[float, float]:
    """Return when a holder began, set-up included, and when it ended."""
    firsts: dict[int, dict[str, Any]] = {}
    for record in held:
        if record["rank"] not in firsts or record["started_unix"] < firsts[record["rank"]]["started_unix"]:
            firsts[record["rank"]] = record
    begun = min(first["started_unix"] - first["setup_s"] for first in firsts.values())
    return begun, max(record["ended_unix"] for record in held)


def _union(spans: Sequence[tuple[float, float]]) -> float:
    """Return the seconds that lie in any of the spans."""
    total, until = 0.0, float("-inf")
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total


def _rapl(records: Records, node_s: Mapping[str, float]) -> tuple[float, str] | None:
    """Return the energy of the processors: each host's mean power while units were open, times the seconds held.

    The counter is of whole packages, so that units side by side each read what all of them drew.
    """
    total = 0.0
    for host, seconds in node_s.items():
        here = [record for record in records if record["host"] == host]
        joules = [record["energy_j"] for record in here]
        open_s = sum(record["work_s"] + record["flush_s"] for record in here)
        if None in joules or not open_s:
            return None
        total += sum(joules) / open_s * seconds
    return total, RAPL


def _estimate(cpu_s: float, gpu_s: float, watts: Watts) -> tuple[float | None, str]:
    if not (watts.core or watts.gpu):
        return None, UNKNOWN
    return cpu_s * watts.core + gpu_s * watts.gpu, ESTIMATED
