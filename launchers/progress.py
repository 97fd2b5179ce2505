"""Progress bars of a local run: stage, units, rate, time left."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from rag_hpc.core.commit import UNITS, committed
from rag_hpc.core.plan import Plan
from rag_hpc.launchers.ledger import Ledger, Request


class Bars:
    """One bar a stage, drawn while the run works; a plain terminal gets plain lines."""

    def __init__(self, request: Request) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._request = request
        self._tasks: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description:<17}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("units"),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._close_all()
        self._progress.stop()

    def poll(self, ledger: Ledger) -> Callable[[Plan], None]:
        """Return the function that a launcher calls while the workers of a plan run."""
        def update(plan: Plan) -> None:
            done = len(committed(ledger.run_dir / plan.folder / UNITS))
            if plan.stage not in self._tasks:
                self._close_all()
                self._tasks[plan.stage] = self._progress.add_task(plan.stage, total=len(plan.units), rate="")
            task = self._tasks[plan.stage]
            elapsed = self._progress.tasks[task].elapsed or 0.0
            rate = f"{done / elapsed:6.1f}/s" if elapsed > 0 and done else ""
            self._progress.update(task, completed=done, rate=rate)

        return update

    def _close_all(self) -> None:
        for task in self._tasks.values():
            self._progress.update(task, completed=self._progress.tasks[task].total)
