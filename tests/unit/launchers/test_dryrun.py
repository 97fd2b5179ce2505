"""`rag-hpc plan`: what a run would submit, to the letter, and what it adds up to; nothing is written or queued."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm
from toystages import run_inline

from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.errors import ClusterError
from rag_hpc.launchers import chain
from rag_hpc.launchers.dryrun import show
from rag_hpc.slurm.cluster import StageResources

Ask = Callable[..., Request]
ALL = ("toy.source", "toy.double", "toy.each", "toy.gather")


def planned(text: str) -> list[str]:
    """Return the scripts that a plan shows, without what is known at submission only."""
    return [neutral(part) for part in re.split(r"^### .*\n(?:###  .*\n)?|^# stage ", text, flags=re.MULTILINE)[1:-1]]


def neutral(script: str) -> str:
    return re.sub(r"\|\| echo [\d.]+|--dependency=\S+", "", script).strip()


@pytest.mark.parametrize("finished", [(), ("toy.source",)])
@pytest.mark.parametrize("workers", [1, 3, 9])
def test_the_plan_shows_the_scripts_that_the_run_submits(
    ledger: Ledger, offers: FakeSlurm, ask: Ask, workers: int, finished: tuple[str, ...]
) -> None:
    offers.says("scontrol", "MaxArraySize = 3\n")
    if finished:
        run_inline(ledger.submit(ask(*finished)))
    stages = {"toy.each": StageResources(partition="gpu", gres="gpu:1")}
    request = ask(*ALL, workers=workers, cluster={"time_min": 30, "stages": stages})
    text = show(ledger, request)
    before = len(ledger.submissions())
    chain.submit(ledger, request)
    submitted = offers.jobs()
    assert planned(text) == [neutral(job["script"]) for job in submitted]
    num_tasks = sum(map(tasks, submitted))
    gates = len(ALL) - len(finished)
    assert (
        f"totals: {len(submitted)} jobs ({len(submitted) - gates} of workers, {gates} gates), {num_tasks} tasks" in text
    )
    assert ledger.submissions()[-1] == before + 1 and f"submission {before + 1}," in text


def tasks(job: dict[str, Any]) -> int:
    array = re.match(r"0-(\d+)", job["flags"].get("array", ""))
    return int(array[1]) + 1 if array else int(job["flags"].get("ntasks") or job["flags"].get("nodes") or 1)


def test_nothing_is_written_and_slurm_is_only_asked(
    tmp_path: Path, toys: dict[str, str], ask: Ask, slurm: FakeSlurm
) -> None:
    request = ask("toy.source", "toy.each", "toy.gather", workers=3, cluster={"account": "a'; echo foo"})
    ledger = Ledger(tmp_path / "runs" / "run")
    text = show(ledger, request)
    assert text.count("\n#!/bin/bash\n") == 6 and {call["name"] for call in slurm.calls()} == {"sinfo", "scontrol"}
    assert "toy.source has 5 units" in text and "#SBATCH --array=0-2%3" in text and "#SBATCH --hold" in text
    assert "### toy.source: 3 by array; sbatch --hold\n" in text
    after = show(ledger, request, Ledger(tmp_path / "runs" / "first"))
    assert "### toy.source: 3 by array;\n###     sbatch --dependency=afterany:LAST_GATE_OF_first --hold\n" in after
    assert "### toy.each: 3 by torchrun;\n###     sbatch --dependency=afterok:GATE_OF_toy.source" in text
    assert "### toy.gather: gate; sbatch --dependency=afterany:WORKERS_OF_toy.gather" in text
    assert text.count("""#SBATCH --account='a'"'"'; echo foo'""") == 6
    assert not (tmp_path / "runs").exists()


def test_no_more_tasks_than_units_are_shown_here_either(tmp_path: Path, toys: dict[str, str], ask: Ask) -> None:
    ledger = Ledger(tmp_path / "runs" / "run")
    request = dataclasses.replace(ask(workers=9, num_units=2), cluster={"launcher": "local"})
    text = show(ledger, request)
    plan = f"{tmp_path}/runs/run/submissions/0001/toy.source.plan.json"
    assert f"-m rag_hpc.worker {plan} 1\n" in text and f"{plan} 2\n" not in text
    assert "### toy.double\n# 9 workers, fewer if it has fewer units\n" in text
    assert "totals: 2 stages one after another, at most 9 processes of this machine at a\n#   time\n" in text
    assert not (tmp_path / "runs").exists()


def test_files_are_no_more_than_was_said(ledger: Ledger, ask: Ask, toys: dict[str, str]) -> None:
    request = dataclasses.replace(ask("toy.source"), cluster={"launcher": "local"})
    said = re.search(r"\(toy\.source: (\d+)\), and (\d+) beside", show(ledger, request).replace("\n#  ", ""))
    run_inline(ledger.submit(request))
    files = [path for path in ledger.run_dir.rglob("*") if path.is_file()]
    units = [path for path in files if "units" in path.parts]
    assert said and len(units) <= int(said[1]) and 2 < len(files) - len(units) <= int(said[2])


def test_a_finished_run_has_nothing_to_submit(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    run_inline(ledger.submit(ask()))
    text = show(ledger, ask())
    assert "every stage is finished: nothing is to be done" in text and "#!/bin/bash" not in text


def test_hours_are_those_of_all_tasks_that_take_their_whole_walltime(
    ledger: Ledger, offers: FakeSlurm, ask: Ask
) -> None:
    stages = {"toy.each": StageResources(partition="gpu", gres="gpu:a100:2", time_min=60, cpus_per_task=4)}
    text = show(ledger, ask("toy.source", "toy.each", workers=4, cluster={"time_min": 30, "stages": stages}))
    assert "at most 11.0 CPU-hours and 4.0 GPU-hours" in text  # 4 x 0.5 + 2 x 4 x 1 + 2 x 0.5; on 2 nodes 2 for 1
    assert "no limit is asked for; set cluster.time_min" in show(ledger, ask("toy.source"))


def test_what_slurm_would_refuse_the_plan_refuses_too(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    with pytest.raises(ClusterError, match="partition 'fast' does not exist"):
        show(ledger, ask(cluster={"partition": "fast"}))


def test_without_a_slurm_that_answers_the_plan_says_what_it_did_not_check(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask
) -> None:
    slurm.says("refuse-sinfo", "slurm_load_partitions: Unable to contact slurm controller (connect failure)")
    text = show(ledger, ask("toy.source", "toy.each"))
    assert "no Slurm was asked" in text and "### toy.each: 4 by torchrun" in text and len(slurm.calls()) == 1


def test_our_own_lines_fit_into_80_columns(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    for request in (ask(*ALL), dataclasses.replace(ask(*ALL), cluster={"launcher": "local"})):
        own = [line for line in show(ledger, request).splitlines() if line.startswith("#") and "SBATCH" not in line]
        assert len(own) > 6 and max(len(line) for line in own if "/" not in line) <= 80
