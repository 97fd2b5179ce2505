"""The page server: addresses, replies, errors."""

from __future__ import annotations

import http.client
import socketserver
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rag_hpc.demo.server import PydocServer
from rag_hpc.demo.site import host_name
from rag_hpc.errors import ConfigError, InputError

NUM_HOSTS = 3


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for host in range(NUM_HOSTS):
        root = folder / f"host-{host:02d}"
        (root / "internal").mkdir(parents=True)
        (root / "index.html").write_text(f"<p>host {host}</p>", encoding="utf-8")
        (root / "robots.txt").write_text("User-agent: *\nDisallow: /internal/\n", encoding="utf-8")
    (folder / "pages.json").write_text("[]", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[PydocServer]:
    with PydocServer(site, NUM_HOSTS, latency_s=0.02) as running:
        yield running


def _get(server: PydocServer, host: int, *paths: str, **headers: str) -> list[tuple[int, dict[str, str], bytes]]:
    """Replies to requests on one connection."""
    line = http.client.HTTPConnection(*server.resolve[host_name(host)], timeout=60)
    replies = []
    try:
        for path in paths:
            line.request("GET", path, headers={"Host": host_name(host), **headers})
            reply = line.getresponse()
            replies.append((reply.status, dict(reply.getheaders()), reply.read()))
    finally:
        line.close()
    return replies


def test_server_gives_each_host_an_address(server: PydocServer) -> None:
    assert list(server.resolve) == [host_name(h) for h in range(NUM_HOSTS)]
    assert [a for a, _ in server.resolve.values()] == [f"127.0.0.{h + 1}" for h in range(NUM_HOSTS)]


def test_server_gives_the_files_of_the_host(server: PydocServer, site: Path) -> None:
    for host in (0, NUM_HOSTS - 1):
        page, robots, root = _get(server, host, "/index.html", "/robots.txt", "/")
        assert (page[0], page[1]["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert page[2] == root[2] == (site / f"host-{host:02d}" / "index.html").read_bytes()
        assert robots[1]["Content-Type"] == "text/plain; charset=utf-8" and b"Disallow: /internal/" in robots[2]


def test_what_is_no_page_is_404(server: PydocServer) -> None:
    paths = ("/nothing.html", "/../pages.json", "/%2e%2e/pages.json", "/host-00/index.html", "/internal")
    assert [status for status, _, _ in _get(server, 0, *paths)] == [404] * len(paths)


def test_known_etag_saves_the_body(server: PydocServer) -> None:
    tag = _get(server, 1, "/index.html")[0][1]["ETag"]
    status, _, body = _get(server, 1, "/index.html", **{"If-None-Match": tag})[0]
    assert (status, body) == (304, b"")


def test_each_reply_waits_for_the_latency(server: PydocServer) -> None:
    start = time.perf_counter()
    _get(server, 2, "/index.html", "/nothing.html", "/robots.txt")
    assert time.perf_counter() - start >= 3 * server.latency_s


def test_server_stops_listening(site: Path) -> None:
    with PydocServer(site, 1) as short:
        assert _get(short, 0, "/robots.txt")[0][0] == 200
    with pytest.raises(ConnectionRefusedError):
        _get(short, 0, "/robots.txt")


def test_missing_loopback_address_is_a_clear_error(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bind = socketserver.TCPServer.server_bind

    def only_one(self: Any) -> None:
        if self.server_address[0] != "127.0.0.1":
            raise OSError(99, "Cannot assign requested address")
        bind(self)

    monkeypatch.setattr(socketserver.TCPServer, "server_bind", only_one)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.2.*corpus\.num_hosts=1"), PydocServer(site, 2):
        pass


def test_folder_without_site_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="host-00 is missing"), PydocServer(tmp_path, 1):
        pass
