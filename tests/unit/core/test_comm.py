from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_hpc.core import comm
from rag_hpc.errors import ClusterError
from rag_hpc.launchers.local import find_mpirun, session_folder

RANKS = Path(__file__).parents[2] / "support" / "ranks.py"


def needs_mpirun() -> list[str]:
    found = find_mpirun()
    if found is None:
        pytest.skip("no mpirun, or no mpi4py, on this machine")
    return found


def start_ranks(command: list[str], out: Path, **env: str) -> tuple[int, list[dict[str, Any]], str]:
    """Return the exit code, what each rank wrote, and the standard error."""
    out.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_", "PRTE_"))}
    with session_folder() as places:
        done = subprocess.run(
            [*command, str(RANKS), str(out)],
            env={**clean, **places, **env},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    return done.returncode, [json.loads(path.read_text()) for path in sorted(out.iterdir())], done.stderr


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_mpi_ranks_exchange_uneven_rows(tmp_path: Path, num_ranks: int) -> None:
    command = [*needs_mpirun(), "-n", str(num_ranks), sys.executable]
    code, ranks, text = start_ranks(command, tmp_path / "out", RAG_HPC_WORLD_SIZE=str(num_ranks), RAG_HPC_LAUNCH="mpi")
    assert code == 0, text
    check_ranks(ranks, num_ranks)
    # rank r gave r * 3 rows, so rank 0 had none to give
    rows = [[float(r), float(i)] for r in range(num_ranks) for i in range(r * 3)]
    assert [rank["gathered"] for rank in ranks] == [rows, *[None] * (num_ranks - 1)]
    check_exchange(ranks)
    folded = {1: [0, 1], 3: [12, 111]}[num_ranks]  # ranks 0 and 1 join first, in order
    assert [rank["folded"] for rank in ranks] == [[folded], *[None] * (num_ranks - 1)]


def check_exchange(ranks: list[dict[str, Any]]) -> None:
    """Rank r sent r + 2 s rows [r, s] to rank s, so some parts are empty."""
    for to, rank in enumerate(ranks):
        assert rank["exchanged"] == [[[source, to]] * (source + 2 * to) for source in range(len(ranks))]


def test_torch_ranks_exchange_arrays(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "static", "--master-addr", "127.0.0.1"]
    command = [*torchrun, "--master-port", port, "--nproc-per-node=3"]
    code, ranks, text = start_ranks(command, tmp_path / "out", RAG_HPC_WORLD_SIZE="3", RAG_HPC_LAUNCH="torchrun")
    assert code == 0, text
    check_ranks(ranks, 3)


@pytest.mark.parametrize(
    "message", [b"", pickle.dumps(os.getcwd), b"\xff" * 88, np.array([2, 1, 9] + [0] * 7).tobytes()]
)
def test_what_a_stranger_wrote_into_the_store_is_refused(message: bytes) -> None:
    with pytest.raises(ClusterError, match="no rank sent"):
        comm._read(message)


def check_ranks(ranks: list[dict[str, Any]], num_ranks: int) -> None:
    assert [(rank["rank"], rank["world_size"]) for rank in ranks] == [(r, num_ranks) for r in range(num_ranks)]
    for rank in ranks:
        assert rank["broadcast"] == [["<f2", [2, 3], 15.0], ["<i8", [], 7.0], ["|u1", [0, 4], 0.0], ["<f4", [5], 10.0]]
        assert rank["sum"] == [sum(range(num_ranks)), num_ranks]


def test_broken_launch_shows_as_singletons(tmp_path: Path) -> None:
    """srun without the right --mpi starts ranks that each believe to be alone."""
    needs_mpirun()
    code, ranks, text = start_ranks([sys.executable], tmp_path / "out", RAG_HPC_WORLD_SIZE="3", RAG_HPC_LAUNCH="mpi")
    assert (code, ranks) == (1, [])
    assert "3 ranks were launched but this one sees a world of 1" in text and "set cluster.mpi" in text


def test_small_messages_give_the_same(tmp_path: Path) -> None:
    """Messages of 8 bytes instead of 1 GiB: the seams between them lose nothing."""
    command = [*needs_mpirun(), "-n", "3", sys.executable]
    code, ranks, text = start_ranks(command, tmp_path / "out", RAG_HPC_LAUNCH="mpi", TEST_MESSAGE_BYTES="8")
    assert code == 0, text
    check_ranks(ranks, 3)
    check_exchange(ranks)
    assert len(ranks[0]["gathered"]) == 9


def test_abort_ends_ranks_that_wait_in_a_collective(tmp_path: Path) -> None:
    command = [*needs_mpirun(), "-n", "3", sys.executable]
    code, ranks, _ = start_ranks(command, tmp_path / "out", RAG_HPC_LAUNCH="mpi", TEST_ABORT_RANK="1")
    assert code != 0 and ranks == []


def test_lone_process_speaks_to_itself() -> None:
    alone = comm.make_comm("array")
    rows = np.arange(6).reshape(2, 3)
    assert alone.gather_rows(rows) is rows and alone.sum(rows) is rows and alone.broadcast(rows) is rows
    assert alone.exchange([rows]) == [rows]
    alone.barrier()
    alone.abort(1)  # nobody waits, so the caller goes on and reports its error
    alone.close()
    assert (alone.rank, alone.world_size) == (0, 1)


@pytest.mark.parametrize("array", [None, np.zeros((1,) * 9), np.array(["text"]), np.array([True])])
def test_what_cannot_be_sent_is_refused_before_it_is(array: Any) -> None:
    with pytest.raises(ClusterError, match="broadcast"):
        comm.SerialComm().broadcast(array)


def test_world_size_is_checked_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    comm.check_world_size(5)
    monkeypatch.setenv("RAG_HPC_WORLD_SIZE", "4")
    comm.check_world_size(4)
    with pytest.raises(ClusterError, match="4 ranks were launched but this one sees a world of 1"):
        comm.check_world_size(1)


def test_mpirun_is_found_beside_the_interpreter_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_mpirun() is None


def test_ranks_that_do_not_come_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "RAG_HPC_STORE": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ClusterError, match=r"rank 1 of 3 .* waited 0 s for rank 0, 2, which did not come"):
        comm.StoreComm().meet(wait_s=0.1)
