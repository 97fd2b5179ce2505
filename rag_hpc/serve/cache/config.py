"""Settings of the caches, `cache.KEY=VALUE`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rag_hpc.core.settings import DAY_S, bounded, check_bounds, path_field
from rag_hpc.errors import ConfigError

YEAR_S = 366 * DAY_S


class Second(Enum):
    """Where the second level lies."""

    none = "none"
    sqlite = "sqlite"  # a file of this machine: its locks do not hold on a shared filesystem
    redis = "redis"  # shared by all gateways


@dataclass(kw_only=True)
class CacheConfig:
    """Settings of the caches of one gateway."""

    memory_mib: int = bounded(256, 1, 1 << 20)  # of the first level
    second: Second = Second.none
    sqlite: str | None = path_field()  # the file, on a disk of this machine
    sqlite_mib: int = bounded(1024, 1, 1 << 20)
    redis_url: str | None = None  # redis://HOST:PORT/DB, rediss://... or unix:///PATH
    redis_password_file: str | None = path_field(only="file")
    redis_ms: int = bounded(50, 1, 10_000)  # waited for; later is a miss
    retry_s: float = bounded(1.0, 0.01, 3600)  # a level that has failed is not asked for so long
    files: str | None = path_field()  # the third level: the folder that `serve warm` fills
    embedding_ttl_s: float = bounded(DAY_S, 1, YEAR_S)
    retrieval_ttl_s: float = bounded(3600, 1, YEAR_S)
    answer_ttl_s: float = bounded(DAY_S, 1, YEAR_S)
    semantic: bool = True  # answers of questions that ask the same in other words
    min_cosine: float = bounded(0.98, 0.5, 1)
    max_error: float = bounded(0.01, 0.0001, 1)  # upper 95 percent bound of the share of false semantic hits
    verify_share: float = bounded(0.05, 0, 1)  # of the semantic hits, answered anew and compared

    def __post_init__(self) -> None:
        check_bounds(self, "cache")
        if self.second is Second.sqlite and not self.sqlite:
            raise ConfigError("cache.second=sqlite: of which file? Set cache.sqlite=FILE, on a disk of this machine")
        if self.second is Second.redis and not self.redis_url:
            raise ConfigError("cache.second=redis: where? Set cache.redis_url=redis://HOST:PORT/0 or unix:///PATH")
        if self.redis_url and not self.redis_url.startswith(("redis://", "rediss://", "unix://")):
            raise ConfigError("cache.redis_url: redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH is needed")
        if self.redis_url and "@" in self.redis_url.partition("://")[2].partition("?")[0]:
            raise ConfigError("cache.redis_url: a password is not for settings; write it to cache.redis_password_file")
