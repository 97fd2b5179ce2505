"""What a launcher tells its workers."""

from __future__ import annotations

import pytest

from rag_hpc.core.job import JobEnv


def test_a_worker_reads_what_its_launcher_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    assert JobEnv.from_env() == JobEnv() and JobEnv().to_env() == {"RAG_HPC_LAUNCH": "array"}
    told = JobEnv(
        launch="mpi",
        world_size=4,
        num_workers=3,
        walltime_s=5400,
        walltime_margin_s=120,
        submitted_unix=100.25,
        scratch="/local/me",
    )
    for name, value in told.to_env().items():
        monkeypatch.setenv(name, value)
    assert JobEnv.from_env() == told
    monkeypatch.setenv("RAG_HPC_NUM_WORKERS", "")  # empty is absent
    assert JobEnv.from_env().num_workers is None


@pytest.mark.parametrize(
    ("walltime_s", "margin_s", "left_s"), [(3600, 120, 3480), (100, 120, 50), (1, 9, 1), (60, None, 60)]
)
def test_margin_never_eats_more_than_half_of_the_walltime(
    walltime_s: float, margin_s: float | None, left_s: float
) -> None:
    assert JobEnv(walltime_margin_s=margin_s).deadline(0.0) is None
    assert JobEnv(walltime_s=walltime_s, walltime_margin_s=margin_s).deadline(1000.0) == 1000.0 + left_s
