"""A gateway whose answers come from a fleet's replicas, while those come, drain, die and come again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fixedcorpus
import fleetload
import gateways
import httpx
import openai
import pytest
from chatserver import fake_vllm, model_like

from rag_hpc.arguments import Arguments
from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.launchers.gateway import fleet_of
from rag_hpc.serve import replicas
from rag_hpc.serve.gateway.config import GatewayConfig
from rag_hpc.serve.gateway.fleet import LOOK_S, Fleet
from rag_hpc.serve.gateway.places import Doors, GatewayPlace
from rag_hpc.serve.gateway.router import Router
from rag_hpc.serve.gateway.upstream import Upstream
from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import Notice, Replicas, Roll, State

pytestmark = pytest.mark.timeout(200)
ASKED: Any = [{"role": "user", "content": fixedcorpus.ASKED["caching"]}]
LIMIT_S = 40.0


class Fakes:
    """Replicas in processes of their own, whose engines are fakes."""

    def __init__(self, place: Place) -> None:
        self._place, self.processes = place, dict[str, subprocess.Popen[bytes]]()

    def start(self, *names: str) -> None:
        for name in names:
            words = [sys.executable, "-P", "-m", "rag_hpc.serve.replica", str(self._place.run_dir), self._place.name]
            self.processes[name] = subprocess.Popen([*words, name])
        end = time.monotonic() + LIMIT_S
        while not {*names} <= {one.name for one in Roll(self._place).live() if one.state == State.ready.value}:
            assert time.monotonic() < end, "in vain"
            time.sleep(0.05)
        time.sleep(LOOK_S + 0.5)  # the gateway has looked

    def tell(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)


@pytest.fixture
def fakes(gated: Ledger, tmp_path: Path) -> Iterator[Fakes]:
    place = replicas.replicas_place(gated.run_dir, "two")
    place.create()
    generator = {"name": "vllm", "model": str(tmp_path), "vllm": {"python": fake_vllm(tmp_path, pause_s=0.1)}}
    place.write(replicas.REPLICAS, Replicas(num=2, generator=generator, settings={"canary_s": 30.0}))
    found = Fakes(place)
    try:
        yield found
    finally:
        for process in found.processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(place.folder.parent)


@contextlib.contextmanager
def client(doors: Doors) -> Iterator[openai.OpenAI]:
    http = httpx.Client(transport=httpx.HTTPTransport(uds=doors.owner))
    with openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0) as found:
        yield found


def streamed(asker: openai.OpenAI, user: str) -> Iterator[dict[str, Any]]:
    """Yield nothing at the first piece of the answer, and at the end what the gateway knows of it."""
    pieces = iter(asker.chat.completions.create(model="demo", messages=ASKED, stream=True, user=user))
    text = next(pieces).choices[0].delta.content or ""
    yield {}
    for piece in pieces:
        text += piece.choices[0].delta.content or ""
    told: Any = piece.model_extra
    assert text == told["rag"]["answer"] and text
    yield told["rag"]


def fallbacks(asker: openai.OpenAI, num: int) -> set[str]:
    """Return why answers of `num` sessions at once were not the model's, "" of those that were."""
    with ThreadPoolExecutor(num) as pool:
        return {told["fallback"] for *_, told in pool.map(lambda n: [*streamed(asker, f"user {n}")], range(num))}


def refused(asker: openai.OpenAI) -> tuple[str, str]:
    """Return when to come again, and why there is no answer; nothing where there is one."""
    try:
        asker.chat.completions.create(model="demo", messages=ASKED)
    except openai.InternalServerError as error:
        told: Any = error.body
        assert (error.status_code, told["code"]) == (503, "no_replica")
        return error.response.headers["Retry-After"], told["message"]
    return "", ""


def test_no_request_fails_while_replicas_die_drain_and_come(gated: Ledger, fakes: Fakes) -> None:
    with gateways.gateway(gated, "fleet", "gateway.fleet=two", "gateway.cache=false") as doors, client(doors) as asker:
        said = "no replica answers: no replica of fleet two is ready; one takes about 120 s to come"
        assert refused(asker) == ("120", said)
        fakes.start("0", "1", "2")
        assert fallbacks(asker, 4) == {""}
        token = gateways.token_of(doors, gateways.granted(gated, "guest"))
        with fleetload.Load([GatewayPlace(gated.run_dir, "fleet")], "demo", token, num_guests=4) as load:
            time.sleep(0.7)
            fakes.tell("0", signal.SIGKILL)  # amid answers
            time.sleep(0.7)
        assert not load.failed and load.whole and load.streamed and len(load.cut) <= 4
        streams = [streamed(asker, f"user {n}") for n in range(6)]
        assert [next(one) for one in streams] == [{}] * 6
        fakes.tell("1", signal.SIGTERM)
        assert fallbacks(asker, 4) == {""}
        assert {next(one)["fallback"] for one in streams} == {""}
        assert fakes.processes["1"].wait(LIMIT_S) == 0
        shutil.rmtree(replicas.replicas_place(gated.run_dir, "two").folder)
        end = time.monotonic() + LIMIT_S
        while "there is no fleet two" not in refused(asker)[1]:
            assert time.monotonic() < end


def test_load_makes_a_replica_come_and_quiet_makes_it_go_and_no_request_fails(gated: Ledger, tmp_path: Path) -> None:
    run, place = f"run={gated.run_dir}", replicas.replicas_place(gated.run_dir, "auto")
    engine = [
        f"generator.model={model_like(tmp_path / 'm')}",
        f"generator.vllm.python={fake_vllm(tmp_path, pause_s=0.2)}",
    ]
    scaled = {"max_replicas": 2, "target_ongoing_requests": 1.5, "upscale_delay_s": 3, "downscale_delay_s": 4}
    given = [f"serve.replica.{key}={value}" for key, value in scaled.items()]
    assert main(["serve", "replicas", run, "group=auto", "generator=vllm", *engine, *given]) == 0
    try:
        with gateways.gateway(gated, "auto", "gateway.fleet=auto", "gateway.cache=false") as doors:
            token, roll = gateways.token_of(doors, gateways.granted(gated, "many")), Roll(place)
            for num_guests, num in ((5, 2), (1, 1)):
                with fleetload.Load(
                    [GatewayPlace(gated.run_dir, "auto")], "demo", token, num_guests=num_guests
                ) as load:
                    end = time.monotonic() + LIMIT_S
                    while [one.state for one in roll.live()] != ["ready"] * num:
                        assert time.monotonic() < end, f"{num}: {roll.live()}\n{fleetload.said(place)}"
                        time.sleep(0.1)
                    time.sleep(1)
                assert not load.failed and not load.cut and load.whole + load.streamed
        assert not [*place.folder.glob("load-*")]
    finally:
        assert main(["serve", "down", run, "group=auto"]) == 0


def test_a_replica_is_reached_by_its_network_or_on_its_own_machine(tmp_path: Path) -> None:
    place = replicas.replicas_place(tmp_path, "1")
    place.create()
    place.write(replicas.REPLICAS, Replicas(num=1, generator={"model": "a"}))
    told = {"pid": 1, "beat": 1, "model": "m"}
    for name, state, address in (
        ("0", "ready", "n1:80"),
        ("1", "starting", "n2:80"),
        ("2", "ready", "/s"),
        ("3", "ready", ""),
    ):
        replicas.write_notice(place, Notice(name=name, state=state, address=address, host="elsewhere", **told))
    config = GeneratorConfig(base_url="http://x/v1", model="m")
    seen = Fleet(place, Upstream(config, Router([])), "1").seen()
    assert seen.models == {"http://n1:80/v1": "m"} and seen.key == replicas.token_of(place) not in str(seen)
    assert (seen.lead_s, seen.soon_s) == (replicas.GUESSED_S, pytest.approx(replicas.GUESSED_S, abs=1))
    place.write(replicas.REPLICAS, Replicas(num=1, generator={"model": "b"}))
    assert Fleet(place, Upstream(config, Router([])), "1").seen().identity not in ("", seen.identity)
    follower = Fleet(place, Upstream(config, Router([])), "1")
    known = follower.seen().identity
    (place.folder / replicas.REPLICAS).write_text("{")
    assert "fleet 1 cannot be read" in follower.seen().absent
    shutil.rmtree(place.folder)
    assert "there is no fleet 1" in follower.seen().absent and not follower.seen().models
    assert follower.seen().identity == known  # what was cached is still given
    place.create()  # another, with a key of its own
    place.write(replicas.REPLICAS, Replicas(num=1, generator={}))
    assert follower.seen().key == replicas.token_of(place) != seen.key


def test_what_a_fleet_says_itself_is_not_asked_for(gated: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["gateway.fleet=two", "generator.base_url=http://x/v1"], "leave generator.base_url away"),
        (["gateway.fleet=two", "generator=extractive"], "leave generator away"),
        (["gateway.fleet=two", "gateway.replicas=[http://x/v1]"], "give one of both"),
        (["gateway.fleet=../x"], "gateway.fleet=../x: use letters"),
    ):
        assert main(["serve", "gateway", f"run={gated.run_dir}", "gateway.name=wrong", *words]) == 2
        assert said in capsys.readouterr().err


def test_the_first_fleet_answers_where_it_is_and_nothing_else_is_asked_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def chosen(config: GatewayConfig, *overrides: str) -> str:
        return fleet_of(ledger, config, Arguments("serve", [*overrides]))

    assert chosen(GatewayConfig()) == ""
    replicas.replicas_place(tmp_path, "1").create()
    assert chosen(GatewayConfig()) == chosen(GatewayConfig(), "generator.max_tokens=9") == "1"
    assert chosen(GatewayConfig(replicas=["/s"])) == chosen(GatewayConfig(), "generator=extractive") == ""
    assert chosen(GatewayConfig(fleet="two"), "generator=openai") == "two"
