"""A web server for the rendered pages: every host of the site on a loopback address of its own."""

from __future__ import annotations

import hashlib
import selectors
import socket
import socketserver
import threading
import time
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

from rag_hpc.demo.site import host_name
from rag_hpc.errors import ConfigError, InputError

CONTENT_TYPES = {".html": "text/html", ".xml": "application/xml", ".txt": "text/plain"}


class PydocServer:
    """Context that serves `site` from threads of this process; `resolve` maps virtual host names to (address, port).

    Host k answers on 127.0.0.(k+1), each reply comes `latency_s` later than it could. Raises InputError when the folder
    is not a rendered site, ConfigError when the system lacks the loopback addresses (macOS has 127.0.0.1 alone).
    """

    def __init__(self, site: Path, num_hosts: int, latency_s: float = 0.0) -> None:
        self.site, self.num_hosts, self.latency_s = site, num_hosts, latency_s
        self.resolve: dict[str, tuple[str, int]] = {}
        self._running = ExitStack()

    def __enter__(self) -> PydocServer:
        with ExitStack() as opened:
            ready = opened.enter_context(selectors.DefaultSelector())
            stop, wake = map(opened.enter_context, socket.socketpair())
            ready.register(stop, selectors.EVENT_READ)
            for host in range(self.num_hosts):
                folder = self.site / f"host-{host:02d}"
                if not folder.is_dir():
                    raise InputError(f"pydoc: {folder} is missing; remove {self.site} and run again to render it anew")
                server = opened.enter_context(_HostServer(f"127.0.0.{host + 1}", folder, self.latency_s))
                ready.register(server, selectors.EVENT_READ, server.handle_request)
                self.resolve[host_name(host)] = server.address
            thread = threading.Thread(target=_accept, args=(ready,), name="pydoc-server", daemon=True)
            thread.start()
            opened.callback(thread.join)
            opened.callback(wake.close)
            self._running = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._running.close()


def _accept(ready: selectors.BaseSelector) -> None:
    """Let the hosts take their connections until the other end of the one socket without a host is closed."""
    while True:
        for key, _ in ready.select():
            if key.data is None:
                return
            key.data()


class _HostServer(socketserver.ThreadingTCPServer):
    """One host, a thread for each of its connections."""

    daemon_threads = True
    timeout = 0  # a client that hung up before it was accepted is not waited for

    def __init__(self, address: str, root: Path, latency_s: float) -> None:
        self.latency_s = latency_s
        self.files = {"/" + path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
        self.files["/"] = self.files["/index.html"]
        try:
            super().__init__((address, 0), _Handler)
        except OSError as error:
            raise ConfigError(
                f"pydoc: cannot listen on {address} ({error.strerror}); this system lacks that loopback "
                "address: set corpus.num_hosts=1"
            ) from error
        self.address = address, int(self.socket.getsockname()[1])


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept from request to request."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    server: _HostServer

    def handle(self) -> None:
        """Answer until the client goes."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Send a file of the host; it is looked up, never joined: a path cannot leave the folder."""
        time.sleep(self.server.latency_s)
        file = self.server.files.get(unquote(urlsplit(self.path).path))
        body = file.read_bytes() if file else b"404: no such page\n"
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if file and tag in self.headers.get("If-None-Match", ""):
            status, body = 304, b""
        else:
            status = 200 if file else 404
        self.send_response(status)
        if status != 304:
            self.send_header("Content-Type", f"{CONTENT_TYPES[file.suffix] if file else 'text/plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        if file:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the crawl tells what came of each request."""
