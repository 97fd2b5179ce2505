"""`python -m rag_hpc.serve.gateway.main RUN_DIR NAME`: a gateway, until it is told to stop.

Exit codes: 0 told to stop, 1 an error, 2 it cannot run as configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from rag_hpc.algo.quality.language import language
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.log import configure
from rag_hpc.core.scratch import scratch_folder
from rag_hpc.core.trust import check_run, private_files
from rag_hpc.errors import ConfigError, RagHpcError
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.schema import from_plain
from rag_hpc.search.answer import Asker
from rag_hpc.serve.ask import manifests, pages_of
from rag_hpc.serve.cache.cache import Cache
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.scope import scope_of, secret_of
from rag_hpc.serve.client import search_groups
from rag_hpc.serve.gateway.app import make_app
from rag_hpc.serve.gateway.auth.accounts import Accounts
from rag_hpc.serve.gateway.auth.keys import KeyRing
from rag_hpc.serve.gateway.auth.limits import Limits
from rag_hpc.serve.gateway.auth.tokens import Tokens
from rag_hpc.serve.gateway.batches import Batches
from rag_hpc.serve.gateway.caches import Caches, Scopes
from rag_hpc.serve.gateway.callers import Callers
from rag_hpc.serve.gateway.config import GatewayConfig, candidates_of
from rag_hpc.serve.gateway.fleet import Fleet
from rag_hpc.serve.gateway.flow import Flow
from rag_hpc.serve.gateway.groups import Groups
from rag_hpc.serve.gateway.kept import Kept
from rag_hpc.serve.gateway.metrics import Metrics
from rag_hpc.serve.gateway.places import DOORS, FEEDBACK, Asked, Doors, GatewayPlace, auth_folder, own_folder
from rag_hpc.serve.gateway.router import Router
from rag_hpc.serve.gateway.service import Service
from rag_hpc.serve.gateway.traces import Traces
from rag_hpc.serve.gateway.upstream import Upstream
from rag_hpc.serve.rank import fingerprint
from rag_hpc.serve.replicas import replicas_place
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.vectors import VectorStore

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
DRAIN_S = 12  # for open requests when the gateway is told to stop
LOOK_S = 0.5  # how often it looks whether who started it is still there
LONGEST = 100  # of a socket's path: the kernel takes 107 bytes
WARM_CHUNKS = 10
WARM = "Which function copies a file?"


class Server(uvicorn.Server):
    """Ends when it is told to, or when who started it has ended."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals; what is open is answered yet, and the process then ends as it should."""
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: self.end())
        yield

    def end(self) -> None:
        """Take no more requests."""
        self.should_exit = True

    async def look(self) -> None:
        """Return when who started this process has ended."""
        parent = os.getppid()
        while os.getppid() == parent:
            await asyncio.sleep(LOOK_S)
        self.end()


async def serve(place: GatewayPlace, asked: Asked, scratch: Path) -> None:
    """Answer at all doors until told to stop."""
    config = GatewayConfig(**asked.settings)
    sockets, doors = listen(config, scratch, place.address())
    async with service_of(place, asked, config) as service:
        with (place.folder / "requests.jsonl").open("a", encoding="utf-8") as lines:
            app = make_app(service, log=logger(lines), owner=doors.owner)
            server = Server(
                uvicorn.Config(
                    app,
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    proxy_headers=False,
                    lifespan="off",
                    timeout_graceful_shutdown=DRAIN_S,
                )
            )
            gc.collect()
            gc.freeze()  # a collection among what stays, such as the model, would stop all requests
            place.write(DOORS, doors)
            log.info("gateway %s of %s answers at %s", place.name, asked.run, doors.owner)
            looking = asyncio.create_task(server.look())
            await server.serve(sockets=sockets)
            looking.cancel()


def listen(config: GatewayConfig, scratch: Path, address: str) -> tuple[list[socket.socket], Doors]:
    """Return listening sockets, and where they are. Raises ConfigError for a port that is taken."""
    folder, sockets = own_folder(scratch / "doors"), []
    if len(str(folder / "owner")) > LONGEST:
        raise ConfigError(f"{folder}: too long a path for a socket; set TMPDIR to a short one on this node")
    with private_files():
        for name in ("owner", "edge"):
            sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sockets[-1].bind(str(folder / name))
    port = -1
    if config.port >= 0:
        try:
            sockets.append(socket.create_server((address, config.port)))
            # connections have it from here; without it a body waits 40 ms for its head's acknowledgement
            sockets[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise ConfigError(f"gateway.port={config.port}: {error.strerror}; take another, or 0 for any") from error
        port = sockets[-1].getsockname()[1]
    for sock in sockets:
        sock.listen(1024)
    owner, edge = (str(folder / name) for name in ("owner", "edge"))
    host = os.uname().nodename
    return sockets, Doors(host=host, pid=os.getpid(), owner=owner, edge=edge, port=port, address=address)


@contextlib.asynccontextmanager
async def service_of(place: GatewayPlace, asked: Asked, config: GatewayConfig) -> AsyncIterator[Service]:
    """Yield what the routes need, loaded and warm."""
    ledger = Ledger(place.run_dir)
    request = ledger.request(asked.submission)
    inputs = manifests(place.run_dir, request)
    groups = Groups(place.run_dir, fingerprint(inputs, request))
    generator = from_plain(GeneratorConfig, asked.generator)
    auth, metrics = auth_folder(place.run_dir, config), Metrics()
    traces = Traces(config.otlp, asked.run, place.name) if config.otlp else None
    accounts, limits = Accounts(auth), Limits(auth)
    tokens = Tokens(KeyRing(auth), accounts, asked.run, config.token_s)
    asker = Asker(inputs, request.settings, generator, place.folder, lambda own: _Nowhere())
    asker.embed(WARM)
    language(WARM)
    first = range(min(WARM_CHUNKS, len(VectorStore(inputs["encode"]))))
    asker.quoted(WARM, asker.whole(first))
    if asker.candidates and config.candidates:
        asker.reranked(WARM, first, [{} for _ in first])
    upstream, fleet = None, None
    if generator.name is GeneratorName.openai:
        router = Router([] if config.fleet else config.replicas or [generator.base_url])
        upstream = Upstream(generator, router, config.wait_ms / 1000)
        if config.fleet:
            log.info("answers come from the replicas of fleet %s", config.fleet)
            fleet = Fleet(replicas_place(place.run_dir, config.fleet), upstream, place.name)
            await fleet.look()
    batches = Batches(
        groups.places,
        search_groups,
        most=lambda: groups.max_batch,
        wait_s=config.batch_wait_ms / 1000,
        limit_s=config.search_ms / 1000,
    )
    cache, caches = None, None
    if config.cache:
        cache = Cache(from_plain(CacheConfig, asked.cache), secret_of(place.run_dir))
        metrics.count_cache(cache.stats)
        scopes = Scopes(
            lambda num: scope_of(inputs, request, dataclasses.replace(generator, max_tokens=num), tenant=""),
            min(generator.max_tokens, config.max_tokens),
            lambda: upstream.identity if upstream else "",
        )
        caches = Caches(asked.run, cache, scopes)
    flow = Flow(
        asked.run,
        asker,
        batches,
        upstream,
        metrics=metrics,
        page_of=pages_of(ledger),
        cache=caches,
    )
    with private_files(), contextlib.closing(limits), contextlib.closing(asker):
        kept = Kept(place.run_dir, fingerprint(inputs, request)) if config.log else None
        tasks = [
            asyncio.create_task(work) for work in (fleet and fleet.follow(), kept and kept.flush(config.log_s)) if work
        ]
        try:
            yield Service(
                run=asked.run,
                config=config,
                flow=flow,
                callers=Callers(accounts, tokens, limits, ChunkStore(inputs["chunk"]).columns),
                metrics=metrics,
                ready=lambda: asyncio.to_thread(groups.state),
                max_tokens=generator.max_tokens,
                num_tokens=asker.num_tokens,
                candidates=candidates_of(request.settings, config.candidates),
                most_candidates=asker.depth if asker.candidates else 0,
                feedback=own_folder(place.run_dir / FEEDBACK) / f"{place.name}.jsonl",
                asked=kept,
                files=cache.files if cache else None,
                traces=traces,
            )
        finally:
            for task in tasks:
                task.cancel()
            if fleet:
                fleet.leave()
            await flow.close()
            for one in (cache, kept, traces):
                if one:
                    one.close()


class _Nowhere:
    """In the place of a searcher of this process: the groups are asked, in batches."""

    def search(self, *given: Any) -> Any:
        """Never called."""
        raise NotImplementedError("a gateway asks the groups")


def logger(lines: Any) -> Any:
    """Return a logger of JSON lines."""
    return structlog.wrap_logger(
        structlog.WriteLogger(lines),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


def raise_files() -> None:
    """Let this process open as many files as it may: a stream holds two, its asker's and its replica's."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one gateway; return the process's exit code."""
    run_dir, name = sys.argv[1:] if argv is None else argv
    configure(prefix=f"gateway@{os.uname().nodename}")
    try:
        check_run(Path(run_dir))
        raise_files()
        os.umask(0o077)
        place = GatewayPlace(Path(run_dir), name)
        with scratch_folder() as scratch:
            asyncio.run(serve(place, place.asked(), scratch))
    except Exception as error:
        known = isinstance(error, RagHpcError)
        log.error("%s: %s", type(error).__name__, error, exc_info=None if known else error)
        return error.exit_code if isinstance(error, RagHpcError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
