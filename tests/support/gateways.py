"""Gateways of a run in a test, and how they are asked."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.serve.gateway.auth.accounts import Account, Accounts
from rag_hpc.serve.gateway.places import AUTH, FOLDER, Doors, GatewayPlace


@contextlib.contextmanager
def gateway(ledger: Ledger, name: str, *settings: str) -> Iterator[Doors]:
    """Yield the doors of a gateway of a run; it is gone afterwards."""
    run, place = f"run={ledger.run_dir}", GatewayPlace(ledger.run_dir, name)
    assert main(["serve", "gateway", run, f"gateway.name={name}", "gateway.port=0", *settings]) == 0
    try:
        yield place.doors()
    finally:
        pid = place.doors().pid
        assert main(["serve", "down", run, f"gateway.name={name}"]) == 0
        assert not place.folder.exists() and not Path(f"/proc/{pid}").exists()


def owner(doors: Doors) -> httpx.Client:
    """Return a client at the owner's door."""
    return httpx.Client(transport=httpx.HTTPTransport(uds=doors.owner), base_url="http://localhost", timeout=60)


def url(doors: Doors) -> str:
    """Return the address of the door that asks for tokens."""
    return f"http://{doors.address}:{doors.port}"


def granted(ledger: Ledger, name: str, *, filter: str | None = None, **limits: Any) -> str:
    """Return an API key of a new account, which is its own tenant."""
    given: dict[str, Any] = {
        "scopes": frozenset({"query", "retrieve", "embeddings", "feedback"}),
        "per_minute": 60_000,
        "per_day": 1_000_000,
        "until": time.time() + 3600,
    }
    return Accounts(ledger.run_dir / FOLDER / AUTH).grant(Account(name=name, tenant=name, **given | limits), filter)


def token_of(doors: Doors, api_key: str) -> str:
    """Return a token, as soon as the gateway has seen the account."""
    end = time.monotonic() + 5
    while (reply := httpx.post(f"{url(doors)}/v1/auth/token", json={"api_key": api_key})).status_code == 401:
        assert time.monotonic() < end, reply.text
        time.sleep(0.1)
    token: str = reply.json()["access_token"]
    return token


def events_of(reply: httpx.Response) -> list[Any]:
    """Return what the events of a stream hold, without its end mark."""
    data = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(one) for one in data[:-1]]
