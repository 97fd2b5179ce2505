"""What a client is told when a request cannot be served, in the shape that OpenAI's clients read."""

from __future__ import annotations

import math
from typing import Any

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


class Problem(Exception):
    """A request that ends with an error; `said` says what, and what to do about it."""

    def __init__(self, status: int, code: str, said: str, retry_after_s: float | None = None) -> None:
        super().__init__(said)
        self.status, self.code, self.said, self.retry_after_s = status, code, said, retry_after_s

    def body(self) -> dict[str, Any]:
        """Return the JSON of the response."""
        return {
            "error": {
                "message": self.said,
                "type": KINDS.get(self.status, "server_error"),
                "param": None,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return the headers of the response beside the usual."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
