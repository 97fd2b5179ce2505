"""A replica in a process of its own: ready with a token, watched, drained, and nothing left of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chatserver import fake_vllm

from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import ConfigError, Interrupted
from rag_hpc.serve import replicas
from rag_hpc.serve.places import Place
from rag_hpc.serve.replica import Replica
from rag_hpc.serve.replicas import STALE_S, Notice, Replicas, Roll, State, lead_s, note_start, token_of, write_notice

pytestmark = pytest.mark.timeout(120)
ASKED = {"model": "model", "messages": [{"role": "user", "content": "1"}]}
QUICK = {"canary_s": 0.3, "canary_timeout_s": 1.0, "drain_s": 20.0, "max_inflight": 2, "max_body_kib": 4}
LIMIT_S = 30.0


@pytest.fixture
def place() -> Iterator[Place]:
    """A group's folder of a path that is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        ledger = Ledger(Path(folder) / "run")
        ledger.create({})
        found = replicas.replicas_place(ledger.run_dir, "1")
        found.create()
        yield found


def ask(place: Place, python: str, **settings: Any) -> None:
    generator = {"name": "vllm", "model": str(place.folder), "vllm": {"python": python}, "drain_s": 5.0}
    place.write(replicas.REPLICAS, Replicas(num=1, generator=generator, settings={**QUICK, **settings}))


@contextlib.contextmanager
def replica(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-P", "-m", "rag_hpc.serve.replica", str(place.run_dir), place.name, "0"]
    with (place.folder / "replica-0.log").open("ab") as stream:
        process = subprocess.Popen(words, stdout=stream, stderr=stream)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], Any], within_s: float = LIMIT_S) -> Any:
    end = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)
    return found


def ready(place: Place) -> Notice:
    def found() -> Notice | None:
        return next((one for one in Roll(place).live() if one.state == State.ready.value), None)

    notice: Notice = until(found)
    return notice


def client(place: Place, notice: Notice, token: str | None = None) -> httpx.Client:
    word = token_of(place) if token is None else token
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=notice.address),
        base_url="http://replica",
        headers={"Authorization": f"Bearer {word}"},
        timeout=LIMIT_S,
    )


def of_engine(place: Place, notice: Notice) -> list[int]:
    """Return the processes that listen on the engine's socket, by their command line."""
    folder = str(Path(notice.address).parent).encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            if folder in line and b"api_server" in line and b"guard" not in line:
                found.append(int(entry.name))
    return found


def test_it_passes_two_paths_on_to_who_holds_the_word_and_drains(place: Place, tmp_path: Path) -> None:
    ask(place, fake_vllm(tmp_path, delay_s=0.6))
    with replica(place) as process:
        notice = ready(place)
        with client(place, notice, "another") as stranger:
            assert stranger.post("/v1/chat/completions", json=ASKED).status_code == 401
            assert stranger.get("/healthz").status_code == 401
        with client(place, notice) as guest:
            assert guest.post("/v1/chat/completions", json=ASKED).json()["choices"][0]["message"]["content"]
            assert guest.post("/v1/load_lora_adapter", json={}).status_code == 404
            assert guest.get("/v1/chat/completions").status_code == 405
            assert guest.post("/v1/chat/completions", content=b"x" * 5000).status_code == 413
            assert guest.get("/healthz").json()["state"] == "ready"
            told: list[httpx.Response] = []
            open_one = threading.Thread(target=lambda: told.append(guest.post("/v1/chat/completions", json=ASKED)))
            open_one.start()
            until(lambda: guest.get("/healthz").json()["inflight"])
            process.send_signal(signal.SIGTERM)
            until(lambda: guest.get("/healthz").json()["state"] == "draining")
            late = guest.post("/v1/chat/completions", json=ASKED)
            assert late.status_code == 503 and int(late.headers["Retry-After"]) >= 1
            open_one.join()
            assert told[0].status_code == 200 and told[0].json()["choices"]
        assert process.wait(LIMIT_S) == 0
        assert not Roll(place).live() and not Path(notice.address).parent.exists()
        until(lambda: not of_engine(place, notice))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_that_died_or_hangs_is_started_again(number: signal.Signals, place: Place, tmp_path: Path) -> None:
    ask(place, fake_vllm(tmp_path))
    with replica(place):
        notice = ready(place)
        (engine,) = of_engine(place, notice)
        os.kill(engine, number)
        until(lambda: engine not in of_engine(place, notice) or not Path(f"/proc/{engine}").exists())
        with client(place, notice) as guest:
            until(lambda: guest.post("/v1/chat/completions", json=ASKED).status_code == 200)
        assert ready(place).pid == notice.pid
        assert len((place.folder / replicas.STARTS).read_text().splitlines()) == 1


def test_one_more_than_it_takes_is_told_to_come_again(place: Place, tmp_path: Path) -> None:
    ask(place, fake_vllm(tmp_path, delay_s=1.0), max_inflight=1, canary_s=30.0)
    with replica(place), client(place, ready(place)) as guest:
        first = threading.Thread(target=lambda: guest.post("/v1/chat/completions", json=ASKED))
        first.start()
        until(lambda: guest.get("/healthz").json()["inflight"])
        second = guest.post("/v1/chat/completions", json=ASKED)
        assert second.status_code == 503 and "as many as it takes" in second.json()["error"]["message"]
        first.join()


def test_an_engine_that_cannot_start_ends_the_process(place: Place, tmp_path: Path) -> None:
    ask(place, fake_vllm(tmp_path, fail=1))
    with replica(place) as process:
        assert process.wait(LIMIT_S) == 1
    assert "CUDA out of memory" in (place.folder / "replica-0.log").read_text() and not Roll(place).live()


def test_it_ends_with_the_groups_folder(place: Place, tmp_path: Path) -> None:
    ask(place, fake_vllm(tmp_path))
    with replica(place) as process:
        ready(place)
        shutil.rmtree(place.folder)
        assert process.wait(LIMIT_S) == 0


def test_one_whose_notice_stays_the_same_is_gone(place: Place) -> None:
    now = [100.0]
    roll = Roll(place, lambda: now[0])
    told = {"state": "ready", "address": "", "host": "n1", "pid": 1}
    write_notice(place, Notice(name="0", beat=1, **told))
    write_notice(place, Notice(name="1", beat=1, **told))
    assert [one.name for one in roll.live()] == ["0", "1"]
    now[0] += STALE_S - 1
    write_notice(place, Notice(name="1", beat=2, **told))
    (place.folder / "replica-2.json").write_text("{")  # garbled
    assert [one.name for one in roll.live()] == ["0", "1"]
    now[0] += 2
    assert [one.name for one in roll.live()] == ["1"]
    write_notice(place, Notice(name="0", beat=2, **told))
    assert [one.name for one in roll.live()] == ["0", "1"]


def test_a_successor_is_asked_for_by_what_starts_took(place: Place) -> None:
    assert lead_s(place) == (0.0, replicas.GUESSED_S)
    for number in range(20):
        note_start(place, float(number), 10.0 + number)
    with (place.folder / replicas.STARTS).open("a") as stream:
        stream.write('{"queue_s": 1')  # a crash
    assert lead_s(place) == (18.0, 28.0)
    note_start(place, None, 29.0)  # again, in a job that ran
    assert lead_s(place) == (18.0, 28.0)
    assert json.loads((place.folder / replicas.STARTS).read_text().splitlines()[0]) == {"queue_s": 0.0, "start_s": 10.0}


def test_settings_out_of_bounds_are_named(place: Place) -> None:
    place.write(replicas.REPLICAS, Replicas(num=1, generator={}, settings={"canary_s": -1.0}))
    with pytest.raises(ConfigError, match=r"serve\.replica\.canary_s=-1"):
        replicas.asked(place)


def test_a_disk_that_takes_its_time_holds_nobody_up(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(place, fake_vllm(tmp_path))
    monkeypatch.setattr(replicas, "write_notice", lambda place, notice: time.sleep(2.0))

    async def longest_turn_s() -> float:
        life, longest = asyncio.create_task(Replica(place, "0", time.monotonic()).live()), 0.0
        end = time.monotonic() + 1.0
        while (begun := time.monotonic()) < end:
            await asyncio.sleep(0.02)
            longest = max(longest, time.monotonic() - begun)
        os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(Interrupted):
            await life
        return longest

    assert asyncio.run(longest_turn_s()) < 1.5
