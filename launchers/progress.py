"""How far a run on this machine, or one that is watched, is: bars on a terminal, a line where a stage begins and ends
elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rag_hpc.core.commit import UNITS, committed
from rag_hpc.core.log import bare, quiet
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan


class Bars:
    """One bar a stage, drawn while the run works; what is no terminal gets plain lines."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._tasks: dict[str, Any] = {}
        self._begun: dict[str, float] = {}  # stages that work was seen on, in order
        self._closed: set[str] = set()
        self._planning: Any = None
        console = Console(file=bare(sys.stdout))
        self._drawn = console.is_terminal
        self._quiet = quiet()
        self._progress = Progress(
            TextColumn("{task.description:<17}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("units"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._drawn,
        )

    def __enter__(self) -> Bars:
        self._quiet.__enter__()
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end_planning()
        self._progress.stop()
        self._quiet.__exit__(kind, error, tb)

    def planning(self) -> None:
        """Show that a stage is being verified and the next one planned."""
        if self._planning is None:
            self._planning = self._progress.add_task("checking, planning", total=None, rate="")

    def poll(self, run_dir: Path) -> Callable[[Plan], None]:
        """Return the function that a launcher calls while the workers of a plan run."""

        def update(plan: Plan) -> None:
            self._end_planning()
            if plan.stage not in self._begun:
                self._begun[plan.stage] = time.monotonic()
                self._tasks[plan.stage] = self._progress.add_task(plan.stage, total=len(plan.units), rate="")
                self._say(f"{plan.stage}: begun, {len(plan.units)} units")
            if not self._drawn:
                return
            done = len(committed(run_dir / plan.folder / UNITS))
            task = self._tasks[plan.stage]
            elapsed = time.monotonic() - self._begun[plan.stage]
            rate = f"{done / elapsed:6.1f}/s" if elapsed > 0 and done else ""
            self._progress.update(task, completed=done, rate=rate)

        return update

    def close(self, found: Manifest) -> None:
        """Show that a stage is finished; the same may be said again."""
        stage = found.stage
        if stage in self._closed:
            return
        self._closed.add(stage)
        if stage not in self._begun:
            self._progress.add_task(stage, total=len(found.units), completed=len(found.units), rate="before")
            self._say(f"{stage}: finished before")
            return
        self._progress.update(self._tasks[stage], completed=len(found.units))
        counts = f"{len(found.units)} units, {found.total('items_in')} in, {found.total('items_out')} out"
        self._say(f"{stage}: finished in {time.monotonic() - self._begun[stage]:.1f} s, {counts}")

    def _end_planning(self) -> None:
        if self._planning is not None:
            self._progress.remove_task(self._planning)
            self._planning = None

    def _say(self, line: str) -> None:
        if not self._drawn:
            print(line, flush=True)
