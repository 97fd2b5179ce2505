"""Who makes a request, whether they may, and which passages they may find."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request

from rag_hpc.errors import ConfigError
from rag_hpc.search.filters import check_filter
from rag_hpc.serve.gateway.auth.accounts import Account, Accounts
from rag_hpc.serve.gateway.auth.limits import Limits
from rag_hpc.serve.gateway.auth.tokens import Tokens
from rag_hpc.serve.gateway.problems import Problem


@dataclass(frozen=True)
class Caller:
    """Who asks; the owner, who has no account, may do all."""

    account: Account | None
    filter: str = ""  # of the tenant
    columns: Mapping[str, str] | None = None

    @property
    def tenant(self) -> str:
        """The tenant's name, "" of the owner."""
        return self.account.tenant if self.account else ""

    def only(self, asked: str) -> str:
        """Return the filter of a search: the tenant's, and what was asked for. Raises Problem for what is none."""
        try:
            check_filter(asked, self.columns)
        except ConfigError as error:
            raise Problem(400, "wrong_filter", str(error).replace("stage.retrieve.filter", "filter")) from error
        return " and ".join(f"({part})" for part in (self.filter, asked) if part)


class Callers:
    """Tells callers by the door that they came through and the token that they bring."""

    def __init__(
        self, accounts: Accounts, tokens: Tokens, limits: Limits, columns: Mapping[str, str] | None = None
    ) -> None:
        """columns: of the run's passages, which filters may name; None: not known."""
        self._accounts, self._tokens, self._limits, self._columns = accounts, tokens, limits, columns

    def admit(self, request: Request, scope: str) -> Caller:
        """Return who asks, counted against their limits. Raises Problem."""
        if request.state.is_owner:
            return Caller(None, columns=self._columns)
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Problem(401, "no_token", "give Authorization: Bearer TOKEN; a token comes from POST /v1/auth/token")
        account = self._tokens.holder(token.strip())
        request.state.account = account.name
        filter = self._accounts.filter_of(account.tenant)
        if scope not in account.scopes or filter is None:
            has = ", ".join(sorted(account.scopes))
            raise Problem(403, "insufficient_scope", f"this needs the scope {scope}; the token has {has}")
        self.count(account)
        return Caller(account, filter, self._columns)

    def exchange(self, request: Request, api_key: str, scopes: list[str]) -> tuple[str, float, Account]:
        """Return a token for an API key, its seconds, and the account. Raises Problem."""
        token, lives_s, account = self._tokens.exchange(api_key, frozenset(scopes))
        request.state.account = account.name
        self.count(account)
        return token, lives_s, account

    def count(self, account: Account) -> None:
        """Count a request of the account. Raises Problem when it has had as many as it may."""
        try:
            wait_s = self._limits.take(account.name, account.per_minute, account.per_day)
        except sqlite3.OperationalError as error:  # uncounted requests are not let through
            raise Problem(503, "limits_busy", f"requests cannot be counted now ({error}); come again", 1.0) from error
        if wait_s:
            said = f"{account.per_minute} requests a minute and {account.per_day} a day are allowed"
            raise Problem(429, "rate_limit_exceeded", f"{said}; come again in {wait_s:.1f} s", wait_s)


def until_of(request: Request, given_ms: int | None, default_ms: int) -> float:
    """Return when an answer is due, on time.monotonic(). Raises Problem for a header that is no number."""
    header = request.headers.get("x-deadline-ms")
    if given_ms is None and header is not None:
        if not header.isdigit() or not 1 <= int(header) <= 600_000:
            raise Problem(400, "wrong_deadline", f"X-Deadline-Ms: {header[:40]!r}: from 1 to 600000")
        given_ms = int(header)
    return time.monotonic() + (given_ms or default_ms) / 1000
