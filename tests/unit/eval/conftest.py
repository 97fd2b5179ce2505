"""A finished baseline and a finished distributed run, built once and only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fake_run
import pytest
from fake_slurm import slurm

from rag_hpc.eval.results import Results

__all__ = ["slurm"]  # a fixture
PREDICTED = {
    "min_recall_at_10": 0.98,
    "min_answer_f1": 0.3,
    "min_duplicates": 3,
    "min_efficiency_crawl": 0.9,
    "min_efficiency_encode": 0.9,
}


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of both runs. Whoever removes a file of theirs breaks every test after it: that fails here."""
    folder = tmp_path_factory.mktemp("runs")
    fake_run.build(folder, fake_run.baseline())
    fake_run.build(folder, fake_run.Shape(milestones=PREDICTED, queue_s=12.0, ann_flaws=0))
    built = sorted(folder.rglob("*"))
    yield folder
    missing = sorted(set(built) - set(folder.rglob("*")))
    assert not missing, "a test removed what all share; give it a run of its own under tmp_path"


@pytest.fixture
def run(root: Path) -> Results:
    return Results(root / "demo-cluster")


@pytest.fixture
def base(root: Path) -> Results:
    return Results(root / "demo-baseline")
