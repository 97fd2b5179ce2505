"""Common Crawl path lists as a source: from a folder, and from a server that breaks off, is busy, or lacks a file."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import realdata

from rag_hpc.errors import ConfigError, InputError, Interrupted
from rag_hpc.sources.archives.commoncrawl import CommonCrawlConfig, CommonCrawlSource
from rag_hpc.sources.archives.warc import WarcConfig, WarcSource
from rag_hpc.sources.base import ReadContext
from rag_hpc.stores.page import Page, Reject

DATA = realdata.DATA / "warc"
REAL = [
    "aut/example.warc.gz",
    "commoncrawl_whirlwind/whirlwind.warc.wet.gz",
    "resiliparse/clipped.warc.gz",
    "resiliparse/warcfile.warc",
    "warcio/example-trunc.warc",
]


class Server:
    """Serves a folder on loopback; `faults` are taken off one a request: a status, or bytes until the line breaks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[tuple[str, int]] = []
        self.requests: list[tuple[str, str]] = []
        self.ranges, self.etag = True, '"v1"'
        handler = type("Handler", (_Handler,), {"server_of": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/cc/"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_of: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        own = self.server_of
        asked = self.headers.get("Range", "")
        own.requests.append((self.path, asked))
        kind, number = own.faults.pop(0) if own.faults else ("", 0)
        path = own.folder / self.path.removeprefix("/cc/")
        status = number if kind == "status" else 200 if path.is_file() else 404
        body = path.read_bytes() if status == 200 else b""
        total, start = len(body), 0
        if status == 200 and own.ranges and (found := re.fullmatch(r"bytes=(\d+)-", asked)):
            assert self.headers.get("If-Range") == own.etag
            status, start = 206, int(found[1])
        self.send_response(status)
        self.send_header("Content-Length", str(total - start))
        self.send_header("ETag", own.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if status == 429:
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body[start : start + number] if kind == "break" else body[start:])
        self.close_connection = True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "www").mkdir()
    running = Server(tmp_path / "www")
    yield running
    running.close()


def archive(num_pages: int) -> bytes:
    rng = random.Random(num_pages)
    records = []
    for number in range(num_pages):
        body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>" + rng.randbytes(3000).hex().encode()
        records.append(
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://h/{num_pages}/{number}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
            + b"\r\n\r\n"
        )
    return b"".join(map(gzip.compress, records))


def listed(tmp_path: Path, *names: str) -> Path:
    path = tmp_path / "warc.paths.gz"
    path.write_bytes(gzip.compress("".join(f"{name}\n" for name in names).encode()))
    return path


def corpus(path: Path, base: str, **changes: Any) -> CommonCrawlConfig:
    return CommonCrawlConfig(path=str(path), base=base, allow_private=True, timeout_s=5.0, **changes)


def read_all(config: CommonCrawlConfig, waits: list[float] | None = None) -> list[Page | Reject]:
    source = CommonCrawlSource()
    parts = source.split(config, Path())
    assert parts == json.loads(json.dumps(source.split(config, Path())))
    context = ReadContext(shared=Path(), should_stop=lambda: False, sleep=(waits if waits is not None else []).append)
    return [item for part in parts for item in source.read(part, config, context)]


def test_real_archives_give_the_same_pages_from_a_server_a_folder_and_as_files(server: Server, tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no shared data at {DATA}; set RAG_HPC_DATA")
    server.folder = DATA
    paths = listed(tmp_path, *REAL)
    remote = read_all(corpus(paths, server.url))
    local = read_all(corpus(paths, DATA.as_uri()))
    files: list[Page | Reject] = []
    for name in REAL:
        config = WarcConfig(path=str(DATA / name))
        (part,) = WarcSource().split(config, tmp_path)
        files += WarcSource().read(part, config, ReadContext(shared=tmp_path, should_stop=lambda: False, sleep=print))
    assert remote == local and len(remote) > 300

    def plain(items: list[Page | Reject]) -> list[Any]:
        return [item if isinstance(item, Page) else item.reason for item in items]

    assert plain(remote) == plain(files)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path, ranges: bool) -> None:
    (server.folder / "a.warc.gz").write_bytes(archive(40))
    config = corpus(listed(tmp_path, "a.warc.gz"), server.url)
    whole = read_all(config)
    assert len(whole) == 40 and all(isinstance(item, Page) for item in whole)
    server.requests.clear()
    server.ranges = ranges
    server.faults = [("break", 20_000), ("status", 503), ("break", 30_000), ("status", 429), ("break", 0)]
    waits: list[float] = []
    assert read_all(config, waits) == whole
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.requests]
    assert starts == [0, *[20_000] * 2, *[50_000 if ranges else 30_000] * 3]
    assert sum(waits) >= 1 + 2 + 1 + 7


def test_a_file_that_changes_meanwhile_is_an_error(server: Server, tmp_path: Path) -> None:
    (server.folder / "a.warc.gz").write_bytes(archive(20))
    config = corpus(listed(tmp_path, "a.warc.gz"), server.url)
    (part,) = CommonCrawlSource().split(config, tmp_path)
    server.faults, server.ranges = [("break", 9_000)], False

    def change(_: float) -> None:
        server.etag = '"v2"'

    with pytest.raises(InputError, match="changed while it was read"):
        context = ReadContext(shared=tmp_path, should_stop=lambda: False, sleep=change)
        list(CommonCrawlSource().read(part, config, context))


def test_absent_archives_are_rejects_and_a_server_that_stays_away_an_error(server: Server, tmp_path: Path) -> None:
    (server.folder / "b.warc.gz").write_bytes(archive(2))
    config = corpus(listed(tmp_path, "a.warc.gz", "b.warc.gz"), server.url)
    first, *rest = read_all(config)
    assert isinstance(first, Reject) and (first.id, first.reason) == ("a.warc.gz", "http-404") and len(rest) == 2
    server.faults = [("status", 503)] * 20
    with pytest.raises(InputError, match="gave up after 6 tries"):
        read_all(config)


def test_a_stop_ends_the_waiting(server: Server, tmp_path: Path) -> None:
    config = corpus(listed(tmp_path, "a.warc.gz"), server.url)
    (part,) = CommonCrawlSource().split(config, tmp_path)
    server.faults = [("status", 503)] * 20
    waits: list[float] = []
    context = ReadContext(shared=tmp_path, should_stop=lambda: len(waits) > 2, sleep=waits.append)
    with pytest.raises(Interrupted):
        list(CommonCrawlSource().read(part, config, context))


def test_samples_are_nested_and_caps_are_kept(tmp_path: Path) -> None:
    names = [f"crawl/{n:03}.warc.wet.gz" for n in range(100)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(archive(1))
    paths = listed(tmp_path, *names, names[0])

    def chosen(**changes: Any) -> list[str]:
        config = corpus(paths, str(tmp_path), **changes)
        return [part["path"] for part in CommonCrawlSource().split(config, tmp_path)]

    assert chosen() == names
    assert set(chosen(sample=0.1)) < set(chosen(sample=0.3)) and 20 < len(chosen(sample=0.3)) < 40
    assert chosen(sample=0.3, max_archives=5) == chosen(sample=0.3)[:5]
    shares = CommonCrawlSource().split(corpus(paths, str(tmp_path), max_archives=4, max_pages=6), tmp_path)
    assert [part["max_pages"] for part in shares] == [2, 2, 1, 1]
    assert len(chosen(max_pages=3)) == 3


@pytest.mark.parametrize(
    ("line", "base", "message"),
    [
        ("../../etc/x.warc.gz", "/mnt", "no path of an archive"),
        ("/etc/x.warc.gz", "/mnt", "no path of an archive"),
        ("x.html", "/mnt", "no path of an archive"),
        ("x" * 5000, "/mnt", "no path of an archive"),
        ("absent.warc.gz", "/mnt", "fetch it"),
        ("x.warc.lz4", "http://127.0.0.1/", "from a folder only"),
        ("x.warc.gz", "mnt/cc", "is needed"),
        ("x.warc.gz", "ftp://h/", "is needed"),
        ("x.warc.gz", "https://data.commoncrawl.org/", "names no contact"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(tmp_path: Path, line: str, base: str, message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        CommonCrawlSource().split(corpus(listed(tmp_path, line), base), tmp_path)


def test_settings_out_of_range_are_refused() -> None:
    for name, value in (("sample", 0.0), ("sample", 1.5), ("sample", math.nan), ("max_archives", -1)):
        with pytest.raises(ConfigError, match=rf"corpus\.{name}={value}: (between 1e-09 and 1|at least 0) is needed"):
            CommonCrawlConfig(**{name: value})


def test_private_addresses_need_permission(server: Server, tmp_path: Path) -> None:
    config = corpus(listed(tmp_path, "a.warc.gz"), server.url)
    config.allow_private = False
    with pytest.raises(ConfigError, match="no public address"):
        read_all(config)
    assert server.requests == []
