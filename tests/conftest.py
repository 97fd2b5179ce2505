"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accounts import Account, open_folder, second_account

from rag_hpc.core.ledger import Ledger
from rag_hpc.stages import registry

SUPPORT = Path(__file__).parent / "support"
ON_THE_MACHINE = ("slurm/", "browser/")  # tests that look at, or change, the machine's mounts and namespaces
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skip is a failure: this machine should lack nothing")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if item.config.getoption("no_skips") and report.skipped:
        report.outcome = "failed"
    return report


@pytest.hookimpl(tryfirst=True)  # before that of pytest-xdist, which reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker of pytest-xdist run what shares the machine, finished runs or the fixed chain; others by file."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        fixtures = set(getattr(item, "fixturenames", ()))
        if path.startswith(ON_THE_MACHINE) or "small_disk" in fixtures:
            group = "machine"
        elif path.startswith("e2e/") and fixtures & {"cluster", "baseline", "read_damaged"}:
            group = "runs"
        else:
            chained = hasattr(item.module, "stagerun") or "gated" in fixtures  # type: ignore[attr-defined]
            group = "chain" if chained else path
        item.add_marker(pytest.mark.xdist_group(group))


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
    mask = os.umask(0o022)  # where it is 002, a test's own folders would be refused as open to others
    yield
    os.umask(mask)
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def stranger() -> Iterator[Account]:
    """Another Unix account, the session's; its tests are skipped where none can be made."""
    with second_account() as account:
        yield account


@pytest.fixture
def shared_root() -> Iterator[Path]:
    """An empty folder that every account may enter and write to."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Register the toy stages in this process, and let its children import them; return the entries."""
    import toystages

    for name, where in toystages.ENTRIES.items():
        monkeypatch.setitem(registry.STAGES, name, where)
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
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
        return [sys.executable, str(SUPPORT / "toyrun.py"), str(run_dir), json.dumps(asked)]

    return command
