"""`rag-hpc sweep` on this machine: each point measured as often as it needs, none twice, and what fails left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rag_hpc.arguments import Arguments
from rag_hpc.errors import ConfigError, UnitFailed
from rag_hpc.launchers import run as runs
from rag_hpc.launchers import sweep as sweeping

from .conftest import Cli

ASKED = ("corpus=beir", "corpus.pages_per_unit=20", "corpus.keep_all=false", "half_width=0.5")


def runs_of(folder: Path, name: str) -> dict[str, int]:
    """Return run -> its submissions, of a study."""
    found = (folder / "results/runs").glob(f"{name}-*")
    return {path.name: len(list(path.glob("submissions/*/submission.json"))) for path in found}


def test_a_strong_sweep_measures_each_p_and_goes_on_where_it_was(cli: Cli, workdir: Path, corpus: Path) -> None:
    asked = ("sweep", "sweep=clean_strong", "run=swept", f"corpus.path={corpus}", *ASKED, "p=1,2", "most=2")
    shown = cli(*asked, "repeats=2", "--dry-run")
    assert shown.returncode == 0 and runs_of(workdir, "swept") == {}
    assert {line.split()[-1] for line in shown.stdout.splitlines()[1:-1]} == {
        "swept-base", "swept-p1-r1", "swept-p1-r2", "swept-p2-r1", "swept-p2-r2",
    }  # fmt: skip
    assert cli(*asked, "repeats=1", "half_width=1").returncode == 0
    before = runs_of(workdir, "swept")
    assert before.keys() >= {"swept-base", "swept-p1-r1", "swept-p2-r1"}
    done = cli(*asked, "repeats=2", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert [(point["p"], len(point["seconds"]), point["failed"]) for point in found["points"]] == [
        (1, 2, []),
        (2, 2, []),
    ]
    assert found["differing"] == [] and all(point["items"] == 64 for point in found["points"])
    after = runs_of(workdir, "swept")
    assert {name: after[name] for name in before} == before  # what was measured ran no second time
    curve = workdir / "swept.csv"
    again = cli(*asked, "repeats=2", "--out", str(curve))
    assert again.returncode == 0 and "--" not in again.stderr and len(curve.read_text().splitlines()) == 5
    assert runs_of(workdir, "swept") == after
    assert cli("report", "swept-p2-r1", "--json").returncode == 0  # a measurement is a run like others


def test_a_weak_sweep_gives_each_p_its_share_of_work(cli: Cli, corpus: Path) -> None:
    asked = ("sweep", "sweep=clean_weak", "run=grown", "p=1,2", "base=20", "repeats=1", "most=1", *ASKED, "--json")
    found = json.loads(cli(*asked, f"corpus.path={corpus}").stdout)
    assert [point["items"] for point in found["points"]] == [20, 40]
    one, two = (point["mean_s"] for point in found["points"])
    assert found["points"][1]["efficiency"] == pytest.approx(one / two)
    assert found["points"][1]["speedup"] == pytest.approx(2 * one / two)


def test_what_fails_is_given_up_after_its_tries(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = runs.run_one

    def run_one(config: Any, request: Any, ledger: Any, *rest: Any, **named: Any) -> int:
        if request.workers < 2:
            return whole(config, request, ledger, *rest, **named)
        ledger.submit(request)
        raise UnitFailed("out of memory")

    monkeypatch.setattr(runs, "run_one", run_one)
    overrides = ["sweep=crawl_strong", "run=hurt", "p=1,2", "repeats=1", "most=1", f"corpus.path={corpus}", *ASKED]
    assert sweeping.sweep(Arguments("sweep", overrides, flags={"--json"})) == 1
    out = capsys.readouterr()
    assert out.err.count("hurt-p2-r1: out of memory") == 2
    points = json.loads(out.out[out.out.index("{") :])["points"]
    assert [(point["p"], len(point["seconds"]), point["failed"]) for point in points] == [
        (1, 1, []), (2, 0, ["hurt-p2-r1"]),
    ]  # fmt: skip
    assert sweeping.sweep(Arguments("sweep", overrides, flags={"--json"})) == 1
    assert "out of memory" not in capsys.readouterr().err  # nor is it tried again


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["sweep=encode_strnog"], "did you mean encode_strong"),
        ([], "STAGE_KIND is needed"),
        (["sweep=encode_strong", "p=2"], "at least two"),
        (["sweep=encode_weak"], "base=N is needed"),
        (["sweep=encode_strong", "repeats=5", "most=4"], "no fewer than"),
        (["sweep=encode_strong", "half_width=7"], "half_width=7"),
        (["sweep=encode_strong", "pipeline.stages=[crawl]"], "no others"),
    ],
)
def test_what_cannot_be_swept_is_refused_by_name(given: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweeping.read_study(Arguments("sweep", given))
