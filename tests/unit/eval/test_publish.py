"""W&B's offline folders, read back: every point is in them once, however often, and however ended, it is published."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_run
import pytest

from rag_hpc import cli
from rag_hpc.core.stored import sealed_json
from rag_hpc.errors import IncompleteError
from rag_hpc.eval import study, wandb_dirs
from rag_hpc.eval import wandb_files as wandbfile
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.entries import entries
from rag_hpc.eval.results import Results
from rag_hpc.eval.wandb_dirs import Tracking

wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'rag-hpc[track]'")

WORKERS = (1, 2)


@pytest.fixture(autouse=True)
def _no_settings_of_the_tester(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for p in WORKERS:
        fake_run.build(root, fake_run.Shape(name=f"c-w{p}", p=p, overhead=0.1, stages=["crawl", "clean"]))
    return root


@pytest.fixture(scope="module")
def published(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tracking")
    assert call(root, folder, "c") == 0
    yield folder
    wandb.teardown()


def call(root: Path, folder: Path, *words: str) -> int:
    return cli.main(["publish", *words, f"cluster.root={root}", f"tracking.dir={folder}"])


def unsealed(lines: bytes) -> list[dict[str, Any]]:
    values = [json.loads(line) for line in lines.splitlines()]
    return [{key: member for key, member in value.items() if key != "seal"} for value in values]


def by_name(folder: Path) -> dict[str, tuple[Path, wandbfile.Stored]]:
    """Return each entry by name, having looked that there is nothing but whole folders, one an id."""
    found = [(path, wandbfile.read(path)) for path in wandbfile.folders(folder)]
    assert all(stored.exited for _, stored in found)
    assert max(Counter(stored.id for _, stored in found).values()) == 1
    return {stored.name: (path, stored) for path, stored in found}


def test_every_point_stands_in_an_entry_of_its_own_and_in_the_report(root: Path, published: Path) -> None:
    points = study.parse((published / "c.jsonl").read_bytes(), "c.jsonl").points()
    found = by_name(published)
    assert set(found) == {f"{point.run} {point.stage}" for point in points} | {"c report"} and len(found) == 5
    for point in points:
        _, stored = found[f"{point.run} {point.stage}"]
        assert (stored.group, stored.job_type, stored.project) == ("c", point.stage, "rag-hpc")
        last = stored.history[-1]
        assert (last["p"], last["scaling/T"], last["scaling/S"]) == (point.p, point.wall_s, point.speedup)
        assert (stored.summary["scaling/E"], stored.summary["p"]) == (point.efficiency, point.p)
        assert stored.metrics["scaling/*"] == "p"
        units = [row["unit/index"] for row in stored.history if "unit/index" in row]
        assert sorted(units) == list(range(8 if point.stage == "crawl" else 4))
        assert stored.config["hardware"][0]["cores"] >= 1 and stored.config["documents"]["crawl"]
        assert set(stored.config["made_by"]) <= {"version", "git"}
    path, report = found["c report"]
    assert [row["speedup"] for row in wandbfile.table(path, "points")] == [point.speedup for point in points]
    assert {row["scaling/crawl/S"] for row in report.history if "p" in row} == {
        point.speedup for point in points if point.stage == "crawl"
    }
    assert (path / "files/media/images").is_dir() == bool(pytest.importorskip("matplotlib"))


def test_publishing_again_changes_nothing(root: Path, published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in published.rglob("*") if path.suffix != ".jsonl"}
    assert call(root, published, "c-w2", "c-w1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"] == [] and len(told["kept"]) == 5
    assert {path: path.stat().st_mtime_ns for path in published.rglob("*") if path.suffix != ".jsonl"} == before


def test_another_project_is_another_content(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["c", "tracking.max_runs=1", "--json"]
    for project, num in (("one", 1), ("two", 1), ("two", 0)):
        assert call(root, tmp_path, *words, f"tracking.project={project}") == 0
        assert len(json.loads(capsys.readouterr().out)["written"]) == num
    assert {stored.project for _, stored in by_name(tmp_path).values()} == {"two"}


KILLED = """
import os, signal, sys
from rag_hpc import cli
from rag_hpc.eval import wandb_dirs
function, number, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
real, calls = getattr(wandb_dirs, function), []
def killed(*given):
    calls.append(given)
    if len(calls) == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    made = real(*given)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return made
setattr(wandb_dirs, function, killed)
cli.main(sys.argv[4:])
"""


def test_killed_while_publishing_it_goes_on_and_no_point_is_lost_or_doubled(root: Path, tmp_path: Path) -> None:
    lines, folder = study.gather([Results(root / f"c-w{p}") for p in WORKERS], "c"), tmp_path / "t"
    path = tmp_path / "c.jsonl"
    path.write_bytes(lines)
    points = [("publish_dir", 1, "before"), ("publish_dir", 2, "after")]
    for point in points:
        _killed(folder, path, *point)
    assert any(place.name.startswith(".draft-") for place in wandbfile.folders(folder))
    assert cli.main(["publish", str(path), f"tracking.dir={folder}", "tracking.max_runs=3"]) == 0
    assert sorted(by_name(folder)) == ["c report", "c-w1 clean", "c-w1 crawl"]
    slower = unsealed(lines)
    for value in slower:
        value |= {"cpu_s": 99.0} if value.get("stage") == "crawl" else {}
    path.write_bytes(b"".join(sealed_json(value) for value in slower))
    _killed(folder, path, "publish_dir", 1, "before")  # what it is to replace is gone, what replaces it is not there
    assert len([place for place in wandbfile.folders(folder) if place.name.startswith("offline-run-")]) == 2
    assert cli.main(["publish", str(path), f"tracking.dir={folder}", "tracking.max_runs=3"]) == 0
    found = by_name(folder)
    assert sorted(found) == ["c report", "c-w1 clean", "c-w1 crawl"]
    assert found["c-w1 crawl"][1].summary["scaling/cpu_s"] == pytest.approx(8 * 99.0)


def _killed(folder: Path, path: Path, *point: object) -> None:
    words = ["publish", str(path), f"tracking.dir={folder}", "tracking.max_runs=3"]
    argv = [sys.executable, "-c", KILLED, *map(str, point), *words]
    assert subprocess.run(argv, capture_output=True, check=False, timeout=120).returncode == -9


def test_a_run_requeued_four_times_shows_every_point(root: Path, tmp_path: Path) -> None:
    values = [
        json.loads(line) for line in study.gather([Results(root / "c-w1"), Results(root / "c-w2")], "c").splitlines()
    ]
    for value in values:
        value.pop("seal")
        if value.get("stage") == "crawl":
            value |= {"restarts": value["unit"] // 2 + 1, "job_id": "77", "attempt": 1}
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"".join(sealed_json(value) for value in values))
    assert cli.main(["publish", str(path), f"tracking.dir={tmp_path / 't'}"]) == 0
    _, stored = by_name(tmp_path / "t")["c-w2 crawl"]
    shown = {(row["unit/index"], row["unit/restarts"]) for row in stored.history if "unit/index" in row}
    assert shown == {(unit, unit // 2 + 1) for unit in range(8)}


def made(root: Path, tmp_path: Path) -> tuple[list[str], Tracking]:
    """Return the ids of two entries that lie there, with the settings that they were written by."""
    found = study.parse(study.gather([Results(root / "c-w1")], "c"), "c.jsonl")
    tracking = Tracking(dir=str(tmp_path / "t"), pause_s=7.0)
    for entry in (shown := entries(found, Prices(source="a test"), most=2)):
        folder = tmp_path / f"t/wandb/offline-run-20260101_000000-{entry.id}"
        folder.mkdir(parents=True)
    return [entry.id for entry in shown], tracking


def test_uploads_are_throttled_and_done_once(root: Path, tmp_path: Path) -> None:
    ids, tracking = made(root, tmp_path)
    argvs: list[list[str]] = []
    pauses: list[float] = []

    def sync(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        argvs.append(argv)
        Path(argv[-1], "run.wandb.synced").touch()
        return subprocess.CompletedProcess(argv, 0, "", "")

    assert wandb_dirs.upload(ids, tracking, run=sync, sleep=pauses.append) == ids
    assert [argv[1:4] for argv in argvs] == [["-m", "wandb", "sync"]] * 2 and pauses == [7.0]
    assert wandb_dirs.upload(ids, tracking, run=sync, sleep=pauses.append) == [] and len(argvs) == 2


def test_an_upload_that_fails_says_so_and_is_gone_on_with(root: Path, tmp_path: Path) -> None:
    ids, tracking = made(root, tmp_path)

    def sync(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 1, "", "Error: 429 too many requests")

    with pytest.raises(IncompleteError, match=r"429 too many requests\. 0 uploaded; the same command goes on"):
        wandb_dirs.upload(ids, tracking, run=sync, sleep=lambda _: None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name the runs of a study"),
        (("c-w1", "c-w1/"), "c-w1 is named twice"),
        (("nothing.jsonl",), "nothing.jsonl: no such file"),
        (("c", "tracking.mode=online"), "there is no key for api.wandb.ai"),
        (("c", "tracking.mode=sometimes"), "sometimes"),
        (("c", "tracking.colour=red"), "colour"),
        (("c", "tracking=mlflow"), "known: wandb"),
        (("c", "tracking.max_runs=0"), "tracking.max_runs=0: at least 1"),
        (("c", "tracking.project=a/b"), "tracking.project='a/b'"),
        (("c", "tracking.dir={file}"), "name one that you may write to: tracking.dir=FOLDER"),
        (("c", "--out", "{file}"), "--out FOLDER"),
    ],
)
def test_what_cannot_be_published_is_said_with_the_remedy(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").touch()
    given = [word.format(file=tmp_path / "file") for word in words]
    given = [str(root / word.rstrip("/")) if word.endswith("/") else word for word in given]
    assert cli.main(["publish", f"tracking.dir={tmp_path / 't'}", *given, f"cluster.root={root}"]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_a_run_alone_is_told_what_a_curve_and_a_baseline_need(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = fake_run.build(tmp_path, fake_run.Shape(name="alone", p=2, stages=["crawl"], finish=9))
    assert cli.main(["publish", str(alone), "--out", str(tmp_path / "t")]) == 0
    shown = capsys.readouterr().out
    assert "no speed-up curve: all of it ran with p = 2" in shown
    assert "no baseline beside alone" in shown and "--baseline RUN" in shown
    assert (tmp_path / "t/times.csv").exists()


def test_two_runs_of_one_name_are_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = fake_run.build(tmp_path, fake_run.Shape(name="c-w1", p=1, stages=["crawl", "clean"]))
    assert cli.main(["publish", str(root / "c-w1"), str(other), "--out", str(tmp_path / "t")]) == 2
    assert "two of these runs are called c-w1" in capsys.readouterr().err


def test_an_unfinished_run_is_published_as_far_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for p, finish in ((1, 9), (2, 1)):
        fake_run.build(tmp_path, fake_run.Shape(name=f"c-w{p}", p=p, finish=finish, stages=["crawl", "clean"]))
    assert cli.main(["publish", "c", f"cluster.root={tmp_path}", "--out", str(tmp_path / "t")]) == 3
    assert "unfinished: c-w2; go on: rag-hpc retry run=c-w2" in capsys.readouterr().out


def test_without_wandb_the_way_out_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert call(root, tmp_path / "t", "c") == 2
    assert "pip install 'rag-hpc[track]', or write the tables without it: rag-hpc publish" in capsys.readouterr().err
