"""The bytes of dedup depend neither on workers nor on ranks, memory or the order of the work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import stagerun
from dedupchain import STEPS, many_chain, step_hashes

from rag_hpc.core import manifest
from rag_hpc.core.plan import plan_path, write_plan
from rag_hpc.core.planner import make_plan
from rag_hpc.inline import alone
from rag_hpc.launchers.local import find_mpirun, session_folder
from rag_hpc.stages.dedup import link, signed
from rag_hpc.stages.dedup.drop import gone_rows
from rag_hpc.stages.dedup.signed import DedupConfig
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.extsort import Sorter
from rag_hpc.stores.tables import read_table


@pytest.fixture(scope="module")
def many() -> stagerun.Chain:
    """Read it, never write to it."""
    return many_chain()


def test_a_small_memory_gives_the_same_bytes_through_the_disk(
    many: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    write = Sorter._write_run
    monkeypatch.setattr(Sorter, "_write_run", lambda self: (written.append(1), write(self)))
    monkeypatch.setattr(DedupConfig, "memory_bytes", 4096)
    monkeypatch.setattr(signed, "GAP", 0)
    chain = many.fork(tmp_path, ("clean", "dedup.sign")).run(*STEPS[1:], p=2, seed=3)
    assert written
    assert step_hashes(chain) == step_hashes(many)


@pytest.mark.parametrize("p", [2, 7])
def test_many_workers_in_any_order_give_the_same_bytes(many: stagerun.Chain, tmp_path: Path, p: int) -> None:
    chain = many.fork(tmp_path, ("clean",)).run(*STEPS, p=p, seed=p)
    assert step_hashes(chain) == step_hashes(many)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_any_number_of_ranks_links_to_the_same_bytes(many: stagerun.Chain, tmp_path: Path, world_size: int) -> None:
    inputs = {name: many.out[name] for name in ("dedup.sign", "dedup.verify")}
    found = stagerun.run_on_ranks("dedup.link", {}, inputs, tmp_path, world_size) / "unit-00000"
    for name in ("labels.npy", "keep_map.parquet"):
        assert (found / name).read_bytes() == many.out["dedup.link"].files(name)[0].read_bytes()


def test_ranks_read_pieces_send_blocks_and_write_row_groups_that_fit_no_boundary(
    many: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PIECE", 3)
    monkeypatch.setattr(link, "BLOCK", 7)
    monkeypatch.setattr(link, "ROWS", 5)
    inputs = {name: many.out[name] for name in ("dedup.sign", "dedup.verify")}
    found = stagerun.run_on_ranks("dedup.link", {}, inputs, tmp_path, 3) / "unit-00000"
    assert (found / "labels.npy").read_bytes() == many.out["dedup.link"].files("labels.npy")[0].read_bytes()
    rows = read_table(found / "keep_map.parquet").to_pylist()
    assert rows == many.table("dedup.link", "keep_map.parquet")
    groups = pq.read_metadata(found / "keep_map.parquet")
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups - 1)] == [5] * (groups.num_row_groups - 1)
    assert [gone_rows(found / "keep_map.parquet", start, start + 10) for start in range(0, 90, 10)] == [
        [row for row in rows if start <= row["number"] < start + 10] for start in range(0, 90, 10)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_under_mpirun_commit_the_same_bytes(many: stagerun.Chain, tmp_path: Path, world_size: int) -> None:
    mpirun = find_mpirun()
    if mpirun is None:
        pytest.skip("no mpirun, or no mpi4py, on this machine")
    run_dir = tmp_path / "run"
    shutil.copytree(many.run_dir, run_dir)
    inputs = {name: manifest.load(run_dir / many.out[name].folder.name) for name in ("dedup.sign", "dedup.verify")}
    shutil.rmtree(run_dir / many.out["dedup.link"].folder.name)
    stage, settings = make_stage("dedup.link", many.settings["dedup.link"]), many.settings["dedup.link"]
    plan = make_plan(stage, inputs, alone(run_dir, "dedup.link", settings, workers=world_size))
    write_plan(plan_path(run_dir, 1, "dedup.link"), plan)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_", "PRTE_"))}
    with session_folder() as places:
        done = subprocess.run(
            [
                *mpirun,
                "-n",
                str(world_size),
                sys.executable,
                "-m",
                "rag_hpc.worker",
                str(plan_path(run_dir, 1, "dedup.link")),
                "rank",
            ],
            env={**clean, **places, "RAG_HPC_LAUNCH": "mpi", "RAG_HPC_WORLD_SIZE": str(world_size)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert manifest.build(plan, run_dir / plan.folder).output_hash == many.out["dedup.link"].output_hash
