"""Stand-ins for Slurm's commands on PATH: they log every call, hand out ids, and say what a test wants them to say.

A job is in the queue from its sbatch until its scancel, until scontrol is made to say (`job-ID`) that it ended, or
until `squeue` is made to say what the queue is. In that text names lack the mark of the run's folder; it is added.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag_hpc.core.ledger import Ledger

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")
PROGRAM = r"""
import json, os, re, sys
folder = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]
def said(kind):
    try:
        return open(os.path.join(folder, kind), errors="surrogateescape").read()
    except FileNotFoundError:
        return ""
call = {"name": name, "argv": argv}
if name == "sbatch":
    files = [a for a in argv if not a.startswith("-")]
    call["script"] = open(files[0]).read() if files else sys.stdin.read()
    call["env"] = dict(os.environ)
calls = [json.loads(line) for line in said("calls").splitlines()] + [call]
number = sum(c["name"] == "sbatch" for c in calls)
def flag(call, name):
    found = re.search(rf"^#SBATCH --{name}=(.*)", call["script"], re.MULTILINE)
    return found[1].strip("'") if found else ""
def tasks(call):
    array = re.match(r"0-(\d+)", flag(call, "array"))
    return int(array[1]) + 1 if array else 1
def queue():
    submitted = [c for c in calls if c["name"] == "sbatch"]
    jobs = {str(i): c for i, c in enumerate(submitted, 1) if "queued" in c}
    rows = [line.split("|") for line in said("squeue").splitlines()]
    live = {row[0].partition("_")[0]: row[-1] for row in rows if row[1] in ("PENDING", "RUNNING")}
    own = {i: flag(c, "job-name") for i, c in jobs.items()}
    found = {i: own[i] if own.get(i, "").rpartition("-")[0] == name else name for i, name in live.items()}
    found |= {i: name for i, name in own.items() if int(i) > int(said("squeue-at") or 0)}
    ended = {i for i in jobs if re.search("JobState=(?!PENDING|RUNNING)", said("job-" + i))}
    ended |= {word for c in calls if c["name"] == "scancel" for word in c["argv"]}
    return {i: name for i, name in found.items() if i not in ended}, jobs
refused = said("refuse-" + name)
if name == "sbatch":
    if number < int(said("refuse-from") or 1):
        refused = ""
    names, jobs = queue()
    if said("places") and sum(tasks(jobs[i]) for i in names) + tasks(call) > int(said("places")):
        refused = ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
                   "accounting/QOS policy (job submit limit, user's size and/or time limits)")
    if said("lose") == str(number):
        refused = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    if not refused or said("lose") == str(number):
        call["queued"] = True
with open(os.path.join(folder, "calls"), "a") as log:
    log.write(json.dumps(call) + "\n")
if refused:
    sys.exit(refused)
if name == "sbatch":
    answer = said("answer") or str(number)
    print(said("banner") + (answer if "--parsable" in argv else f"Submitted batch job {answer}"))
elif name == "squeue" and "--me" in argv:
    print(*[f"{i}|{job}" for i, job in queue()[0].items()], sep="\n")
elif name == "scontrol":
    text = said("job-" + argv[-1]) if "job" in argv else said("scontrol")
    if "job" in argv and not text:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print(text, end="")
else:
    print(said(name), end="")
"""


@dataclass
class FakeSlurm:
    """Handle of the stand-ins."""

    folder: Path

    def says(self, name: str, text: str) -> None:
        """Set what a command prints; `job-12` is what scontrol knows of a job, `refuse-sbatch` makes sbatch fail.

        `lose` is the number of a job that is queued although sbatch fails, `places` how many jobs the site lets wait,
        `banner` what sbatch prints before an id, `answer` the id that it gives instead.
        """
        (self.folder / name).write_text(text)
        if name == "squeue":
            (self.folder / "squeue-at").write_text(str(len(self.calls("sbatch"))))

    def calls(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the calls so far, in order."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if name in (None, call["name"])]

    def jobs(self) -> list[dict[str, Any]]:
        """Return the submitted jobs: id, name (without the mark of the run), dependency, held, script, env."""
        found = []
        for number, call in enumerate(self.calls("sbatch"), start=1):
            lines = [line for line in call["script"].splitlines() if line.startswith("#SBATCH ")]
            flags = [line.removeprefix("#SBATCH ") for line in lines] + call["argv"]
            values = dict(flag.lstrip("-").split("=", 1) for flag in flags if flag.startswith("--") and "=" in flag)
            found.append(
                {
                    "id": str(number),
                    "name": values["job-name"].rpartition("-")[0],
                    "dependency": values.get("dependency"),
                    "held": "--hold" in flags,
                    "flags": values,
                    "script": call["script"],
                    "env": call["env"],
                }
            )
        return found


def record(
    job: int, state: str, exit_code: str = "0:0", *, node: str = "n1", mem: str = "2G", task: int | None = None
) -> str:
    """Return what scontrol says of a job."""
    array = "" if task is None else f"ArrayJobId={job} ArrayTaskId={task} "
    return (
        f"JobId={job} {array}JobName=x JobState={state} Reason=None ExitCode={exit_code} RunTime=00:01:00 "
        f"NodeList={node} TRES=cpu=1,mem={mem},node=1,billing=1\n"
    )


def outcome(ledger: Ledger, number: int = 1, stage: str = "toy.source") -> dict[str, Any]:
    """Return what a gate has said."""
    found: dict[str, Any] = json.loads((ledger.folder(number) / f"{stage}.outcome.json").read_text())
    del found["seal"]
    return found


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put the stand-ins first on PATH; a partition cpu of four nodes, the default one, and gpu of two."""
    from rag_hpc.launchers import chain

    fake = FakeSlurm(tmp_path / "fake-slurm")
    (fake.folder / "bin").mkdir(parents=True)
    for name in COMMANDS:
        program = fake.folder / "bin" / name
        program.write_text(f"#!{sys.executable} -IS{PROGRAM}")
        program.chmod(0o755)
    fake.says("sinfo", "cpu*|up|4\ngpu|up|2\nold|down|8\n")
    fake.says("scontrol", "MaxArraySize            = 1001\n")
    monkeypatch.setenv("PATH", f"{fake.folder}/bin:/usr/bin:/bin")
    monkeypatch.setattr(chain, "NODE_LOCAL", ())  # pytest's folders lie under /tmp
    return fake
