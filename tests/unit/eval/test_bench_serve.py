"""The load of `bench serve`: sent when it is due, timed from then, judged where there is enough of it."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.serve import doors, serve
from rag_hpc.eval.bench.serve.load import Sample, Target, due_times, load
from rag_hpc.serve.gateway.places import ASKED, DOORS, Asked, Doors, GatewayPlace

STEPS = {"embed": 1.0, "search": 2.0, "generate": 3.0}
SLO = serve.Slo(embed_ms=50, search_ms=100, rerank_ms=100, generate_ms=2000, first_ms=300, overhead_ms=2)


class Handler(socketserver.StreamRequestHandler):
    """Answers in a stream, one request after another: whoever comes while it works, waits."""

    def handle(self) -> None:
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            size = int(line.split()[1]) if line.lower().startswith(b"content-length") else 0
        body = json.loads(self.rfile.read(size))
        time.sleep(body["sleep_s"])
        if body.get("fail"):
            self.wfile.write(b"HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\n\r\n{}")
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for event in ({"delta": "a"}, {"done": {"answer": "a", "timings_ms": STEPS}}):
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    path = str(tmp_path / "sock")
    with socketserver.UnixStreamServer(path, Handler) as server:
        server.socket.listen(128)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Target(socket=path, path="/v1/query")
        server.shutdown()
        thread.join()


def test_requests_are_due_as_a_poisson_process_has_them() -> None:
    times = np.array(due_times(50, 100, seed=3))
    gaps = np.diff(times)
    assert abs(len(times) - 5000) < 4 * 5000**0.5 and times.max() < 100
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # as an exponential's
    assert due_times(50, 100, seed=3) == times.tolist()


def test_a_request_that_stands_behind_others_has_waited_since_it_was_due(target: Target) -> None:
    samples = load(target, [{"question": "q", "sleep_s": 0.05}], 60, 1.0, seed=1)
    assert all(sample.good for sample in samples) and max(sample.sent_s for sample in samples) < 0.5
    assert samples[-1].first_s > 0.05 * len(samples) - 1.0  # three times as many come as can be served
    assert [sample.due_s for sample in samples] == due_times(60, 1.0, 1)


def test_a_failure_counts_as_for_ever_and_is_named(target: Target) -> None:
    samples = load(target, [{"question": "q", "sleep_s": 0.0, "fail": True}], 20, 0.5, seed=1)
    row = serve.failures(samples, "note")
    assert (row.ours, row.met) == (1.0, False) and "503" in row.note
    first = {row.name: row for row in serve.latencies("query", samples, SLO, "", None)}["serve.query.first.p50"]
    assert first.ours == float("inf")


def answered(first_s: float, answer: str = "a") -> Sample:
    told = {"answer": answer, "timings_ms": STEPS}
    return Sample(due_s=0.0, body={"question": "q"}, first_s=first_s, whole_s=first_s, status=200, told=told)


def test_quantiles_are_judged_where_there_are_samples_enough() -> None:
    rows = {row.name: row for row in serve.latencies("query", [answered(0.1)] * 250, SLO, "", None)}
    assert rows["serve.query.first.p95"].met is True and rows["serve.query.first.p95"].ours == pytest.approx(100)
    assert rows["serve.query.first.p99"].met is None and "10000 samples" in rows["serve.query.first.p99"].note
    assert rows["serve.query.overhead.p50"].ours == pytest.approx(94) and rows["serve.query.overhead.p50"].met is False


def test_answers_are_held_against_the_batch_job_s() -> None:
    (row,) = serve.same([answered(0.1), answered(0.1, "b")], {"q": "a"})
    assert (row.ours, row.met) == (0.5, False) and serve.same([answered(0.1)], {}) == []


def test_the_predictions_of_conf_are_read_and_wrong_options_refused() -> None:
    assert serve.slo_of("") == SLO
    with pytest.raises(ConfigError, match="known: query, retrieve"):
        serve.run({"route": "chat"})


def test_a_gateway_that_caches_is_not_measured(tmp_path: Path) -> None:
    place, told = GatewayPlace(tmp_path, "1"), {"run": "r", "run_dir": str(tmp_path), "name": "1", "submission": 1}
    with pytest.raises(InputError, match="no gateway is up"):
        doors.gateway_of(Ledger(tmp_path), caches=False)
    place.create()
    place.write(DOORS, Doors(host="h", pid=1, owner="/owner", edge="/edge", port=-1))
    place.write(ASKED, Asked(**told))
    with pytest.raises(ConfigError, match=r"gateway\.cache=false"):
        doors.gateway_of(Ledger(tmp_path), caches=False)
    place.write(ASKED, Asked(**told, settings={"cache": False}))
    assert doors.gateway_of(Ledger(tmp_path), caches=False).doors().owner == "/owner"
    with pytest.raises(ConfigError, match=r"does not cache"):
        doors.gateway_of(Ledger(tmp_path), caches=True)
