"""GET requests that end: what comes too slowly, too long or not at all."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from certificate import self_signed

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.archives import download
from rag_hpc.sources.archives.download import Refused, Remote, Waits
from rag_hpc.sources.base import FetchConfig

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


@contextmanager
def serving(
    answer: Callable[[socket.socket], None], requests: list[bytes] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Answer every connection to a loopback port with `answer`; `requests` gets what was asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    plain = tls.wrap_socket(connection, server_side=True) if tls else connection
                    with plain:
                        request = plain.recv(4096)
                        if requests is not None:
                            requests.append(request)
                        answer(plain)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def remote(url: str, timeout_s: float = 5.0, allow_private: bool = True) -> Remote:
    config = FetchConfig(allow_private=allow_private, timeout_s=timeout_s, user_agent="rag-hpc (me@x.org)")
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


@pytest.mark.parametrize(
    "head",
    [
        b"no http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000,
        b"",
        b"HTTP/1.1 503 Busy\r\nRetry-After: 9999999999\r\n\r\n",
    ],
)
def test_what_is_no_reply_is_an_error_in_the_end(head: bytes) -> None:
    with serving(lambda connection: connection.sendall(head)) as url:
        with pytest.raises(InputError, match="gave up after"):
            remote(url).get("/", 1000)


def test_a_length_that_is_no_number_is_not_believed() -> None:
    digits = b"9" * 5000
    piece = b"HTTP/1.1 206 Piece\r\nContent-Range: bytes 0-3/" + digits + b"\r\nContent-Length: 4\r\n\r\nbody"
    with serving(lambda connection: connection.sendall(piece)) as url:
        assert remote(url).get("/", 1000)[1] == b"body"
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: " + digits + b"\r\n\r\nbody"
    with serving(lambda connection: connection.sendall(whole)) as url:
        with pytest.raises(InputError, match=r"gave up after 6 tries, 0 bytes came .*bad Content-Length"):
            remote(url).get("/", 1000)


def test_a_second_answer_of_the_name_service_does_not_move_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup, answers = socket.getaddrinfo, ["127.0.0.1", "127.0.0.2"]

    def rebinding(host: str, *args: Any, **options: Any) -> Any:
        return lookup(answers.pop(0) if host == "h.test" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1")
    requests: list[bytes] = []
    with serving(lambda connection: connection.sendall(OK), requests) as url:
        h_test = remote(url.replace("127.0.0.1", "h.test"), allow_private=False)
        assert h_test.get("/a%20b?c=d+e", 1000)[1] == b"body" and answers == ["127.0.0.2"]
        with pytest.raises(ConfigError, match=r"h\.test is at 127\.0\.0\.2, no public address"):
            h_test.get("/", 1000)
    (request,) = requests
    assert request.startswith(b"GET /a%20b?c=d+e HTTP/1.1\r\n")
    assert f"\r\nHost: {url[7:-1].replace('127.0.0.1', 'h.test')}\r\n".encode() in request


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_the_certificate_must_be_of_the_name_and_not_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup, names = socket.getaddrinfo, list[str]()
    monkeypatch.setattr(download, "MAX_TRIES", 1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **options: lookup("127.0.0.1", *rest, **options))
    tls, certificate = self_signed(tmp_path, "a.test")
    tls.sni_callback = lambda connection, name, context: names.append(name)
    with serving(lambda connection: connection.sendall(OK), tls=tls) as url:

        def got(host: str) -> bytes:
            return remote(url.replace("http://127.0.0.1", f"https://{host}")).get("/", 1000)[1]

        with pytest.raises(InputError, match="CERTIFICATE_VERIFY_FAILED"):
            got("a.test")  # nobody trusts it yet
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert got("a.test") == b"body"
        with pytest.raises(InputError, match="Hostname mismatch"):
            got("b.test")
    assert names == ["a.test", "a.test", "b.test"]


def test_cookies_are_not_kept_and_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    requests: list[bytes] = []
    reply = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")
    with serving(lambda connection: connection.sendall(reply), requests) as url:
        one = remote(url)
        assert [one.get("/", 1000)[1] for _ in range(2)] == [b"body"] * 2
    assert len(requests) == 2 and not any(b"cookie" in request.lower() for request in requests)


def test_only_http_urls_with_a_host_are_taken() -> None:
    for url in ("ftp://h/", "http:///x", "file:///x"):
        with pytest.raises(ConfigError, match="is needed"):
            remote(url)
