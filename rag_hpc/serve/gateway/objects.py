"""Answers that `serve warm` wrote, by the hash of their bytes: they never change, so that HTTP caches may keep them."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rag_hpc.serve.cache.files import Files, headers, is_current
from rag_hpc.serve.gateway.callers import Callers
from rag_hpc.serve.gateway.problems import Problem

PATH = "/v1/objects"


class Objects:
    """The route."""

    def __init__(self, callers: Callers, files: Files | None, *, public: bool) -> None:
        """files: None where the gateway reads none. public: caches that several people share may keep what is read."""
        self._callers, self._files, self._public = callers, files, public

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        for method in ("GET", "HEAD"):
            told = method == "GET"
            router.add_api_route(
                PATH + "/{name}", self.read, methods=[method], response_model=None, include_in_schema=told
            )
        return router

    async def read(self, request: Request, name: str) -> Response:
        """Return an object of the caller's tenant; to others it is not there."""
        caller = self._callers.admit(request, "query")
        data = await asyncio.to_thread(self._read, name, caller.tenant if caller.account else None)
        if data is None:
            raise Problem(404, "not_found", f"no such object; {PATH}/NAME has what an answer's kept_as names")
        told = headers(name, public=self._public) | {"Vary": "Authorization"}
        if is_current(name, request.headers.get("if-none-match")):
            return Response(status_code=304, headers=told)
        return Response(data, headers=told)

    def _read(self, name: str, tenant: str | None) -> bytes | None:
        if self._files is None or not self._files.is_of(name, tenant):
            return None
        return self._files.object(name)
