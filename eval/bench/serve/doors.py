"""The gateway of a run that is measured, who asks there, and what."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from rag_hpc.core import manifest
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.plan import read_plans
from rag_hpc.errors import ConfigError, IncompleteError, InputError
from rag_hpc.serve.gateway.auth.accounts import Account, Accounts
from rag_hpc.serve.gateway.config import GatewayConfig
from rag_hpc.serve.gateway.places import GatewayPlace, auth_folder, gateways_of
from rag_hpc.stores.questions import read_questions

GUEST = "bench-serve"
SEEN_S = 10.0  # a gateway has seen a new account by then


def gateway_of(ledger: Ledger, *, caches: bool) -> GatewayPlace:
    """Return a run's gateway on this machine. Raises InputError where none is up, and ConfigError where all cache and
    must not (what is asked again would take none of the steps), or the other way round."""
    other = ""
    for place in gateways_of(ledger.run_dir):
        try:
            place.doors()
            settings = GatewayConfig(**place.asked().settings)
        except FileNotFoundError:
            continue
        if settings.cache == caches:
            return place
        other = place.name
    setting = "" if caches else " gateway.cache=false"
    if other:
        does = "does not cache" if caches else "caches"
        raise ConfigError(
            f"gateway {other} {does}; start another for this: rag-hpc serve gateway gateway.name=bench{setting}"
        )
    raise InputError(
        f"run={ledger.name}: no gateway is up; start one: rag-hpc serve up, then rag-hpc serve gateway{setting}"
    )


@contextlib.contextmanager
def guest(place: GatewayPlace) -> Iterator[str]:
    """Yield a token of an account that may ask as much as it likes; it is revoked afterwards."""
    doors, settings = place.doors(), GatewayConfig(**place.asked().settings)
    accounts = Accounts(auth_folder(place.run_dir, settings))
    scopes, until = frozenset({"query", "retrieve"}), time.time() + 3600
    account = Account(name=GUEST, tenant=GUEST, scopes=scopes, per_minute=1_000_000, per_day=10**8, until=until)
    key = accounts.grant(account)
    try:
        yield _token(f"http://{doors.address}:{doors.port}/v1/auth/token", key)
    finally:
        accounts.revoke(GUEST)


def questions_of(ledger: Ledger) -> list[str]:
    """Return the run's questions."""
    request = ledger.request()
    plan = read_plans(ledger.run_dir, request.number, ["retrieve.queries"], request.settings)["retrieve.queries"]
    return [row["text"] for row in read_questions(manifest.load(ledger.run_dir / plan.folder))]


def _token(url: str, key: str) -> str:
    asked = urllib.request.Request(url, json.dumps({"api_key": key}).encode(), {"Content-Type": "application/json"})
    end = time.monotonic() + SEEN_S
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=10) as reply:
                return str(json.load(reply)["access_token"])
        except urllib.error.HTTPError as error:
            if error.code != 401 or time.monotonic() > end:
                raise IncompleteError(f"{url}: {error.code} {error.reason}") from error
        time.sleep(0.2)
