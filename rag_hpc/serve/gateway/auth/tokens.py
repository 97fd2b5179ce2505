"""Tokens: an API key is exchanged for one, which says who asks for how long, and every gateway can check it alone."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from rag_hpc.serve.gateway.auth.accounts import Account, Accounts, is_live
from rag_hpc.serve.gateway.auth.keys import KeyRing
from rag_hpc.serve.gateway.problems import Problem

ALGORITHM = "HS256"  # the only one: what a token's header says is never asked
ISSUER = "rag-hpc"
NEEDED = ["iss", "aud", "sub", "iat", "exp", "jti"]
MOST_CHARS = 4096


class Tokens:
    """Makes and checks the tokens of one run's gateways."""

    def __init__(
        self, keys: KeyRing, accounts: Accounts, audience: str, lives_s: float, now: Callable[[], float] = time.time
    ) -> None:
        """audience: the run; a token of another run's gateway is refused, even with the same keys."""
        self._keys, self._accounts, self._audience, self._lives_s, self._now = keys, accounts, audience, lives_s, now

    def exchange(self, api_key: str, scopes: frozenset[str] = frozenset()) -> tuple[str, float, Account]:
        """Return a token of the key's holder, the seconds that it holds, and the holder.

        scopes: fewer than the account's; none for all. Raises Problem.
        """
        import jwt

        account = self._accounts.holder(api_key)
        if account is None:
            raise Problem(401, "invalid_api_key", "the API key is nobody's, was revoked or has ended; ask for another")
        if not scopes <= account.scopes:
            raise Problem(403, "insufficient_scope", f"the account has the scopes {', '.join(sorted(account.scopes))}")
        now, key = self._now(), self._keys.live()[0]
        lives_s = min(self._lives_s, account.until - now)
        claims = {
            "iss": ISSUER,
            "aud": self._audience,
            "sub": account.name,
            "tenant": account.tenant,
            "scope": " ".join(sorted(scopes or account.scopes)),
            "issue": account.issue,
            "iat": int(now),
            "exp": int(now + lives_s),
            "jti": secrets.token_hex(8),
        }
        return jwt.encode(claims, bytes.fromhex(key.secret), ALGORITHM, headers={"kid": key.kid}), lives_s, account

    def holder(self, token: str) -> Account:
        """Return who asks, with the token's scopes. Raises Problem for a token that is not ours, or no longer good."""
        claims = self._claims(token)
        account = self._accounts.all().get(str(claims["sub"]))
        if account is None or not is_live(account) or claims.get("issue") != account.issue:
            raise Problem(401, "token_revoked", "the token's account was revoked, has ended or has another key")
        if claims.get("tenant") != account.tenant:
            raise Problem(403, "wrong_tenant", "the token is of a tenant that its account no longer belongs to")
        scopes = frozenset(str(claims.get("scope", "")).split()) & account.scopes
        if not scopes:
            raise Problem(403, "insufficient_scope", "the token has no scope that its account still has")
        return Account(
            name=account.name,
            tenant=account.tenant,
            scopes=scopes,
            per_minute=account.per_minute,
            per_day=account.per_day,
            until=min(account.until, float(claims["exp"])),
        )

    def _claims(self, token: str) -> dict[str, Any]:
        import jwt

        wrong = Problem(401, "invalid_token", "the token is none of this gateway's; exchange a key at /v1/auth/token")
        if len(token) > MOST_CHARS:
            raise wrong
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            secret = next((key.secret for key in self._keys.live() if key.kid == kid), None)
            if secret is None:
                raise wrong
            claims: dict[str, Any] = jwt.decode(
                token,
                bytes.fromhex(secret),
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=ISSUER,
                options={"require": NEEDED},
            )
        except jwt.ExpiredSignatureError as error:
            raise Problem(401, "token_expired", "the token has expired; get another at /v1/auth/token") from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise wrong from error
        return claims
