"""Each step of dedup killed at random moments and resumed with another number of workers or ranks: the same bytes.

RAG_HPC_KILLS=50 makes fifty rounds, each of which kills every step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dedupchain import STEPS

ROUNDS = int(os.environ.get("RAG_HPC_KILLS", "2"))


@pytest.mark.timeout(450 + 90 * ROUNDS)
def test_killed_steps_resume_with_any_p_to_the_same_bytes(tmp_path: Path) -> None:
    killer = Path(__file__).with_name("dedup_killer.py")
    done = subprocess.run(
        [sys.executable, str(killer), str(tmp_path), str(ROUNDS)],
        capture_output=True,
        text=True,
        timeout=400 + 90 * ROUNDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print({key: value for key, value in report.items() if key != "wrong"})
    assert report["wrong"] == []
    assert all(report.get(step, 0) >= ROUNDS for step in STEPS), report
