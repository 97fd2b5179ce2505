"""`rag-hpc study` on this machine: all parts by one command, none measured twice, and one folder that tells of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rag_hpc import cli as verbs
from rag_hpc.errors import ConfigError
from rag_hpc.launchers.study import Asked, Part

from .conftest import Cli
from .test_sweep import runs_of

STUDY = """
name: small
settings: [corpus.pages_per_unit=20, corpus.keep_all=false]
parts:
  lengths:
    vary: {stage.clean.min_chars: [1, 40]}
    settings: ["pipeline.stages=[crawl,clean]"]
  clean:
    sweep: clean_strong
    p: [1, 2, 3]
    repeats: 1
    most: 1
    settings: [stage.clean.min_chars=1]
    start: lengths   # which has cleaned too, and alike: that is measured all the same
validation_runs: 40
"""


def test_a_study_is_measured_once_checked_and_told_in_one_folder(cli: Cli, workdir: Path, corpus: Path) -> None:
    folder = workdir / "site/study"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text(STUDY)
    asked = ("--config-dir", "site", "study", "small", "corpus=beir", f"corpus.path={corpus}")
    shown = cli(*asked, "--dry-run")
    assert shown.returncode == 0 and "lengths: small-lengths-40" in shown.stdout and runs_of(workdir, "small") == {}
    done = cli(*asked, "--out", "told", "--json")
    assert done.returncode == 0, done.stderr
    out = workdir / "told"
    assert {Path(name).name for name in json.loads(done.stdout)["files"]} <= {path.name for path in out.iterdir()}
    checks: dict[str, Any] = json.loads((out / "checks.json").read_text())
    assert [(row["part"], row["stage"], row["pilots"], row["p"]) for row in checks["forecast"]] == [
        ("clean", "clean", [1, 2], 3)
    ]
    assert {row["name"] for row in checks["validation"]} >= {"laws.held.serial", "laws.right"}
    assert [(row["study"], row["points"], row["read_back"]) for row in checks["tracking"]] == [
        ("lengths", 4, 4), ("clean", 3, 3),
    ]  # fmt: skip
    assert "Study small" in (out / "report.html").read_text()
    varied = workdir / "results/runs/small-lengths-40"
    assert "stage" in (varied / "run.json").read_text() and len(list(varied.glob("clean-*/manifest.json"))) == 2
    before = runs_of(workdir, "small")
    assert before.keys() == {f"small-{name}" for name in (
        "clean-base", "clean-p1-r1", "clean-p2-r1", "clean-p3-r1", "lengths-1", "lengths-40",
    )}  # fmt: skip
    again = cli(*asked, "--out", "told")
    assert again.returncode == 0 and "begun" not in again.stderr and runs_of(workdir, "small") == before
    assert "clean: 3 of 3 points read back" in again.stdout


def test_what_is_no_study_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.main(["study", "referense"]) == 2
    assert "did you mean reference" in capsys.readouterr().err
    assert verbs.main(["study"]) == 2 and "study NAME: known: budget, depth" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="one of sweep"):
        Part(sweep="crawl_strong", p=[1, 2], workers=[1])
    with pytest.raises(ConfigError, match="one of sweep"):
        Part()
    with pytest.raises(ConfigError, match="go together"):
        Part(sweep="crawl_strong")
    with pytest.raises(ConfigError, match="no parts"):
        Asked(name="empty")
    with pytest.raises(ConfigError, match=r"b\.start=c is no part before it"):
        Asked(name="s", parts={"b": Part(workers=[1], start="c")})
    with pytest.raises(ConfigError, match="no slash"):
        Asked(name="s", parts={"a/b": Part(workers=[1])})
