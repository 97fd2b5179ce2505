"""Any p, any order, any number of kills: the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
def test_killed_and_frozen_workers_and_any_p_give_the_same_bytes(tmp_path: Path) -> None:
    killer = Path(__file__).with_name("killer.py")
    done = subprocess.run(
        [sys.executable, str(killer), str(tmp_path), "20"], capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print({key: value for key, value in report.items() if key != "wrong"})
    assert report["wrong"] == []
    assert report["killed"] >= 20 and report["thawed"] >= 3 and report["submissions"] > 20
