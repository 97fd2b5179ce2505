"""Settings of a gateway."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rag_hpc.core.settings import DAY_S, bounded, check_bounds, path_field
from rag_hpc.errors import ConfigError

SCOPES = ("query", "retrieve", "embeddings", "feedback", "metrics")


@dataclass(kw_only=True)
class AccountConfig:
    """Settings of an account, `account.KEY=VALUE`."""

    name: str = ""
    tenant: str = "all"  # whose filter holds for what the account finds
    scopes: str = "query,retrieve,embeddings,feedback"  # of SCOPES
    per_minute: int = bounded(60, 1, 1_000_000)  # requests; a quarter of them may come at once
    per_day: int = bounded(10_000, 1, 1_000_000_000)
    days: float = bounded(90.0, 0.001, 3650.0)  # how long the key holds

    def __post_init__(self) -> None:
        check_bounds(self, "account")
        if not self.name:
            raise ConfigError("account.name=: say whose it is, e.g. account.name=alice")
        if unknown := sorted({*self.scopes.split(",")} - {*SCOPES}):
            raise ConfigError(f"account.scopes: no {unknown[0]!r}; known: {', '.join(SCOPES)}")


@dataclass(kw_only=True)
class GatewayConfig:
    """Settings of a gateway, `gateway.KEY=VALUE`."""

    port: int = bounded(-1, -1, 65_535)  # where a token is asked for; 0 = a free one, -1 = none
    listen: str = "loopback"  # that port is of 127.0.0.1; or node: of the node's address, for all who reach the node
    deadline_ms: int = bounded(30_000, 100, 600_000)  # of a request that brings none, to its last token
    search_ms: int = bounded(2000, 10, 600_000)  # of that, at the most for the search
    max_stream_s: float = bounded(600.0, 0.1, DAY_S)  # a stream ends then, whatever its deadline and token
    heartbeat_s: float = bounded(15.0, 0.05, 300.0)  # a stream that says nothing for so long says a comment
    max_body_kib: int = bounded(256, 1, 65_536)
    max_question_chars: int = bounded(4000, 1, 1_000_000)
    max_tokens: int = bounded(1024, 1, 65_536)  # of an answer
    history_tokens: int = bounded(1024, 0, 65_536)  # of what was said before in a chat, the last of it; 0 = none counts
    max_k: int = bounded(100, 1, 1000)  # passages of a request
    candidates: int = bounded(-1, -1, 10_000)  # hits that the run's cross-encoder scores; -1 as in the run, 0 none
    max_texts: int = bounded(64, 1, 1024)  # of an embeddings request
    max_in_flight: int = bounded(256, 1, 65_536)  # requests at a time; one more is told to come again
    batch_wait_ms: float = bounded(1.0, 0.0, 1000.0)  # a search waits so long for others to be searched with
    wait_ms: int = bounded(5000, 0, 600_000)  # for a replica that is soon to be asked; half of the deadline at the most
    replicas: list[str] = field(default_factory=list)  # base URLs, or paths of Unix sockets; none: generator.base_url
    fleet: str = ""  # whose replicas answer, as `rag-hpc serve replicas` names it, while they come and go
    cache: bool = True  # what was answered before is answered from memory, and further levels of cache.*
    public: bool = False  # HTTP caches that several people share may keep what `serve warm` wrote, and give it to all
    otlp: str = ""  # http://HOST:4318 of an OpenTelemetry collector, which gets times and states of requests
    log: bool = (
        False  # keep questions, answers and votes, which tell of people, for `rag-hpc feedback` and `serve warm`
    )
    log_s: float = bounded(60.0, 0.1, 3600.0)  # how often what has come is written out; the rest is, at the end
    token_s: int = bounded(900, 10, int(DAY_S))  # how long a token of /v1/auth/token holds
    auth_dir: str = path_field("")  # keys, accounts and quotas, for all gateways; "" = in the run, gone with `down`

    def __post_init__(self) -> None:
        check_bounds(self, "gateway")
        if self.fleet and not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", self.fleet):
            raise ConfigError(f"gateway.fleet={self.fleet}: use letters, digits, '_' and '-' only, 32 at most")
        if self.fleet and self.replicas:
            raise ConfigError(
                "gateway.fleet and gateway.replicas: a fleet says where its replicas are; give one of both"
            )
        for replica in self.replicas:
            if not replica.startswith(("http://", "https://", "/")) or {"@", "?", "#"} & set(replica):
                raise ConfigError(
                    f"gateway.replicas: {replica!r} is neither a bare address such as http://127.0.0.1:8000/v1 nor the "
                    "path of a Unix socket; the key goes into generator.api_key_file"
                )
        if self.otlp and not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._/-]*)?", self.otlp):
            raise ConfigError(f"gateway.otlp={self.otlp!r}: the bare address of a collector, as http://127.0.0.1:4318")
        if self.listen not in ("loopback", "node"):
            raise ConfigError(f"gateway.listen={self.listen}: loopback or node")
        if self.listen == "node" and self.port < 0:
            raise ConfigError("gateway.listen=node: add gateway.port=0 for a free port, or the port that is to listen")


def candidates_of(settings: Mapping[str, Mapping[str, Any]], asked: int) -> int:
    """Return how many hits a gateway of a run has scored by the cross-encoder; asked: gateway.candidates, -1 as the
    run. Raises ConfigError for what the run has not."""
    from rag_hpc.search.rerank import as_the_run

    head = as_the_run(settings)
    if head is None:
        if asked > 0:
            raise ConfigError(f"gateway.candidates={asked}: the run has no cross-encoder; run it with pipeline=served")
        return 0
    if asked > (depth := int(settings["retrieve.search"]["depth"])):
        raise ConfigError(f"gateway.candidates={asked}: the run's rankings have {depth} hits (stage.retrieve.depth)")
    return head.depth if asked < 0 else asked
