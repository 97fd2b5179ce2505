"""The levels of the cache: bounded memory, a store that may lie or be gone, read-only files."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redisserver import RedisServer

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.schema import from_plain
from rag_hpc.serve.cache import files
from rag_hpc.serve.cache.cache import Cache, Got
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Key, Kind, Scope, sealed, unsealed
from rag_hpc.serve.cache.levels import Memory, Sqlite, Store, store_of

SECRET, OTHER = b"s" * 32, b"o" * 32
SCOPE = Scope(tenant="t", generation="g1", k=5, model="m", prompt="p1")
KEY = Key(kind=Kind.answer, scope=SCOPE, text="Who was first?")
DIGEST = KEY.digest(SECRET)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", "redis"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CacheConfig]:
    """Settings of a cache with a real second level."""
    if request.param == "sqlite":
        yield from_plain(CacheConfig, {"second": "sqlite", "sqlite": str(tmp_path / "cache.db")})
        return
    with RedisServer(tmp_path) as url:
        yield from_plain(CacheConfig, {"second": "redis", "redis_url": url, "redis_ms": 1000, "retry_s": 0.05})


def test_memory_is_bounded_and_drops_what_was_unused_longest() -> None:
    memory = Memory(3 * 300, clock=lambda: 0.0)
    for name in (b"a", b"b", b"c"):
        memory.put(name, bytes(100), 10)
    assert memory.get(b"a") is not None
    memory.put(b"d", bytes(100), 10)
    assert [memory.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    memory.put(b"huge", bytes(1000), 10)
    assert memory.get(b"huge") is None and len(memory) == 3
    assert memory.num_bytes == 900 and memory.evicted == 1
    memory.put(b"a", bytes(1), 10)
    assert memory.num_bytes == 801


def test_memory_forgets_what_has_expired() -> None:
    clock = Clock()
    memory = Memory(1000, clock)
    memory.put(b"a", b"x", clock.now + 5)
    clock.now += 5
    assert memory.get(b"a") is None and memory.num_bytes == 0


@pytest.mark.parametrize("field", ["tenant", "generation", "k", "model", "prompt", "filter"])
def test_whatever_an_answer_depends_on_is_in_its_key(field: str) -> None:
    changed = {field: 6 if field == "k" else "other"}
    other = Key(kind=KEY.kind, scope=Scope(**{**vars(SCOPE), **changed}), text=KEY.text)
    assert other.digest(SECRET) != DIGEST


def test_a_key_is_of_its_kind_words_and_secret_and_not_of_blanks() -> None:
    assert Key(kind=Kind.retrieval, scope=SCOPE, text=KEY.text).digest(SECRET) != DIGEST
    assert Key(kind=KEY.kind, scope=SCOPE, text="who was first?").digest(SECRET) != DIGEST
    assert KEY.digest(OTHER) != DIGEST
    assert Key(kind=KEY.kind, scope=SCOPE, text="  Who was\nfirst? ").digest(SECRET) == DIGEST
    apart = [Scope(tenant="a", generation="bc"), Scope(tenant="ab", generation="c")]
    assert len({Key(kind=KEY.kind, scope=scope, text="x").digest(SECRET) for scope in apart}) == 2


def test_an_entry_that_is_cut_garbled_or_foreign_is_none() -> None:
    data = sealed(SECRET, DIGEST, b"body", 5.0)
    assert unsealed(SECRET, DIGEST, data) == (b"body", 5.0)
    assert all(unsealed(SECRET, DIGEST, data[:cut]) is None for cut in range(len(data)))
    for at in range(len(data)):
        assert unsealed(SECRET, DIGEST, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
    assert unsealed(OTHER, DIGEST, data) is None and unsealed(SECRET, KEY.digest(OTHER), data) is None


def test_a_second_level_outlives_the_gateway_and_keeps_values_of_all_kinds(config: CacheConfig) -> None:
    values = {Kind.answer: {"answer": "é \udc80", "score": 0.5}, Kind.retrieval: {"ids": [1, 2], "scores": [0.5, 0.25]}}
    vector_D, of_vector = np.float32([1, 0.1, -3]), Key(kind=Kind.embedding, scope=SCOPE, text="q")
    first = Cache(config, SECRET)
    for kind, value in values.items():
        first.put(Key(kind=kind, scope=SCOPE, text="q"), value)
    first.put(of_vector, vector_D)
    first.close()
    second = Cache(config, SECRET)
    for kind, value in values.items():
        got = second.get(Key(kind=kind, scope=SCOPE, text="q"))
        assert got is not None and (got.value, got.source) == (value, "shared")
    got = second.get(of_vector)
    assert got is not None and got.value.tolist() == vector_D.tolist()
    assert second.get(of_vector).source == "memory"  # type: ignore[union-attr]
    assert Cache(config, OTHER).get(of_vector) is None
    second.close()


def test_what_a_store_holds_for_a_key_but_did_not_come_from_us_is_a_counted_miss(config: CacheConfig) -> None:
    cache, store = Cache(config, SECRET), _store(config)
    other = Key(kind=Kind.answer, scope=SCOPE, text="another")
    good = sealed(SECRET, DIGEST, b'J{"answer":1}', time.time() + 60)
    bad = [b"", b"junk", good[:-1], sealed(OTHER, DIGEST, b"J1", 9e9), sealed(SECRET, other.digest(SECRET), b"J1", 9e9)]
    for data in bad:
        store.put(DIGEST, data, 60)
        assert cache.get(KEY) is None
    assert cache.counts["shared_foreign"] == len(bad)
    store.put(DIGEST, sealed(SECRET, DIGEST, b"J1", time.time() - 1), 60)
    assert cache.get(KEY) is None and cache.counts["shared_expired"] == 1
    store.put(DIGEST, sealed(SECRET, DIGEST, b"Xnot of this version", time.time() + 60), 60)
    assert cache.get(KEY) is None and cache.counts["shared_foreign"] == len(bad) + 1
    store.put(DIGEST, good, 60)
    assert cache.get(KEY) == Got({"answer": 1}, "shared")
    cache.close()
    store.close()


def test_without_redis_requests_go_on_and_with_it_again_so_do_hits(tmp_path: Path) -> None:
    server, clock = RedisServer(tmp_path), Clock()
    with server as url:
        settings = {"second": "redis", "redis_url": url, "redis_ms": 1000, "retry_s": 1, "memory_mib": 1}
        cache = Cache(from_plain(CacheConfig, settings), SECRET, clock=clock)
        cache.put(KEY, 1)
        server.stop()
        fresh = Cache(from_plain(CacheConfig, settings), SECRET, clock=clock)
        assert fresh.once(KEY, lambda: Got(2, "computed")).value == 2
        assert fresh.counts["shared_down"] == 3  # asked once, then left alone: two lookups and a write
        server.start()
        clock.now += 1.5
        fresh.put(KEY, 3)
        assert Cache(from_plain(CacheConfig, settings), SECRET, clock=clock).get(KEY) == Got(3, "shared")
        for one in (cache, fresh):
            one.close()


def test_a_database_that_is_none_is_a_miss_and_begun_anew(tmp_path: Path) -> None:
    path, clock = tmp_path / "cache.db", Clock()
    path.write_bytes(b"no database at all" * 100)
    config = from_plain(CacheConfig, {"second": "sqlite", "sqlite": str(path)})
    cache = Cache(config, SECRET, clock=clock)
    assert cache.once(KEY, lambda: Got(2, "computed")).value == 2 and cache.counts["shared_down"] == 3
    clock.now += 2
    cache.put(KEY, 3)
    assert _value(config, clock) == 3
    cache.close()
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"x" * (len(data) - 100))
    cut = Cache(config, SECRET, clock=clock)
    assert cut.get(KEY) is None
    clock.now += 2
    cut.put(KEY, 4)
    assert _value(config, clock) == 4
    cut.close()


def _value(config: CacheConfig, clock: Clock) -> object:
    """Return what a gateway that has just started finds."""
    cache = Cache(config, SECRET, clock=clock)
    got = cache.get(KEY)
    cache.close()
    return got and got.value


def test_the_file_is_ours_alone_and_stays_within_its_bytes(tmp_path: Path) -> None:
    clock = Clock()
    store = Sqlite(tmp_path / "sub" / "cache.db", 100_000, clock)
    for number in range(600):
        clock.now += 1
        store.put(b"%d" % number, bytes(1000), 1e6)
    assert store.get(b"0") is None and store.get(b"599") == bytes(1000)
    (used,) = sqlite3.connect(tmp_path / "sub" / "cache.db").execute("select count(*) from entries").fetchone()
    assert used <= 100 + 256
    assert (tmp_path / "sub" / "cache.db").stat().st_mode & 0o077 == 0
    store.close()


def test_files_are_read_only_and_named_by_what_they_hold(tmp_path: Path) -> None:
    told = files.fill(tmp_path, SECRET, {DIGEST: ({"answer": "é"}, 2000.0), b"b" * 32: ({"answer": "é"}, 2000.0)}, 1000)
    assert told == {"new": 1, "names": 2, "bytes": 16}
    (path,) = tmp_path.glob("objects/*/*.json")
    assert path.stat().st_mode & 0o777 == 0o400
    cache = Cache(CacheConfig(files=str(tmp_path)), SECRET, clock=lambda: 1500.0)
    assert cache.get(KEY) == Got({"answer": "é"}, "files") and cache.get(KEY) == Got({"answer": "é"}, "memory")
    assert cache.files is not None and cache.files.object(path.stem) == path.read_bytes()
    assert cache.files.object("../../etc/passwd") is None and cache.files.object("0" * 64) is None
    assert Cache(CacheConfig(files=str(tmp_path)), SECRET, clock=lambda: 2000.0).get(KEY) is None
    assert Cache(CacheConfig(files=str(tmp_path)), OTHER, clock=lambda: 1500.0).get(KEY) is None


def test_a_newer_filling_is_seen_and_what_it_no_longer_names_is_gone(tmp_path: Path) -> None:
    clock = Clock()
    cache = Cache(CacheConfig(files=str(tmp_path)), SECRET, clock=clock)
    assert cache.get(KEY) is None
    files.fill(tmp_path, SECRET, {DIGEST: ("old", clock.now + 10)}, clock.now)
    clock.now += 2
    assert cache.get(KEY) == Got("old", "files")
    clock.now += 10
    assert files.fill(tmp_path, SECRET, {b"b" * 32: ("new", clock.now + 10)}, clock.now)["names"] == 1
    assert [path.read_text() for path in tmp_path.glob("objects/*/*.json")] == ['"new"\n'] and cache.get(KEY) is None


def test_damaged_files_are_misses(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    files.fill(tmp_path, SECRET, {DIGEST: ("value", 2000.0)}, 1000)
    (path,) = tmp_path.glob("objects/*/*.json")
    path.chmod(0o600)
    path.write_text('"other"')
    assert files.Files(tmp_path, SECRET, counts, lambda: 1500.0).get(DIGEST) is None and counts["files_foreign"] == 1
    (tmp_path / files.NAMES).write_text('{"names": {"')
    assert files.Files(tmp_path, SECRET, counts, lambda: 1500.0).get(DIGEST) is None and counts["files_foreign"] == 2
    assert files.fill(tmp_path, SECRET, {DIGEST: ("value", 2000.0)}, 1000) == {"new": 1, "names": 1, "bytes": 8}
    tmp_path.chmod(0o777)
    with pytest.raises(InputError, match="others may write"):
        files.fill(tmp_path, SECRET, {}, 1000)


def test_an_http_cache_may_keep_an_object_for_good() -> None:
    name = "a" * 64
    told = files.headers(name, public=False)
    assert told["ETag"] == f'"{name}"' and told["Cache-Control"] == "private, max-age=31536000, immutable"
    assert files.headers(name, public=True)["Cache-Control"].startswith("public, ")
    assert files.is_current(name, f'"x", W/"{name}"') and files.is_current(name, "*")
    assert not files.is_current(name, None) and not files.is_current(name, name)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"second": "sqlite"}, "cache.sqlite=FILE"),
        ({"second": "redis"}, "cache.redis_url=redis://"),
        ({"redis_url": "http://h"}, "unix:///PATH is needed"),
        ({"redis_url": "redis://:pass@h:1/0"}, "redis_password_file"),
        ({"min_cosine": 1.5}, "between 0.5 and 1"),
        ({"second": "disk"}, "sqlite"),
        ({"verify_shar": 0.1}, "verify_shar"),
    ],
)
def test_settings_are_checked(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_plain(CacheConfig, values)


def test_a_password_is_read_from_its_file(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    settings = {"second": "redis", "redis_url": "redis://127.0.0.1:1/0", "redis_password_file": str(tmp_path / "none")}
    with pytest.raises(InputError, match="none: No such file"):
        store_of(from_plain(CacheConfig, settings))


def _store(config: CacheConfig) -> Store:
    store = store_of(config)
    assert store is not None
    return store
