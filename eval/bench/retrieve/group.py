"""A vector index in two processes of a resident group, which speak as the ranks of `rag-hpc serve` do: over a socket.

`python -m rag_hpc.eval.bench.retrieve.group FOLDER NUMBER` is the other rank, at the socket of that number.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from rag_hpc.algo.types import F32, I64
from rag_hpc.core.comm import Comm
from rag_hpc.eval.bench.vectors.ranks import manifest_of
from rag_hpc.search.ann import Ann, merged, slice_of
from rag_hpc.serve.members import Members
from rag_hpc.serve.rounds import RankComm, RootComm
from rag_hpc.serve.wire import Broken, receive, send
from rag_hpc.stores.vectors import VectorStore

DEPTH = 100
READY_S = 120.0


def opened(folder: Path, comm: Comm) -> Ann:
    """Return this rank's shards of the index in the folder."""
    vectors = VectorStore(manifest_of("encode", folder / "encode"))
    first, stop = slice_of(len(vectors), comm)
    return Ann(manifest_of("vectors.build", folder / "vectors.build"), vectors.rows(first, stop), first, comm)


def lead(folder: Path) -> Callable[[F32], I64 | None]:
    """Return what answers a batch with the ids of its hits, another process having half of the index."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", __name__, str(folder), str(theirs.fileno())]
    child = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    members, numbers = Members(2), count(1)
    members.join(1, ours)
    comm = RootComm(members)
    index, until = opened(folder, comm), time.monotonic() + READY_S
    while members.able() != [1]:
        if child.poll() is not None or time.monotonic() > until:
            raise Broken("bench retrieve: the other rank of the group did not open its shards")
        time.sleep(0.01)

    def answer(batch: F32) -> I64 | None:
        number = next(numbers)
        comm.begin(number, [1], None)
        members.tell([1], {"do": number}, [batch])
        found = merged(index.search(batch, DEPTH), comm)
        members.ended(number)
        if comm.here != [1]:
            raise Broken("bench retrieve: the other rank of the group was left out")
        return None if found is None else found[1]

    return answer


def follow(folder: Path, sock: socket.socket) -> None:
    """Be the other rank until the first is gone."""
    comm = RankComm(1, 2, lambda: receive(sock))
    comm.say = lambda head, arrays: send(sock, head, arrays)
    index = opened(folder, comm)
    comm.say({"ready": True, "host": "here", "pid": 1}, [])
    try:
        while True:
            head, arrays = receive(sock)
            if "do" in head:
                comm.begin(head["do"])
                merged(index.search(arrays[0], DEPTH), comm)
                comm.say({"done": head["do"]}, [])
    except Broken:
        return


if __name__ == "__main__":
    follow(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
