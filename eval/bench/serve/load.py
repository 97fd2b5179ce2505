"""An open loop: requests are sent when they are due, whatever became of those before; their wait counts from then."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rag_hpc.eval.bench.serve.line import Line, Reply

END = b"\r\n\r\n"
SPIN_S = 0.002  # before a request is due its sender no longer sleeps, since a sleep ends up to 1 ms late
IDLE_S = 2.0  # an older connection may be one that the other side is about to close
OPEN_S = 60.0  # for a connection; whoever has none by then has failed


@dataclass(kw_only=True)
class Sample:
    """What became of one request; seconds are from when it was due."""

    due_s: float  # from the start of the load
    body: dict[str, Any]
    sent_s: float = 0.0
    first_s: float = float("inf")
    whole_s: float = float("inf")
    status: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether it was answered with what was asked for."""
        return self.status == 200 and bool(self.told) and not self.error


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where requests go."""

    socket: str  # path of a Unix socket, or HOST:PORT
    path: str
    token: str = ""
    deadline_ms: int = 0  # that is asked for; 0 = what the gateway gives
    kept: bool = False  # connections are, for the next request, as clients do; else each request has one of its own


def due_times(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the times of a Poisson process of `rate` requests a second, from 0 to `seconds`."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, size=int(2 * rate * seconds) + 50)
    times: list[float] = np.cumsum(gaps).tolist()
    return [due for due in times if due < seconds]


def load(target: Target, bodies: Sequence[dict[str, Any]], rate: float, seconds: float, seed: int) -> list[Sample]:
    """Return a sample a request, in the order in which they were due; bodies are drawn at random."""
    rng, due = np.random.default_rng(seed + 1), due_times(rate, seconds, seed)
    return ask(target, [Sample(due_s=one, body=bodies[int(rng.integers(len(bodies)))]) for one in due])


def ask(target: Target, samples: Sequence[Sample]) -> list[Sample]:
    """Send each request when it is due, and return the samples with what came of them."""
    return asyncio.run(_Load(target).run(samples))


class _Load:
    """Requests to one target, and the connections that they leave behind."""

    def __init__(self, target: Target) -> None:
        self._target, self._idle = target, list[Line]()

    async def run(self, samples: Sequence[Sample]) -> list[Sample]:
        made = {id(sample.body): sample.body for sample in samples}
        requests = {key: _request(self._target, body) for key, body in made.items()}
        tasks, replies = [], dict[int, Reply]()
        begun = time.monotonic()
        for number, sample in enumerate(samples):
            await _until(begun + sample.due_s)
            one = self._one(sample, requests[id(sample.body)], begun + sample.due_s, number, replies)
            tasks.append(asyncio.create_task(one))
        await asyncio.gather(*tasks)
        for line in self._idle:
            line.close()
        for number, reply in replies.items():  # now that no answer is waited for
            _told(samples[number], reply)
        return list(samples)

    async def _one(self, sample: Sample, request: bytes, due: float, number: int, replies: dict[int, Reply]) -> None:
        sample.sent_s = time.monotonic() - due
        try:
            line = await self._line()
            reply = await line.ask(request)
        except (OSError, ValueError, TimeoutError) as error:
            sample.error = f"{type(error).__name__}: {error}"
            return
        sample.status, replies[number] = reply.status, reply
        sample.first_s, sample.whole_s = reply.first - due, reply.whole - due
        if self._target.kept and line.open:
            self._idle.append(line)
        else:
            line.close()

    async def _line(self) -> Line:
        while self._idle:
            line = self._idle.pop()
            if line.open and time.monotonic() - line.used < IDLE_S:
                return line
            line.close()
        loop, where = asyncio.get_running_loop(), self._target.socket
        async with asyncio.timeout(OPEN_S):
            if where.startswith("/"):
                return (await loop.create_unix_connection(Line, where))[1]
            host, _, port = where.rpartition(":")
            return (await loop.create_connection(Line, host, int(port)))[1]


async def _until(due: float) -> None:
    if (left_s := due - SPIN_S - time.monotonic()) > 0:
        await asyncio.sleep(left_s)
    while time.monotonic() < due:
        await asyncio.sleep(0)


def _told(sample: Sample, reply: Reply) -> None:
    """Note what an answer says; one that is no answer is an error."""
    if reply.status != 200:
        sample.error = bytes(reply.body[:200]).decode("utf-8", "replace")
        return
    try:
        if not reply.streamed:
            sample.told = json.loads(reply.body)
            return
        text, ended = [], False
        for line in bytes(reply.body).split(b"\n"):
            if not line.startswith(b"data: {"):
                ended = ended or line == b"data: [DONE]"
                continue
            event = json.loads(line[6:])
            text += [choice["delta"].get("content") or "" for choice in event.get("choices", ())]
            sample.told = event.get("done", sample.told)
            sample.error = str(event.get("error") or event.get("rag", {}).get("fallback") or sample.error)
        if not sample.told and ended and any(text):
            sample.told = {"answer": "".join(text), "pieces": len(text), "timings_ms": {}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sample.error = f"{type(error).__name__}: {error}"


def _request(target: Target, body: dict[str, Any]) -> bytes:
    """Return the bytes of a request."""
    text = json.dumps(body).encode()
    lines = [
        f"POST {target.path} HTTP/1.1",
        "Host: localhost",
        *([] if target.kept else ["Connection: close"]),
        "Content-Type: application/json",
        f"Content-Length: {len(text)}",
        *([f"Authorization: Bearer {target.token}"] if target.token else []),
        *([f"X-Deadline-Ms: {target.deadline_ms}"] if target.deadline_ms else []),
    ]
    return "\r\n".join(lines).encode() + END + text
