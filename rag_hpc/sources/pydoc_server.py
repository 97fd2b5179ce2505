"""A web server for the rendered pages: every host of the site on a loopback address of its own."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.pydoc_site import host_name

if TYPE_CHECKING:
    from aiohttp import web

CONTENT_TYPES = {".html": "text/html", ".xml": "application/xml", ".txt": "text/plain"}
START_LIMIT_S = 20.0


class PydocServer:
    """Context that serves `site` from a thread of this process; `resolve` maps virtual host names to (address, port).

    Host k answers on 127.0.0.(k+1), each reply comes `latency_s` later than it could. Raises InputError when the folder
    is not a rendered site, ConfigError when the system lacks the loopback addresses (macOS has 127.0.0.1 alone).
    """

    def __init__(self, site: Path, num_hosts: int, latency_s: float = 0.0) -> None:
        self.site, self.num_hosts, self.latency_s = site, num_hosts, latency_s
        self.resolve: dict[str, tuple[str, int]] = {}
        self._ready = threading.Event()
        self._failed: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._main, name="pydoc-server", daemon=True)

    def __enter__(self) -> PydocServer:
        for host in range(self.num_hosts):
            if not (folder := self._folder(host)).is_dir():
                raise InputError(f"pydoc: {folder} is missing; remove {self.site} and run again to render it anew")
        self._thread.start()
        if not self._ready.wait(START_LIMIT_S):
            raise InputError(f"pydoc: the page server did not start within {START_LIMIT_S:.0f} s; run again")
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001  handed to the thread that waits in __enter__
            self._failed = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from aiohttp import web

        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        runners: list[web.AppRunner] = []
        try:
            for host in range(self.num_hosts):
                runner = web.AppRunner(self._app(host), access_log=None, shutdown_timeout=0.0)
                runners.append(runner)
                await runner.setup()
                self.resolve[host_name(host)] = await self._listen(runner, f"127.0.0.{host + 1}")
            self._ready.set()
            await self._end.wait()
        finally:
            for runner in runners:
                await runner.cleanup()

    async def _listen(self, runner: web.AppRunner, address: str) -> tuple[str, int]:
        from aiohttp import web

        try:
            await web.TCPSite(runner, address, 0).start()
        except OSError as error:
            raise ConfigError(f"pydoc: cannot listen on {address} ({error.strerror}); this system lacks that loopback "
                              "address: set corpus.num_hosts=1") from error
        return address, int(runner.addresses[0][1])

    def _folder(self, host: int) -> Path:
        return self.site / f"host-{host:02d}"

    def _app(self, host: int) -> web.Application:
        from aiohttp import web

        root = self._folder(host)
        files = {"/" + p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
        files["/"] = files["/index.html"]

        async def answer(request: web.Request) -> web.Response:
            await asyncio.sleep(self.latency_s)
            file = files.get(request.path)  # looked up, never joined: a path cannot leave the folder
            if file is None:
                return web.Response(status=404, text="404: no such page\n")
            body = file.read_bytes()
            tag = hashlib.sha256(body).hexdigest()[:16]
            if any(t.value == tag for t in request.if_none_match or ()):
                reply = web.Response(status=304)
            else:
                reply = web.Response(body=body, content_type=CONTENT_TYPES[file.suffix], charset="utf-8")
            reply.etag = tag
            return reply

        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        return app
