"""Search at up to 256 workers: one worker's share of the work is measured at every p, only the messages are simulated.

A batch of questions goes through what `search/ann.py` does: every worker chooses lists (as long for every p, an Amdahl
term; divided by lists, each chooses for its part of the questions, and all tell each other), scans its share, the
shortlists are merged in a tree, the cut goes down it again, every worker scores its rows exactly, and the hits are
merged. Each worker's time is drawn from those measured, so that the slowest is waited for. What two MPI ranks take
together is measured too, and said beside what was simulated for them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from rag_hpc.algo.rank.topk import longest, merge_topk, rescore
from rag_hpc.algo.types import F32, Array
from rag_hpc.core.comm import Comm
from rag_hpc.core.record import pressure_cpu
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.vectors.costs import BATCH, DEPTH, PROBES, PS, Batch, Costs, simulate
from rag_hpc.eval.bench.vectors.data import array_path
from rag_hpc.eval.bench.vectors.divided import divide
from rag_hpc.search import indexes
from rag_hpc.search.ann import cut, gathered, slice_of
from rag_hpc.stores.shards import Effort, Kind

REPEATS = 15
SIZES = (1 << 10, 1 << 14, 1 << 17, 1 << 20)


def run(rows: Array, queries: F32, centroids: F32) -> list[Row]:
    """Return E from 16 to 256 workers, what binds there, and how far the simulation is from two real ranks."""
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as made:
        folder = Path(made)
        for name, array in {"rows": rows, "queries": queries, "centroids": centroids}.items():
            np.save(array_path(folder, name), array)
        real = {p: _ranks(folder, p) for p in (1, 2)}
        latency_s, byte_s = _messages(folder)
    pressure = pressure_cpu()
    costs = measure(rows, queries, centroids, latency_s, byte_s)
    by_lists, asked = divide(costs, rows, queries, centroids, _repeated)
    batches, divided = ({p: simulate(one, p) for p in PS} for one in (costs, by_lists))
    about = (
        f"{len(rows):,} x {rows.shape[1]}, ivf_fp16 of {len(centroids)} lists, {PROBES} probed, batches of {BATCH}, "
        f"depth {DEPTH}; a message {1e6 * latency_s:.0f} us and {1e-9 / byte_s:.2g} GB/s over TCP, {cpu_class()}"
    )
    simulated, found = batches[1].total / batches[2].total, real[1] / real[2]
    return [
        _row("vectors.workers, E from 16 to 256", batches, batches, pressure, about),
        _row("vectors.workers by lists, E from 16 to 256", divided, batches, pressure, f"{_asked(asked)}; {about}"),
        Row(
            name="vectors.workers, S(2) simulated over measured",
            ours=simulated,
            unit="S",
            peers={"two MPI ranks": found},
            ratio=simulated / found,
            contention=pressure,
            note=f"{1e3 * real[1]:.1f} and {1e3 * real[2]:.1f} ms a batch measured, {about}",
        ),
    ]


def _row(
    name: str, batches: Mapping[int, Batch], whole: Mapping[int, Batch], pressure: float | None, about: str
) -> Row:
    """Return the row of a division; S is against one worker that holds all documents."""
    at = batches[PS[-1]]
    parts = {part: value / at.total for part, value in vars(at).items()}
    binds = ", ".join(f"{part} {value:.0%}" for part, value in sorted(parts.items(), key=lambda one: -one[1]))
    curve = ", ".join(f"S({p}) {whole[1].total / batch.total:.3g}" for p, batch in batches.items() if p > 1)
    return Row(
        name=name,
        ours=batches[16].total / at.total / 16,
        unit="of sixteenfold",
        contention=pressure,
        note=f"simulated: {curve}; at 256 of {1e3 * at.total:.2f} ms: {binds}; {about}",
    )


def _asked(asked: Mapping[int, float]) -> str:
    return "workers asked by a question: " + ", ".join(f"{num:.1f} of {p}" for p, num in asked.items() if p > 1)


def measure(rows: Array, queries: F32, centroids: F32, latency_s: float, byte_s: float) -> Costs:
    """Return the costs on this machine, a worker being one thread; of messages, those given."""
    scan: dict[int, list[float]] = {}
    scored: dict[int, list[float]] = {}
    batch = np.ascontiguousarray(queries[:BATCH])
    empty = _held(rows[:0], 0, centroids)
    lists_s = statistics.median(_repeated(partial(empty.shortlist, batch, DEPTH)))
    whole = _held(rows, 0, centroids)
    best = whole.shortlist(batch, DEPTH)
    for p in PS:
        part = rows[: -(-len(rows) // p)]
        shards, bound = (whole if p == 1 else _held(part, 0, centroids)), longest(part)
        took = _repeated(partial(shards.shortlist, batch, DEPTH))
        scan[p] = [max(0.0, one - lists_s) for one in took]
        scored[p] = _repeated(partial(rescore, batch, part, best[1], DEPTH, longest_row=bound))
    merge_s = statistics.median(_repeated(partial(merge_topk, [best, best], DEPTH)))
    return Costs(
        lists_s=dict.fromkeys(PS, lists_s),
        scan_s=scan,
        rescore_s=scored,
        merge_s=merge_s,
        latency_s=latency_s,
        byte_s=byte_s,
    )


def main(place: str, task: str) -> None:
    """Be a rank: answer batches for their time, or exchange messages for theirs; rank 0 prints."""
    from rag_hpc.core.comm import MpiComm

    comm, folder = MpiComm(), Path(place)
    try:
        told = _messages_of(comm) if task == "messages" else [_batch_s(comm, folder)]
        if comm.rank == 0:
            print(json.dumps(told))
        comm.barrier()
        comm.close()
    except Exception as error:  # noqa: BLE001  (the others would wait in a collective for ever)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        comm.abort(1)


def _batch_s(comm: Comm, folder: Path) -> float:
    rows, queries, centroids = (np.load(array_path(folder, name)) for name in ("rows", "queries", "centroids"))
    first, stop = slice_of(len(rows), comm)
    part, batch = rows[first:stop], np.ascontiguousarray(queries[:BATCH])
    shards, bound = _held(part, first, centroids), longest(part)

    def answer() -> None:
        ids = cut(shards.shortlist(batch, DEPTH), comm)
        if parts := gathered(rescore(batch, part, ids, DEPTH, first_id=first, longest_row=bound), comm):
            merge_topk(parts, DEPTH)

    answer()
    took = []
    for _ in range(REPEATS):
        comm.barrier()
        took.append(_seconds(answer))
    return statistics.median(took)


def _messages_of(comm: Comm) -> list[float]:
    """Return the seconds of a message of each of SIZES, by gathers of it onto rank 0."""
    found = []
    for size in SIZES:
        block = np.zeros((1, size), dtype=np.uint8)
        comm.gather_rows(block)
        comm.barrier()
        begun = time.perf_counter()
        for _ in range(50):
            comm.gather_rows(block)
        found.append((time.perf_counter() - begun) / 50)
        comm.barrier()
    return found


def _messages(folder: Path) -> tuple[float, float]:
    """Return the latency, and the seconds of a byte, between two ranks that speak TCP."""
    told = _started(folder, "messages", 2, ["--mca", "btl", "self,tcp", "--mca", "pml", "ob1"])
    byte_s, latency_s = np.polyfit(SIZES, told, 1, w=1 / np.array(told))
    return max(1e-7, float(latency_s)), max(1e-13, float(byte_s))


def _ranks(folder: Path, p: int) -> float:
    return float(_started(folder, "search", p, [])[0])


def _started(folder: Path, task: str, p: int, flags: list[str]) -> list[float]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "rag_hpc.eval.bench.vectors.workers", str(folder), task]
    done = subprocess.run(
        ["mpirun", "--allow-run-as-root", "--oversubscribe", *flags, "-n", str(p), *command],
        check=True, env={**os.environ, **one, "PATH": path}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    told: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def _held(part: Array, first: int, centroids: F32) -> indexes.Shards:
    index = indexes.empty_index(Kind.ivf_fp16, centroids)
    indexes.add(index, part, np.arange(first, first + len(part), dtype=np.int64))
    return indexes.Shards([index], Effort(kind=Kind.ivf_fp16, num_probes=PROBES))


def _repeated(work: Callable[[], object]) -> list[float]:
    """Return the CPU seconds of each time: those of a worker that has its core for itself."""
    work()
    return [_seconds(work, time.process_time) for _ in range(REPEATS)]


def _seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    begun = clock()
    work()
    return clock() - begun


if __name__ == "__main__":
    main(*sys.argv[1:])
