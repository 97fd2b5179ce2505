"""Who may ask a gateway: keys that change, tokens that are refused, requests that are counted for all gateways."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from rag_hpc.core.settings import DAY_S
from rag_hpc.errors import ConfigError
from rag_hpc.serve.gateway.auth.accounts import SEEN_S, Account, Accounts
from rag_hpc.serve.gateway.auth.keys import KeyRing
from rag_hpc.serve.gateway.auth.limits import Limits
from rag_hpc.serve.gateway.auth.tokens import Tokens
from rag_hpc.serve.gateway.problems import Problem


class Clock:
    """A time that passes when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def alice(**other: Any) -> Account:
    given: dict[str, Any] = {"name": "alice", "tenant": "physics", "scopes": frozenset({"query", "retrieve"})}
    limits = {"per_minute": 60, "per_day": 1000, "until": time.time() + 3600}
    return Account(**given | limits | other)


class Fleet:
    """Two gateways of one folder, as far as their tokens go."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.keys, self.accounts = KeyRing(folder, clock), Accounts(folder, clock)
        self.tokens = Tokens(self.keys, self.accounts, "demo", 900)
        self.other = Tokens(KeyRing(folder, clock), Accounts(folder, clock), "demo", 900)


@pytest.fixture
def fleet(tmp_path: Path, clock: Clock) -> Fleet:
    return Fleet(tmp_path, clock)


def test_a_key_becomes_a_token_that_any_gateway_of_the_fleet_takes(fleet: Fleet, tmp_path: Path) -> None:
    key = fleet.accounts.grant(alice(), "lang == 'en'")
    token, lives_s, _ = fleet.tokens.exchange(key, frozenset({"query"}))
    holder = fleet.other.holder(token)
    assert (holder.name, holder.tenant, holder.scopes) == ("alice", "physics", {"query"}) and lives_s == 900
    assert fleet.accounts.filter_of("physics") == "lang == 'en'" and fleet.accounts.filter_of("biology") is None
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.rpartition(".")[2].encode() not in kept  # its hash alone
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def refused(tokens: Tokens, token: str) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        tokens.holder(token)
    return caught.value.status, caught.value.code


def forged(fleet: Fleet, **changed: Any) -> str:
    """Return a token with the claims of a good one, but for these; None takes a claim away."""
    token, _, _ = fleet.tokens.exchange(fleet.accounts.grant(alice()))
    header, secret = jwt.get_unverified_header(token), bytes.fromhex(fleet.keys.live()[0].secret)
    claims = jwt.decode(token, options={"verify_signature": False}) | changed
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, secret, "HS256", headers={"kid": header["kid"]})


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"exp": 1}, "token_expired"),
        ({"exp": None}, "invalid_token"),
        ({"aud": "another-run"}, "invalid_token"),
        ({"iss": "somebody"}, "invalid_token"),
        ({"jti": None}, "invalid_token"),
        ({"sub": "mallory"}, "token_revoked"),
        ({"issue": 99}, "token_revoked"),
        ({"tenant": "biology"}, "wrong_tenant"),
        ({"scope": "root"}, "insufficient_scope"),
        ({"nbf": 1 << 40}, "invalid_token"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(fleet: Fleet, clock: Clock, changed: dict[str, Any], code: str) -> None:
    token = forged(fleet, **changed)
    clock.now += SEEN_S
    assert refused(fleet.tokens, token) == (403 if code in ("wrong_tenant", "insufficient_scope") else 401, code)


@pytest.mark.filterwarnings("ignore:The HMAC key")
def test_a_token_that_is_not_signed_by_a_live_key_is_refused(fleet: Fleet, tmp_path: Path, clock: Clock) -> None:
    token, _, _ = fleet.tokens.exchange(fleet.accounts.grant(alice()))
    head, claims, signature = token.split(".")
    secret = bytes.fromhex(fleet.keys.live()[0].secret)
    header, payload = (
        json.loads(base64.urlsafe_b64decode(head + "==")),
        jwt.decode(token, options={"verify_signature": False}),
    )

    def unsigned(**told: str) -> str:
        return base64.urlsafe_b64encode(json.dumps(header | told).encode()).decode().rstrip("=")

    folder = tmp_path / "foreign"
    folder.mkdir(mode=0o700)
    foreign, foreign_key = Fleet(folder, clock), alice()
    wrong = [
        f"{unsigned(alg='none')}.{claims}.",
        f"{unsigned(alg='NONE')}.{claims}.{signature}",
        f"{head}.{claims}.{signature[::-1]}",
        f"{head}.{claims}",
        jwt.encode(payload, secret, "HS512", headers={"kid": header["kid"]}),  # the right secret, not our algorithm
        jwt.encode(payload, b"x" * 32, "HS256", headers={"kid": header["kid"]}),
        jwt.encode(payload, secret, "HS256"),  # no kid
        foreign.tokens.exchange(foreign.accounts.grant(foreign_key))[0],
        "a" * 5000,
        "",
    ]
    assert {refused(fleet.tokens, one) for one in wrong} == {(401, "invalid_token")}
    assert fleet.tokens.holder(token).name == "alice"


def test_two_keys_are_live_so_that_a_change_ends_no_token(fleet: Fleet, clock: Clock) -> None:
    key = fleet.accounts.grant(alice())
    first, _, _ = fleet.tokens.exchange(key)
    fleet.keys.rotate()
    clock.now += 1
    second, _, _ = fleet.tokens.exchange(key)
    assert [fleet.other.holder(token).name for token in (first, second)] == ["alice", "alice"]
    fleet.keys.rotate()
    clock.now += 1
    assert refused(fleet.other, first) == (401, "invalid_token") and fleet.other.holder(second).name == "alice"


def test_what_is_revoked_or_granted_anew_ends_within_seconds(fleet: Fleet, clock: Clock) -> None:
    key = fleet.accounts.grant(alice())
    token, _, _ = fleet.tokens.exchange(key)
    assert SEEN_S <= 5 and fleet.other.holder(token)
    newer = fleet.accounts.grant(alice())
    clock.now += SEEN_S
    assert refused(fleet.other, token) == (401, "token_revoked")
    with pytest.raises(Problem, match="nobody's"):
        fleet.other.exchange(key)
    token, _, _ = fleet.other.exchange(newer)
    fleet.accounts.revoke("alice")
    clock.now += SEEN_S
    assert refused(fleet.other, token) == (401, "token_revoked")
    with pytest.raises(Problem, match="revoked"):
        fleet.tokens.exchange(newer)
    with pytest.raises(ConfigError, match="no such account; there are: alice"):
        fleet.accounts.revoke("bob")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "a b"}, "letters, digits"),
        ({"tenant": ""}, "letters, digits"),
        ({"scopes": frozenset({"root"})}, "known: query"),
        ({"scopes": frozenset()}, "a scope at least"),
        ({"per_minute": 0}, "per_minute >= 1"),
    ],
)
def test_a_wrong_account_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        alice(**wrong)


def test_a_wrong_filter_or_scope_is_refused(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        fleet.accounts.grant(alice(), "colour = 'red'")
    key = fleet.accounts.grant(alice())
    with pytest.raises(Problem, match="has the scopes query, retrieve") as caught:
        fleet.tokens.exchange(key, frozenset({"metrics"}))
    assert caught.value.status == 403


def test_requests_are_counted_for_all_gateways_together(tmp_path: Path, clock: Clock) -> None:
    one, two = Limits(tmp_path, clock), Limits(tmp_path, clock)
    waits = [gateway.take("alice", 40, 1000) for _ in range(6) for gateway in (one, two)]
    assert waits[:10] == [0.0] * 10 and all(wait > 0 for wait in waits[10:])  # a quarter of a minute's at once
    assert one.take("bob", 40, 1000) == 0.0
    clock.now += waits[-1]
    assert two.take("alice", 40, 1000) == 0.0 and one.take("alice", 40, 1000) > 0
    passed = 0
    for _ in range(600):  # a minute of asking ten times a second
        clock.now += 0.1
        passed += one.take("alice", 40, 1000) == 0.0
    assert 39 <= passed <= 41
    for limits in (one, two):
        limits.close()


def test_a_day_has_its_number_of_requests(tmp_path: Path, clock: Clock) -> None:
    limits = Limits(tmp_path, clock)
    clock.now = 10 * DAY_S + 3600
    assert [limits.take("alice", 6000, 3) for _ in range(4)] == [0, 0, 0, DAY_S - 3600]
    clock.now = 11 * DAY_S
    assert limits.take("alice", 6000, 3) == 0
    limits.close()
