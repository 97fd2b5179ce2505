"""Requests that are made from the gateway's own schema, rightly and wrongly: they meet no error of the gateway's."""

from __future__ import annotations

from typing import Any

import pytest
from fakegateway import FakeGateway
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis")
PATHS = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/query", "/v1/retrieve"}
PATHS |= {"/v1/feedback", "/v1/auth/token", "/v1/objects/{name}", "/healthz", "/readyz", "/metrics", "/"}
MADE = settings(
    max_examples=6,  # of an operation
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    gateway = FakeGateway(tmp_path_factory.mktemp("schema"))
    return schemathesis.openapi.from_asgi("/openapi.json", gateway.app)


def operations(schema: Any) -> list[Any]:
    return [one.ok() for one in schema.get_all_operations()]


def test_the_schema_has_every_route(schema: Any) -> None:
    assert {one.path for one in operations(schema)} == PATHS


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_request_is_answered_with_an_error_of_the_gateway(schema: Any, mode: str) -> None:
    statuses = dict[str, set[int]]()
    for operation in operations(schema):
        if mode == "NEGATIVE" and not operation.body:
            continue  # nothing can be wrong with it

        @MADE
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
        def ask(case: Any) -> None:
            if mode == "POSITIVE" and isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "demo"  # others are not there, and nothing more would be looked at
            reply = case.call(base_url="http://localhost")
            statuses.setdefault(case.path, set()).add(reply.status_code)
            assert reply.status_code < 500, (case.as_curl_command(), reply.text)

        ask()
    assert 200 in statuses["/v1/query"] if mode == "POSITIVE" else statuses["/v1/query"] & {400, 422}
