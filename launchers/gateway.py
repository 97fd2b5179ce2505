"""`rag-hpc serve gateway|grant|revoke|rotate|tunnel|edge`: a run's gateways, and who may ask them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import number_between, out_file, whole_number
from rag_hpc.core.fs import naming_disk, publish_file
from rag_hpc.core.log import shown
from rag_hpc.core.settings import DAY_S
from rag_hpc.core.stage import Launch
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, IncompleteError, InputError, MissingDependency, RagHpcError, did_you_mean
from rag_hpc.launchers.local import environment
from rag_hpc.schema import from_plain, to_plain
from rag_hpc.serve.ask import generator_of
from rag_hpc.serve.gateway.auth.accounts import SCOPES, Account, Accounts
from rag_hpc.serve.gateway.auth.keys import KeyRing
from rag_hpc.serve.gateway.config import GatewayConfig
from rag_hpc.serve.gateway.edge import EdgeConfig, nginx, traefik
from rag_hpc.serve.gateway.places import ASKED, Asked, Doors, GatewayPlace, auth_folder, gateways_of

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger, Request

WORDS = ("gateway", "grant", "revoke", "rotate", "tunnel", "edge")
PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "jwt": "PyJWT", "structlog": "structlog"}
PACKAGES["prometheus_client"] = "prometheus-client"
UP_S, DOWN_S, POLL_S = 120.0, 30.0, 0.1


def run_word(word: str, ledger: Ledger, arguments: Arguments) -> int:
    """Do what the word says."""
    if word == "gateway":
        return up(ledger, place_of(ledger, arguments), arguments)
    if word == "grant":
        return grant(ledger, arguments)
    if word == "revoke":
        name = given(arguments, "name", "which account's key and tokens end")
        accounts_of(ledger, arguments).revoke(name)
        print(f"run={ledger.name}: {name}'s key and tokens end within some seconds")
        return 0
    if word == "rotate":
        key = KeyRing(auth_folder(ledger.run_dir, settings(arguments))).rotate()
        print(f"run={ledger.name}: tokens are signed by {key.kid} from now on; those of the key before hold yet")
        return 0
    return tunnel(ledger) if word == "tunnel" else edge(ledger, arguments)


# ---- up and down


def up(ledger: Ledger, place: GatewayPlace, arguments: Arguments) -> int:
    """Start a gateway on this machine under a keeper, and wait until it answers."""
    require_packages()
    request = ledger.request()
    asked = asked_of(ledger, request, place, arguments)
    if place.folder.exists():
        if keeper_pid(place) is not None:
            raise ConfigError(
                f"run={ledger.name}: gateway {place.name} is up; another is started with gateway=NAME, this one ended "
                f"with: rag-hpc serve down run={ledger.handle} gateway={place.name}"
            )
        end(place)
    with naming_disk(place.folder):
        place.create()
    try:
        place.write(ASKED, asked)
        doors = start(place, request)
    except BaseException:
        end(place)
        raise
    print(f"run={ledger.name}: gateway {place.name} is up: curl --unix-socket {doors.owner} http://localhost/readyz")
    print(f"its page, from elsewhere: rag-hpc serve tunnel run={ledger.handle}")
    if doors.port >= 0:
        print(
            f"with a token: http://127.0.0.1:{doors.port}/v1   keys: rag-hpc serve grant run={ledger.handle} name=NAME"
        )
    return 0


def asked_of(ledger: Ledger, request: Request, place: GatewayPlace, arguments: Arguments) -> Asked:
    """Return the gateway that is asked for. Raises ConfigError for one that could not answer."""
    config = settings(arguments)
    if config.replicas and arguments.override("generator.base_url") is None:
        first = config.replicas[0]
        url = first if first.startswith("http") else "http://localhost/v1"
        arguments = dataclasses.replace(arguments, overrides=[*arguments.overrides, f"generator.base_url={url}"])
    generator = generator_of(arguments, {"name": "extractive"})
    if generator.name.loads_model:
        raise ConfigError(
            f"generator={generator.name.value}: a gateway loads no model; start the server beside it and give "
            "generator=openai gateway.replicas=[http://127.0.0.1:8000/v1] generator.model=M"
        )
    return Asked(
        run=ledger.name,
        run_dir=str(place.run_dir),
        name=place.name,
        submission=request.number,
        settings=dataclasses.asdict(config),
        generator=to_plain(generator),
    )


def start(place: GatewayPlace, request: Request) -> Doors:
    """Start a gateway, and return where it answers when it does. Raises IncompleteError."""
    command = [sys.executable, "-P", "-m", "rag_hpc.launchers.gatekeeper", str(place.run_dir), place.name]
    with private_files(), (place.folder / "keeper.log").open("ab") as stream:
        keeper = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=place.folder,
            env=environment(Launch.array, 1, request),
            start_new_session=True,
        )
    limit = time.monotonic() + UP_S
    try:
        while (state := state_of(place))["state"] != "up":
            if keeper.poll() is not None or time.monotonic() > limit:
                raise IncompleteError(f"gateway {place.name} does not come up:\n{shown(said(place), block=True)}")
            time.sleep(POLL_S)
    except BaseException:
        keeper.terminate()
        keeper.wait()
        raise
    keeper.returncode = 0  # it outlives this process, which Popen would warn of
    doors: Doors = state["doors"]
    return doors


def end(place: GatewayPlace) -> None:
    """End one gateway, whose open requests are answered first, and remove its folder. Raises ConfigError for one that
    another machine keeps up."""
    with contextlib.suppress(FileNotFoundError):
        keeper = place.keeper()
        if keeper.host != os.uname().nodename:
            raise ConfigError(f"gateway {place.name} was started on {keeper.host}; end it there")
    for number in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + DOWN_S
        if (pid := keeper_pid(place)) is not None:
            os.kill(pid, number)
        while keeper_pid(place) is not None and time.monotonic() < limit:
            time.sleep(POLL_S)
    place.remove()


def state_of(place: GatewayPlace) -> dict[str, Any]:
    """Return how a gateway is; `state` is down, with a reason, where nothing answers."""
    import httpx

    found: dict[str, Any] = {"gateway": place.name, "state": "down"}
    try:
        doors = place.doors()
        if doors.host != os.uname().nodename:
            raise InputError(f"it answers on {doors.host} only; ask there")
        with httpx.Client(transport=httpx.HTTPTransport(uds=doors.owner), timeout=5.0) as client:
            ready = client.get("http://localhost/readyz")
        told = ready.json()
        reason = "" if ready.status_code == 200 else told["error"]["message"]
        return {**found, "state": "up", "doors": doors, "groups": told.get("coverage", ""), "reason": reason}
    except (RagHpcError, OSError, httpx.HTTPError, ValueError, KeyError) as error:
        alive = keeper_pid(place) is not None
        return {**found, "state": "starting" if alive else "down", "reason": str(error)}


def as_plain(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a gateway for JSON."""
    return {**state, "doors": dataclasses.asdict(state["doors"])} if "doors" in state else state


def keeper_pid(place: GatewayPlace, proc: Path = Path("/proc")) -> int | None:
    """Return the process that keeps the gateway up on this machine, None where it does not run."""
    try:
        keeper = place.keeper()
        if keeper.host != os.uname().nodename:
            return None
        words = (proc / str(keeper.pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, RagHpcError):
        return None
    return keeper.pid if "rag_hpc.launchers.gatekeeper" in words and str(place.run_dir) in words else None


def said(place: GatewayPlace, num_lines: int = 8) -> str:
    """Return the ends of a gateway's logs."""
    ends = []
    for path in sorted(place.folder.glob("*.log")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        ends += [f"==> {path.name} <==", *lines[-num_lines:]]
    return "\n".join(ends)


# ---- who may ask


def grant(ledger: Ledger, arguments: Arguments) -> int:
    """Print a new API key, which is shown this once."""
    name = given(arguments, "name", "whose key it is")
    scopes = (arguments.override("scopes") or "query,retrieve,embeddings,feedback").split(",")
    account = Account(
        name=name,
        tenant=arguments.override("tenant") or "all",
        scopes=frozenset(scopes),
        per_minute=whole_number("per_minute", arguments.override("per_minute"), 60, least=1),
        per_day=whole_number("per_day", arguments.override("per_day"), 10_000, least=1),
        until=time.time() + DAY_S * number_between("days", arguments.override("days") or "90", 0.001, 3650),
    )
    key = accounts_of(ledger, arguments).grant(account, arguments.values.get("--filter"))
    print(key)
    print(
        f"{name}, tenant {account.tenant}: this key is shown once; it becomes a token at /v1/auth/token. Scopes: "
        f"{', '.join(sorted(account.scopes))} (of {', '.join(SCOPES)})",
        file=sys.stderr,
    )
    return 0


def accounts_of(ledger: Ledger, arguments: Arguments) -> Accounts:
    """Return the accounts: those that a gateway of the run uses, or of gateway.auth_dir."""
    return Accounts(auth_folder(ledger.run_dir, settings(arguments, used_by(ledger))))


def used_by(ledger: Ledger) -> str:
    """Return the auth_dir of the gateways that are there."""
    for place in gateways_of(ledger.run_dir):
        return str(place.asked().settings["auth_dir"])
    return ""


# ---- ways in


def tunnel(ledger: Ledger) -> int:
    """Print the line that brings a gateway's page to another machine."""
    doors = doors_of(ledger)
    print(f"ssh -N -L 8080:{doors.owner} {os.uname().nodename}   then open http://localhost:8080/")
    return 0


def edge(ledger: Ledger, arguments: Arguments) -> int:
    """Write a proxy's configuration for the gateways that are up."""
    prefix = "edge."
    pairs = dict(o.removeprefix(prefix).split("=", 1) for o in arguments.overrides if o.startswith(prefix))
    config = from_plain(EdgeConfig, known(pairs, EdgeConfig, "edge"))
    text = (nginx if config.kind.value == "nginx" else traefik)(config, doors_all(ledger))
    if (path := out_file(arguments)) is None:
        print(text, end="")
        return 0
    publish_file(path, text.encode(), overwrite=True)
    print(f"run={ledger.name}: wrote {path}")
    return 0


def doors_all(ledger: Ledger) -> list[Doors]:
    """Return the doors of all gateways that are up here. Raises InputError where none is."""
    states = [state_of(place) for place in gateways_of(ledger.run_dir)]
    if not (found := [state["doors"] for state in states if state["state"] == "up"]):
        raise InputError(
            f"run={ledger.name}: no gateway is up here; start one: rag-hpc serve gateway run={ledger.handle}"
        )
    return found


def doors_of(ledger: Ledger) -> Doors:
    """Return the doors of a gateway that is up here."""
    return doors_all(ledger)[0]


# ---- settings


def settings(arguments: Arguments, auth_dir: str = "") -> GatewayConfig:
    """Return the settings given as gateway.KEY=VALUE. Raises ConfigError for a wrong one.

    auth_dir: where none is given.
    """
    prefix = "gateway."
    pairs = dict(o.removeprefix(prefix).split("=", 1) for o in arguments.overrides if o.startswith(prefix))
    values: dict[str, Any] = {"auth_dir": auth_dir, **known(pairs, GatewayConfig, "gateway")}
    if "replicas" in values:
        values["replicas"] = [one.strip() for one in values["replicas"].strip("[]").split(",") if one.strip()]
    config = from_plain(GatewayConfig, values)
    config.auth_dir = str(Path(config.auth_dir).expanduser().absolute()) if config.auth_dir else ""
    return config


def known(pairs: dict[str, str], kind: type, group: str) -> dict[str, str]:
    """Return the pairs. Raises ConfigError for a key that the group does not have."""
    names = [field.name for field in dataclasses.fields(kind)]
    for key in pairs:
        if key not in names:
            raise ConfigError(f"{group}.{key}: {did_you_mean(key, names, f'{group}.')}known: {', '.join(names)}")
    return pairs


def place_of(ledger: Ledger, arguments: Arguments) -> GatewayPlace:
    """Return the place of the gateway that is named. Raises ConfigError for what is no name."""
    name = arguments.override("gateway") or "1"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name) or name == "auth":
        raise ConfigError(f"gateway={name}: use letters, digits, '_' and '-' only, 32 at most, and not auth")
    return GatewayPlace(ledger.run_dir, name)


def given(arguments: Arguments, key: str, what: str) -> str:
    """Return a setting. Raises ConfigError where it is absent."""
    if not (value := arguments.override(key)):
        raise ConfigError(f"{key}=: say {what}, e.g. {key}=alice")
    return value


def require_packages() -> None:
    """Raise MissingDependency for a package of the extra that is not installed."""
    if absent := [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]:
        raise MissingDependency(
            f"serve gateway: {', '.join(absent)} not installed; run: pip install 'rag-hpc[gateway]'"
        )
