"""How often an account may ask, counted for all gateways together in one SQLite file.

Requests are let through at an even rate with some in advance (the generic cell rate algorithm: one number an account);
a day's are counted. The file is not flushed to disk: what a crash of the machine loses is counts of a few seconds.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from rag_hpc.core.settings import DAY_S
from rag_hpc.core.trust import private_files

FILE = "limits.sqlite"
BURST = 4  # the share of a minute's requests that may come at once is 1 / BURST
BUSY_S = 0.25  # for another gateway to be done with the file
_TABLE = """
CREATE TABLE IF NOT EXISTS spent (name TEXT PRIMARY KEY, due REAL NOT NULL, day INTEGER NOT NULL, used INTEGER NOT NULL)
"""


class Limits:
    """The requests of all accounts."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        """now: unix time, which gateways of several machines share."""
        self._now = now
        with private_files():
            self._base = sqlite3.connect(folder / FILE, timeout=BUSY_S, isolation_level=None)
            self._base.executescript(f"PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY; {_TABLE}")

    def take(self, name: str, per_minute: int, per_day: int) -> float:
        """Count one request; return 0, or the seconds after which another may be let through.

        Raises sqlite3.OperationalError where the file cannot be had in time.
        """
        now = self._now()
        today, each_s = int(now // DAY_S), 60.0 / per_minute
        self._base.execute("BEGIN IMMEDIATE")
        try:
            row = self._base.execute("SELECT due, day, used FROM spent WHERE name=?", (name,)).fetchone()
            due, day, used = row or (now, today, 0)
            used = used if day == today else 0
            if used >= per_day:
                return (today + 1) * DAY_S - now
            due = min(max(due, now), now + 60.0)  # of a rate or a clock of before, no more than a minute is owed
            early_s = max(0, per_minute // BURST - 1) * each_s
            if due - now > early_s + 1e-9:
                return float(due - now - early_s)
            spent = (name, due + each_s, today, used + 1)
            self._base.execute("INSERT OR REPLACE INTO spent VALUES (?,?,?,?)", spent)
            return 0.0
        finally:
            self._base.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._base.close()
