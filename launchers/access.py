"""`rag-hpc serve grant|revoke|rotate|tunnel|edge`: who may ask a run's gateways, and by which way."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import out_file
from rag_hpc.core.fs import publish_file
from rag_hpc.core.settings import DAY_S
from rag_hpc.errors import InputError
from rag_hpc.launchers.gateway import pairs_of, settings, state_of
from rag_hpc.schema import from_plain
from rag_hpc.search.filters import check_filter
from rag_hpc.serve.ask import manifests
from rag_hpc.serve.gateway.auth.accounts import Account, Accounts
from rag_hpc.serve.gateway.auth.keys import KeyRing
from rag_hpc.serve.gateway.config import SCOPES, AccountConfig, GatewayConfig
from rag_hpc.serve.gateway.edge import EdgeConfig, nginx, traefik
from rag_hpc.serve.gateway.places import Doors, auth_folder, gateways_of
from rag_hpc.stores.chunks import ChunkStore

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger

WORDS = ("grant", "revoke", "rotate", "tunnel", "edge")


def run_word(word: str, ledger: Ledger, arguments: Arguments) -> int:
    """Do what the word says."""
    if word == "grant":
        return grant(ledger, arguments)
    if word == "revoke":
        name = account_settings(arguments).name
        accounts_of(ledger, arguments).revoke(name)
        print(f"run={ledger.name}: {name}'s key and tokens end within some seconds")
        return 0
    if word == "rotate":
        key = KeyRing(auth_folder(ledger.run_dir, used_by(ledger, arguments))).rotate()
        print(f"run={ledger.name}: tokens are signed by {key.kid} from now on; those of the key before hold yet")
        return 0
    return tunnel(ledger) if word == "tunnel" else edge(ledger, arguments)


def grant(ledger: Ledger, arguments: Arguments) -> int:
    """Print a new API key, which is shown this once."""
    given = account_settings(arguments)
    account = Account(
        name=given.name,
        tenant=given.tenant,
        scopes=frozenset(given.scopes.split(",")),
        per_minute=given.per_minute,
        per_day=given.per_day,
        until=time.time() + DAY_S * given.days,
    )
    only = arguments.values.get("--filter")
    check_filter(only or "", ChunkStore(manifests(ledger.run_dir, ledger.request())["chunk"]).columns)
    key = accounts_of(ledger, arguments).grant(account, only)
    print(key)
    scopes = f"scopes {', '.join(sorted(account.scopes))} (of {', '.join(SCOPES)})"
    told = f"{account.name}, tenant {account.tenant}, {scopes}: this key is shown once; a token comes from it at"
    print(f"{told} /v1/auth/token", file=sys.stderr)
    return 0


def accounts_of(ledger: Ledger, arguments: Arguments) -> Accounts:
    """Return the accounts of the run's gateways, or of gateway.auth_dir."""
    return Accounts(auth_folder(ledger.run_dir, used_by(ledger, arguments)))


def used_by(ledger: Ledger, arguments: Arguments) -> GatewayConfig:
    """Return the settings given, with the auth_dir of the gateways that are there where none is."""
    config = settings(arguments)
    for place in gateways_of(ledger.run_dir) if not config.auth_dir else ():
        config.auth_dir = str(place.asked().settings["auth_dir"])
    return config


# ---- ways in


def tunnel(ledger: Ledger) -> int:
    """Print the line that brings a gateway's page to another machine."""
    doors, here = doors_of(ledger), os.uname().nodename
    way = here if doors.host == here else f"-J {here} {doors.host}"  # a job's node is reached through this machine
    print(f"ssh -N -L 8080:{doors.owner} {way}   then open http://localhost:8080/")
    return 0


def edge(ledger: Ledger, arguments: Arguments) -> int:
    """Write a proxy's configuration for the gateways that are up."""
    config = from_plain(EdgeConfig, pairs_of(arguments, EdgeConfig, "edge"))
    here = [doors for doors in doors_all(ledger) if doors.host == os.uname().nodename]
    if not here:
        raise InputError(f"run={ledger.name}: its gateways are on other nodes; a proxy reaches those of its own alone")
    text = (nginx if config.kind.value == "nginx" else traefik)(config, here)
    if (path := out_file(arguments)) is None:
        print(text, end="")
        return 0
    publish_file(path, text.encode(), overwrite=True)
    print(f"run={ledger.name}: wrote {path}")
    return 0


def doors_all(ledger: Ledger) -> list[Doors]:
    """Return the doors of all gateways that are up here, or as jobs. Raises InputError where none is."""
    states = [state_of(place) for place in gateways_of(ledger.run_dir)]
    if not (found := [state["doors"] for state in states if state["state"] == "up"]):
        raise InputError(f"run={ledger.name}: no gateway is up; start one: rag-hpc serve gateway run={ledger.handle}")
    return found


def doors_of(ledger: Ledger) -> Doors:
    """Return the doors of a gateway that is up."""
    return doors_all(ledger)[0]


def account_settings(arguments: Arguments) -> AccountConfig:
    """Return the settings given as account.KEY=VALUE. Raises ConfigError for a wrong one."""
    return from_plain(AccountConfig, dict[str, Any](pairs_of(arguments, AccountConfig, "account")))
