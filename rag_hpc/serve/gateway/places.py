"""Where a run's gateways are found: owner-only files, written at once or not at all.

RUN/.gateways/NAME/gateway.json  what was asked for (Asked); written once by `rag-hpc serve gateway`
RUN/.gateways/NAME/doors.json    where it answers (Doors); anew whenever it starts
RUN/.gateways/NAME/*.log         what it and its keeper say
RUN/.gateways/auth/              signing keys, accounts, quotas; or in gateway.auth_dir
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rag_hpc.core.fs import publish_file
from rag_hpc.core.stored import read_object, sealed_json, typed
from rag_hpc.core.trust import private_files
from rag_hpc.errors import InputError
from rag_hpc.serve.gateway.config import GatewayConfig
from rag_hpc.serve.places import KEEPER, KeptBy, check_own, node_address

FOLDER, ASKED, DOORS, AUTH = ".gateways", "gateway.json", "doors.json", "auth"
LOOPBACK = "127.0.0.1"
FEEDBACK = "feedback"  # folder of the run: verdicts of readers, which stay
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a gateway is asked to be."""

    run: str
    run_dir: str  # a copy of the run's folder does not have the gateway
    name: str
    submission: int  # of the run, whose manifests are read
    interface: str | None = None  # of the network that other nodes reach it by, where gateway.listen=node
    job: str = ""  # of Slurm
    cluster: str = "local"
    slurm_conf: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # of GatewayConfig
    generator: dict[str, Any] = field(default_factory=dict)  # of GeneratorConfig
    cache: dict[str, Any] = field(default_factory=dict)  # of CacheConfig


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Where a gateway answers: its sockets on `host` alone, its port to all who reach `address`.

    `owner` asks for no token: who can reach it is the run's owner.
    """

    host: str
    pid: int
    owner: str  # path of a Unix socket
    edge: str  # path of a Unix socket, for a proxy
    port: int  # -1 where there is none
    address: str = LOOPBACK  # that the port is of


class GatewayPlace:
    """The folder of one gateway."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self.run_dir, self.name, self.folder = run_dir, name, run_dir / FOLDER / name

    def create(self) -> None:
        """Make the folder. Raises FileExistsError where it is there."""
        with private_files():
            own_folder(self.folder.parent)
            self.folder.mkdir(mode=0o700)

    def remove(self) -> None:
        """Remove the folder, and with the last gateway what they shared in the run."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if not gateways_of(self.run_dir):
            shutil.rmtree(self.folder.parent, ignore_errors=True)

    def write(self, name: str, value: Any) -> None:
        """Write one of the JSON files."""
        with private_files():
            publish_file(self.folder / name, sealed_json(dataclasses.asdict(value)), overwrite=True)

    def asked(self) -> Asked:
        """Return what the gateway was asked to be. Raises as `doors` does, and InputError for that of another run."""

        def made(value: dict[str, Any]) -> Asked:
            asked = typed(Asked, value)
            GatewayConfig(**asked.settings)
            return asked

        asked = self._read(ASKED, made)
        if asked.run_dir != str(self.run_dir):
            raise InputError(f"{self.folder}: a copy of {asked.run_dir}'s gateway; remove it")
        return asked

    def address(self) -> str:
        """Return the IPv4 address of this node that its port listens on. Raises ConfigError for a node without
        one, and as `asked` does."""
        asked = self.asked()
        return node_address(asked.interface) if asked.settings.get("listen") == "node" else LOOPBACK

    def doors(self) -> Doors:
        """Return where it answers. Raises FileNotFoundError, ConfigError for a file that is not ours alone, and
        CorruptOutput."""
        return self._read(DOORS, lambda value: typed(Doors, value))

    def keeper(self) -> KeptBy:
        """Return who keeps it up. Raises as `doors` does."""
        return self._read(KEEPER, lambda value: typed(KeptBy, value))

    def _read(self, name: str, make: Callable[[dict[str, Any]], T]) -> T:
        for path in (self.folder.parent, self.folder, self.folder / name):
            check_own(path)
        return read_object(self.folder / name, "run: rag-hpc serve down, then serve gateway", make)


def gateways_of(run_dir: Path) -> list[GatewayPlace]:
    """Return the places of a run's gateways. Raises ConfigError where the folder is not ours alone."""
    root = run_dir / FOLDER
    if not root.is_dir():
        return []
    check_own(root)
    return [GatewayPlace(run_dir, path.parent.name) for path in sorted(root.glob(f"*/{ASKED}"))]


def auth_folder(run_dir: Path, config: GatewayConfig) -> Path:
    """Return the folder of keys and accounts, made where it was not. Raises ConfigError for one open to others."""
    with private_files():
        if not config.auth_dir:
            own_folder(run_dir / FOLDER)
        return own_folder(Path(config.auth_dir) if config.auth_dir else run_dir / FOLDER / AUTH)


def own_folder(path: Path) -> Path:
    """Return the folder, made where it was not, and ours alone. Raises ConfigError, and InputError without a parent."""
    if not os.path.lexists(path):
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError as error:
            raise InputError(f"{path}: no folder {path.parent}; make it first") from error
    check_own(path)
    return path
