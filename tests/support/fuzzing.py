"""Mutated inputs for parsers, and caps on the CPU time and memory that one of them may cost.

RAG_HPC_FUZZ_INPUTS=1000000 makes every fuzz test a long one: pytest --timeout=0 tests/faults -k fuzz
"""

from __future__ import annotations

import os
import random
import resource
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

NUM_INPUTS = int(os.environ.get("RAG_HPC_FUZZ_INPUTS", "200"))  # read before the fixtures clean the environment
MAX_BYTES = 1 << 17  # of a mutated input
_NUMBERS = (
    b"0",
    b"-1",
    b"255",
    b"256",
    b"65535",
    b"65536",
    b"2147483647",
    b"2147483648",
    b"4294967295",
    b"18446744073709551616",
    b"1e999",
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
)


def mutations(seeds: Sequence[bytes], n: int, seed: int) -> Iterator[bytes]:
    """Yield `n` inputs, each a seed with 1 to 8 mutations; the same arguments give the same inputs."""
    rng = random.Random(seed)
    for _ in range(n):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
            rng.choice(_MUTATORS)(data, rng, seeds)
        yield bytes(data[:MAX_BYTES])


def survive(
    parse: Callable[[bytes], object],
    inputs: Iterable[bytes],
    *,
    allowed: tuple[type[Exception], ...] = (),
    cpu_s: float = 5.0,
    mib: int = 400,
) -> int:
    """Return how many inputs `parse` took. Fails on an exception that is not allowed, on an input that costs more than
    `cpu_s` of CPU time, and when the peak memory of the process grows by more than `mib`; the input is kept in a file.
    """
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + (mib << 10)
    before = signal.signal(signal.SIGPROF, _too_slow)
    number = 0
    try:
        for number, data in enumerate(inputs, start=1):
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            try:
                parse(data)
            except allowed:
                pass
            except BaseException as error:
                raise AssertionError(f"input {number}, kept at {_kept(data)}: {error!r}") from error
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > limit:
                raise AssertionError(f"input {number}, kept at {_kept(data)}: over {mib} MiB of memory")
    finally:
        signal.signal(signal.SIGPROF, before)
    return number


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("over the cap on CPU time")


def _kept(data: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix="fuzz-", suffix=".bin")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return Path(name)


def _span(data: bytearray, rng: random.Random, most: int) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.randrange(1, most + 1))


def _flip(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    start, stop = _span(data, rng, 16)
    data[start:stop] = rng.randbytes(stop - start)


def _truncate(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _remove(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    start, stop = _span(data, rng, 256)
    del data[start:stop]


def _duplicate(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    start, stop = _span(data, rng, 64)
    data[stop:stop] = data[start:stop] * rng.choice((1, 2, 10, 1000))


def _splice(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    begin = rng.randrange(len(other) + 1)
    start, stop = _span(data, rng, 512)
    data[start:stop] = other[begin : begin + rng.randrange(1, 513)]


def _number(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    start, stop = _span(data, rng, 8)
    data[start:stop] = rng.choice(_NUMBERS)


_MUTATORS = (_flip, _overwrite, _truncate, _remove, _duplicate, _splice, _number)
