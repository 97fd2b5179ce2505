"""What Slurm says about jobs: the fixed-format texts of squeue, sacct and scontrol, read into `State`s.

Texts differ between versions and sites: a line that cannot be read is left out, and its job is then UNKNOWN.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UNKNOWN = "UNKNOWN"
LIVE = frozenset({"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING",
                  "STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
DEAD_DEPENDENCY = "DependencyNeverSatisfied"

SQUEUE_FORMAT = "%i|%T|%M|%N|%r|%j"  # the name comes last: it alone may hold the delimiter
SQUEUE_COLUMNS = ("id", "state", "elapsed", "node", "reason", "name")
SACCT_FORMAT = "JobID,State,ExitCode,ElapsedRaw,NodeList,ReqTRES,JobName"
SACCT_COLUMNS = ("id", "state", "exit", "elapsed", "node", "tres", "name")

_UNITS_GIB = {"K": 2.0**-20, "M": 2.0**-10, "G": 1.0, "T": 2.0**10, "P": 2.0**20}
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?$")


@dataclass(frozen=True, kw_only=True)
class State:
    """One job or array task, as far as the scheduler told."""

    state: str = UNKNOWN  # Slurm's word in full: PENDING, RUNNING, COMPLETED, FAILED, OUT_OF_MEMORY, ...
    reason: str = ""
    exit_code: int | None = None
    signal: int = 0  # that ended it
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
        row = {"id": f"{array}_{task}" if array and task else values["JobId"], "state": values["JobState"],
               "reason": values.get("Reason", ""), "exit": values.get("ExitCode", ""),
               "node": values.get("NodeList", ""), "elapsed": values.get("RunTime", ""),
               "tres": values.get("ReqTRES") or values.get("TRES", ""), "name": values.get("JobName", "")}
        found.update(_collect([row]))
    return found


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
        code = re.match(r"(\d+):(\d+)", row.get("exit", ""))
        ended = word not in LIVE
        state = State(
            state=word, reason=_meaningful(row.get("reason", "")), node=_meaningful(row.get("node", "")),
            exit_code=int(code[1]) if code and ended else None, signal=int(code[2]) if code and ended else 0,
            elapsed_s=parse_elapsed(row.get("elapsed", "")), mem_gib=parse_mem_gib(row.get("tres", "")),
            name=row.get("name", ""))
        found.update(dict.fromkeys(expand_ids(row["id"]), state))
    return found


def _meaningful(text: str) -> str:
    return "" if text in ("None", "(null)", "None assigned", "N/A") else text.strip("()")
