"""Replicas in virtual time, and rules that choose among them."""

from __future__ import annotations

import pytest

from rag_hpc.eval.bench.serve import calibrate, policy
from rag_hpc.eval.bench.serve.replica import BLOCK, Costs, Replica, Request
from rag_hpc.eval.bench.serve.rules import RULES, CacheAware

COSTS = Costs(step_s=0.01, prefill_s=0.001, decode_s=0.002, step_tokens=10 * BLOCK, blocks=8)


def asked(name: str, num: int = 4, answer: int = 3) -> Request:
    return Request(0.0, [(name, n) for n in range(num)], answer)


def played(*requests: Request, costs: Costs = COSTS) -> Replica:
    replica, now = Replica(costs), 0.0
    for request in requests:
        replica.add(request)
    while not replica.idle:
        now, _ = replica.step(now)
    return replica


def test_a_prompt_alone_takes_its_tokens_and_a_step_a_word() -> None:
    request = asked("a")
    played(request)
    assert request.first == pytest.approx(0.01 + 4 * BLOCK * 0.001 + 0.002)
    assert request.end == pytest.approx(request.first + 2 * 0.012)


def test_what_the_cache_holds_is_not_read_again_until_it_is_crowded_out() -> None:
    first, again = asked("a"), asked("a")
    replica = Replica(COSTS)
    replica.add(first)
    now, _ = replica.step(0.0)
    replica.add(again)
    end, told = replica.step(now)
    assert told == [again] and end - now == pytest.approx(0.01 + BLOCK * 0.001 + 2 * 0.002)  # its last block is read
    replica = played(asked("a"), asked("b"), asked("c"))
    late = asked("a")
    replica.add(late)
    assert replica.step(0.0)[0] == pytest.approx(0.01 + 4 * BLOCK * 0.001 + 0.002)


def test_a_step_takes_no_more_than_its_tokens_and_nobody_overtakes() -> None:
    requests = [asked("a", 8), asked("b", 8)]
    played(*requests)
    assert (
        requests[0].first == pytest.approx(0.01 + 10 * BLOCK * 0.001 + 0.002) and requests[1].first > requests[0].first
    )
    assert all(one.made == one.answer and one.left == 0 for one in requests)


@pytest.mark.parametrize("name", RULES)
def test_every_request_is_answered_once_whatever_the_rule(name: str) -> None:
    requests = policy.drawn(policy.ZIPF, 200, 5.0, seed=1)
    rule, replicas = RULES[name](3), [Replica(COSTS) for _ in range(3)]
    policy.play(requests, rule, replicas)
    assert all(one.due < one.first <= one.end < float("inf") for one in requests) and rule.open == [0, 0, 0]
    assert sum(one.asked for one in replicas) == 200 * (policy.PREFIX + policy.OWN)


def test_prompts_that_begin_alike_go_where_that_was_read() -> None:
    shares = {}
    for name in RULES:
        replicas = [Replica(Costs(step_s=0.01, prefill_s=0.0005, decode_s=0.001)) for _ in range(4)]
        policy.play(policy.drawn(policy.SHARED, 600, 2.0, seed=1), RULES[name](4), replicas)
        shares[name] = sum(one.hits for one in replicas) / sum(one.asked for one in replicas)
    assert shares["ours"] > shares["round_robin"] + 0.2 and shares["cache_aware"] > shares["round_robin"] + 0.2


def test_costs_are_found_again_in_times_that_follow_them() -> None:
    cold = {length: 0.015 + 0.0005 * length + 0.001 for length in calibrate.LENGTHS}
    answers = {
        num: calibrate.ANSWER * 0.015 + 16 * num * 0.0005 + calibrate.ANSWER * num * 0.001 for num in calibrate.AT_ONCE
    }
    found = calibrate.fitted(cold, answers)
    assert (found.step_s, found.prefill_s, found.decode_s) == pytest.approx((0.015, 0.0005, 0.001), rel=1e-6)


def test_the_modelled_rule_leaves_a_replica_that_has_far_more_to_do() -> None:
    rule = CacheAware(2)
    home = rule.choose(asked("a"), 0.0)
    assert rule.choose(asked("a"), 0.0) == home and rule.choose(asked("b"), 0.0) != home
    rule.open[home] = 65
    assert rule.choose(asked("a"), 0.0) != home
