"""The gateway's application: its routes, how errors are told, and the page."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from rag_hpc import __version__
from rag_hpc.errors import RagHpcError
from rag_hpc.serve.gateway.guard import App, Guard
from rag_hpc.serve.gateway.objects import Objects
from rag_hpc.serve.gateway.openai import OpenAI
from rag_hpc.serve.gateway.own import Own
from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.service import Service

log = logging.getLogger(__name__)
READY_STATES = ("up", "partial")


def make_app(service: Service, *, log: Any, owner: str) -> App:
    """Return the application. owner: the path of the socket that asks for no token. log: of structlog."""
    app = FastAPI(title="rag-hpc gateway", version=__version__, docs_url=None, redoc_url=None)
    app.include_router(OpenAI(service).router())
    app.include_router(Own(service).router())
    app.include_router(Objects(service.callers, service.files, public=service.config.public).router())
    State(service).add_to(app)
    app.add_exception_handler(Problem, _told)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _wrong)
    app.add_exception_handler(RagHpcError, _failed)
    app.add_exception_handler(Exception, _failed)
    return Guard(
        app,
        metrics=service.metrics,
        log=log,
        owner=owner,
        max_body=service.config.max_body_kib << 10,
        max_in_flight=service.config.max_in_flight,
        traces=service.traces,
    )


class State:
    """How the gateway is, and the page."""

    def __init__(self, service: Service) -> None:
        self._service = service
        html = files("rag_hpc.serve.gateway").joinpath("page.html").read_text(encoding="utf-8")
        self._page, self._policy = html.replace("{{run}}", _escaped(service.run)), policy(html)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        for path, handler in (
            ("/healthz", self.alive),
            ("/readyz", self.ready),
            ("/metrics", self.metrics),
            ("/", self.page),
        ):
            app.add_api_route(path, handler, methods=["GET"], response_model=None)

    async def alive(self) -> Response:
        """Tell that the process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self) -> Response:
        """Tell whether questions can be answered."""
        found = await self._service.ready()
        if found["state"] not in READY_STATES:
            said = f"no group answers: {found['state']}; see: rag-hpc serve status"
            raise Problem(503, "not_ready", said, 5.0)
        return JSONResponse({"status": found["state"], "coverage": found["coverage"]})

    async def metrics(self, request: Request) -> Response:
        """Return the counts, for Prometheus."""
        self._service.callers.admit(request, "metrics")
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(self) -> Response:
        """Return the page, which loads nothing from anywhere."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": self._policy})


def policy(html: str) -> str:
    """Return the policy under which a browser runs the page's own script and style, and nothing else."""

    def hashes(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return JSONResponse(error.body(), error.status, error.headers())


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
    problem = Problem(error.status_code, codes.get(error.status_code, "bad_request"), str(error.detail))
    return JSONResponse(problem.body(), problem.status, dict(error.headers or {}))


async def _wrong(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        problem = Problem(400, "invalid_json", f"the body is no JSON: {first.get('ctx', {}).get('error', '')}")
    else:
        place = ".".join(str(part) for part in first["loc"][1:]) or "body"
        problem = Problem(422, "invalid_field", f"{place}: {first['msg']}")
    return JSONResponse(problem.body(), problem.status)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("request %s", request.state.request_id, exc_info=error)
    problem = Problem(500, "internal_error", f"{type(error).__name__}; the gateway's log has more under the request id")
    return JSONResponse(problem.body(), problem.status)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
