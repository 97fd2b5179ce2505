"""`python -m rag_hpc.serve.rank RUN_DIR GROUP RANK`: one rank of a resident group; rank 0 has the door.

Exit codes: 0 the group was closed, 1 an error, 2 it cannot run as configured, 3 told to stop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.log import configure
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.scratch import scratch_folder
from rag_hpc.core.stage import plain
from rag_hpc.core.trust import check_run
from rag_hpc.errors import ConfigError, RagHpcError
from rag_hpc.search.answer import as_the_run
from rag_hpc.search.filters import allowed
from rag_hpc.search.searcher import Found, Searcher, knowledge
from rag_hpc.serve.door import Door, resident_bytes
from rag_hpc.serve.members import OPENING, Members
from rag_hpc.serve.places import DOOR, Group, Place, ServeConfig, connect, listener
from rag_hpc.serve.places import Door as Address
from rag_hpc.serve.rounds import Abandoned, RankComm, RootComm
from rag_hpc.serve.wire import Broken, Frame, greet, receive, send
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.vectors import VectorStore

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
DRAIN_S = 10.0  # for what is being searched when a rank is told to stop
AGAIN_S = 0.3  # between two tries to reach rank 0
WARM = "What is this?"
INDEX = "vectors.build"
MASKS = 64  # of filters that are kept, a byte a passage each


class Stop:
    """Whether the process was told to stop, by a signal or by the end of who started it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._parent = os.getppid()
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: self.set())

    def set(self) -> None:
        """Tell it."""
        self._since = self._since or time.monotonic()

    def __call__(self) -> bool:
        """Return whether it was told."""
        if os.getppid() != self._parent:
            self.set()
        return self._since is not None

    def over(self) -> bool:
        """Return whether the time to drain has passed as well."""
        return self() and self._since is not None and time.monotonic() - self._since > DRAIN_S


class Share:
    """What a rank searches with: the run's manifests and settings as its group was started with them."""

    def __init__(self, run_dir: Path, group: Group) -> None:
        """Raises ConfigError where the run is no longer what the group was started for."""
        request = Ledger(run_dir).request(group.submission)
        self.inputs = inputs_of(run_dir, request)
        self.settings, _, self._index = as_the_run(self.inputs, request.settings["retrieve.search"])
        if ServeConfig(**group.settings).ann:
            self._index = self.inputs[INDEX]
        if fingerprint(self.inputs, request) != group.fingerprint:
            raise ConfigError(f"run={group.run} has changed since its group was started; run: rag-hpc serve down, up")
        self.width = VectorStore(self.inputs["encode"]).width

    def open(self, comm: RootComm | RankComm, scratch: Path) -> Narrowing:
        """Return the rank's shards, unpacked in `scratch`."""
        inputs = self.inputs
        parts = inputs["lexical"], inputs["encode"], self._index
        searcher = Searcher(*parts, self.settings, comm, scratch, knowledge(inputs))
        return Narrowing(searcher, ChunkStore(inputs["chunk"]), self.settings.filter)

    def warm(self, searcher: Narrowing) -> None:
        """Read and compile what a search uses, before anybody waits for it."""
        with contextlib.suppress(Abandoned):
            searcher.search([WARM], np.full((1, self.width), 0.01, dtype=np.float32))


class Narrowing:
    """A searcher of the passages that the run's filter and a search's own let through; the masks of the last few
    filters are kept."""

    def __init__(self, searcher: Searcher, chunks: ChunkStore, filter: str) -> None:
        self._searcher, self._chunks, self._filter = searcher, chunks, filter
        self._masks: OrderedDict[str, Array | None] = OrderedDict()

    def search(self, texts: Sequence[str], vectors_QD: Array, only: str = "") -> Found:
        """Return the hits of all methods for the queries; only: a filter that was checked."""
        if only not in self._masks:
            self._masks[only] = self._mask(" and ".join(f"({part})" for part in (self._filter, only) if part))
            if len(self._masks) > MASKS:
                self._masks.popitem(last=False)
        self._masks.move_to_end(only)
        self._searcher.restrict(self._masks[only])
        return self._searcher.search(texts, vectors_QD)

    def _mask(self, filter: str) -> Array | None:
        if not filter:
            return None
        try:
            return allowed(self._chunks, filter)
        except ConfigError:  # it lets none through: nothing is found, which is no error of whoever asks
            return np.zeros(len(self._chunks), dtype=bool)


def inputs_of(run_dir: Path, request: Request, *, ann: bool = False) -> dict[str, Manifest]:
    """Return the manifests of what is searched. Raises as `ask.manifests` does, and ConfigError without an index."""
    from rag_hpc.serve.ask import manifests

    inputs = manifests(run_dir, request)
    if ann and INDEX not in inputs:
        raise ConfigError(f"serve.ann=true: run={request.run} has no vector index; leave it away, or use another run")
    return inputs


def fingerprint(inputs: Mapping[str, Manifest], request: Request) -> str:
    """Return what names the shards and how they are searched: where it is equal, so are the rankings."""
    settings, method, index = as_the_run(inputs, request.settings["retrieve.search"])
    searched = {name: inputs[name].output_hash for name in ("lexical", "encode")}
    return hash_value([searched, index and index.output_hash, plain(settings), method.value, knowledge(inputs)])


def lead(place: Place, group: Group, stop: Stop) -> None:
    """Be rank 0: open its shards with the others, and answer at the door."""
    share = Share(place.run_dir, group)
    members = Members(group.ranks, stop)
    num_shards = len(share.inputs["lexical"].units)
    door = Door(group, members, place.key(), num_shards, share.width, stop)
    with scratch_folder() as scratch:
        sock, address = listener(group.listens, scratch, group.interface)
        with contextlib.closing(sock):
            door.listen(sock)
            place.write(DOOR, Address(address=address, host=os.uname().nodename, pid=os.getpid()))
            comm = RootComm(members)
            searcher = share.open(comm, scratch)
            comm.begin(OPENING + 1, [], None)  # of this rank alone
            share.warm(searcher)
            door.run(searcher, comm)
    members.tell(range(1, group.ranks), {"stop": True})
    time.sleep(0.1)  # for the last answers to leave


def follow(place: Place, group: Group, rank: int, stop: Stop) -> None:
    """Be another rank: find rank 0, and search as it says; again and again, since it may come and go."""
    share, inbox = Share(place.run_dir, group), _Inbox(stop)
    comm = RankComm(rank, group.ranks, inbox.next)
    searcher: Narrowing | None = None
    with scratch_folder() as scratch:
        while not stop():
            sock = _reached(place, rank)
            if sock is None:
                time.sleep(AGAIN_S)
                continue
            with contextlib.closing(sock), contextlib.suppress(Broken):
                inbox.read(sock)
                comm.say = _voice(sock)
                if searcher is None:
                    comm.begin(OPENING)
                    searcher = share.open(comm, Path(tempfile.mkdtemp(dir=scratch)))
                    comm.begin(None)
                    share.warm(searcher)
                else:
                    comm.open_again()
                comm.say({"ready": True, "host": os.uname().nodename, "pid": os.getpid()}, [])
                log.info("rank %d is ready", rank)
                _search(searcher, comm, inbox)


def _reached(place: Place, rank: int) -> socket.socket | None:
    """Return a connection to rank 0, None while it is not there."""
    sock = None
    try:
        sock = connect(place.door(), 5.0)
        greet(sock, place.key(), str(rank))
    except (Broken, OSError) as error:
        log.debug("rank 0 is not there: %s", error)
        if sock is not None:
            sock.close()
        return None
    return sock


def _voice(sock: socket.socket) -> Callable[[dict[str, Any], list[Array]], None]:
    """Return what sends a message to rank 0, and with it how much memory is held."""

    def say(head: dict[str, Any], arrays: list[Array]) -> None:
        send(sock, {**head, "rss_bytes": resident_bytes()}, arrays)

    return say


def _search(searcher: Narrowing, comm: RankComm, inbox: _Inbox) -> None:
    """Search what rank 0 says until it closes the group or is gone (Broken)."""
    while True:
        head, arrays = inbox.next()
        if head.get("stop"):
            raise Broken("rank 0 has closed the group")
        if "do" not in head:
            continue  # the end of a round that this rank has ended
        number, outcome = int(head["do"]), "done"
        comm.begin(number)
        try:
            searcher.search(head["texts"], arrays[0], head.get("only", ""))
        except Abandoned:
            log.info("round %d: it went on without this rank", number)
        except Broken:
            raise
        except Exception as error:  # rank 0 answers without this rank
            log.error("round %d: %s", number, error, exc_info=error)
            outcome = "failed"
        comm.say({outcome: number}, [])


class _Inbox:
    """What rank 0 says, read in a thread of its own."""

    def __init__(self, stop: Stop) -> None:
        self._stop, self._frames = stop, queue.SimpleQueue[Frame | None]()

    def read(self, sock: socket.socket) -> None:
        """Read a new connection from now on."""
        frames = self._frames = queue.SimpleQueue[Frame | None]()
        threading.Thread(target=self._read, args=(sock, frames), daemon=True, name="rank-0").start()

    def next(self) -> Frame:
        """Return the next frame. Raises Broken when rank 0 is gone, or this rank has to go."""
        while True:
            with contextlib.suppress(queue.Empty):
                frame = self._frames.get(timeout=0.2)
                if frame is None:
                    raise Broken("rank 0 is gone")
                return frame
            if self._stop.over():
                raise Broken("told to stop")

    def _read(self, sock: socket.socket, frames: queue.SimpleQueue[Frame | None]) -> None:
        try:
            while True:
                frames.put(receive(sock))
        except Broken:
            frames.put(None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one rank; return the process's exit code."""
    run_dir, name, number = sys.argv[1:] if argv is None else argv
    configure(prefix=f"{number}@{os.uname().nodename}")
    stop = Stop()
    try:
        check_run(Path(run_dir))
        os.umask(0o077)
        place, rank = Place(Path(run_dir), name), int(number)
        group = place.group()
        if rank == 0:
            lead(place, group, stop)
        else:
            follow(place, group, rank, stop)
    except Exception as error:
        known = isinstance(error, RagHpcError)
        log.error("%s: %s", type(error).__name__, error, exc_info=None if known else error)
        return error.exit_code if isinstance(error, RagHpcError) else 1
    return 3 if stop() else 0


if __name__ == "__main__":
    sys.exit(main())
