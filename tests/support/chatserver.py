"""An endpoint that speaks the OpenAI chat protocol; as a program it takes vLLM's flags, and has children as vLLM has.

Answers depend on the messages alone: the first words of the first passage, with its citation.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

_PASSAGE = re.compile(r'<passage n="(\d+)"[^>]*>\n(.*?)\n</passage>', re.DOTALL)


def answer_to(messages: list[dict[str, str]]) -> str:
    """Return the first eight words of the first passage that shares a long word with the question."""
    text = messages[-1]["content"]
    asked = {word.lower() for word in re.findall(r"\w{5,}", text.rpartition("Question:")[2])}
    for number, passage in _PASSAGE.findall(text):
        if asked & {word.lower() for word in re.findall(r"\w{5,}", passage)}:
            return f"{' '.join(passage.split()[:8])} [{number}]."
    return "Not found in the passages."


class Handler(BaseHTTPRequestHandler):
    """Answers POST requests; the server keeps the bodies."""

    server: ChatServer  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
            return self._send(401, {"error": "no key"})
        if os.environ.get("FAKE_LOG"):
            print("asked for", body["model"], flush=True)
        with server.lock:
            server.bodies.append(body)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            status = server.statuses.pop(0) if server.statuses else 200
        time.sleep(server.delay_s)
        with server.lock:
            server.at_once -= 1
        if self.path.endswith("/embeddings"):
            data = [{"index": at, "embedding": server.embed(text)} for at, text in enumerate(body["input"])]
            return self._send(status, {"data": data[::-1], "usage": {"prompt_tokens": len(data)}})  # in any order
        text = server.answer(body)
        if body.get("stream") and status == 200:
            return self._stream(text)
        usage = {"prompt_tokens": len(str(body["messages"])) // 4, "completion_tokens": len(text.split())}
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return self._send(status, {"choices": [choice], "usage": usage} if status == 200 else {"error": "busy"})

    def _stream(self, text: str) -> None:
        """Send the text as events, a word each; only so many as the server is told, and then no end of them."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        words = text.split(" ")
        events = [
            {"choices": [{"delta": {"content": word + " " * (n < len(words))}}]} for n, word in enumerate(words, 1)
        ]
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        events.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(words)}})
        for event in events[: self.server.cut]:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
            time.sleep(self.server.pause_s)
        if self.server.cut is None:
            self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 503 and self.server.retry_after_s:
            self.send_header("Retry-After", str(self.server.retry_after_s))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class ChatServer(socketserver.ThreadingTCPServer):
    """Listens on a port of loopback, or on a Unix socket; use it in a with-statement."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away; tracebacks of threads upset `ast` in others (CPython 3.11)."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def __init__(self, address: Any = ("127.0.0.1", 0), *, key: str = "", delay_s: float = 0.0) -> None:
        self.address_family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.key, self.delay_s, self.lock = key, delay_s, threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.statuses: list[int] = []  # of the next replies
        self.retry_after_s = 0  # said with a 503
        self.cut: int | None = None  # after so many events a stream breaks off
        self.pause_s = 0.0  # after each event of a stream
        self.at_once = self.most_at_once = 0
        self.answer: Callable[[dict[str, Any]], str] = lambda body: answer_to(body["messages"])
        self.embed: Callable[[str], list[float]] = lambda text: [float(len(text)), 1.0]
        super().__init__(address, Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


def model_like(folder: Path, chat: bool = True) -> Path:
    """Return a folder with the names of a model's files and nothing in them."""
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}' if chat else "{}")
    (folder / "model.safetensors").touch()
    return folder


def fake_vllm(folder: Path, program: Path | None = None, **told: float) -> str:
    """Return the path of an interpreter that has a vLLM, which is this file, or its copy that other nodes see.

    told: FAKE_* values, e.g. start_s.
    """
    python = folder / "python"
    values = " ".join(f"FAKE_{name.upper()}={value}" for name, value in told.items())
    python.write_text(f'#!/bin/sh\nexec env {values} {sys.executable} {program or Path(__file__).resolve()} "$@"\n')
    python.chmod(0o755)
    return str(python)


def main() -> None:
    """Listen as told, after a while that a real server loads its model in; a child waits along."""
    if "-c" in sys.argv:  # is vLLM there?
        return
    print("loading the model", os.environ["VLLM_PORT"], flush=True)
    if os.environ.get("FAKE_FAIL"):
        sys.exit("CUDA out of memory")
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds")
    parser.add_argument("--port", type=int)
    given = parser.parse_known_args(sys.argv[4:])[0]  # after -P -m MODULE
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)  # a group of its own
    segment = shared_memory.SharedMemory(create=True, size=4096)
    resource_tracker.unregister(f"/{segment.name}", "shared_memory")  # nobody else removes it
    print("segment", segment.name, flush=True)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    stopping.wait(float(os.environ.get("FAKE_START_S", "0")))
    address = given.uds or ("127.0.0.1", given.port)
    with ChatServer(
        address, key=os.environ["VLLM_API_KEY"], delay_s=float(os.environ.get("FAKE_DELAY_S", "0"))
    ) as server:
        server.pause_s = float(os.environ.get("FAKE_PAUSE_S", "0"))
        server.statuses = [400] * int(os.environ.get("FAKE_REFUSES", "0"))
        while not stopping.wait(0.02) and len(server.bodies) < int(os.environ.get("FAKE_DIES_AFTER", "1000000")):
            pass
        if not stopping.is_set():
            Path("/dev/shm", segment.name).unlink()
            os._exit(9)
    child.kill()


if __name__ == "__main__":
    main()
