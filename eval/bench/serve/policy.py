"""`bench serve part=policy`: which replica answers: our router beside other rules, in virtual time.

Replicas are those of `replica`, with costs that `calibrate` measured; all rules get the same requests. Goodput is the
requests a second whose first words and whole answer take no more than TIMES what they take of an idle replica with
nothing in its cache, at the rate where a rule has most of them. The rule `cache_aware` is vllm-router's as its
documentation has it: the replica that has seen the longest beginning of the prompt where that is more than 0.3 of it,
else the one that has seen least; the idlest where the busiest has over 64 requests more and over 1.5 times as many.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rag_hpc.errors import InputError
from rag_hpc.eval.bench.pairs import ratio_of_medians
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.bench.serve import engine, peers
from rag_hpc.eval.bench.serve.load import Sample, Target, ask
from rag_hpc.eval.bench.serve.replica import BLOCK, Costs, Replica, Request
from rag_hpc.eval.bench.serve.rules import RULES, CacheAware, Rule

SHARED, UNSHARED, ZIPF = "shared", "unshared", "zipf"
PREFIX, OWN, ANSWER = 16, 2, 64  # blocks that a group of prompts shares, blocks of a prompt's own, tokens of an answer
GROUPS = 128  # of prompts that begin alike
STEP = 1.15  # from a rate to the next
SEEDS = range(1000, 1007)  # not those that WORTH was chosen with, 0 to 4
FALLEN = 0.9  # of the best goodput so far: higher rates are not tried
BARS = {("round_robin", SHARED): 2.0, ("cache_aware", SHARED): 1.0, ("round_robin", UNSHARED): 0.98}
TIMES = 3.0
ALIKE = 400  # requests to the real vllm-router


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds within which a request is good."""

    first_s: float
    whole_s: float

    def good(self, request: Request) -> bool:
        """Whether it was answered in time."""
        return request.first - request.due <= self.first_s and request.end - request.due <= self.whole_s


def limits_of(costs: Costs) -> Limits:
    """Return the limits of goodput: what an idle replica takes for the longest answers, TIMES over."""
    first_s = costs.step_s + costs.prefill_s * BLOCK * (PREFIX + OWN) + costs.decode_s
    return Limits(first_s=TIMES * first_s, whole_s=TIMES * (first_s + 1.5 * ANSWER * (costs.step_s + costs.decode_s)))


def run(given: dict[str, str]) -> list[Row]:
    """Return a row a workload and rule beside ours: goodput, and the ratio over seeds."""
    costs = Costs(
        step_s=float(given["step_ms"]) / 1e3,
        prefill_s=float(given["prefill_us"]) / 1e6,
        decode_s=float(given["decode_us"]) / 1e6,
        blocks=int(given["blocks"]),
    )
    limits = limits_of(costs)
    num, count = int(given["replicas"]), int(given["requests"])
    rows = []
    for workload in (SHARED, ZIPF, UNSHARED):
        best = {name: [goodput(make, workload, num, count, costs, limits, seed) for seed in SEEDS]
                for name, make in RULES.items()}  # fmt: skip
        medians = {name: float(np.median(values)) for name, values in best.items()}
        for peer in (name for name in RULES if name != "ours"):
            ratio, interval = ratio_of_medians(best["ours"], best[peer])
            rows.append(
                Row(
                    name=f"serve.policy.{workload}.{peer}",
                    ours=medians["ours"],
                    unit="good requests a second",
                    peers={peer: medians[peer]},
                    ratio=ratio,
                    interval=interval,
                    bar=BARS.get((peer, workload)),
                    note=f"{num} replicas in virtual time, {count} requests, {len(SEEDS)} seeds; {_told(costs)}",
                )
            )
    return rows + ([likeness(given["vllm_router"], num, ALIKE)] if given["vllm_router"] else [])


def likeness(program: str, num: int, count: int) -> Row:
    """Return how often a prompt goes where its beginning was read before, by the real vllm-router and by its rule here.

    Requests come one by one, so that nobody is busy, to engines that cost nothing.
    """
    requests = drawn(SHARED, count, 1.0, SEEDS[0])
    rule, modelled, real = CacheAware(num), [], []
    for request in requests:
        modelled.append(rule.choose(request, request.due))
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(engine.playing())[0] for _ in range(num)]
        port, _ = stack.enter_context(peers.vllm_router(program, ports))
        target = Target(socket=f"127.0.0.1:{port}", path="/v1/chat/completions", kept=True)
        for request in requests:
            text = " ".join(f"block {block}".ljust(4 * BLOCK - 1, ".") for block in request.blocks)
            body = {"model": engine.MODEL, "messages": [{"role": "user", "content": text}]}
            (sample,) = ask(target, [Sample(due_s=0.0, body=body)])
            if not sample.good:
                raise InputError(f"vllm-router: {sample.status} {sample.error}")
            real.append(sample.told["id"])
    shares = [_read_again(requests, places) for places in (modelled, real)]
    return Row(
        name="serve.policy.likeness",
        ours=shares[0],
        unit="of beginnings go where they were read, by the rule here",
        peers={"vllm_router": shares[1]},
        note=f"{count} requests one by one to {num} engines; of those of a beginning that came before",
    )


def goodput(
    make: Callable[[int], Rule], workload: str, num: int, count: int, costs: Costs, limits: Limits, seed: int
) -> float:
    """Return the good requests a second at the rate that has most of them."""
    cached = costs.step_s + costs.prefill_s * BLOCK * OWN + ANSWER * costs.decode_s
    rate, best = 0.5 * num / (cached + costs.prefill_s * BLOCK * PREFIX), 0.0
    while True:
        requests = drawn(workload, count, rate, seed)
        play(requests, make(num), [Replica(costs) for _ in range(num)])
        found = sum(map(limits.good, requests)) / (requests[-1].due - requests[0].due)
        if found < FALLEN * best or not found:
            return best
        best, rate = max(best, found), rate * STEP


def play(requests: Sequence[Request], rule: Rule, replicas: Sequence[Replica]) -> None:
    """Let the replicas answer the requests, which are in the order in which they are due."""
    due, ends = iter(requests), list[tuple[float, int, list[Request]]]()
    coming, busy = next(due, None), [False] * len(replicas)
    while coming is not None or ends:
        if coming is not None and (not ends or coming.due <= ends[0][0]):
            now, number = coming.due, rule.choose(coming, coming.due)
            rule.open[number] += 1
            replicas[number].add(coming)
            coming = next(due, None)
        else:
            now, number, told = heapq.heappop(ends)
            busy[number] = False
            for request in told:
                if request.first == now:
                    rule.began(request)
                if request.end == now:
                    rule.ended(request, number)
        if not busy[number] and not replicas[number].idle:
            end, told = replicas[number].step(now)
            heapq.heappush(ends, (end, number, told))
            busy[number] = True


def drawn(workload: str, count: int, rate: float, seed: int) -> list[Request]:
    """Return requests of a Poisson process; prompts of a group begin alike, and the gateway knows them by that."""
    rng = np.random.default_rng(seed)
    due = np.cumsum(rng.exponential(1 / rate, count))
    weights = 1 / np.arange(1, GROUPS + 1) if workload == ZIPF else np.ones(GROUPS)
    groups = rng.choice(GROUPS, size=count, p=weights / weights.sum())
    answers = rng.integers(ANSWER // 2, ANSWER * 3 // 2, size=count)
    found = []
    for number in range(count):
        group = f"own {number}" if workload == UNSHARED else f"group {groups[number]}"
        blocks = [(group, n) for n in range(PREFIX)] + [(f"request {number}", n) for n in range(OWN)]
        found.append(Request(float(due[number]), blocks, int(answers[number]), session=f"{seed} {group}"))
    return found


def _read_again(requests: Sequence[Request], places: Sequence[object]) -> float:
    """Return the share of requests that went where an earlier one of their beginning had, of those that had one."""
    seen: dict[str, set[object]] = {}
    known = again = 0
    for request, place in zip(requests, places, strict=True):
        before = seen.setdefault(request.session, set())
        known, again = known + bool(before), again + (place in before)
        before.add(place)
    return again / max(1, known)


def _told(costs: Costs) -> str:
    parts = [f"{1e3 * costs.step_s:.3g} ms a step", f"{1e6 * costs.prefill_s:.3g} us a prompt token"]
    parts += [f"{1e6 * costs.decode_s:.3g} us an answer's token", f"{costs.blocks} blocks of {BLOCK} tokens"]
    return ", ".join(parts)
