"""An open loop: requests are sent when they are due, whatever became of those before; their wait counts from then."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

END = b"\r\n\r\n"


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

    socket: str  # path of a Unix socket
    path: str
    token: str = ""


def due_times(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the times of a Poisson process of `rate` requests a second, from 0 to `seconds`."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, size=int(2 * rate * seconds) + 50)
    times: list[float] = np.cumsum(gaps).tolist()
    return [due for due in times if due < seconds]


def load(target: Target, bodies: Sequence[dict[str, Any]], rate: float, seconds: float, seed: int) -> list[Sample]:
    """Return a sample a request, in the order in which they were due; bodies are drawn at random."""
    rng = np.random.default_rng(seed + 1)
    samples = [Sample(due_s=due, body=bodies[int(rng.integers(len(bodies)))]) for due in due_times(rate, seconds, seed)]
    asyncio.run(_all(target, samples))
    return samples


async def _all(target: Target, samples: Sequence[Sample]) -> None:
    begun = time.monotonic()
    tasks = []
    for sample in samples:
        await asyncio.sleep(max(0.0, begun + sample.due_s - time.monotonic()))
        tasks.append(asyncio.create_task(_one(target, sample, begun + sample.due_s)))
    await asyncio.gather(*tasks)


async def _one(target: Target, sample: Sample, due: float) -> None:
    sample.sent_s = time.monotonic() - due
    try:
        reader, writer = await asyncio.open_unix_connection(target.socket, limit=1 << 22)
        try:
            writer.write(_request(target, sample.body))
            head = (await reader.readuntil(END)).decode("latin-1")
            sample.status = int(head.split(" ", 2)[1])
            await _read(reader, sample, due, streamed="text/event-stream" in head)
        finally:
            writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        sample.error = f"{type(error).__name__}: {error}"


async def _read(reader: asyncio.StreamReader, sample: Sample, due: float, *, streamed: bool) -> None:
    if not streamed:
        body = await reader.read(-1)
        sample.first_s = sample.whole_s = time.monotonic() - due
        sample.told = json.loads(body) if sample.status == 200 else {}
        sample.error = "" if sample.status == 200 else body[:200].decode("utf-8", "replace")
        return
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "delta" in event and sample.first_s == float("inf"):
            sample.first_s = time.monotonic() - due
        sample.told = event.get("done", sample.told)
        sample.error = str(event.get("error", ""))
    sample.whole_s = time.monotonic() - due


def _request(target: Target, body: dict[str, Any]) -> bytes:
    """Return the bytes of a request, on a connection of its own: what a gateway's proxies spare, it does not."""
    text = json.dumps(body).encode()
    lines = [
        f"POST {target.path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(text)}",
        *([f"Authorization: Bearer {target.token}"] if target.token else []),
    ]
    return "\r\n".join(lines).encode() + END + text
