"""The levels of a cache: memory, a second level by its store, and what keeps a broken store from being felt."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, InputError, MissingDependency
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import sealed, unsealed

OVERHEAD = 200  # bytes of an entry in memory beside its body: key, tuple, links
PREFIX = b"rag-hpc:"
TIDY_EVERY = 256  # writes


class Memory:
    """The first level: entries by digest, the longest unused ones dropped beyond a number of bytes."""

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._most, self._clock, self._lock = most_bytes, clock, threading.Lock()
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self.num_bytes = 0
        self.evicted = 0

    def get(self, digest: bytes) -> bytes | None:
        """Return the body, None where there is none or it has expired."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                return None
            if entry[1] <= self._clock():
                self._drop(digest)
                return None
            self._entries.move_to_end(digest)
            return entry[0]

    def put(self, digest: bytes, body: bytes, expires: float) -> None:
        """Keep a body until it expires or is crowded out; one that is larger than the level is not kept."""
        with self._lock:
            if digest in self._entries:
                self._drop(digest)
            if len(body) + OVERHEAD > self._most:
                return
            self._entries[digest] = (body, expires)
            self.num_bytes += len(body) + OVERHEAD
            while self.num_bytes > self._most:
                self._drop(next(iter(self._entries)))
                self.evicted += 1

    def drop(self, digest: bytes) -> None:
        """Forget an entry."""
        with self._lock:
            if digest in self._entries:
                self._drop(digest)

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, digest: bytes) -> None:
        self.num_bytes -= len(self._entries.pop(digest)[0]) + OVERHEAD


class Store(Protocol):
    """Bytes by name, kept beyond this process; any exception means that it cannot be asked now."""

    def get(self, digest: bytes) -> bytes | None:
        """Return the bytes, None where there are none."""

    def put(self, digest: bytes, data: bytes, ttl_s: float) -> None:
        """Keep bytes for about so long."""

    def close(self) -> None:
        """Free what is held."""


class Sqlite:
    """A store in a file of this machine, shared by its processes; the oldest entries go beyond its bytes."""

    def __init__(self, path: Path, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._most, self._clock, self._lock, self._writes = most_bytes, clock, threading.Lock(), 0
        self._path = path
        self._file: sqlite3.Connection | None = None

    def get(self, digest: bytes) -> bytes | None:
        """Return the bytes. Raises sqlite3.Error; a file that is damaged is begun anew by the next call."""
        with self._lock, self._mending():
            row = self._open().execute("select data from entries where digest = ?", (digest,)).fetchone()
        return bytes(row[0]) if row else None

    def put(self, digest: bytes, data: bytes, ttl_s: float) -> None:
        """Keep bytes. Raises as `get` does."""
        with self._lock, self._mending():
            file, now = self._open(), self._clock()
            file.execute("insert or replace into entries values (?, ?, ?, ?)", (digest, data, now, now + ttl_s))
            self._writes += 1
            if self._writes % TIDY_EVERY == 1:
                self._tidy(file, now)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _mending(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError:  # locked, full, read-only: the file is well
            raise
        except sqlite3.DatabaseError:  # no database, or a malformed one: what it held is lost, and was a cache
            if self._file is not None:
                self._file.close()
            self._file = None
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
            raise

    def _open(self) -> sqlite3.Connection:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with private_files():
                file = sqlite3.connect(self._path, timeout=0.1, isolation_level=None, check_same_thread=False)
            try:
                file.execute("pragma journal_mode = wal")
                file.execute("pragma synchronous = off")  # what a power cut loses is a miss
                file.execute("pragma auto_vacuum = incremental")
                file.execute(
                    "create table if not exists entries "
                    "(digest blob primary key, data blob, made real, expires real) without rowid"
                )
                file.execute("create index if not exists by_age on entries (made)")
            except sqlite3.Error:
                file.close()
                raise
            self._file = file
        return self._file

    def _tidy(self, file: sqlite3.Connection, now: float) -> None:
        file.execute("delete from entries where expires <= ?", (now,))
        (used,) = file.execute("select coalesce(sum(length(data)), 0) from entries").fetchone()
        if used > self._most:
            (num,) = file.execute("select count(*) from entries").fetchone()
            surplus = max(1, int(num * (1 - 0.9 * self._most / used)))
            file.execute(
                "delete from entries where digest in (select digest from entries order by made limit ?)", (surplus,)
            )
        file.execute("pragma incremental_vacuum")


class Redis:
    """A store that all gateways share."""

    def __init__(self, url: str, password: str | None, timeout_s: float) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise MissingDependency(
                "cache.second=redis needs a client; run: pip install 'rag-hpc[redis]', or set cache.second=sqlite"
            ) from error
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                password=password,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),  # a late answer is a miss: nothing is tried again
            )
        except ValueError as error:
            raise ConfigError(f"cache.redis_url: {error}; such as redis://127.0.0.1:6379/0") from error

    def get(self, digest: bytes) -> bytes | None:
        """Return the bytes. Raises redis.RedisError."""
        data: bytes | None = self._client.get(PREFIX + digest)
        return data

    def put(self, digest: bytes, data: bytes, ttl_s: float) -> None:
        """Keep bytes. Raises redis.RedisError."""
        self._client.set(PREFIX + digest, data, px=max(1, int(1000 * ttl_s)))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class Shared:
    """The second level: sealed entries in a store. What is wrong with either is a miss, and counted."""

    def __init__(
        self, store: Store, secret: bytes, counts: Counter[str], retry_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """counts: takes `shared_down`, `shared_foreign` and `shared_expired`. retry_s: a store that failed has rest."""
        self._store, self._secret, self._counts, self._retry_s, self._clock = store, secret, counts, retry_s, clock
        self._until = 0.0

    def get(self, digest: bytes) -> tuple[bytes, float] | None:
        """Return (body, expiry), None where there is none to be had."""
        data = self._asked(lambda: self._store.get(digest))
        if data is None:
            return None
        entry = unsealed(self._secret, digest, data) if isinstance(data, bytes) else None
        if entry is None or entry[1] <= self._clock():
            self._counts["shared_foreign" if entry is None else "shared_expired"] += 1
            return None
        return entry

    def put(self, digest: bytes, body: bytes, expires: float) -> None:
        """Keep a body, if the store can be had."""
        data, ttl_s = sealed(self._secret, digest, body, expires), expires - self._clock()
        self._asked(lambda: self._store.put(digest, data, ttl_s))

    def close(self) -> None:
        """Free what the store holds."""
        with contextlib.suppress(Exception):
            self._store.close()

    def _asked(self, ask: Callable[[], Any]) -> Any:
        if self._clock() < self._until:
            self._counts["shared_down"] += 1
            return None
        try:
            return ask()
        except Exception:  # noqa: BLE001  whatever a store throws: a request does not fail for its cache
            self._counts["shared_down"] += 1
            self._until = self._clock() + self._retry_s
            with contextlib.suppress(Exception):
                self._store.close()  # the next try makes a new connection
            return None


def store_of(config: CacheConfig, clock: Callable[[], float] = time.time) -> Store | None:
    """Return the store that the settings name. Raises MissingDependency, ConfigError and InputError."""
    if config.second.value == "sqlite":
        return Sqlite(Path(str(config.sqlite)), config.sqlite_mib << 20, clock)
    if config.second.value == "redis":
        password = None
        if config.redis_password_file:
            try:
                password = Path(config.redis_password_file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise InputError(f"cache.redis_password_file={error.filename}: {error.strerror}") from error
        return Redis(str(config.redis_url), password, config.redis_ms / 1000)
    return None
