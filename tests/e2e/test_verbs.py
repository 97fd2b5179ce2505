"""The everyday verbs, in a child process each: how fast they answer, what they show, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from rag_hpc.core.commit import draft_name
from rag_hpc.core.unit import Unit
from tests.e2e.conftest import SMALL, TEXT_STAGES, Cli, Copy, Silent, by_stage, hashes

pytestmark = pytest.mark.timeout(900)  # the first test makes the runs that all look at


def cpu_s() -> float:
    """Return the CPU seconds of the commands that this process has run."""
    return os.times().children_user + os.times().children_system


def best_of_three(run: Callable[[], object]) -> float:
    """Return the least of three times in CPU seconds: other work on the machine makes a command wait, not work."""
    times = []
    for _ in range(3):
        begun = cpu_s()
        run()
        times.append(cpu_s() - begun)
    return min(times)


def test_status_of_a_finished_run_takes_less_than_a_second(cli: Cli, cluster: Path) -> None:
    assert best_of_three(lambda: cli("status", "run=p2")) < 1.0


@pytest.mark.parametrize("args", [("--help",), ("run", "--help")])
def test_help_takes_less_than_half_a_second(cli: Cli, args: tuple[str, ...]) -> None:
    assert best_of_three(lambda: cli(*args)) < 0.5


@pytest.mark.parametrize(
    "args", [("status", "run=p2"), ("milestones", "p2", "--baseline", "base"), ("verify", "base", "p2")]
)
def test_what_a_person_reads_a_script_can_parse(cli: Cli, baseline: Path, cluster: Path, args: tuple[str, ...]) -> None:
    done = cli(*args, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert cli(*args).stdout.count("\n") > 3


def test_cfg_job_shows_every_setting_with_the_overrides(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", "--cfg", "job", "--resolve", "corpus=beir", "corpus.path=/d", "workers=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["workers"] == 5
    assert shown["stage"]["queries"]["path"] == "/d"
    assert list(tmp_path.iterdir()) == []


def test_the_plan_shows_each_stage_with_its_commands(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    done = cli("plan", "corpus=beir", f"corpus.path={corpus}", "workers=3", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    by_name = dict(part.split("\n", 1) for part in done.stdout.split("\n### ")[1:])
    assert "crawl has 8 units" in done.stdout
    assert by_name["clean"].count("-m rag_hpc.worker") == 3
    assert by_name["encode"].count("-m rag_hpc.worker") == 3
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_over_workers_makes_a_run_for_each(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    done = cli("run", "workers=1,2", "corpus=beir", f"corpus.path={corpus}", *SMALL, TEXT_STAGES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = sorted((tmp_path / "results/runs").iterdir())
    assert (one.name[-3:], two.name[-3:]) == ("-w1", "-w2")
    assert one.name[:-3] == two.name[:-3]
    assert hashes(one) == hashes(two) != {}
    counts = [{json.loads(p.read_bytes())["p"] for p in run.glob("crawl-*/units/*/record.json")} for run in (one, two)]
    assert counts == [{1}, {2}]
    assert done.stdout.splitlines()[-1] == f"the speed-ups: rag-hpc scaling {one.name} {two.name}"
    table = cli("scaling", one.name, two.name, cwd=tmp_path)
    assert table.returncode == 0 and "\nclean  1  " in table.stdout


def test_a_dry_sweep_shows_every_point_and_writes_nothing(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    done = cli(
        "run", "-m", "workers=1,3", "corpus=beir", f"corpus.path={corpus}", "dry_run=true", TEXT_STAGES, cwd=tmp_path
    )
    one, three = done.stdout.split("-- workers=3")
    assert (one.count("-m rag_hpc.worker"), three.count("-m rag_hpc.worker")) == (2, 4)  # the crawl has one unit
    assert "rag-hpc scaling" not in three
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_name_is_found_again_by_what_was_asked(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    command = ("run", "corpus=beir", f"corpus.path={corpus}", *SMALL, "pipeline.stages=[crawl]")
    assert [cli(*command, workers, cwd=tmp_path).returncode for workers in ("workers=2", "workers=1")] == [0, 0]
    (run_dir,) = (tmp_path / "results/runs").iterdir()
    assert run_dir.name.startswith("beir-cluster-")
    assert len(list(run_dir.glob("submissions/*"))) == 2
    assert len(list(run_dir.glob("crawl-*"))) == 1


@pytest.fixture(scope="module")
def failed(cli: Cli, corpus: Path, copy: Copy) -> Path:
    """A run whose vector index misses the recall that it is asked for."""
    run_dir = copy("failed")
    done = cli(
        "run",
        "run=failed",
        "corpus=beir",
        f"corpus.path={corpus}",
        *SMALL,
        "stage.vectors.num_lists=16",
        "stage.vectors.num_probes=1",
        "max_attempts=1",
    )
    assert done.returncode == 1, done.stderr
    assert "vectors.check: 1 of 1 units failed 1 times" in done.stderr
    assert "set stage.vectors.num_probes=2" in done.stderr
    assert "rag-hpc retry run=failed" in done.stderr
    return run_dir


def test_why_shows_the_traceback_and_what_to_do(cli: Cli, failed: Path) -> None:
    done = cli("why", "run=failed")
    assert done.returncode == 1
    assert "run failed: failed" in done.stdout
    assert "stage vectors.check: 0 of 1 units, 0 open, 1 failed" in done.stdout
    assert "Traceback (most recent call last)" in done.stdout
    assert "RecallTooLow: vectors: ivf_fp16 has recall@10 0." in done.stdout
    assert done.stdout.rstrip().endswith("go on: rag-hpc retry run=failed")


def test_status_and_logs_of_a_failed_run_point_at_the_stage(cli: Cli, failed: Path) -> None:
    done = cli("status", "run=failed", "--json")
    assert done.returncode == 1
    states = {row["stage"]: row["state"] for row in json.loads(done.stdout)["stages"]}
    assert (states["vectors.build"], states["vectors.check"], states["retrieve.search"]) == (
        "finished",
        "failed",
        "waiting",
    )
    logged = cli("logs", "vectors.check", "run=failed", "--lines", "200").stdout
    assert "RecallTooLow" in logged
    assert "attempt 1 of 1" in logged


def test_a_stage_without_a_log_and_an_unknown_run_are_named(cli: Cli, failed: Path) -> None:
    done = cli("logs", "rerank", "run=failed")
    assert (done.returncode, "no log of rerank yet" in done.stderr) == (2, True)
    done = cli("why", "run=nosuchrun")
    assert (done.returncode, "no run 'nosuchrun'" in done.stderr, "failed" in done.stderr) == (2, True, True)


@pytest.mark.parametrize("words", [("retry", "workers=many"), ("retry", "workers=0"), ("logs", "--lines", "ten")])
def test_a_number_that_is_none_is_refused(cli: Cli, failed: Path, words: tuple[str, ...]) -> None:
    done = cli(*words, "run=failed")
    assert done.returncode == 2
    assert "a whole number is needed, at least 1" in done.stderr


@pytest.fixture
def background(workdir: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a command without waiting for it; it has ended when the test has."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*args: str) -> subprocess.Popen[bytes]:
        children.append(
            subprocess.Popen(
                [sys.executable, "-m", "rag_hpc.cli", *args],
                cwd=workdir,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        return children[-1]

    yield start
    for child in children:
        child.wait(timeout=60)


def test_cancel_stops_a_running_run_which_can_go_on(
    cli: Cli, workdir: Path, silent: Silent, background: Callable[..., subprocess.Popen[bytes]]
) -> None:
    corpus, speaks = silent
    child = background("run", "run=cancelled", *corpus)
    jobs = workdir / "results/runs/cancelled/submissions/0001/jobs.jsonl"
    while not jobs.exists():
        assert child.poll() is None
        time.sleep(0.02)
    refused = cli("clean", "run=cancelled", "--all")
    assert (refused.returncode, "first: rag-hpc cancel run=cancelled" in refused.stderr) == (2, True)
    done = cli("cancel", "run=cancelled")
    assert done.returncode == 0, done.stderr
    assert "run=cancelled: stopped 1 workers; go on: rag-hpc retry run=cancelled" in done.stdout
    assert child.wait(timeout=60) == 3
    assert cli("status", "run=cancelled").returncode == 3
    assert cli("cancel", "run=cancelled").stdout.startswith("run=cancelled: no worker of it was running")
    speaks.set()
    assert cli("retry", "run=cancelled").returncode == cli("run", "run=undisturbed", *corpus).returncode == 0
    runs = [hashes(workdir / "results/runs" / name) for name in ("cancelled", "undisturbed")]
    assert runs[0] == runs[1] and len(runs[0]) == 2


def test_clean_removes_drafts_and_other_settings_and_keeps_what_is_done(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    command = ("run", "run=c", "corpus=beir", f"corpus.path={corpus}", *SMALL, TEXT_STAGES)
    assert cli(*command, "stage.clean.min_chars=10", cwd=tmp_path).returncode == 0
    assert cli(*command, cwd=tmp_path).returncode == 0
    run_dir = tmp_path / "results/runs/c"
    draft = next(run_dir.glob("crawl-*/units")) / draft_name(Unit(1, {}), submission=1, worker=0, restarts=0)
    draft.mkdir()
    assert len(list(run_dir.glob("clean-*"))) == 2
    done = cli("clean", "run=c", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "removed 1 stale stage folders" in done.stdout
    assert sorted(by_stage(run_dir)) == ["clean", "crawl"]
    assert not draft.exists()
    assert cli("status", "run=c", cwd=tmp_path).returncode == 0
    assert cli("clean", "run=c", "--all", cwd=tmp_path).returncode == 0
    assert not run_dir.exists()


def test_clean_keeps_what_the_next_retry_goes_on_from(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    done = cli("run", "run=c", "corpus=beir", f"corpus.path={corpus}", *SMALL, TEXT_STAGES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "results/runs/c"
    before = hashes(run_dir)
    crawled = next(run_dir.glob("crawl-*/manifest.json"))
    away = crawled.rename(tmp_path / "away.json")
    crawled.mkdir()  # a retry that fails at the first stage plans no further
    assert cli("retry", "run=c", cwd=tmp_path).returncode == 1
    crawled.rmdir()
    away.rename(crawled)
    assert cli("clean", "run=c", cwd=tmp_path).returncode == 0
    assert hashes(run_dir) == before


def test_completion_is_a_script_that_bash_takes(cli: Cli) -> None:
    script = cli("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "-F _rag_hpc rag-hpc" in script


@pytest.mark.parametrize(
    ("line", "expected", "not_expected"),
    [
        ("rag-hpc st", {"status"}, {"stage.encode.model="}),
        ("rag-hpc run corpus=", {"corpus=beir", "corpus=pydoc"}, {"corpus.path="}),
        ("rag-hpc run workers=2 stage.enc", {"stage.encode.model=", "stage.encode.precision="}, {"stage.chunk.model="}),
    ],
)
def test_completion_offers_verbs_groups_and_keys(
    cli: Cli, line: str, expected: set[str], not_expected: set[str]
) -> None:
    offered = set(cli("completion", "bash", line).stdout.split())
    assert expected <= offered
    assert not offered & not_expected


def test_folders_of_the_user_do_not_shadow_the_package(corpus: Path, tmp_path: Path) -> None:
    for name in ("rag_hpc", "conf", "eval", "launchers", "slurm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the folder here was imported')\n")
    script = Path(sys.executable).parent / "rag-hpc"
    if not script.exists():
        pytest.skip(f"{script} is absent: the package is not installed with its console script")
    done = subprocess.run(
        [
            script,
            "run",
            "run=here",
            "corpus=beir",
            f"corpus.path={corpus}",
            "workers=2",
            "pipeline.stages=[crawl,clean,dedup.sign]",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
