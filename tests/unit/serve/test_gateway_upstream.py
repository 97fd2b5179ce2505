"""Answers of replicas that break off, rest or are not there yet: asked again while nothing was passed on."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from chatserver import ChatServer

from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.serve.gateway.router import Router
from rag_hpc.serve.gateway.upstream import BREAKS, Prompt, Seen, Upstream, UpstreamFailed

TEXT = "one two three four"
Meanwhile = Callable[[Upstream], Awaitable[None]]


@pytest.fixture
def servers() -> Iterator[list[ChatServer]]:
    with ChatServer() as one, ChatServer() as two:
        for server in (one, two):
            server.answer = lambda body: TEXT
        yield [one, two]


async def nothing(upstream: Upstream) -> None:
    """Do nothing meanwhile."""


def asked(
    addresses: list[str], *, whole: bool = True, wait_s: float = 5.0, left_s: float = 10.0, also: Meanwhile = nothing
) -> tuple[list[str], Prompt, UpstreamFailed | None]:
    """Return what came, and why it ended where that is an error; `also` runs before the request, and beside it after
    its first await."""

    async def one() -> tuple[list[str], Prompt, UpstreamFailed | None]:
        upstream = Upstream(GeneratorConfig(base_url="http://x/v1", model="m"), Router(addresses), wait_s)
        until = time.monotonic() + left_s
        prompt = Prompt([{"role": "user", "content": "?"}], max_tokens=9, until=until, whole=whole)
        beside = asyncio.ensure_future(also(upstream))
        await asyncio.sleep(0)
        came, error = list[str](), None
        try:
            async for piece in upstream.stream(prompt):
                came.append(piece)
        except UpstreamFailed as caught:
            error = caught
        await beside
        await upstream.close()
        return came, prompt, error

    return asyncio.run(one())


def test_a_whole_answer_that_breaks_off_is_asked_of_another_and_a_begun_stream_is_not(
    servers: list[ChatServer],
) -> None:
    first, other = servers
    first.cut = 2
    came, prompt, error = asked([first.url, other.url])
    assert (came, error, prompt.replica) == ([TEXT], None, other.url)
    assert prompt.counts == {"prompt_tokens": 7, "completion_tokens": 4} and len(first.bodies) == 1
    came, _, error = asked([first.url, other.url], whole=False)
    assert came == ["one ", "two "] and "broke off" in str(error) and len(other.bodies) == 1


def test_a_request_that_breaks_every_replica_is_not_asked_for_ever(servers: list[ChatServer]) -> None:
    for server in servers:
        server.cut = 2
    came, _, error = asked([one.url for one in servers])
    assert sum(len(one.bodies) for one in servers) == BREAKS
    assert came == ["one two "] and "broke off" in str(error) and error is not None and not error.absent


def test_a_replica_that_was_busy_or_told_to_end_is_asked_again_while_there_is_time(servers: list[ChatServer]) -> None:
    server = servers[0]
    server.statuses = [503, 503]
    came, _, error = asked([server.url], whole=False)
    assert "".join(came) == TEXT and error is None and len(server.bodies) == 3
    server.statuses = [503]
    came, _, error = asked([server.url], whole=False, wait_s=0.0)
    assert came == [] and "HTTP 503" in str(error)
    server.statuses = [503] * 1000
    begun = time.monotonic()
    assert asked([server.url], left_s=0.6)[2] is not None and time.monotonic() - begun < 0.6


def test_a_fleets_replica_that_soon_comes_is_waited_for(servers: list[ChatServer]) -> None:
    async def come(upstream: Upstream) -> None:
        await upstream.follow(Seen(absent="none is ready", soon_s=0.2))
        await asyncio.sleep(0.3)
        ongoing.append(upstream.ongoing)
        await upstream.follow(Seen(models={servers[0].url: "m"}))

        await asyncio.sleep(0.3)
        ongoing.append(upstream.ongoing)

    servers[0].delay_s, ongoing = 0.5, list[int]()
    came, prompt, error = asked([], also=come)
    assert (came, error, prompt.replica) == ([TEXT], None, servers[0].url)
    assert ongoing == [1, 1]  # it waits, and is then asked


@pytest.mark.parametrize("soon_s", [math.inf, 60.0])
def test_a_fleet_without_a_replica_says_at_once_when_to_come_again(soon_s: float) -> None:
    async def none(upstream: Upstream) -> None:
        await upstream.follow(Seen(absent="none is ready", lead_s=70.0, soon_s=soon_s))

    begun = time.monotonic()
    came, _, error = asked([], also=none)
    assert not came and error is not None and (error.absent, error.retry_after_s) == (True, 70.0)
    assert time.monotonic() - begun < 2


def test_a_fleet_whose_replicas_all_drain_is_looked_at_again(servers: list[ChatServer]) -> None:
    old, new = servers
    old.statuses, old.retry_after_s = [503], 60

    async def come(upstream: Upstream) -> None:
        await upstream.follow(Seen(models={old.url: "m"}, looked=time.monotonic()))
        await asyncio.sleep(0.3)
        await upstream.follow(Seen(models={new.url: "m"}, looked=time.monotonic()))

    assert asked([], also=come)[0] == [TEXT]

    async def go(upstream: Upstream) -> None:
        await upstream.follow(Seen(models={old.url: "m"}, looked=time.monotonic()))
        await asyncio.sleep(0.3)
        await upstream.follow(Seen(absent="none is ready", lead_s=70.0, looked=time.monotonic()))

    old.statuses = [503]
    error = asked([], also=go)[2]
    assert error is not None and (error.absent, error.retry_after_s) == (True, 70.0)
