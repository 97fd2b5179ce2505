"""What stages used, reckoned by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rag_hpc.eval.usage import ACCOUNTED, ESTIMATED, RAPL, UNKNOWN, Usage, Watts, together, used
from rag_hpc.slurm.usage import Taken


def record(start: float, end: float, **values: Any) -> dict[str, Any]:
    plain = {
        "submission": 1,
        "job_id": "7",
        "array_task_id": "0",
        "restarts": 0,
        "host": "n1",
        "rank": 0,
        "p": 2,
        "cpus": 4,
        "gpus": 1,
        "cpu_s": 10.0,
        "setup_s": 5.0,
        "launch": "array",
        "energy_j": None,
        "work_s": end - start,
        "flush_s": 0.0,
        "peak_rss_bytes": 100,
    }
    return {"started_unix": start, "ended_unix": end, **plain, **values}


TWO = [  # a worker holds 4 cores and a GPU from 100 - 5 to 130, the other from 110 - 5 to 150, on the same node
    record(100, 110),
    record(120, 130),
    record(110, 150, array_task_id="1", rank=1, cpu_s=80.0, peak_rss_bytes=300),
]


def test_a_worker_holds_what_it_was_granted_from_its_start_to_its_last_commit() -> None:
    found = used(TWO, Watts(), {})
    assert found == Usage(
        cpu_s=100.0,
        core_s=4 * 35.0 + 4 * 45.0,
        gpu_s=35.0 + 45.0,
        node_s=55.0,  # 95 to 150
        energy_j=None,
        energy_from=UNKNOWN,
        source="records",
        max_rss_bytes=300,
    )


def test_without_a_scheduler_what_was_computed_counts() -> None:
    alone = [{**one, "job_id": None, "array_task_id": None, "gpus": 0} for one in TWO]
    found = used(alone, Watts(core=5.0), {})
    assert (found.core_s, found.gpu_s, found.node_s) == (100.0, 0.0, 55.0)
    assert (found.energy_j, found.energy_from) == (500.0, ESTIMATED)


def test_each_start_of_a_requeued_worker_is_held_by_itself() -> None:
    again = [record(100, 110), record(500, 510, restarts=1)]
    assert used(again, Watts(), {}).core_s == 4 * 15.0 * 2


def test_accounting_counts_where_it_knows_every_job() -> None:
    one = Taken(elapsed_s=60, cpus=4, gpus=1, nodes=1, cpu_s=50.0, energy_j=900.0)
    idle = Taken(elapsed_s=20, cpus=4, gpus=1, nodes=1, cpu_s=1.0, energy_j=100.0)
    found = used(TWO, Watts(core=5.0), {"7_0": [one, one], "7_1": [one], "7_2": [idle], "77_0": [one]})
    assert (found.core_s, found.gpu_s, found.node_s) == (4 * 200.0, 200.0, 200.0)
    assert (found.cpu_s, found.energy_j, found.energy_from, found.source) == (151.0, 2800.0, ACCOUNTED, "sacct")
    assert found.max_rss_bytes == 300  # accounting sampled none
    missing = used(TWO, Watts(core=5.0), {"8_0": [one]})
    assert missing == used(TWO, Watts(core=5.0), {})


def test_energy_that_accounting_does_not_tell_of_one_task_is_estimated_of_all() -> None:
    told = Taken(elapsed_s=60, cpus=4, gpus=1, nodes=1, cpu_s=50.0, energy_j=900.0)
    untold = Taken(elapsed_s=60, cpus=4, gpus=1, nodes=1)
    found = used(TWO, Watts(core=5.0, gpu=100.0), {"7_0": [told], "7_1": [untold]})
    assert (found.cpu_s, found.energy_j, found.energy_from) == (100.0, 100 * 5.0 + 120 * 100.0, ESTIMATED)


def test_the_processors_counter_gives_the_mean_power_of_each_host() -> None:
    read = [{**one, "energy_j": 50.0 * one["work_s"]} for one in TWO]  # each reads what all of the host draw: 50 W
    found = used(read, Watts(core=5.0), {})
    assert (found.energy_j, found.energy_from) == (pytest.approx(50.0 * 55.0), RAPL)


def test_where_rank_0_records_for_all_it_is_a_lower_bound() -> None:
    assert used([record(0, 9, launch="mpi")], Watts(), {}).at_least
    assert not used([record(0, 9, launch="mpi", p=1)], Watts(), {}).at_least
    assert not used([record(0, 9, launch="mpi"), record(0, 9, launch="mpi", rank=1)], Watts(), {}).at_least


def test_the_weakest_source_is_that_of_a_sum() -> None:
    whole = used(TWO, Watts(core=5.0), {})
    both = together([whole, used([record(0, 10, launch="mpi")], Watts(), {})])
    assert (both.core_s, both.energy_j, both.energy_from, both.at_least) == (320.0 + 60.0, None, UNKNOWN, True)
    assert together([whole]) == whole
