"""How long the cache takes: exact hits of each level, semantic hits with encoding, beside a full path."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.record import pressure_cpu
from rag_hpc.eval.bench.cache import reworded
from rag_hpc.eval.bench.pairs import MIN_PAIRS, take_turns
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.models.encoder import Encoder
from rag_hpc.serve.cache.answers import Answers, Vector
from rag_hpc.serve.cache.cache import Cache, Got
from rag_hpc.serve.cache.config import CacheConfig, Second
from rag_hpc.serve.cache.entry import Key, Kind, Scope
from rag_hpc.serve.cache.files import fill
from rag_hpc.serve.cache.trial import Trial

BAR_EXACT_MS, BAR_SEMANTIC_MS, BAR_TIMES = 5.0, 50.0, 200.0
SCOPE = Scope(tenant="bench", generation="bench", k=5)
REWORDED = Scope(tenant="reworded", generation="bench", k=5)  # where nothing is there before
VALUE = {"answer": "An answer of some length. " * 20, "passages": [{"text": "A passage. " * 60}] * 5, "found": True}
SECRET = b"bench"


def rows(questions: Sequence[str], encoder: Encoder, rounds: int, full_s: float, folder: Path) -> list[Row]:
    """Return the rows; every round is another question. full_s: of the generator's part in the full path, waited."""
    asked = [q for q in questions if reworded.reworded("typing", q)][:rounds]
    configs = {"memory": CacheConfig(), "sqlite": CacheConfig(second=Second.sqlite, sqlite=str(folder / "cache.db"))}
    configs["files"] = CacheConfig(files=str(folder / "files"))
    found = []
    with contextlib.ExitStack() as stack:
        if shutil.which("redis-server"):
            url = stack.enter_context(redis_server(folder))
            configs["redis"] = CacheConfig(second=Second.redis, redis_url=url)
        for name, config in configs.items():
            found.append(_exact(name, config, asked))
        for name in ("memory", *(["redis"] if "redis" in configs else [])):
            found.append(_semantic(name, configs[name], asked, encoder))
        found.append(_times(configs["memory"], asked, encoder, full_s))
    return found


def _exact(name: str, config: CacheConfig, asked: Sequence[str]) -> Row:
    """Return the row of questions that are there, of which this gateway has seen none unless it is by its memory."""
    filled = Cache(config, SECRET)
    values = {}
    for question in asked:
        key = Key(kind=Kind.answer, scope=SCOPE, text=question)
        values[key.digest(SECRET)] = ({**VALUE, "question": question}, time.time() + 3600)
        filled.put(key, {**VALUE, "question": question})
    if config.files:
        fill(Path(config.files), SECRET, values, time.time())
    cache = filled if name == "memory" else Cache(config, SECRET)
    answers = Answers(cache, lambda one, other: one == other)
    took = [_timed(answers.look, SCOPE, question, _never)[0] for question in asked]
    assert cache.counts[f"answer_{'shared' if name in ('sqlite', 'redis') else name}"] == len(asked)
    for one in {filled, cache}:
        one.close()
    return _row(f"cache.exact.{name}", took, 50, BAR_EXACT_MS, "answers of 5 passages by their own words")


def _semantic(name: str, config: CacheConfig, asked: Sequence[str], encoder: Encoder) -> Row:
    cache = _filled(config, asked, encoder)
    answers, took, hits = Answers(cache, lambda one, other: one == other), [], 0
    encoder.encode(["Once, so that all is loaded"])
    if name != "memory":
        cache.close()
        cache = _trusted(Cache(config, SECRET))
        answers = Answers(cache, lambda one, other: one == other)
    cpu_s = time.process_time()
    for question in asked:
        other = str(reworded.reworded("typing", question))
        ms, looked = _timed(answers.look, REWORDED, other, _encoded(encoder, other))
        took.append(ms)
        hits += looked.got is not None
    cpu_ms = 1000 * (time.process_time() - cpu_s) / len(asked)
    cache.close()
    note = f"the question encoded on a core, compared, its answer read: {cpu_ms:.1f} ms of CPU on average; "
    note += f"{hits} of {len(asked)} are hits, all are timed"
    return _row(f"cache.semantic.{name}", took, 95, BAR_SEMANTIC_MS, note)


def _times(config: CacheConfig, asked: Sequence[str], encoder: Encoder, full_s: float) -> Row:
    """Return the row of how much sooner a hit is there than an answer that is made, both by Answers.answer."""
    cache = _filled(config, asked[:50], encoder)
    answers = Answers(cache, lambda one, other: one == other)
    fresh = iter(asked[50:])

    def full() -> float:
        question = next(fresh)
        return _timed(answers.answer, REWORDED, question, _encoded(encoder, question), partial(_made, full_s))[0]

    def hit() -> float:
        return statistics.median(_timed(answers.look, REWORDED, question, _never)[0] for question in asked[:50])

    timed = take_turns({"full": full, "hit": hit}, MIN_PAIRS)
    ratio, interval = timed.ratio("hit", "full")
    return Row(
        name="cache.times",
        ours=timed.median("hit"),
        unit="ms a hit",
        peers={"full path, ms": timed.median("full")},
        ratio=ratio,
        interval=interval,
        bar=BAR_TIMES,
        contention=timed.contention,
        note=f"the full path: lookup, encoding, {full_s:g} s waited in the generator's place; {cpu_class()}",
    )


def _filled(config: CacheConfig, asked: Sequence[str], encoder: Encoder) -> Cache:
    cache = _trusted(Cache(config, SECRET))
    answers = Answers(cache, lambda one, other: one == other)
    vectors_ND = encoder.encode(asked, allow_truncate=True)
    for question, vector_D in zip(asked, vectors_ND, strict=True):
        answers.answer(REWORDED, question, _given(vector_D), partial(_made, 0))
    return cache


def _trusted(cache: Cache) -> Cache:
    cache.trial = Trial(1.0, 0.0, lambda: 0.5)
    return cache


def _made(full_s: float) -> Got:
    time.sleep(full_s)
    return Got(VALUE, "computed")


def _encoded(encoder: Encoder, question: str) -> Vector:
    return lambda: encoder.encode([question], allow_truncate=True)[0]


def _given(vector_D: Array) -> Vector:
    return lambda: vector_D


def _never() -> Any:
    raise AssertionError("an exact hit needs no vector")


def _timed(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Return the milliseconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    found = call(*given)
    return 1000 * (time.perf_counter() - begun), found


def _row(name: str, took: Sequence[float], percentile: int, bar: float, note: str) -> Row:
    p50, p95, p99 = np.percentile(took, (50, 95, 99))
    return Row(
        name=name,
        ours=float(np.percentile(took, percentile)),
        unit=f"ms, p{percentile}",
        bar=bar,
        less_is_better=True,
        contention=pressure_cpu(),
        note=f"{note}; {len(took)} requests, p50 {p50:.3f}, p95 {p95:.3f}, p99 {p99:.3f} ms; {cpu_class()}",
    )


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Yield the address of a redis-server on a Unix socket."""
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        until = time.monotonic() + 10
        while not socket.exists() and time.monotonic() < until:
            time.sleep(0.01)
        yield f"unix://{socket}"
    finally:
        server.kill()
        server.wait()
