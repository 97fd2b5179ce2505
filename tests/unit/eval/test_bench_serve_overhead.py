"""What a gateway adds, what proxies add, and the programs beside them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from rag_hpc.errors import InputError
from rag_hpc.eval.bench.serve import engine, guidellm, overhead
from rag_hpc.eval.bench.serve.load import Sample, Target, ask, load
from rag_hpc.eval.bench.serve.overhead import CHAT, Side
from rag_hpc.eval.bench.serve.process import free_port, held, started
from rag_hpc.eval.bench.serve.streams import most_open

BODY = {"model": engine.MODEL, "messages": [{"role": "user", "content": "q"}]}


def side(*whole_s: float, pid: int = 0) -> Side:
    samples = [Sample(due_s=0, body={}, whole_s=one, status=200, told={"a": 1}) for one in whole_s]
    return Side(target=Target(socket="", path=""), pid=pid, bodies=[], samples=samples, cpu_s=0.002 * len(samples))


def test_an_engine_is_asked_on_kept_connections_streamed_and_whole() -> None:
    cores = os.sched_getaffinity(0)
    with engine.playing(delay_ms=30, pieces=3, pause_ms=150) as (port, pid):
        address = f"127.0.0.1:{port}"
        target = Target(socket=address, path=CHAT, kept=True)
        sides = {"engine": Side(target=target, pid=pid, bodies=[BODY])}
        overhead.turns(sides, rate=100, seconds=0.3, pairs=1, seed=0)
        (streamed,) = ask(Target(socket=address, path=CHAT), [Sample(due_s=0, body=BODY | {"stream": True})])
    found = sides["engine"]
    assert len(found.samples) > 10 and all(one.good and one.whole_s >= 0.33 for one in found.samples)
    assert streamed.told["answer"] == "word word word " and streamed.first_s < streamed.whole_s - 0.1
    assert os.sched_getaffinity(0) == cores


def test_a_stream_that_breaks_off_and_a_port_that_is_closed_are_failures() -> None:
    with engine.playing(pieces=50, pause_ms=100) as (port, _):
        target = Target(socket=f"127.0.0.1:{port}", path=CHAT)
        samples = [Sample(due_s=0, body=BODY | {"stream": True})]
        thread = threading.Thread(target=ask, args=(target, samples))
        thread.start()
        thread.join(0.5)
    thread.join()
    assert "broke off" in samples[0].error and not samples[0].good
    (late,) = ask(target, [Sample(due_s=0, body=BODY)])
    assert "ConnectionRefused" in late.error and late.whole_s == float("inf")


def test_what_a_proxy_adds_is_its_time_less_the_engine_s() -> None:
    sides = {"ours": side(*[0.001] * 9_999, 0.1), "engine": side(*[0.02] * 100), "litellm": side(*[0.025] * 99)}
    rows = {row.name: row for row in overhead.added(sides, 2.0, "", None)}
    last = rows["serve.overhead.ours.p99"]
    assert (last.ours, last.met, last.bar) == (pytest.approx(1), True, 2.0)
    assert last.peers == {"litellm": pytest.approx(5)} and rows["serve.overhead.ours.p50"].bar is None
    sides["ours"].samples.pop()
    assert next(row for row in overhead.added(sides, 2.0, "", None) if row.name == last.name).bar is None  # too few
    cpu, waited, failed = overhead.costs(sides, "")
    assert (cpu.ours, waited.ours, failed.ours) == (pytest.approx(2, rel=1e-3), 0, 0)


def test_the_gateway_s_own_milliseconds_are_read_from_its_log(tmp_path: Path) -> None:
    lines = [
        {"route": CHAT, "status": 200, "ms": 9.0},
        {"route": CHAT, "status": 200, "ms": 3.0, "timings_ms": {"embed": 1.0, "search": 1.5}},
        {"route": CHAT, "status": 503, "ms": 3.0},
        {"route": "/v1/query", "status": 200, "ms": 3.0},
    ]
    log = tmp_path / "requests.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"route": "/v1')
    assert overhead.inside_ms(log, len(json.dumps(lines[0]))) == [0.5]


def test_a_report_of_guidellm_is_read_whole_or_not_at_all() -> None:
    timings = {"request_start": 10.0, "first_token_iteration": 10.25}
    report = {"benchmarks": [{"requests": {"successful": [{"info": {"timings": timings}}]}}]}
    assert guidellm.times_of(report, 1) == [250.0]
    with pytest.raises(InputError, match="1 answered requests of 2"):
        guidellm.times_of(report, 2)


def test_streams_are_counted_while_they_are_open() -> None:
    spans = [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0), (5.0, 6.0)]
    samples = [Sample(due_s=a, body={}, first_s=0.0, whole_s=b - a, status=200, told={"answer": "a"}) for a, b in spans]
    assert most_open(samples) == 2
    samples[1].error = "cut"
    assert most_open(samples) == 1


def test_programs_end_with_their_measurement_and_are_held_meanwhile() -> None:
    with engine.playing() as (_, pid):
        core = {min(os.sched_getaffinity(0))}
        with held([pid], core):
            assert os.sched_getaffinity(pid) == core
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(TimeoutError, match="ended with 3"), started(["sh", "-c", "exit 3"], free_port()):
        pass


def test_an_answer_s_time_depends_on_its_question_alone() -> None:
    bodies = [BODY | {"messages": [{"role": "user", "content": text}]} for text in ("a", "b", "c")]
    with engine.playing(delay_ms=50, spread=0.5) as (port, _):
        target = Target(socket=f"127.0.0.1:{port}", path=CHAT, kept=True)
        samples = load(target, bodies, 30, 0.5, seed=2)
    by_text: dict[str, list[float]] = {}
    for one in samples:
        by_text.setdefault(one.body["messages"][0]["content"], []).append(one.whole_s)
    lows = sorted(min(values) for values in by_text.values())
    assert len(lows) == 3 and lows[2] - lows[0] > 0.005
