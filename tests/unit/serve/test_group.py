"""A resident group on this machine: real ranks in processes of their own, asked over its socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fixedcorpus
import numpy as np
import pytest
import servedrun
import stagerun
from accounts import Account

from rag_hpc.algo.types import Array
from rag_hpc.cli import main
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import ConfigError
from rag_hpc.launchers import group
from rag_hpc.search.answer import as_the_run
from rag_hpc.search.searcher import Found, Searcher, knowledge
from rag_hpc.serve import client as client_module
from rag_hpc.serve.client import Client, Reply, Unanswered
from rag_hpc.serve.places import DOOR, FOLDER, KEY, Place, connect, groups_of
from rag_hpc.serve.wire import Refused, greet

pytestmark = pytest.mark.timeout(300)
TEXTS = ["Which argument of a deque drops older items?", "", "sha256 sha256 digest block", "zyxwv"]
ENOUGH_MS = 20_000  # on a machine that does much else
DEADLINE_MS = 4000


def vectors(num: int) -> Array:
    drawn = np.random.default_rng(0).standard_normal((num, 384)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def served(chain: stagerun.Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A run with a group of three ranks, the first of which has two of the four shards."""
    ledger = servedrun.make_run(chain, tmp_path_factory.mktemp("served"))
    assert main(["serve", "up", f"run={ledger.run_dir}", "workers=3"]) == 0
    yield ledger
    pids = [row["pid"] for row in status(ledger).get("ranks", [])]
    sockets = [Path(place.door().address).parent for place in groups_of(ledger.run_dir)]
    assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0
    assert not (ledger.run_dir / FOLDER).exists() and not any(path.exists() for path in sockets)
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0  # once more is no error


@pytest.fixture
def client(served: Ledger) -> Iterator[Client]:
    found = Client(groups_of(served.run_dir)[0])
    yield found
    found.close()


@pytest.fixture(scope="module")
def alone(chain: stagerun.Chain, served: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """The searcher of this process, over all shards."""
    out = chain.out
    settings = as_the_run(out, served.request().settings["retrieve.search"])[0]
    parts = out["lexical"], out["encode"], None
    return Searcher(*parts, settings, SerialComm(), tmp_path_factory.mktemp("alone"), knowledge(out))


def status(ledger: Ledger) -> dict[str, Any]:
    return group.state_of(groups_of(ledger.run_dir)[0])


def same(reply: Reply, expected: Found) -> bool:
    """Return whether the hits are those, bit for bit."""
    pairs = [(reply.found.hits[method], hits) for method, hits in expected.hits.items()]
    return all(a.tobytes() == b.tobytes() for found, hits in pairs for a, b in zip(found, hits, strict=True))


def until_whole(client: Client, timeout_s: float = 60) -> tuple[Reply, list[Reply | Unanswered], float]:
    """Ask again and again until all shards answer; return that answer, those before it, and the longest wait."""
    before: list[Reply | Unanswered] = []
    end, longest = time.monotonic() + timeout_s, 0.0
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            reply = client.search(TEXTS, vectors(len(TEXTS)), DEADLINE_MS)
        except Unanswered as error:
            before.append(error)
        else:
            longest = max(longest, time.monotonic() - begun)
            if reply.whole:
                return reply, before, longest
            before.append(reply)
        time.sleep(0.05)
    raise AssertionError(f"not whole within {timeout_s} s: {before[-1]}")


def test_answers_are_those_of_a_searcher_over_all_shards(client: Client, alone: Searcher, served: Ledger) -> None:
    texts = [*TEXTS, "sort " * 20_000]
    for some in (texts, texts[:1], texts[1:2]):
        reply = client.search(some, vectors(len(some)), ENOUGH_MS)
        assert reply.coverage == "4/4" and same(reply, alone.search(some, vectors(len(some))))
    found = status(served)
    assert (found["state"], found["coverage"], found["partial"]) == ("up", "4/4", 0)
    assert [(row["state"], row["shards"]) for row in found["ranks"]] == [("up", 2), ("up", 1), ("up", 1)]
    assert all(row["rss_bytes"] > 1 << 20 for row in found["ranks"]) and found["p50_ms"] <= found["p99_ms"]


def test_ask_uses_the_group_and_says_what_answered(
    served: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ask", fixedcorpus.ASKED["caching"], "--json", f"run={served.run_dir}"]
    with monkeypatch.context() as patch:
        patch.setattr(client_module, "groups_of", lambda run_dir: [])
        assert main(asked) == 0
    own = json.loads(capsys.readouterr().out)

    def never(*given: Any) -> None:
        raise AssertionError("searched in this process")

    monkeypatch.setattr(Searcher, "__init__", never)
    assert main(asked) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == own and own["coverage"] == "4/4" and said.err == ""


def test_ask_searches_by_itself_when_the_group_is_of_another_or_gone(
    served: Ledger, stranger: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ask", fixedcorpus.ASKED["caching"], f"run={served.run_dir}"]
    (place,) = groups_of(served.run_dir)
    path = place.folder / DOOR
    os.chown(path, stranger.uid, -1)
    assert main(asked) == 0
    said = capsys.readouterr()
    os.chown(path, os.geteuid(), -1)
    assert "lru_cache" in said.out and f"{path} belongs to {stranger.name}" in said.err.replace(" (uid", "(uid")
    hidden = path.rename(path.with_name("hidden"))
    assert main(asked) == 0
    hidden.rename(path)
    said = capsys.readouterr()
    assert "lru_cache" in said.out and "searching in this process" in said.err
    (place.folder / KEY).chmod(0o640)
    with pytest.raises(ConfigError, match="open to others"):
        place.key()
    (place.folder / KEY).chmod(0o600)


def test_whoever_does_not_hold_the_key_is_told_nothing(served: Ledger, client: Client) -> None:
    door = groups_of(served.run_dir)[0].door()
    for role in ("ask", "1"):
        with connect(door, 5) as sock, pytest.raises(Refused, match="does not hold this group's key"):
            greet(sock, bytes(32), role)
    for text in (b"GET / HTTP/1.1\r\nHost: door\r\n\r\n", b"rhg1" + b"\xff" * 12, b"\0" * 4096):
        with connect(door, 5) as sock:
            sock.sendall(text)
            assert told(sock) == b""
    assert client.search(TEXTS[:1], vectors(1), ENOUGH_MS).whole
    assert status(served)["coverage"] == "4/4"


def test_other_accounts_cannot_reach_the_socket_or_read_a_file(served: Ledger) -> None:
    (place,) = groups_of(served.run_dir)
    private = [place.folder.parent, place.folder, Path(place.door().address).parent, Path(place.door().address)]
    assert {path.stat().st_mode & 0o077 for path in [*private, *place.folder.iterdir()]} == {0}
    assert [ports for row in status(served)["ranks"] if (ports := tcp_of(row["pid"]))] == []


def tcp_of(pid: int) -> list[str]:
    """Return the lines of /proc/net/tcp that are of a process's sockets."""
    inodes = {os.readlink(fd)[8:-1] for fd in Path(f"/proc/{pid}/fd").iterdir() if "socket:[" in os.readlink(fd)}
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[9] in inodes]


def told(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("texts", "vectors_QD", "said"),
    [
        (["a"], np.zeros((1, 7), dtype=np.float32), "does the same encoder make them"),
        (["a", "b"], np.zeros((1, 384), dtype=np.float32), "2 rows of 384 floats are needed"),
        (["a"], np.full((1, 384), np.nan, dtype=np.float32), "they hold NaN"),
        ([], np.zeros((0, 384), dtype=np.float32), "from 1 to serve.max_batch=32"),
        (["a"] * 33, np.zeros((33, 384), dtype=np.float32), "from 1 to serve.max_batch=32"),
        (["x" * (1 << 21)], np.zeros((1, 384), dtype=np.float32), "more than 1048576 bytes"),
    ],
)
def test_wrong_queries_are_told_why(client: Client, texts: list[str], vectors_QD: Array, said: str) -> None:
    with pytest.raises(Unanswered, match=said) as caught:
        client.search(texts, vectors_QD, ENOUGH_MS)
    assert caught.value.kind == "wrong"
    assert client.search(TEXTS[:1], vectors(1), ENOUGH_MS).whole


def test_a_rank_that_sleeps_costs_its_shards_and_nothing_else(served: Ledger, client: Client, alone: Searcher) -> None:
    pid = status(served)["ranks"][2]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            begun = time.monotonic()
            reply = client.search(TEXTS, vectors(len(TEXTS)), DEADLINE_MS)
            assert reply.coverage == "3/4" and time.monotonic() - begun < DEADLINE_MS / 1000
        assert status(served)["ranks"][2]["state"] == "late" and status(served)["state"] == "partial"
        assert main(["serve", "status", f"run={served.run_dir}"]) == 3
    finally:
        os.kill(pid, signal.SIGCONT)
    reply, _, _ = until_whole(client)
    assert same(reply, alone.search(TEXTS, vectors(len(TEXTS))))


@pytest.mark.parametrize("rank", [1, 0])
def test_a_killed_rank_is_started_again_and_nobody_waits_for_it(
    served: Ledger, client: Client, alone: Searcher, rank: int
) -> None:
    row = status(served)["ranks"][rank]
    os.kill(row["pid"], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{row['pid']}/fd/0").exists())
    reply, before, longest = until_whole(client)
    assert before and longest < DEADLINE_MS / 1000
    partial = [one for one in before if isinstance(one, Reply)]
    if rank == 0:
        assert {one.kind for one in before if isinstance(one, Unanswered)} <= {"down", "starting"} and not partial
    else:
        assert {one.coverage for one in partial} == {"3/4"} and len(partial) == len(before)
    assert same(reply, alone.search(TEXTS, vectors(len(TEXTS))))
    assert status(served)["ranks"][rank]["pid"] != row["pid"]


def test_when_rank_0_sleeps_guests_are_not_kept(served: Ledger, client: Client) -> None:
    pid = status(served)["ranks"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(Unanswered) as caught:
            client.search(TEXTS, vectors(len(TEXTS)), 300)
        assert caught.value.kind == "late" and time.monotonic() - begun < 2
    finally:
        os.kill(pid, signal.SIGCONT)
    assert until_whole(client)[0].whole


def wait_for(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_group_that_is_up_is_not_started_twice(served: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "up", f"run={served.run_dir}"]) == 2
    assert "group 1 is up; another is started with group=NAME" in capsys.readouterr().err
    for wrong, why in (
        ("group=../x", "letters, digits"),
        ("serve.deadline=5", "did you mean serve.deadline_ms?"),
        ("serve.deadline_ms=1", "between 10 and 600000"),
        ("workers=0", "at least 1"),
        ("cluster.partition=cpu", "of which site?"),
    ):
        assert main(["serve", "up", f"run={served.run_dir}", wrong]) == 2
        assert why in capsys.readouterr().err
    assert main(["clean", "--all", f"run={served.run_dir}"]) == 2
    assert "a resident group or gateway holds it open" in capsys.readouterr().err
    assert Place(served.run_dir, "1").folder.exists() and status(served)["state"] == "up"


def test_a_shard_with_a_flipped_byte_is_refused_by_name(
    chain: stagerun.Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = servedrun.make_run(chain, tmp_path)
    link = ledger.run_dir / chain.out["lexical"].folder.name
    original = link.resolve()
    link.unlink()
    shutil.copytree(original, link)
    shard = sorted(link.glob("units/*/index.tar"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o600)
    shard.write_bytes(data)
    assert main(["serve", "up", f"run={ledger.run_dir}", "workers=2"]) == 3
    said = capsys.readouterr().err
    assert "group 1 does not come up" in said and str(shard.relative_to(ledger.run_dir)) in said
    assert not (ledger.run_dir / FOLDER).exists()


def test_ranks_go_when_their_keeper_is_killed_and_a_new_group_can_be_started(
    chain: stagerun.Chain, tmp_path: Path
) -> None:
    ledger = servedrun.make_run(chain, tmp_path)
    up = ["serve", "up", f"run={ledger.run_dir}", "workers=1", "group=a"]
    assert main(up) == 0
    (place,) = groups_of(ledger.run_dir)
    (row,) = status(ledger)["ranks"]
    os.kill(place.keeper().pid, signal.SIGKILL)
    wait_for(lambda: not (Path(f"/proc/{row['pid']}/fd/0")).exists())
    assert status(ledger)["state"] == "down"
    (place.folder / "keeper.json").unlink()  # as if it had died at once
    assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0
    assert not (ledger.run_dir / FOLDER).exists()
    shutil.rmtree(ledger.run_dir)
