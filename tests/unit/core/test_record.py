from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
import toystages

from rag_hpc.core import commit, record
from rag_hpc.core.fs import canonical_json
from rag_hpc.core.ledger import Ledger


def test_record_of_an_attempt_holds_every_field_with_a_sane_value(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": "1",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "RAG_HPC_SUBMITTED_UNIX": str(time.time() - 100),
    }.items():
        monkeypatch.setenv(name, value)
    found = toystages.run_inline(ledger.submit(toystages.toy_request("run", ("toy.source",))))["toy.source"]
    value = commit.read_record(found.unit_dir(1))
    assert set(value) == {f.name for f in dataclasses.fields(record.Record)}
    expected = {
        "run": "run",
        "stage": "toy.source",
        "unit": 1,
        "attempt": 1,
        "submission": 1,
        "job_id": "12",
        "array_task_id": "3",
        "restarts": 1,
        "gpus": 2,
        "rank": 0,
        "p": 2,
        "launch": "array",
        "schema": 1,
        "items_in": 21,
        "host": os.uname().nodename,
    }
    assert {key: value[key] for key in expected} == expected
    assert 99 < value["queue_s"] < 200
    assert value["items_out"] + sum(value["dropped"].values()) == 21
    assert set(value["files"]) == {toystages.NUMBERS, toystages.NOTE}
    assert value["bytes_written"] >= value["files"][toystages.NUMBERS]["bytes"] > 0
    assert 1 << 20 < value["peak_rss_bytes"] < 1 << 36
    assert value["ended_unix"] >= value["started_unix"] > 1.7e9
    assert all(value[key] >= 0 for key in ("work_s", "flush_s", "setup_s", "cpu_s"))


def test_a_job_uses_no_more_cpus_than_it_has_on_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    usable = record.granted_cpus()
    assert usable == len(os.sched_getaffinity(0))
    for on_node, granted in (("1", 1), ("4096", usable), ("", usable)):
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", on_node)
        assert record.granted_cpus() == granted


def test_meter_keeps_work_and_flush_apart() -> None:
    times = iter([10.0, 12.0, 12.5])
    meter = record.Meter(clock=lambda: next(times))
    meter.work_done()
    values = meter.values()
    assert (values["work_s"], values["flush_s"]) == (2.0, 0.5)


def test_without_slurm_ids_are_none_and_nothing_queued() -> None:
    found = record.where(0.0)
    assert (found["job_id"], found["array_task_id"], found["queue_s"], found["restarts"]) == (None, None, None, 0)
    assert found["cpus"] >= 1


@pytest.mark.parametrize(("given", "cpus"), [("1", 1), ("0", 1), ("2(x3)", None), ("", None), ("9999", None)])
def test_a_job_grants_no_more_cpus_than_there_are(
    monkeypatch: pytest.MonkeyPatch, given: str, cpus: int | None
) -> None:
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    usable = record.granted_cpus()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", given)
    assert record.granted_cpus() == (cpus or usable)


def test_written_bytes_are_counted(tmp_path: Path) -> None:
    meter = record.Meter()
    (tmp_path / "a").write_bytes(b"x" * 50_000)
    assert 50_000 <= meter.values()["bytes_written"] < 100_000


def test_missing_proc_files_give_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Path, *args: object, **kwargs: object) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", absent)
    assert record.io_bytes() == (0, 0)
    assert record.pressure_cpu() is None


def test_values_of_a_meter_are_json() -> None:
    assert json.loads(canonical_json(record.Meter().values()))["work_s"] == 0.0


def test_energy_is_that_of_whole_processors_and_their_counters_begin_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(record, "POWERCAP", tmp_path)
    assert record.energy_uj() == {} and record.drawn_j({}, {}) is None

    def read(first: int, second: int) -> dict[str, tuple[int, int]]:
        for zone, counted in (("intel-rapl:0", first), ("intel-rapl:1", second), ("intel-rapl:0:0", 7)):
            (tmp_path / zone).mkdir(exist_ok=True)
            (tmp_path / zone / "energy_uj").write_text(f"{counted}\n")
            (tmp_path / zone / "max_energy_range_uj").write_text("9000000\n")
        return record.energy_uj()

    before = read(1_000_000, 8_000_000)
    assert record.drawn_j(before, read(3_000_000, 8_500_000)) == 2.5
    assert record.drawn_j(before, read(1_000_000, 500_000)) == 1.5
    (tmp_path / "intel-rapl:1/energy_uj").unlink()
    assert record.energy_uj() == {}  # as where one of them may not be read
