"""Which replica is asked: the one that knows the prompt's beginning, unless it has too much to do or fails."""

from __future__ import annotations

import contextlib

import pytest

from rag_hpc.errors import ConfigError
from rag_hpc.serve.gateway.config import GatewayConfig
from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.questions import prepared
from rag_hpc.serve.gateway.router import FAILURES, OPEN_S, Replica, Router


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def picked(router: Router, session: str = "", tokens: float = 100, without: tuple[Replica, ...] = ()) -> Replica:
    replica = router.pick(session, tokens, without)
    assert replica is not None
    return replica


def test_least_work_is_asked_and_work_ends_with_the_request() -> None:
    router = Router(["a", "b"])
    with contextlib.ExitStack() as stack:
        first = picked(router)
        stack.enter_context(router.asking(first, 1000))
        second = picked(router)
        assert second is not first
        stack.enter_context(router.asking(second, 10))
        assert picked(router) is second and (first.requests, second.work) == (1, 10)
    assert [one.work for one in router.replicas] == [0, 0]


def test_a_session_keeps_its_replica_until_that_has_more_than_its_share() -> None:
    router = Router(["a", "b", "c"])
    homes = {session: picked(router, session).address for session in map(str, range(60))}
    assert set(homes.values()) == {"a", "b", "c"}
    assert homes == {session: picked(router, session).address for session in homes}
    home = picked(router, "7")
    with router.asking(home, 5000):
        assert picked(router, "7") is not home
    fewer = Router([one.address for one in router.replicas if one is not home])
    moved = [session for session in homes if homes[session] != picked(fewer, session).address]
    assert {homes[session] for session in moved} == {home.address}  # nobody else's sessions move


def test_a_new_beginning_goes_where_least_is_to_do_and_a_read_prompt_is_done() -> None:
    router = Router(["a", "b", "c"])
    with contextlib.ExitStack() as stack:
        for session in ("1", "2", "3"):
            replica = picked(router, session)
            leaves = stack.enter_context(router.asking(replica, 100))
        assert [one.work for one in router.replicas] == [100] * 3  # wherever their hashes would have them
        leaves(20)
        leaves(20)
        assert replica.work == 20 and picked(router, "4") is replica
        leaves(50)  # of what is done nothing comes back
        assert replica.work == 20
    assert [one.work for one in router.replicas] == [0] * 3


def test_a_beginning_that_was_not_asked_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_hpc.serve.gateway.router.KNOWN", 2)
    router = Router(["a", "b"])
    home = picked(router, "1")
    with router.asking(home, 50):
        assert picked(router, "1") is home and picked(router, "2") is not home
        picked(router, "3")
        assert picked(router, "1") is not home  # nobody is known to have seen it


def test_a_replica_that_fails_rests_and_is_then_tried_by_one_request() -> None:
    clock = Clock()
    router = Router(["a"], clock)
    (replica,) = router.replicas
    for _ in range(FAILURES):
        assert picked(router) is replica
        router.failed(replica)
    assert router.pick("", 1) is None and router.waits_s() == OPEN_S[0]
    clock.now += OPEN_S[0]
    with router.asking(picked(router), 1):
        assert router.pick("", 1) is None  # one tries it
    router.failed(replica)
    assert router.waits_s() == OPEN_S[1]  # longer than before
    clock.now += OPEN_S[1]
    with router.asking(picked(router), 1):
        router.succeeded(replica)
    assert picked(router) is replica and not replica.open


def test_a_replica_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    clock = Clock()
    router = Router(["a", "b"], clock)
    busy = router.replicas[0]
    router.failed(busy, 4.0)
    assert {picked(router, session).address for session in map(str, range(20))} == {"b"}
    assert router.pick("", 1, without=[router.replicas[1]]) is None
    clock.now += 4.0
    assert {picked(router, session).address for session in map(str, range(20))} == {"b"}  # which has seen them by now
    assert {picked(router, session).address for session in map(str, range(20, 40))} == {"a", "b"}


@pytest.mark.parametrize("wrong", ["ftp://x", "http://user:word@host/v1", "http://host/v1?key=1", "host:80"])
def test_a_wrong_address_of_a_replica_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.replicas"):
        GatewayConfig(replicas=[wrong])


def test_questions_are_composed_and_free_of_control_characters() -> None:
    assert prepared(" Wie schön\x00\u202e ist\n\tdas?\ud800 ", 100) == "Wie schön ist das?"
    for text, code in (("\x07 \u200f", "empty_question"), ("x" * 101, "context_length_exceeded")):
        with pytest.raises(Problem) as caught:
            prepared(text, 100)
        assert (caught.value.status, caught.value.code) == (400, code)


def test_who_stays_keeps_its_work_when_others_come_and_go() -> None:
    router = Router([])
    assert router.follow({"a": "m", "b": "m"}) == [] and router.pick("", 1) is not None
    first = router.replicas[0]
    with router.asking(first, 100):
        (left,) = router.follow({"a": "m", "c": "m"})
        assert left.address == "b" and router.replicas[0] is first and first.work == 100
        assert picked(router).address == "c"
        assert router.follow({"c": "m", "a": "other"}) == [first]  # of another model is another
    assert (first.requests, [one.work for one in router.replicas]) == (0, [0, 0])
