"""Ranks of a resident group over sockets: the same bytes as one Searcher, and never a wait for one that is gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import stagerun

from rag_hpc.algo.types import Array
from rag_hpc.core.comm import SerialComm
from rag_hpc.search.lists import Division
from rag_hpc.search.searcher import Found, Searcher, SearchSettings, knowledge
from rag_hpc.serve.door import shares
from rag_hpc.serve.members import OPENING, Members
from rag_hpc.serve.rounds import Abandoned, RankComm, RootComm
from rag_hpc.serve.wire import Broken, Frame, receive, send

TEXTS = ["Which argument of a deque drops older items?", "", "sha256 sha256 digest block", "zyxwv"]


@pytest.fixture(scope="module")
def vectors_QD() -> Array:
    drawn = np.random.default_rng(0).standard_normal((len(TEXTS), 384)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def opened(
    chain: stagerun.Chain,
    comm: SerialComm | RootComm | RankComm,
    folder: Path,
    depth: int,
    division: Division = Division.documents,
) -> Searcher:
    scratch = folder / f"{comm.world_size}-{comm.rank}"
    scratch.mkdir()
    out, settings = chain.out, SearchSettings(depth=depth, num_probes=2, divided_by=division)
    return Searcher(out["lexical"], out["encode"], out["vectors.build"], settings, comm, scratch, knowledge(out))


class OneByOne(Members):
    """Members that let one thread work at a time, as Java wants it."""

    def __init__(self, world_size: int, turn: threading.Lock) -> None:
        super().__init__(world_size)
        self.turn = turn

    def take(self, rank: int, number: int, step: int, until: float | None) -> Array | None:
        """Give the turn away while waiting."""
        self.turn.release()
        try:
            return super().take(rank, number, step, until)
        finally:
            self.turn.acquire()


def follower(
    comm_of: Callable[[RankComm], Searcher], rank: int, world_size: int, sock: socket.socket, turn: threading.Lock
) -> None:
    def answer() -> Frame:
        turn.release()
        try:
            return receive(sock)
        finally:
            turn.acquire()

    comm = RankComm(rank, world_size, answer)
    comm.say = lambda head, arrays: send(sock, head, arrays)
    with turn:
        searcher = comm_of(comm)
        comm.say({"ready": True, "host": "here", "pid": 1}, [])
        while "do" in (frame := answer())[0]:
            comm.begin(frame[0]["do"])
            searcher.search(frame[0]["texts"], frame[1][0])
            comm.say({"done": frame[0]["do"]}, [])
    sock.close()


def search_over(
    chain: stagerun.Chain, folder: Path, world_size: int, vectors_QD: Array, depth: int, division: Division
) -> list[Found]:
    """Return what two rounds of a group give."""
    turn, found, threads = threading.Lock(), [], []
    members = OneByOne(world_size, turn)
    for rank in range(1, world_size):
        ours, theirs = socket.socketpair()
        members.join(rank, ours)
        work = (lambda comm: opened(chain, comm, folder, depth, division), rank, world_size, theirs, turn)
        threads.append(threading.Thread(target=follower, args=work))
        threads[-1].start()
    comm = RootComm(members)
    with turn:
        searcher = opened(chain, comm, folder, depth, division)
        for number in (1, 2):
            ranks = list(range(1, world_size))
            comm.begin(number, ranks, None)
            members.tell(ranks, {"do": number, "texts": TEXTS}, [vectors_QD])
            found.append(searcher.search(TEXTS, vectors_QD))
            members.ended(number)
            assert comm.here == ranks
    members.tell(range(1, world_size), {"stop": True})
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize(
    ("depth", "division"),
    [(15, Division.documents), (15, Division.lists), (5000, Division.documents)],
    ids=["top 15", "by lists", "beyond the corpus"],
)
def test_groups_of_any_size_find_the_same_bytes(
    chain: stagerun.Chain, vectors_QD: Array, tmp_path: Path, depth: int, division: Division
) -> None:
    alone = opened(chain, SerialComm(), tmp_path, depth).search(TEXTS, vectors_QD)
    for world_size in (1, 2, 3, 7):
        (folder := tmp_path / f"p{world_size}").mkdir()
        for found in search_over(chain, folder, world_size, vectors_QD, depth, division):
            assert list(found.hits) == list(alone.hits) == ["bm25", "dense", "ann", "fused"]
            for method, (scores, ids) in alone.hits.items():
                assert scores.tobytes() == found.hits[method][0].tobytes(), method
                assert ids.tobytes() == found.hits[method][1].tobytes(), method


class Talk(RankComm):
    """A rank's side of the calls, over whatever connection it has at the time."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(rank, world_size, lambda: receive(self.sock, until=time.monotonic() + 10))
        self.say = lambda head, arrays: send(self.sock, head, arrays)
        self.sock: socket.socket

    def join(self, members: Members) -> socket.socket:
        """Connect to another rank 0."""
        ours, self.sock = socket.socketpair()
        members.join(self.rank, ours)
        return self.sock


def pair(members: Members, rank: int) -> tuple[socket.socket, Talk]:
    """Return a rank's end of a connection, and its side of the calls."""
    comm = Talk(rank, members.world_size)
    sock = comm.join(members)
    comm.say({"ready": True, "host": "here", "pid": 1}, [])
    return sock, comm


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_late_rank_is_left_out_until_it_has_caught_up() -> None:
    members = Members(3)
    (near, quick), (far, slow) = pair(members, 1), pair(members, 2)
    wait_for(lambda: members.able() == [1, 2])
    root = RootComm(members)
    for comm in (quick, slow):
        comm.begin(1)
    quick.say({"round": 1, "step": 1}, [np.array([10])])
    quick.say({"round": 1, "step": 2}, [np.array([[1.0, 2.0]], dtype=np.float32)])
    begun = time.monotonic()
    root.begin(1, [1, 2], begun + 0.4)
    assert root.sum(np.array([1])).tolist() == [11]
    assert root.here == [1] and 0.15 < time.monotonic() - begun < 0.4
    hits = root.gather_rows(np.array([[3.0, 4.0]], dtype=np.float32))
    assert hits is not None and hits.tolist() == [[3.0, 4.0], [1.0, 2.0], [-np.inf, -np.inf]]
    members.ended(1)
    assert members.able() == [1]  # the next round does not wait for it
    with pytest.raises(Abandoned):
        slow.sum(np.array([100]))  # too late: it has gone on
    slow.say({"done": 1}, [])
    wait_for(lambda: members.able() == [1, 2])
    for end in (near, far):
        end.close()


def test_a_rank_that_is_gone_or_wrong_is_not_waited_for() -> None:
    members = Members(3)
    (near, quick), (far, _) = pair(members, 1), pair(members, 2)
    wait_for(lambda: members.able() == [1, 2])
    root, begun = RootComm(members), time.monotonic()
    root.begin(1, [1, 2], begun + 60)
    quick.begin(1)
    quick.say({"round": 1, "step": 1}, [np.array([10, 20])])  # of another shape than the others'
    far.close()
    assert root.sum(np.array([1])).tolist() == [1] and root.here == []
    assert time.monotonic() - begun < 5
    near.close()


def test_a_rank_that_comes_back_hears_what_was_said_when_shards_were_opened() -> None:
    members = Members(2)
    first, comm = pair(members, 1)
    root = RootComm(members)
    comm.say({"round": OPENING, "step": 1}, [np.array([4, 5])])
    assert root.sum(np.array([1, 1])).tolist() == [5, 6]
    first.close()
    wait_for(lambda: members.able() == [])
    second, again = pair(members, 1)
    assert again.sum(np.array([4, 5])).tolist() == [5, 6]
    wait_for(lambda: members.able() == [1])
    # and another rank 0, which has heard nothing yet, is told the same
    anew = Members(2)
    again.join(anew).close()
    with pytest.raises(Broken):
        again.open_again()  # one that is gone at once
    third = again.join(anew)
    another = RootComm(anew)
    done: list[Array] = []
    thread = threading.Thread(target=lambda: done.append(another.sum(np.array([1, 1]))))
    thread.start()
    again.open_again()
    thread.join()
    assert done[0].tolist() == [5, 6]
    for end in (second, third):
        end.close()


def test_arrays_of_a_message_are_what_was_sent() -> None:
    ours, theirs = socket.socketpair()
    arrays = [np.arange(6, dtype=np.float16).reshape(2, 3), np.array(7), np.zeros((0, 4), dtype=np.uint8)]
    send(ours, {"a": "\ud800 ü"}, arrays)
    head, found = receive(theirs)
    assert head == {"a": "\ud800 ü"}
    assert [(a.dtype, a.shape, a.tobytes()) for a in found] == [(a.dtype, a.shape, a.tobytes()) for a in arrays]
    ours.close()
    with pytest.raises(Broken, match="closed"):
        receive(theirs)
    theirs.close()


def test_shards_are_counted_and_where_a_rank_has_none_its_vectors() -> None:
    assert shares(32, 4) == [8, 8, 8, 8]
    assert shares(4, 3) == [2, 1, 1]
    assert shares(2, 3) == [1, 1, 1]
