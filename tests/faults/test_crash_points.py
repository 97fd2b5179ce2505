"""Killed at any file-system call, or refused by the disk at any: nothing half-written is ever taken for done.

The number of points is printed by `pytest -rP tests/faults/test_crash_points.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)
DRIVER = Path(__file__).with_name("driver.py")


def drive(tmp_path: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), words[0], str(tmp_path), *words[1:]],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    print(f"{' '.join(words)}: {report['points']} points, {len(report['wrong'])} wrong")
    return report


def test_killed_at_every_call_the_next_run_gives_the_golden_bytes(tmp_path: Path) -> None:
    report = drive(tmp_path, "kill")
    assert report["wrong"] == []
    kinds = {call.split(" ")[0] for call in report["calls"]}
    assert kinds >= {"open", "write", "fsync", "rename", "link", "mkdir", "unlink"}
    assert report["points"] > 150
    touched = "\n".join(report["calls"])
    for name in ("numbers.bin", "record.json", "manifest.json", ".plan.json", "submission.json", "/units"):
        assert name in touched, f"no call touched {name}: the test does not see what it should"


def test_killed_again_while_it_cleans_up_after_the_first_kill(tmp_path: Path) -> None:
    report = drive(tmp_path, "kill-again")
    assert report["wrong"] == []
    assert any(".trash-" in call for call in report["calls"])
    assert report["points"] > 50


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO"])
def test_call_that_the_disk_refuses_once_fails_the_unit_which_is_done_later(tmp_path: Path, name: str) -> None:
    report = drive(tmp_path, "error", name)
    assert report["wrong"] == []
    assert report["points"] > 150


def test_full_disk_is_named_wherever_it_fills_up_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    assert drive(tmp_path, "full", "ENOSPC")["wrong"] == []
