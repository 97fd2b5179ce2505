"""What Slurm says about jobs: the fixed-format texts of squeue, sacct and scontrol, read into `State`s.

Texts differ between versions and sites: a line that cannot be read is left out, and its job is then UNKNOWN.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

UNKNOWN = "UNKNOWN"
LIVE = frozenset(
    """
    PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED RESIZING SIGNALING STAGE_OUT REQUEUED REQUEUE_FED
    REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD
    """.split()
)
DEAD_DEPENDENCY = "DependencyNeverSatisfied"

SQUEUE_FORMAT = "%i|%T|%M|%N|%r|%j"  # the name comes last: it alone may hold the delimiter
SQUEUE_COLUMNS = ("id", "state", "elapsed", "node", "reason", "name")
SINFO_OFFERS = "%P|%l|%G"
SACCT_FORMAT = "JobID,State,ExitCode,DerivedExitCode,ElapsedRaw,NodeList,ReqTRES,JobName"
SACCT_COLUMNS = ("id", "state", "exit", "derived", "elapsed", "node", "tres", "name")

# why a job waits, by Slurm's word for it; the first that fits. One that is not here waits, and nothing is to be done.
_NEVER = {
    r"PartitionTimeLimit|MaxWall": ("its walltime is over the limit", "cluster.time_min lower: sinfo -o '%P %l'"),
    r"PartitionNodeLimit|MaxNode\w*PerJob": ("it wants more nodes than one job may have", "workers lower"),
    r"PerJob": ("it wants more than one job may have", "workers, cluster.cpus_per_task or cluster.mem_gib lower"),
    r"BadConstraints": (
        "no node has what it asks for",
        "cluster.gres, constraint, mem_gib and cpus_per_task to what nodes have: sinfo -o '%P %G %f %m %c'",
    ),
    r"QOSMin|NotSatisfied": ("it asks for less than its QOS demands", "cluster.qos to another one"),
    r"InvalidQOS|QOSNotAllowed": ("its QOS may not be used here", "cluster.qos to another one"),
    r"InvalidAccount|AccountNotAllowed": ("its account may not be used here", "cluster.account to another one"),
    r"ReservationDeleted|InvalidReservation": ("its reservation is gone", "cluster.reservation=null, or another one"),
}
_WAITS = {
    r"Dependency": "waiting for an earlier job",
    r"JobArrayTaskLimit": "waiting for other tasks of its array, of which cluster.array_parallelism run at once",
    r"BeginTime": "waiting for its time to start, as after a requeue",
}
_WAITS_FOR_SOMEBODY = {
    r"ReqNodeNotAvail|DOWN|NodeDown": "waiting for nodes that are down, drained or reserved; see: sinfo -R",
    r"PartitionDown|PartitionInactive": "waiting for the site to open its partition, or set cluster.partition",
    r"Minutes|TRESRunMins|TimeLimit": "waiting until the site renews the hours of its account, or set cluster.account",
    r"Held|held|JobHoldMaxRequeue": "held; it starts once somebody says: scontrol release JOB",
}
AGAIN = "and give the rag-hpc run command again"

_UNITS_GIB = {"K": 2.0**-20, "M": 2.0**-10, "G": 1.0, "T": 2.0**10, "P": 2.0**20}
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?$")


@dataclass(frozen=True, kw_only=True)
class State:
    """One job or array task, as far as the scheduler told."""

    state: str = UNKNOWN  # Slurm's word in full: PENDING, RUNNING, COMPLETED, FAILED, OUT_OF_MEMORY, ...
    reason: str = ""
    exit_code: int | None = None  # 0 when a signal ended it
    signal: int = 0  # that ended it, be it the job or what it waited for
    node: str = ""  # Slurm's list, such as n[1-4]
    elapsed_s: int | None = None
    mem_gib: float | None = None  # asked for, per node
    name: str = ""

    @property
    def live(self) -> bool:
        """Whether it waits or runs; UNKNOWN is neither live nor ended."""
        return self.state in LIVE

    @property
    def ended(self) -> bool:
        """Whether the scheduler says that it is over."""
        return self.state not in LIVE and self.state != UNKNOWN


def parse_squeue(text: str, columns: Sequence[str] = SQUEUE_COLUMNS, delimiter: str = "|") -> dict[str, State]:
    """Return the states in `squeue -h -r -o SQUEUE_FORMAT`, by job id or id_task."""
    return _collect(_rows(text, columns, delimiter))


def parse_sacct(text: str, columns: Sequence[str] = SACCT_COLUMNS, delimiter: str = "|") -> dict[str, State]:
    """Return the states in `sacct -n -P -X -o SACCT_FORMAT`; steps (123.batch) are left out."""
    return _collect(row for row in _rows(text, columns, delimiter) if "." not in row["id"])


def parse_scontrol(text: str) -> dict[str, State]:
    """Return the states in `scontrol show job`, one-line or not."""
    found: dict[str, State] = {}
    for block in re.split(r"(?=\bJobId=\d)", text):
        values = dict(re.findall(r"(?:^|\s)([A-Za-z/:]+)=(\S*)", block))
        if "JobState" not in values:
            continue
        array, task = values.get("ArrayJobId"), values.get("ArrayTaskId")
        row = {
            "id": f"{array}_{task}" if array and task else values["JobId"],
            "state": values["JobState"],
            "reason": values.get("Reason", ""),
            "exit": values.get("ExitCode", ""),
            "node": values.get("NodeList", ""),
            "elapsed": values.get("RunTime", ""),
            "tres": values.get("ReqTRES") or values.get("TRES", ""),
            "name": values.get("JobName", ""),
        }
        found.update(_collect([row]))
    return found


class Outlook(enum.Enum):
    """What is to become of a job that waits."""

    waits = "waits"
    follows = "follows"  # it waits for an earlier job of ours
    never = "never"


def outlook(reason: str, run: str) -> tuple[Outlook, str]:
    """Return what a waiting job's reason means: whether it will start at all, and in words, with what is to be done."""
    if reason == DEAD_DEPENDENCY:
        text = f"will never start: what it waits for has failed ({reason}); clear it: rag-hpc retry run={run}"
        return Outlook.never, text
    for known, (what, remedy) in _NEVER.items():
        if re.search(known, reason):
            return Outlook.never, f"will never start: {what} ({reason}); set {remedy}, {AGAIN}"
    for known, text in _WAITS_FOR_SOMEBODY.items():
        if re.search(known, reason):
            return Outlook.waits, f"{text} ({reason})"
    text = next((text for known, text in _WAITS.items() if known in reason), "waiting in the queue")
    how = Outlook.follows if reason == "Dependency" else Outlook.waits
    return how, f"{text}{f' ({reason})' if reason else ''}: nothing to do"


@dataclass(frozen=True)
class Offer:
    """What the nodes of one kind in a partition can do for a job."""

    time_min: float  # longest walltime
    gres: dict[tuple[str, str], int]  # by name and type, of one node


def parse_offers(text: str, partitions: str | None) -> list[Offer]:
    """Return what the partitions (comma-separated; null is the default one) offer in `sinfo -h -a -o SINFO_OFFERS`.

    There is one for each kind of node; a limit that cannot be read is none.
    """
    offers = []
    for name, limit, gres in (line.strip().split("|", 2) for line in text.split("\n") if line.count("|") >= 2):
        if name.endswith("*") if partitions is None else name.rstrip("*") in partitions.split(","):
            seconds = parse_elapsed(limit)
            offers.append(Offer(math.inf if seconds is None else seconds / 60, parse_gres(gres)))
    return offers


def unmet(offers: Sequence[Offer], time_min: int | None, gres: str | None, key: Callable[[str], str]) -> str | None:
    """Return why a job could never start on any of the offers, and which `key` to set; None when it could."""
    longest = max((offer.time_min for offer in offers), default=math.inf)
    if time_min is not None and time_min > longest:
        return f"{key('time_min')}={time_min} is over the limit of {longest:.0f} minutes; lower it"
    nodes = [offer.gres for offer in offers if time_min is None or time_min <= offer.time_min]
    if gres and nodes and not any(_has(node, parse_gres(gres)) for node in nodes):
        kinds = {(name, kind, num) for node in nodes for (name, kind), num in node.items()}
        known = ", ".join(":".join(filter(None, (name, kind, str(num)))) for name, kind, num in sorted(kinds))
        return f"no node has {key('gres')}={gres}; known: {known or 'none'}"
    return None


def num_gpus(gres: str | None) -> int:
    """Return how many GPUs `gpu:a100:4,shard:8` names, of whatever type."""
    return sum(num for (name, _), num in parse_gres(gres or "").items() if name == "gpu")


def parse_gres(text: str) -> dict[tuple[str, str], int]:
    """Return the counts in `gpu:a100:4(S:0-1),shard:8` by name and type."""
    found: dict[tuple[str, str], int] = {}
    for item in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *rest = item.strip().removeprefix("gres:").removeprefix("gres/").split(":")
        rest = [word for word in rest if word != "no_consume"]
        matched = re.fullmatch(r"(\d+)([KMGTP]?)", rest[-1], re.IGNORECASE) if rest else None
        num = int(matched[1]) * 1024 ** " KMGTP".index(matched[2].upper() or " ") if matched else 1
        kind = ":".join(rest[:-1] if matched else rest)
        if name:
            found[name, kind] = found.get((name, kind), 0) + num
    return found


def _has(offered: dict[tuple[str, str], int], wanted: dict[tuple[str, str], int]) -> bool:
    def number(name: str, kind: str) -> int:
        return sum(num for (one, other), num in offered.items() if one == name and kind in ("", other))

    return all(number(name, kind) >= num for (name, kind), num in wanted.items())


def expand_ids(text: str) -> list[str]:
    """Return the ids that Slurm's text stands for: `12_[0-2,7%4]` gives 12_0 12_1 12_2 12_7."""
    base, _, tasks = text.partition("_")
    if not tasks:
        return [text]
    ids = []
    for part in tasks.strip("[]").split("%")[0].split(","):
        if matched := _RANGE.match(part):
            first, last, step = (int(n) if n else 0 for n in matched.groups())
            ids += [f"{base}_{task}" for task in range(first, (last or first) + 1, step or 1)]
    return ids or [base]


def of_job(states: dict[str, State], job_id: str) -> dict[str, State]:
    """Return the states of a job: its own, or those of its array tasks."""
    return {key: value for key, value in states.items() if key == job_id or key.startswith(f"{job_id}_")}


def parse_elapsed(text: str) -> int | None:
    """Return the seconds in `[days-]hours:minutes:seconds`, in `minutes:seconds` or in a plain number."""
    matched = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(?:(\d+):)?(\d+)", text.strip())
    if not matched:
        return None
    days, first, second, seconds = matched.groups()
    hours, minutes = (first, second) if second is not None else (0, first)
    return ((int(days or 0) * 24 + int(hours or 0)) * 60 + int(minutes or 0)) * 60 + int(seconds)


def parse_mem_gib(tres: str) -> float | None:
    """Return the memory per node in a TRES text such as `cpu=2,mem=2500M,node=1`, in GiB."""
    parts = dict(part.split("=", 1) for part in tres.split(",") if "=" in part)
    matched = re.fullmatch(r"([\d.]+)([KMGTP]?)", parts.get("mem", ""))
    if not matched:
        return None
    nodes = parts.get("node", "1")
    return float(matched[1]) * _UNITS_GIB[matched[2] or "M"] / max(1, int(nodes) if nodes.isdigit() else 1)


def _rows(text: str, columns: Sequence[str], delimiter: str) -> Iterable[dict[str, str]]:
    for line in text.split("\n"):  # never splitlines(): a job's name may hold U+2028
        values = line.strip("\r").split(delimiter, len(columns) - 1)
        if len(values) == len(columns):
            yield dict(zip(columns, (value.strip() for value in values), strict=True))


def _collect(rows: Iterable[dict[str, str]]) -> dict[str, State]:
    found: dict[str, State] = {}
    for row in rows:
        word = row["state"].split(" ")[0].rstrip("+")  # "CANCELLED by 1001"
        if not re.match(r"\d", row["id"]) or not re.fullmatch(r"[A-Z_]+", word):
            continue
        exit_code, signal = _ending(row.get("exit", ""), row.get("derived", "")) if word not in LIVE else (None, 0)
        state = State(
            state=word,
            reason=_meaningful(row.get("reason", "")),
            node=_meaningful(row.get("node", "")),
            exit_code=exit_code,
            signal=signal,
            elapsed_s=parse_elapsed(row.get("elapsed", "")),
            mem_gib=parse_mem_gib(row.get("tres", "")),
            name=row.get("name", ""),
        )
        found.update(dict.fromkeys(expand_ids(row["id"]), state))
    return found


def _ending(told: str, derived: str) -> tuple[int | None, int]:
    """Return exit code and signal, the same from either source.

    A script whose step was ended by signal 9 exits with 137, as shells do. scontrol tells that as 137:0; sacct takes
    128 from it and tells 9:0, as of an exit with 9. `derived`, the worst end of the steps, tells the two apart.
    """
    matched = re.match(r"(\d+):(\d+)", told)
    if matched is None:
        return None, 0
    code, signal = int(matched[1]), int(matched[2])
    if 128 < code < 193:
        signal = code - 128
    elif code and derived == f"0:{code}":
        signal = code
    return (0, signal) if signal else (code, 0)


def _meaningful(text: str) -> str:
    return "" if text in ("None", "(null)", "None assigned", "N/A") else text.strip("()")
