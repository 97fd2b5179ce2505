"""GET requests that end: what comes too slowly, too long or not at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources import download
from rag_hpc.sources.base import CorpusConfig
from rag_hpc.sources.download import Refused, Remote, Waits


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answer every connection to a loopback port with `answer`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(4096)
                    answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def remote(url: str, timeout_s: float = 5.0) -> Remote:
    config = CorpusConfig(allow_private=True, timeout_s=timeout_s)
    return Remote(url, config, Waits(sleep=lambda wait: None, should_stop=lambda: False))


def test_a_reply_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_TRIES", 2)
    monkeypatch.setattr(download, "TOTAL_FACTOR", 0.015)
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not over.wait(0.02):
            connection.sendall(b"x")

    with serving(drip) as url:
        try:
            with pytest.raises(InputError, match=r"after 2 tries.*too slowly"):
                remote(url, timeout_s=20.0).get("/", 10_000)
        finally:
            over.set()


def test_a_reply_without_end_stops_at_the_cap() -> None:
    def pour(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65_536)

    with serving(pour) as url, pytest.raises(Refused, match="over 100000 bytes"):
        remote(url).get("/", 100_000)


@pytest.mark.parametrize("head", [b"no http at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000, b"",
                                  b"HTTP/1.1 503 Busy\r\nRetry-After: 9999999999\r\n\r\n"])
def test_what_is_no_reply_is_an_error_in_the_end(head: bytes) -> None:
    with serving(lambda connection: connection.sendall(head)) as url:
        with pytest.raises(InputError, match="gave up after"):
            remote(url).get("/", 1000)


def test_a_length_that_is_no_number_is_not_believed() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nbody"
    with serving(lambda connection: connection.sendall(reply)) as url:
        assert remote(url).get("/", 1000)[1] == b"body"


def test_only_http_urls_with_a_host_are_taken() -> None:
    for url in ("ftp://h/", "http:///x", "file:///x"):
        with pytest.raises(ConfigError, match="is needed"):
            remote(url)
