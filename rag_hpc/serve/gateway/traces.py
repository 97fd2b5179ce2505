"""Traces of requests, sent to a collector of OpenTelemetry where `gateway.otlp` names one: times and states, no words.

A request is a span, and so is each step of its answer. Whose request it is part of, a `traceparent` header says.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from rag_hpc.errors import MissingDependency

SEND_MS, SEND_S = 1000, 2  # a span waits so long for others, and is tried to be sent for so long
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NOTED = ("coverage", "partial", "language")  # of what the log knows, what a span tells too


class Trace:
    """One request."""

    def __init__(self, tracer: Any, context: Any, request_id: str, method: str) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        told = {"rag.request_id": request_id, "http.request.method": method}
        self._tracer = tracer
        self._span = tracer.start_span(method, context=context, kind=SpanKind.SERVER, attributes=told)
        self._context = set_span_in_context(self._span)

    def step(self, name: str, seconds: float, ago_s: float) -> None:
        """Tell of a step that ended so long ago."""
        ended = time.time_ns() - int(ago_s * 1e9)
        span = self._tracer.start_span(name, context=self._context, start_time=ended - int(seconds * 1e9))
        span.end(ended)

    def end(self, method: str, route: str, status: int, noted: Mapping[str, Any]) -> None:
        """Tell how the request ended."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status})
        self._span.set_attributes({f"rag.{name}": noted[name] for name in _NOTED if name in noted})
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Traces:
    """All requests of a gateway."""

    def __init__(self, collector: str, run: str, name: str) -> None:
        """collector: its address, to which /v1/traces is added. Raises MissingDependency."""
        require()
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        session = requests.Session()
        session.trust_env = urlsplit(collector).hostname not in _LOOPBACK  # no proxy sees what stays on this machine
        exporter = OTLPSpanExporter(endpoint=f"{collector.rstrip('/')}/v1/traces", timeout=SEND_S, session=session)
        told = {"service.name": "rag-hpc-gateway", "service.instance.id": name, "rag.run": run}
        self._provider = TracerProvider(resource=Resource.create(told), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_MS))
        self._tracer, self._propagator = self._provider.get_tracer("rag_hpc"), TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[bytes, bytes], request_id: str, method: str) -> Trace:
        """Return the trace of a request that has come."""
        given = {name: headers.get(name.encode(), b"").decode("latin-1") for name in ("traceparent", "tracestate")}
        return Trace(self._tracer, self._propagator.extract(given), request_id, method)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def require() -> None:
    """Raise MissingDependency where the packages are not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "gateway.otlp: needs packages that are not installed; run: "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        ) from error
