"""Traces of requests, as a collector of OpenTelemetry gets them: times and states, and no words."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collector import Collector, collecting
from fakegateway import FakeGateway, client_of

from rag_hpc.errors import ConfigError, MissingDependency
from rag_hpc.serve.gateway import traces
from rag_hpc.serve.gateway.config import GatewayConfig

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    with collecting() as found:
        yield found


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_request_and_its_steps_are_spans_of_the_caller_s_trace_without_a_word_of_it(
    collector: Collector, tmp_path: Path
) -> None:
    kept = traces.Traces(collector.url, "demo", "1")
    gateway = FakeGateway(tmp_path, traces=kept)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine-1"}
    with client_of(gateway) as client:
        assert client.post("/v1/query", json={"question": "What is a zyxwvut?"}, headers=headers).status_code == 200
        assert client.post("/v1/query", json={}).status_code == 422
    kept.close()
    mine = [span for span in collector.spans() if span.trace_id.hex() == TRACE]
    (whole,) = [span for span in mine if span.parent_span_id.hex() == PARENT]
    steps = [span for span in mine if span.parent_span_id == whole.span_id]
    assert {"embed", "search", "read", "generate"} <= {span.name for span in steps} and len(steps) == len(mine) - 1
    assert all(whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in steps)
    assert max(span.end_time_unix_nano for span in steps) <= whole.end_time_unix_nano
    told = attributes(whole)
    assert (whole.name, told["http.route"], told["rag.request_id"]) == ("POST /v1/query", "/v1/query", "mine-1")
    assert (told["http.response.status_code"], told["rag.coverage"], told["rag.partial"]) == (200, "4/4", False)
    (other,) = [span for span in collector.spans() if span.trace_id.hex() != TRACE]
    assert attributes(other)["http.response.status_code"] == 422
    everything = b"".join(collector.bodies)
    assert b"mine-1" in everything and b"zyxwvut" not in everything and b"deque" not in everything


def test_a_collector_that_is_gone_delays_nobody(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    kept = traces.Traces("http://127.0.0.1:9", "demo", "1")
    with client_of(FakeGateway(tmp_path, traces=kept)) as client:
        assert client.post("/v1/query", json={"question": "What?"}).status_code == 200
    begun = time.monotonic()
    kept.close()
    assert time.monotonic() - begun < 6


def test_a_wrong_address_and_packages_that_are_absent_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("localhost:4318", "http://user:secret@h:4318", "http://h:4318?a=b"):
        with pytest.raises(ConfigError, match=r"gateway\.otlp"):
            GatewayConfig(otlp=wrong)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingDependency, match="pip install opentelemetry-sdk"):
        traces.require()
