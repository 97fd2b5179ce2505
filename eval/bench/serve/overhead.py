"""`bench serve part=overhead`: what a gateway adds to an answer that it keeps, beside proxies that pass requests on.

Sides take turns. Each server is held to one core while it is asked, and who asks to the others. What a proxy adds is
its time less that of the engine behind it, asked alike and directly; ours has nothing behind it. The seconds between a
request's arrival and its last byte are the gateway's own, too, from its log: those are without the asker's.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc.core.ledger import Ledger
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.pairs import MIN_PAIRS
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.serve import engine, peers
from rag_hpc.eval.bench.serve.doors import gateway_of, guest, questions_of
from rag_hpc.eval.bench.serve.load import Sample, Target, ask, load
from rag_hpc.eval.bench.serve.process import cpu_s, held, waited_s
from rag_hpc.eval.bench.serve.quantiles import ENOUGH, QUANTILES, interval, quantile
from rag_hpc.serve.gateway.places import GatewayPlace

CHAT, LOG = "/v1/chat/completions", "requests.jsonl"
ENGINE_MS = 20.0
MOST_QUESTIONS = 50
REST_S = 0.5  # between two turns


@dataclass(kw_only=True)
class Side:
    """A server that is asked, and what came of it."""

    target: Target
    pid: int
    bodies: list[dict[str, object]]
    samples: list[Sample] = field(default_factory=list)
    cpu_s: float = 0.0
    waited_s: float = 0.0  # for a core, which other programs had

    def whole_ms(self) -> list[float]:
        """Return the milliseconds of all requests; one that failed took for ever."""
        return [1000 * one.whole_s if one.good else float("inf") for one in self.samples]


def run(ledger: Ledger, given: dict[str, str], bar_ms: float) -> list[Row]:
    """Return rows of what is added at each quantile, of CPU a request, and of failures."""
    rate, seconds, pairs = float(given["qps"]), float(given["seconds"]), int(given["pairs"])
    if pairs < MIN_PAIRS:
        raise InputError(f"pairs={pairs}: at least {MIN_PAIRS}")
    place = gateway_of(ledger, caches=True)
    with contextlib.ExitStack() as stack:
        sides = _sides(stack, ledger, place, given)
        for side in sides.values():  # the answers get into the cache, the proxies get connections
            ask(side.target, [Sample(due_s=0.2 * n, body=body) for n, body in enumerate(side.bodies)])
            load(side.target, side.bodies, rate / 4, 2.0, 1)
        log_bytes = (place.folder / LOG).stat().st_size
        pressure = turns(sides, rate, seconds, pairs, int(given["seed"]))
        inside = inside_ms(place.folder / LOG, log_bytes)
    note = f"{given['qps']} a second for {seconds:g} s, {pairs} times, one core; {cpu_class()}"
    return [*added(sides, bar_ms, note, pressure), *_own(inside, bar_ms, note, pressure), *costs(sides, note)]


def turns(sides: dict[str, Side], rate: float, seconds: float, pairs: int, seed: int) -> float | None:
    """Ask each side in turn, in a random order each time; return the largest CPU pressure that was seen."""
    order, rng, seen = list(sides), random.Random(seed), [pressure_cpu()]
    cores = sorted(os.sched_getaffinity(0))
    theirs, mine = {cores[0]}, set(cores[1:]) or {cores[0]}
    with held([os.getpid()], mine):
        for turn in range(pairs):
            rng.shuffle(order)
            for name in order:
                side = sides[name]
                with held([side.pid], theirs):
                    before, waited = cpu_s(side.pid), waited_s(side.pid)
                    side.samples += load(side.target, side.bodies, rate, seconds, seed + turn)
                    side.cpu_s += cpu_s(side.pid) - before
                    side.waited_s += max(0.0, waited_s(side.pid) - waited)  # threads that ended took theirs along
                for sample in side.samples:
                    sample.told = {"answered": True} if sample.told else {}  # the memory is needed
                seen.append(pressure_cpu())
                time.sleep(REST_S)
    return max((one for one in seen if one is not None), default=None)


def added(sides: dict[str, Side], bar_ms: float, note: str, pressure: float | None) -> Iterator[Row]:
    """Yield a row a quantile: ours, and each proxy's less the engine's."""
    direct = sides["engine"].whole_ms()
    for name in (name for name in sides if name.startswith("ours")):
        values = sides[name].whole_ms()
        late = [1000 * one.sent_s for one in sides[name].samples]
        for at in QUANTILES:
            others = {peer: quantile(side.whole_ms(), at) - quantile(direct, at) for peer, side in _peers(sides)}
            yield Row(
                name=f"serve.overhead.{name}.p{round(100 * at)}",
                ours=quantile(values, at),
                unit="ms added, by the asker's clock",
                peers=others,
                interval=interval(values, at),
                bar=bar_ms if at == max(QUANTILES) and len(values) >= ENOUGH[at] else None,
                less_is_better=True,
                contention=pressure,
                note=f"{len(values)} requests, sent {quantile(late, at):.2f} ms late themselves; {note}",
            )


def costs(sides: dict[str, Side], note: str) -> Iterator[Row]:
    """Yield the CPU that a request takes, how long it waits for a core that other programs have, and the failures."""
    for kind, unit in (("cpu", "ms of CPU a request"), ("waited", "ms a request, ready to run without a core")):
        each = {name: 1000 * getattr(side, f"{kind}_s") / max(1, len(side.samples)) for name, side in sides.items()}
        others = {name: each[name] for name, _ in _peers(sides)}
        for name in (name for name in sides if name.startswith("ours")):
            yield Row(name=f"serve.overhead.{name}.{kind}", ours=each[name], unit=unit, peers=others, note=note)
    failed = {name: sum(not one.good for one in side.samples) / len(side.samples) for name, side in sides.items()}
    ours = max(share for name, share in failed.items() if name.startswith("ours"))
    others = {name: failed[name] for name, _ in _peers(sides)}
    yield Row(name="serve.overhead.failed", ours=ours, unit="of all", peers=others, bar=0.0, less_is_better=True)


def inside_ms(log: Path, skip: int) -> list[float]:
    """Return the milliseconds of each request by the gateway's log, less its steps'; what is not yet written is left
    out. skip: bytes at its beginning."""
    found = []
    with log.open("rb") as lines:
        lines.seek(skip)
        for line in lines:
            with contextlib.suppress(ValueError, KeyError):
                told = json.loads(line)
                if told["route"] == CHAT and told["status"] == 200:
                    found.append(float(told["ms"]) - sum(told.get("timings_ms", {}).values()))
    return found


def _own(values: Sequence[float], bar_ms: float, note: str, pressure: float | None) -> Iterator[Row]:
    for at in QUANTILES if values else ():
        yield Row(
            name=f"serve.overhead.inside.p{round(100 * at)}",
            ours=quantile(values, at),
            unit="ms, by the gateway's clock",
            interval=interval(values, at),
            bar=bar_ms if at == max(QUANTILES) and len(values) >= ENOUGH[at] else None,
            less_is_better=True,
            contention=pressure,
            note=f"{len(values)} requests of all doors; {note}",
        )


def _sides(stack: contextlib.ExitStack, ledger: Ledger, place: GatewayPlace, given: dict[str, str]) -> dict[str, Side]:
    """Return the sides, started: ours by the owner's door and by a token, the engine, and the proxies given."""
    doors = place.doors()
    texts = questions_of(ledger)[:MOST_QUESTIONS]
    own = [_body(ledger.name, text) for text in texts]
    found = {"ours": Side(target=Target(socket=doors.owner, path=CHAT, kept=True), pid=doors.pid, bodies=own)}
    if doors.port >= 0:
        target = Target(
            socket=f"{doors.address}:{doors.port}", path=CHAT, token=stack.enter_context(guest(place)), kept=True
        )
        found["ours_by_token"] = Side(target=target, pid=doors.pid, bodies=own)
    theirs = [_body(engine.MODEL, text) for text in texts]
    port, pid = stack.enter_context(engine.playing(delay_ms=ENGINE_MS))
    found["engine"] = Side(target=Target(socket=f"127.0.0.1:{port}", path=CHAT, kept=True), pid=pid, bodies=theirs)
    key = f"sk-{secrets.token_hex(32)}"
    starts: dict[str, Callable[[str], contextlib.AbstractContextManager[tuple[int, int]]]] = {
        "litellm": lambda program: peers.litellm(program, port, key),
        "vllm_router": lambda program: peers.vllm_router(program, [port]),
    }
    for name, start in starts.items():
        if given[name]:
            proxy, proxy_pid = stack.enter_context(start(given[name]))
            token = key if name == "litellm" else ""
            target = Target(socket=f"127.0.0.1:{proxy}", path=CHAT, token=token, kept=True)
            found[name] = Side(target=target, pid=proxy_pid, bodies=theirs)
    return found


def _peers(sides: dict[str, Side]) -> list[tuple[str, Side]]:
    return [(name, side) for name, side in sides.items() if name != "engine" and not name.startswith("ours")]


def _body(model: str, text: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}
