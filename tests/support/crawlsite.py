"""A web server on loopback whose pages a test writes down, and a crawl of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.crawl.config import SiteConfig
from rag_hpc.sources.crawl.crawler import crawl_hosts
from rag_hpc.sources.crawl.frontier import HostPlan
from rag_hpc.stores.page import Page, Reject

Reply = tuple[int, dict[str, str], bytes]
Route = Reply | Callable[["Handler"], None] | list[Reply]


def html(*links: str, text: str = "hello") -> Reply:
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    return 200, {"Content-Type": "text/html; charset=utf-8"}, f"<html><body>{text}{anchors}</body></html>".encode()


def redirect(target: str) -> Reply:
    return 302, {"Location": target}, b""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.arrivals.append((time.monotonic(), self.headers["Host"], self.path))
        self.server.asked.append(self.path)
        self.server.seen.append((self.client_address, dict(self.headers)))
        self.server.hold()
        routes = self.server.routes
        route = routes.get(self.headers["Host"] + self.path) or routes.get(self.path, (404, {}, b"no"))
        if isinstance(route, list):
            route = route.pop(0) if len(route) > 1 else route[0]
        if callable(route):
            route(self)
            return
        status, headers, body = route
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts: Any) -> None:
        pass


class Site(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, routes: dict[str, Route]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes = routes
        self.asked: list[str] = []
        self.arrivals: list[tuple[float, str, str]] = []  # when, host, path
        self.seen: list[tuple[Any, dict[str, str]]] = []
        self.hold: Callable[[], object] = lambda: None  # called before each reply

    @property
    def resolve(self) -> dict[str, str]:
        """The entry of `corpus.resolve` that leads *.web.test here."""
        return {"*.web.test": self.host}

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is part of several tests


@contextmanager
def serving(routes: dict[str, Route]) -> Iterator[Site]:
    site = Site(routes)
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()
        thread.join()


def corpus(**changes: Any) -> SiteConfig:
    values: dict[str, Any] = {"delay_s": 0.0, "timeout_s": 20.0, "allow_private": True, **changes}
    return SiteConfig(**values)


def context(**more: Any) -> ReadContext:
    values: dict[str, Any] = {"shared": Path(), "should_stop": lambda: False, "sleep": time.sleep, **more}
    return ReadContext(**values)


def crawl(
    site: Site,
    *seeds: str,
    max_pages: int = 0,
    sleeps: list[float] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **changes: Any,
) -> tuple[list[Page], dict[str, str]]:
    plan = HostPlan(
        host=site.host, seeds=[(f"http://{site.host}{seed}", 0) for seed in seeds or ["/"]], max_pages=max_pages
    )
    kept = [] if sleeps is None else sleeps

    async def sleep(wait_s: float) -> None:
        kept.append(wait_s)

    ctx = context(should_stop=should_stop or (lambda: False))
    found = list(crawl_hosts([plan], corpus(**changes), ctx, sleep=asyncio.sleep if should_stop else sleep))
    rejects = [(item.id.removeprefix(f"http://{site.host}"), item.reason) for item in found if isinstance(item, Reject)]
    assert len(rejects) == len(dict(rejects)), rejects
    return [item for item in found if isinstance(item, Page)], dict(rejects)


def paths(pages: list[Page]) -> list[str]:
    return ["/" + page.doc_id.split("/", 3)[3] for page in pages]
