"""Records that tell of no curve, or of no one study, through the command line: what is said, and what is left."""

from __future__ import annotations

import json
from pathlib import Path

import fake_run
import pytest

from rag_hpc import cli
from rag_hpc.eval import study
from rag_hpc.eval.results import Results

STAGES = ["crawl", "clean"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one corpus, p = 1 and 2, one of other pages, and one at p = 2 that has no baseline beside it."""
    root = tmp_path_factory.mktemp("runs")
    for p in (1, 2):
        fake_run.build(root, fake_run.Shape(name=f"c-w{p}", p=p, stages=STAGES))
    fake_run.build(root, fake_run.Shape(name="other", p=4, first_page=9, stages=STAGES))
    fake_run.build(root / "apart", fake_run.Shape(name="alone", p=2, stages=STAGES))
    return root


@pytest.mark.parametrize("verb", ["publish", "report"])
def test_records_of_two_corpora_are_refused_and_nothing_is_written(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert cli.main([verb, "c-w1", "c-w2", "other", f"cluster.root={root}", "--out", str(tmp_path / "t")]) == 2
    said = capsys.readouterr().err
    assert "other and c-w1 read different documents or questions" in said and "publish each with its own runs" in said
    assert list(tmp_path.iterdir()) == []


def test_lines_of_two_corpora_in_one_file_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.jsonl"
    told = [study.gather([Results(root / name)], "c").splitlines(keepends=True) for name in ("c-w1", "other")]
    path.write_bytes(b"".join([*told[0], *told[1][1:]]))
    assert cli.main(["publish", str(path), "--out", str(tmp_path / "t")]) == 2
    assert "different documents or questions" in capsys.readouterr().err and not (tmp_path / "t").exists()


def test_a_damaged_line_is_named_skipped_and_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.jsonl"
    lines = study.gather([Results(root / f"c-w{p}") for p in (1, 2)], "c").splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], lines[5][:-20] + b"\n", *lines[6:]]))
    assert cli.main(["publish", str(path), "--out", str(tmp_path / "t"), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["skipped"] == 1 and told["runs"] == 2
    assert any(note.startswith(f"skipped: {path}:6: damaged") for note in told["notes"])
    assert (tmp_path / "t/times.csv").is_file()


def test_one_p_is_told_that_a_curve_needs_two(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scaling", "c-w2", f"cluster.root={root}"]) == 2
    assert "name the runs of a sweep: rag-hpc scaling RUN-w1 RUN-w2" in capsys.readouterr().err


def test_a_missing_baseline_is_told_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"cluster.root={root / 'apart'}"
    assert cli.main(["milestones", "alone", where]) in (0, 1)
    shown = capsys.readouterr().out
    assert "none beside the run" in shown and "rag-hpc run pipeline=baseline" in shown and "--baseline RUN" in shown
    assert cli.main(["verify", "alone", where]) == 2
    assert "no baseline of its documents lies beside it; name two runs: rag-hpc verify A B" in capsys.readouterr().err
