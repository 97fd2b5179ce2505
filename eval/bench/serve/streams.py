"""`bench serve part=streams`: answers that stream slowly, many of them open at once through one gateway.

The gateway's replica is an engine that is played at the address which the gateway was told. Questions are drawn from a
few, so that searches are kept and the answers are what takes long; a temperature above 0 keeps answers from being kept.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from rag_hpc.core.ledger import Ledger
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.serve import engine
from rag_hpc.eval.bench.serve.doors import gateway_of, questions_of
from rag_hpc.eval.bench.serve.load import Sample, Target, ask
from rag_hpc.eval.bench.serve.process import rss_bytes
from rag_hpc.eval.bench.serve.quantiles import quantile
from rag_hpc.serve.gateway.places import GatewayPlace

CHAT = "/v1/chat/completions"
FEW = 10  # questions
LOOK_S = 0.2
HOW = (
    "start it with generator=openai generator.model=played gateway.replicas=[http://127.0.0.1:PORT/v1] "
    "gateway.max_in_flight={num}"
)


def run(ledger: Ledger, given: dict[str, str]) -> list[Row]:
    """Return rows of how many streams were open at once, of those that failed, and of memory."""
    num, rate, hold_s = int(given["streams"]), float(given["qps"]), float(given["seconds"])
    return hold(gateway_of(ledger, caches=True), questions_of(ledger)[:FEW], num, rate, hold_s)


def hold(place: GatewayPlace, questions: Sequence[str], num: int, rate: float, hold_s: float) -> list[Row]:
    """Open `num` streams, `rate` a second, each of which lasts until `hold_s` after the last was opened.

    Raises ConfigError for a gateway that has other replicas than one of this machine, or lets in fewer requests.
    """
    port, doors = _port(place, num), place.doors()
    lasts_s = num / rate + hold_s
    pieces = max(2, math.ceil(lasts_s / 2))
    target = Target(socket=doors.owner, path=CHAT, deadline_ms=round(1000 * (2 * lasts_s + 60)))
    bodies = [_body(place.asked().run, text) for text in questions]
    with engine.playing(port=port, pieces=1):  # searches are kept from here on
        warm = ask(target, [Sample(due_s=0.0, body=body) for body in bodies])
    if failed := [one for one in warm if not one.good]:
        raise ConfigError(
            f"gateway {place.name} does not stream: {failed[0].status} {failed[0].error}; {HOW.format(num=num)}"
        )
    with engine.playing(port=port, pieces=pieces, pause_ms=1000 * lasts_s / (pieces - 1)):
        before = rss_bytes(doors.pid)
        with _Peak(doors.pid) as peak:
            samples = ask(target, [Sample(due_s=n / rate, body=bodies[n % len(bodies)]) for n in range(num)])
    note = f"{num} streams, {rate:g} more a second, each {lasts_s:.0f} s long; {cpu_class()}"
    failed = [one for one in samples if not one.good]
    first = [1000 * one.first_s for one in samples]
    return [
        Row(name="serve.streams.open", ours=most_open(samples), unit="at once", bar=num, note=note),
        Row(
            name="serve.streams.failed",
            ours=len(failed),
            unit="streams",
            bar=0,
            less_is_better=True,
            note=note + (f"; {failed[0].status} {failed[0].error}"[:200] if failed else ""),
        ),
        Row(
            name="serve.streams.first.p99", ours=quantile(first, 0.99), unit="ms", contention=pressure_cpu(), note=note
        ),
        Row(name="serve.streams.memory", ours=(peak.most - before) / num / 1024, unit="KiB a stream", note=note),
    ]


def most_open(samples: Sequence[Sample]) -> int:
    """Return how many streams had begun and not ended at one time."""
    good = [one for one in samples if one.good]
    ends = [(one.due_s + one.first_s, 1) for one in good] + [(one.due_s + one.whole_s, -1) for one in good]
    most = now = 0
    for _, change in sorted(ends):
        now += change
        most = max(most, now)
    return most


class _Peak:
    """The most memory that a process holds meanwhile."""

    def __init__(self, pid: int) -> None:
        self.most, self._pid, self._over = rss_bytes(pid), pid, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.most = max(self.most, rss_bytes(self._pid))


def _port(place: GatewayPlace, num: int) -> int:
    settings = place.asked().settings
    urls = [urlsplit(str(one)) for one in settings.get("replicas", [])]
    if len(urls) != 1 or urls[0].hostname != "127.0.0.1" or not urls[0].port:
        raise ConfigError(f"gateway {place.name}: one replica of this machine is needed; {HOW.format(num=num)}")
    if settings["max_in_flight"] < num:
        raise ConfigError(f"gateway.max_in_flight={settings['max_in_flight']}: lets in fewer than {num} streams")
    return urls[0].port


def _body(model: str, text: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": True, "temperature": 1.0}
