"""A vector index in processes of its own: python -m rag_hpc.eval.bench.retrieve.side NAME FOLDER THREADS.

`faiss` is FAISS over one index with threads of its own; `ours` is as many ranks as mpirun starts, which hold a part of
the shards each; `lists` as many that hold a part of the inverted lists each; and `group` two of a resident group. Each
line of standard input asks for a batch, but for `end`; the answer is its seconds by the clock and of the CPU as JSON.
Hits go to NAME.npy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rag_hpc.algo.types import F32, I64
from rag_hpc.core.comm import MpiComm
from rag_hpc.eval.bench.retrieve import group
from rag_hpc.eval.bench.vectors.data import array_path
from rag_hpc.eval.bench.vectors.ranks import manifest_of
from rag_hpc.search.ann import Ann, merged, slice_of
from rag_hpc.search.lists import Division
from rag_hpc.stores.shards import Effort, effort_of, load_shards
from rag_hpc.stores.vectors import VectorStore

DEPTH, BATCH = 100, 256
POLL_S, _WAKE = 0.0005, 77
END = "end"  # mpirun may not pass on that its input has ended
Answer = Callable[[F32], I64 | None]


def main(name: str, place: str, threads: str) -> None:
    """Load the index, then answer until the input ends."""
    folder = Path(place)
    queries = np.load(array_path(folder, "queries"))[:BATCH]
    if name == "faiss":
        _serve(_faiss(folder, int(threads)), queries, array_path(folder, name))
        return
    if name == "group":
        _serve(group.lead(folder), queries, array_path(folder, name))
        return
    comm = MpiComm()
    division = Division.lists if name == "lists" else Division.documents
    answer, word = _ours(folder, comm, division), np.ones(1, dtype=np.int64)
    if comm.rank == 0:

        def asked(batch: F32) -> I64 | None:
            _wake(comm)
            comm.broadcast(word)
            return answer(comm.broadcast(batch))

        _serve(asked, queries, array_path(folder, name))
        _wake(comm)
        comm.broadcast(0 * word)
        return
    while _slept() and comm.broadcast(None)[0]:
        answer(comm.broadcast(None))


def _wake(comm: MpiComm) -> None:
    from mpi4py import MPI

    for rank in range(1, comm.world_size):
        MPI.COMM_WORLD.Send(np.zeros(1, dtype=np.uint8), dest=rank, tag=_WAKE)


def _slept() -> bool:
    """Return True once rank 0 says something: a rank that waits in MPI takes a core from the side whose turn it is."""
    from mpi4py import MPI

    while not MPI.COMM_WORLD.Iprobe(source=0, tag=_WAKE):
        time.sleep(POLL_S)
    MPI.COMM_WORLD.Recv(np.zeros(1, dtype=np.uint8), source=0, tag=_WAKE)
    return True


def _serve(answer: Answer, queries: F32, out: Path) -> None:
    for line in sys.stdin:
        if line.strip() == END:
            return
        begun, used = time.perf_counter(), time.process_time()
        ids = answer(queries)
        told = {"wall": time.perf_counter() - begun, "cpu": time.process_time() - used}
        np.save(out, ids if ids is not None else [])
        print(json.dumps(told), flush=True)


def _ours(folder: Path, comm: MpiComm, division: Division) -> Answer:
    built, store = (manifest_of(name, folder / name) for name in ("vectors.build", "encode"))
    vectors = VectorStore(store)
    first, stop = slice_of(len(vectors), comm)
    index = Ann(built, vectors.rows(first, stop), first, comm, division=division)

    def answer(batch: F32) -> I64 | None:
        found = merged(index.search(batch, DEPTH), comm)
        return found[1] if found else None

    return answer


def _faiss(folder: Path, threads: int) -> Answer:
    import faiss

    built = manifest_of("vectors.build", folder / "vectors.build")
    whole, *others = load_shards(built, range(len(built.units)))
    for other in others:
        whole.merge_from(other, 0)
    faiss.omp_set_num_threads(threads)
    whole.nprobe = (effort_of(built) or Effort()).num_probes

    def answer(batch: F32) -> I64 | None:
        ids: I64 = whole.search(batch, DEPTH)[1]
        return ids

    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
