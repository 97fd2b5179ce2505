"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag_hpc.launchers.ledger import Ledger
from rag_hpc.stages import registry

TESTS = Path(__file__).parent
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of the person or job that runs it; one thread a process."""
    for name in list(os.environ):
        if name.startswith(("RAG_HPC_", "SLURM_")) and name != "RAG_HPC_DATA":
            monkeypatch.delenv(name)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(autouse=True)
def _own_signals_and_umask() -> Iterator[None]:
    """No test leaves its signal handlers or its umask to the next: workers and gates run in this process set both.

    A suite started under nohup or in a script's background ignores SIGHUP or SIGINT, and its children would too.
    """
    kept = {number: signal.getsignal(number) for number in HANDLED}
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if kept[number] is signal.SIG_IGN:
            signal.signal(number, handler)
    mask = os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Register the toy stages in this process, and let its children import them; return the entries."""
    import toystages

    for name, where in toystages.ENTRIES.items():
        monkeypatch.setitem(registry.STAGES, name, where)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    return toystages.ENTRIES


@pytest.fixture
def ledger(toys: dict[str, str], tmp_path: Path) -> Ledger:
    """Return the ledger of a run of toy stages in which nothing was submitted yet."""
    import toystages

    return toystages.new_ledger(tmp_path / "run")


@pytest.fixture
def toy_run(toys: dict[str, str]) -> Callable[..., list[str]]:
    """Return a function that makes the command of a local toy run in a process of its own."""
    import json

    def command(run_dir: Path, **values: object) -> list[str]:
        asked = {"stages": ["toy.source", "toy.double"], **values}
        return [sys.executable, str(TESTS / "toyrun.py"), str(run_dir), json.dumps(asked)]

    return command
