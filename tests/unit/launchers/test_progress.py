"""What is said while a command works: bars and a word that it is at work on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fake_run
import pytest
import toystages
from terminal import on_terminal, screen

from rag_hpc import cli
from rag_hpc.core.ledger import Ledger
from rag_hpc.launchers import local
from rag_hpc.launchers.run import run_here

SUPPORT = Path(toystages.__file__).parent
RUN = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(SUPPORT)!r})
import toystages
from rag_hpc.launchers import local, run
from rag_hpc.stages import registry
registry.STAGES.update(toystages.ENTRIES)
local.worker_commands = toystages.worker_commands
ledger = toystages.new_ledger(Path("run").resolve())
run.run_here(ledger.submit(toystages.toy_request("run", num_units=12)))
"""
SLOW = """
import dataclasses, sys, time, types
from rag_hpc import cli
from rag_hpc.core import log
log.SILENT_S = 0.1
slow = types.ModuleType("slow")
def why(arguments):
    time.sleep(1.2)
    print("done")
slow.why = slow.ask = why
sys.modules["slow"] = slow
for verb in ("why", "ask"):
    cli.VERBS[verb] = dataclasses.replace(cli.VERBS[verb], module="slow")
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_line_says_where_a_stage_begins_and_ends_when_it_is_no_terminal(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "worker_commands", toystages.worker_commands)
    run_here(ledger.submit(toystages.toy_request("run", ("toy.source",))))
    run_here(ledger.submit(toystages.toy_request("run")))
    told = re.sub(r"\d+\.\d s", "N s", capsys.readouterr().out).splitlines()
    assert told[0] == "toy.source: begun, 5 units"
    assert re.fullmatch(r"toy\.source: finished in N s, 5 units, 110 in, \d+ out", told[1])
    assert told[3:5] == ["toy.source: finished before", "toy.double: begun, 5 units"]
    assert told[5].startswith("toy.double: finished in N s, 5 units, ") and len(told) == 7


def test_bars_fit_into_80_columns_and_planning_is_shown_too(tmp_path: Path) -> None:
    said = on_terminal([sys.executable, "-c", RUN], tmp_path)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert "checking, planning" in plain and "toy.source" in plain and "12/12 units" in plain
    assert max(len(line) for line in re.split(r"[\r\n]+", plain) if " units " in line) <= 80
    assert "begun" not in plain and "run=run: 2 stages finished" in plain


def test_a_terminal_is_told_that_a_silent_command_is_at_work_and_nothing_of_it_stays(tmp_path: Path) -> None:
    said = on_terminal([sys.executable, "-c", SLOW, "why"], tmp_path)
    assert "rag-hpc why: at work, 1 s" in said and screen(said) == ["done", ""]
    assert "at work" in on_terminal([sys.executable, "-c", SLOW, "ask", "Why?"], tmp_path)
    assert "at work" in on_terminal([sys.executable, "-c", SLOW, "ask", "--file", "q.txt"], tmp_path)
    assert "at work" not in on_terminal([sys.executable, "-c", SLOW, "ask"], tmp_path)  # it waits for a question
    done = subprocess.run([sys.executable, "-c", SLOW, "why"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


BAD = "bad-" * 18 + "run"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: one finished, one failed whose name is long, one that was never submitted."""
    place = tmp_path_factory.mktemp("made")
    (place / "trouble").mkdir()
    (place / "trouble" / "unit-00001").write_text("fail")
    trouble = {"trouble": str(place / "trouble"), "max_attempts": 1}
    for name, code, more in (("good", 0, {}), (BAD, 1, trouble)):
        asked = json.dumps({"stages": ["toy.source"], **more})
        command = [sys.executable, str(SUPPORT / "toyrun.py"), str(place / "runs" / name), asked]
        env = {**os.environ, "PYTHONPATH": str(SUPPORT)}
        assert subprocess.run(command, check=False, capture_output=True, env=env).returncode == code
    Ledger(place / "runs" / "new").create({"corpus": {"name": "files", "path": "/data/thesis/texts"}})
    for number, name in enumerate(("good", BAD, "new")):
        os.utime(place / "runs" / name / "run.json", (number, number))
    return place / "runs"


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own copy of these runs, where commands look for runs."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "results" / "runs"))


def test_list_shows_the_runs_here_in_80_columns(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    head, good, name, bad, new = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "corpus", "date", "size"]
    assert good.split()[:2] == ["good", "finished"] and re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d +[\d.]+ KiB$", good)
    assert name == BAD and bad.split()[0] == "failed"
    assert new.split()[:5] == ["new", "not", "begun", "files", "texts"] and max(map(len, (good, bad, new))) <= 80
    (runs / "good" / "submissions" / "0001" / "submission.json").write_text("{")
    assert cli.main(["list"]) == 0
    damaged = capsys.readouterr().out.splitlines()
    assert damaged[1].split()[:2] == ["good", "unreadable"] and damaged[-1].startswith("good: ")
    assert cli.main(["list", f"cluster.root={runs / 'good'}"]) == 0
    assert "no runs under" in capsys.readouterr().out


def test_status_of_several_runs_shows_each_and_exits_with_the_worst(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "good", BAD]) == 1
    first, second = capsys.readouterr().out.split("\n\n")
    assert first.startswith("run good ") and second.startswith(f"run {BAD} ") and "failed" in second
    assert cli.main(["status", "good", "good", "--json"]) == 0
    assert capsys.readouterr().out.startswith("[")
    assert cli.main(["status", "good", "nosuch"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "no run 'nosuch'" in captured.err


def test_verbs_about_runs_fit_into_80_columns_of_a_terminal(runs: Path) -> None:
    told, place = runs.parents[1] / "told", runs.parents[1]
    fake_run.build(told, fake_run.baseline("base", stand_ins=True))
    fake_run.build(told, fake_run.Shape(name="other", stand_ins=True))
    alone = ("metrics base", "forecast base", "milestones other", "cost other")
    beside = [f"{verb} cluster.root=told" for verb in (*alone, "compare base other", "scaling base other")]
    for verb in ("list", f"status good {BAD}", f"why {BAD}", "run nope=1", *beside):
        said = on_terminal([sys.executable, "-m", "rag_hpc.cli", *verb.split()], place)
        own = screen(said)
        own = own[: next((n for n, line in enumerate(own) if line.startswith("-- ")), len(own))]  # then come log lines
        assert len(own) >= 2 and [line for line in own if len(line) > 80 and BAD not in line] == []
