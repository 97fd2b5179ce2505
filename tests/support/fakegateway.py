"""A gateway's application in this process, over one passage: no run, no group, no model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import structlog
from starlette.testclient import TestClient

from rag_hpc.algo.answer.prompt import Passage, Turn, build_prompt
from rag_hpc.algo.types import Array
from rag_hpc.generators.base import Answer, Quote
from rag_hpc.search.answer import Asker, Place
from rag_hpc.search.searcher import Found
from rag_hpc.serve.cache.cache import Cache
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Scope
from rag_hpc.serve.client import Reply
from rag_hpc.serve.gateway.app import make_app
from rag_hpc.serve.gateway.auth.accounts import Account, Accounts
from rag_hpc.serve.gateway.auth.keys import KeyRing
from rag_hpc.serve.gateway.auth.limits import Limits
from rag_hpc.serve.gateway.auth.tokens import Tokens
from rag_hpc.serve.gateway.batches import Batches
from rag_hpc.serve.gateway.caches import Caches, Scopes
from rag_hpc.serve.gateway.callers import Callers
from rag_hpc.serve.gateway.config import GatewayConfig
from rag_hpc.serve.gateway.flow import Flow
from rag_hpc.serve.gateway.metrics import Metrics
from rag_hpc.serve.gateway.service import Service
from rag_hpc.serve.gateway.traces import Traces
from rag_hpc.serve.gateway.upstream import Upstream

PASSAGE = Passage(chunk_id="c", doc_id="d", title="Deques", text="A deque keeps items.")
OWNER = "localhost"  # whom the client is taken for; others come by another name


class FakeAsker:
    """Knows one passage."""

    candidates, depth = 0, 0

    def __init__(self, passage: Passage = PASSAGE) -> None:
        self.passage, self.embedded = passage, list[str]()

    def embed(self, question: str) -> Array:
        self.embedded.append(question)
        return np.ones((1, 3), dtype=np.float16)

    def vectors(self, texts: Sequence[str]) -> Array:
        return np.ones((len(texts), 3), dtype=np.float32)

    def ranked(self, hits: Any, row: int = 0, k: int = 0) -> tuple[list[int], list[dict[str, Place]]]:
        return [0], [{"dense": Place(1, 0.5)}]

    def passages(self, question: str, ordinals: Any, ranks: Any, before: Sequence[Turn]) -> tuple[list[Passage], Any]:
        return [self.passage], ranks

    def whole(self, ordinals: Sequence[int]) -> list[Passage]:
        return [self.passage]

    def messages(self, question: str, passages: Sequence[Passage], before: Sequence[Turn]) -> list[dict[str, str]]:
        return build_prompt(question, passages, before=before)

    def quoted(self, question: str, passages: Sequence[Passage]) -> Answer:
        text = passages[0].text
        quote = Quote(number=1, start=0, end=len(text), score=0.9)
        return Answer(text=f"{text} [1]", citations=[1], found=True, short="items", quotes=[quote], score=0.9)

    def num_tokens(self, text: str) -> int:
        return len(text.split())


class FakeBatches:
    """Finds something in all shards."""

    async def search(self, text: str, vector_1D: Array, only: str, until: float) -> Reply:
        return Reply(Found({}, {}), 4, 4)

    async def close(self) -> None:
        pass


class AnyThreads(Limits):
    """Limits that are opened anew for each request: a client's requests are answered in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, account: str, per_minute: int, per_day: int) -> float:
        with contextlib.closing(Limits(self._folder)) as limits:
            return limits.take(account, per_minute, per_day)


class Lines:
    """What a log says, in memory."""

    def __init__(self) -> None:
        self.said = list[dict[str, Any]]()

    def msg(self, **event: Any) -> None:
        self.said.append(event)

    info = msg


class FakeGateway:
    """An application, what it is made of, and its accounts."""

    def __init__(
        self,
        folder: Path,
        *,
        asker: FakeAsker | None = None,
        upstream: Upstream | None = None,
        cache: CacheConfig | None = None,
        traces: Traces | None = None,
        **settings: Any,
    ) -> None:
        self.folder, self.asker, self.lines = folder, asker or FakeAsker(), Lines()
        self.metrics, self.accounts = Metrics(), Accounts(folder)
        self.secret = b"s" * 32
        self.cache = Cache(cache, self.secret) if cache else None
        self.scope = Scope(tenant="", generation="g", k=3, model="m", prompt="p")
        scopes = Scopes(lambda num: self.scope, 256, lambda: "")
        flow = Flow(
            "demo",
            cast(Asker, self.asker),
            cast(Batches, FakeBatches()),
            upstream,
            metrics=self.metrics,
            page_of=lambda passage, at: None,
            cache=Caches("demo", self.cache, scopes) if self.cache else None,
        )

        async def ready() -> dict[str, Any]:
            return {"state": "up", "coverage": "4/4"}

        config = GatewayConfig(**settings)
        self.keys = KeyRing(folder)
        self.tokens = Tokens(self.keys, self.accounts, "demo", 900)
        self.service = Service(
            run="demo",
            config=config,
            flow=flow,
            callers=Callers(self.accounts, self.tokens, AnyThreads(folder), {"lang": "string"}),
            metrics=self.metrics,
            ready=ready,
            max_tokens=256,
            num_tokens=self.asker.num_tokens,
            feedback=folder / "feedback.jsonl",
            files=self.cache.files if self.cache else None,
            traces=traces,
        )
        log = structlog.wrap_logger(self.lines, processors=[_as_it_is], wrapper_class=structlog.BoundLogger)
        self.app = make_app(self.service, log=log, owner=OWNER)

    def granted(self, name: str, **other: Any) -> str:
        """Return an API key of a new account, which is its own tenant."""
        given: dict[str, Any] = {"scopes": frozenset({"query", "retrieve", "embeddings", "feedback"})}
        limits = {"per_minute": 60_000, "per_day": 1_000_000, "until": time.time() + 3600}
        return self.accounts.grant(Account(name=name, tenant=name, **given | limits | other), "")

    def token(self, name: str) -> str:
        """Return a token of a new account."""
        return self.tokens.exchange(self.granted(name), frozenset())[0]


def _as_it_is(logger: Any, name: str, event: Any) -> Any:
    return (), dict(event)


@contextlib.contextmanager
def client_of(gateway: FakeGateway, host: str = OWNER) -> Iterator[TestClient]:
    """Yield who asks it: the owner, or by another host's name somebody with or without a token."""
    with TestClient(gateway.app, base_url=f"http://{host}") as client:  # type: ignore[arg-type]
        yield client
