"""`python -m rag_hpc.eval.bench.serve.engine PORT`: an engine that costs nothing, for what stands before engines.

It says the same to whatever it is asked, after a time that is fixed or depends on what is asked alone; so what a proxy
adds is all that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import httptools

from rag_hpc.eval.bench.serve.process import free_port, started

MODEL = "played"
WORD = "word "
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "
_USAGE = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}


class Engine(asyncio.Protocol):
    """A connection to the engine."""

    def __init__(self, delay_s: float, pieces: int, pause_s: float, spread: float) -> None:
        """delay_s: before the first piece of an answer; the median where they spread. pause_s: before each of the
        others. spread: standard deviation of the delay's logarithm, over what is asked."""
        self._delay_s, self._pieces, self._pause_s, self._spread = delay_s, pieces, pause_s, spread
        self._parser = httptools.HttpRequestParser(self)
        self._body = bytearray()
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Note that it is gone."""
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Note which route is asked."""
        self._url = url

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self._body += data

    def on_message_complete(self) -> None:
        """Take the message as whole."""
        asked = json.loads(self._body) if self._body else {}
        self._body.clear()
        task = asyncio.get_running_loop().create_task(self._answer(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, asked: dict[str, Any]) -> None:
        if self._url.endswith(b"/render"):  # asked by vllm-router for a prompt's tokens, which nobody has here
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        if b"completions" not in self._url:
            self._whole({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "nobody"}]})
            return
        streamed = bool(asked.get("stream"))
        await asyncio.sleep(self._delay_s * math.exp(self._spread * _deviation(asked)))
        if not streamed:
            await asyncio.sleep((self._pieces - 1) * self._pause_s)
            said = {"role": "assistant", "content": (WORD * self._pieces).strip()}
            self._whole(_event("chat.completion", message=said, finish_reason="stop") | {"usage": _USAGE})
            return
        self._transport.write(_HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(self._pieces):
            if number:
                await asyncio.sleep(self._pause_s)
            self._send(_event("chat.completion.chunk", delta={"role": "assistant", "content": WORD}))
        self._send(_event("chat.completion.chunk", delta={}, finish_reason="stop"))
        self._send({**_event("chat.completion.chunk"), "choices": [], "usage": _USAGE})
        self._transport.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    def _send(self, event: dict[str, Any]) -> None:
        self._transport.write(_chunk(f"data: {json.dumps(event)}\n\n".encode()))

    def _whole(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self._transport.write(_HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@contextlib.contextmanager
def playing(
    *, port: int = 0, delay_ms: float = 0.0, pieces: int = 1, pause_ms: float = 0.0, spread: float = 0.0
) -> Iterator[tuple[int, int]]:
    """Yield the port and the process of an engine; it is gone afterwards. port: 0 for a free one."""
    port = port or free_port()
    told = [f"--delay-ms={delay_ms}", f"--pieces={pieces}", f"--pause-ms={pause_ms}", f"--spread={spread}"]
    with started([sys.executable, "-m", __spec__.name, str(port), *told], port) as pid:
        yield port, pid


def _deviation(asked: dict[str, Any]) -> float:
    """Return a number that is drawn from the standard normal distribution by the last message's text."""
    content = asked["messages"][-1]["content"]
    text = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    drawn = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    return NormalDist().inv_cdf((drawn + 0.5) / 2**48)


def _event(kind: str, finish_reason: str | None = None, **said: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish_reason, **said}
    return {"id": f"played-{os.getpid()}", "object": kind, "created": 0, "model": MODEL, "choices": [choice]}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    for name, default in (("delay-ms", 0.0), ("pieces", 1), ("pause-ms", 0.0), ("spread", 0.0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args()
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    server = await loop.create_server(
        lambda: Engine(given.delay_ms / 1000, given.pieces, given.pause_ms / 1000, given.spread),
        "127.0.0.1",
        given.port,
        backlog=4096,
    )
    async with server:
        await over.wait()


if __name__ == "__main__":
    asyncio.run(_main())
