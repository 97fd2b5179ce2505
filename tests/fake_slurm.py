"""Stand-ins for Slurm's commands on PATH: they log every call, hand out ids, and say what a test wants them to say."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")
PROGRAM = r"""
import json, os, sys
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
with open(os.path.join(folder, "calls"), "a") as log:
    log.write(json.dumps(call) + "\n")
refused = said("refuse-" + name)
if refused and (name != "sbatch" or said("calls").count('"name": "sbatch"') >= int(said("refuse-from") or 1)):
    sys.exit(refused)
if name == "sbatch":
    number = said("calls").count('"name": "sbatch"')
    print(number if "--parsable" in argv else f"Submitted batch job {number}")
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
        """Set what a command prints; `job-12` is what scontrol knows of a job, `refuse-sbatch` makes sbatch fail."""
        (self.folder / name).write_text(text)

    def calls(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the calls so far, in order."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if name in (None, call["name"])]

    def jobs(self) -> list[dict[str, Any]]:
        """Return the submitted jobs: id, name, dependency, held, script, env."""
        found = []
        for number, call in enumerate(self.calls("sbatch"), start=1):
            lines = [line for line in call["script"].splitlines() if line.startswith("#SBATCH ")]
            flags = [line.removeprefix("#SBATCH ") for line in lines] + call["argv"]
            values = dict(flag.lstrip("-").split("=", 1) for flag in flags if flag.startswith("--") and "=" in flag)
            found.append({"id": str(number), "name": values["job-name"], "dependency": values.get("dependency"),
                          "held": "--hold" in flags, "flags": values, "script": call["script"], "env": call["env"]})
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
