"""Who holds an API key, for which tenant and scopes, how often; and which passages a tenant may find.

One SQLite file for all gateways. An API key is 32 random bytes, of which the SHA-256 is kept: none can be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError
from rag_hpc.search.filters import check_filter
from rag_hpc.serve.gateway.config import SCOPES

FILE = "accounts.sqlite"
SEEN_S = 2.0  # within which a gateway sees what was changed
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_API_KEY = re.compile(r"rhk\.([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{43})")
_TABLES = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, hash TEXT NOT NULL, tenant TEXT NOT NULL, scopes TEXT NOT NULL, per_minute INTEGER NOT NULL,
    per_day INTEGER NOT NULL, until REAL NOT NULL, issue INTEGER NOT NULL, revoked INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tenants (name TEXT PRIMARY KEY, filter TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who asks."""

    name: str
    tenant: str
    scopes: frozenset[str]
    per_minute: int  # requests
    per_day: int  # requests
    until: float  # unix time
    issue: int = 1  # of its key: a new one ends the old one's tokens
    revoked: bool = False
    hash: str = ""

    def __post_init__(self) -> None:
        for what, name in (("name", self.name), ("tenant", self.tenant)):
            if not _NAME.fullmatch(name):
                raise ConfigError(f"account.{what}={name}: use letters, digits, '_' and '-' only, 32 at most")
        if unknown := sorted(self.scopes - set(SCOPES)):
            raise ConfigError(f"account.scopes: no {unknown[0]!r}; known: {', '.join(SCOPES)}")
        if not self.scopes or self.per_minute < 1 or self.per_day < 1:
            raise ConfigError("a scope at least, per_minute >= 1 and per_day >= 1 are needed")


class Accounts:
    """The accounts of a fleet."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = folder / FILE, clock
        self._looked = -SEEN_S
        self._by_name: dict[str, Account] = {}
        self._filters: dict[str, str] = {}
        with private_files(), closing(self._open()) as base:
            base.executescript(_TABLES)

    def grant(self, account: Account, filter: str | None = None) -> str:
        """Return a new API key of the account, which is shown this once; one of before ends.

        filter: which passages its tenant may find, "" for all; None leaves it as it is, and a new tenant finds all.
        Raises ConfigError for a filter that is none.
        """
        check_filter(filter or "")
        secret = secrets.token_urlsafe(32)
        given = (_hash(secret), account.tenant, " ".join(sorted(account.scopes)), account.per_minute, account.per_day)
        with closing(self._open()) as base, base:
            base.execute("BEGIN IMMEDIATE")
            row = base.execute("SELECT issue FROM accounts WHERE name=?", (account.name,)).fetchone()
            base.execute(
                "INSERT OR REPLACE INTO accounts VALUES (?,?,?,?,?,?,?,?,0)",
                (account.name, *given, account.until, 1 + (row[0] if row else 0)),
            )
            base.execute("INSERT OR IGNORE INTO tenants VALUES (?,'')", (account.tenant,))
            if filter is not None:
                base.execute("UPDATE tenants SET filter=? WHERE name=?", (filter, account.tenant))
        return f"rhk.{account.name}.{secret}"

    def revoke(self, name: str) -> None:
        """End an account's key and tokens; gateways see it within SEEN_S. Raises ConfigError where there is none."""
        with closing(self._open()) as base, base:
            if not base.execute("UPDATE accounts SET revoked=1 WHERE name=?", (name,)).rowcount:
                known = ", ".join(sorted(self.all())) or "none; see: rag-hpc serve grant"
                raise ConfigError(f"account.name={name}: no such account; there are: {known}")

    def all(self) -> dict[str, Account]:
        """Return the accounts by name, as they were SEEN_S ago at the latest."""
        if self._clock() - self._looked >= SEEN_S:
            with closing(self._open()) as base:
                rows = base.execute("SELECT * FROM accounts").fetchall()
                self._filters = dict(base.execute("SELECT name, filter FROM tenants"))
            self._by_name = {row[0]: _account(row) for row in rows}
            self._looked = self._clock()
        return self._by_name

    def filter_of(self, tenant: str) -> str | None:
        """Return which passages a tenant may find, "" for all; None where there is no such tenant."""
        self.all()
        return self._filters.get(tenant)

    def holder(self, api_key: str) -> Account | None:
        """Return the live account of an API key, None where it is nobody's."""
        match = _API_KEY.fullmatch(api_key)
        account = self.all().get(match[1]) if match else None
        wanted = account.hash if account else _hash("nobody's")
        same = hmac.compare_digest(_hash(match[2] if match else ""), wanted)
        return account if account and same and is_live(account) else None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=5.0, isolation_level=None)


def is_live(account: Account) -> bool:
    """Return whether the account was neither revoked nor has ended."""
    return not account.revoked and time.time() < account.until


def _account(row: tuple[str, str, str, str, int, int, float, int, int]) -> Account:
    name, hashed, tenant, scopes, per_minute, per_day, until, issue, revoked = row
    return Account(
        name=name,
        hash=hashed,
        tenant=tenant,
        scopes=frozenset(scopes.split()),
        per_minute=per_minute,
        per_day=per_day,
        until=until,
        issue=issue,
        revoked=bool(revoked),
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
