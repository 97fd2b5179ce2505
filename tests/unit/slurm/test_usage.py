"""What accounting tells of jobs: what is missing is missing, and a requeued job counts each start once."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from rag_hpc.slurm import usage
from rag_hpc.slurm.client import Slurm
from rag_hpc.slurm.usage import Taken, parse_taken

# JobID|Start|ElapsedRaw|AllocTRES|TotalCPU|MaxRSS|ConsumedEnergyRaw
PLAIN = """\
12_0|2026-11-30T10:00:00|100|billing=4,cpu=4,energy=9000,gres/gpu=2,gres/gpu:a100=2,mem=8G,node=1|00:05:10|| 9000
12_0.batch|2026-11-30T10:00:00|100|cpu=4,mem=8G,node=1|05:09.500|1500K|8000
12_0.0|2026-11-30T10:00:01|98|cpu=4,mem=8G,node=1|00:00.500|2G|1000
12_1|2026-11-30T10:00:00|50|cpu=4,mem=8G,node=1|00:00:00||0
12_1.batch|2026-11-30T10:00:00|50|cpu=4,mem=8G,node=1|00:00:00||
13|None|0||00:00:00||
14|Unknown||||
"""
REQUEUED = """\
20|2026-11-30T10:00:00|30|cpu=2,node=1|00:00:20||
20.batch|2026-11-30T10:00:00|30|cpu=2,node=1|00:20.000|100K|50
20|2026-11-30T11:00:00|40|cpu=2,node=1|00:00:30||
20.batch|2026-11-30T11:00:00|40|cpu=2,node=1|00:30.000|300K|70
20|2026-11-30T11:00:00|40|cpu=2,node=1|00:00:30||
"""


def test_what_was_not_measured_is_missing_and_no_nought() -> None:
    found = parse_taken(PLAIN.replace("|| 9000", "||9000"))
    assert found["12_0"] == [
        Taken(elapsed_s=100, cpus=4, gpus=2, nodes=1, cpu_s=310.0, max_rss_bytes=2 << 30, energy_j=9000.0)
    ]
    assert found["12_1"] == [Taken(elapsed_s=50, cpus=4, gpus=0, nodes=1)]
    assert set(found) == {"12_0", "12_1"}  # the others never ran


def test_each_start_of_a_requeued_job_counts_once() -> None:
    assert parse_taken(REQUEUED) == {
        "20": [
            Taken(elapsed_s=30, cpus=2, gpus=0, nodes=1, cpu_s=20.0, max_rss_bytes=100 << 10, energy_j=50.0),
            Taken(elapsed_s=40, cpus=2, gpus=0, nodes=1, cpu_s=30.0, max_rss_bytes=300 << 10, energy_j=70.0),
        ]
    }


@pytest.mark.parametrize("energy", ["18446744073709551614", "", "0", "n/a"])
def test_marks_for_no_energy_are_none(energy: str) -> None:
    assert parse_taken(f"1|2026-11-30T10:00:00|9|cpu=1,node=1|00:00:01||{energy}\n")["1"][0].energy_j is None


def test_lines_that_cannot_be_read_are_left_out() -> None:
    assert parse_taken("sacct: error\n1|2|3\n\n") == {}


def test_accounting_is_asked_once_for_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, REQUEUED.encode(), b"")

    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/usr/bin/{name}")
    assert list(Slurm(env={}, run=run).taken(["20", "12", "20"])) == ["20"]
    assert asked == [["sacct", "-n", "-P", "-D", "-j", "12,20", "-o", usage.FORMAT]]
    assert Slurm(env={}, run=run).taken([]) == {} and len(asked) == 1
