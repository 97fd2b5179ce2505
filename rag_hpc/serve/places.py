"""Where a resident group is found: owner-only files in the run's folder, written at once or not at all.

RUN/.serve/NAME/group.json   what was asked for (Group); written once by `rag-hpc serve up`
RUN/.serve/NAME/key          32 random bytes in hex: whoever can read it may ask, and be a rank
RUN/.serve/NAME/door.json    where rank 0 answers (Door); anew whenever it starts
RUN/.serve/NAME/keeper.json  the process on this machine that keeps the ranks up; not on Slurm
RUN/.serve/NAME/*.log        what the ranks and their keeper say
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import secrets
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rag_hpc.core.fs import publish_file
from rag_hpc.core.settings import bounded, check_bounds
from rag_hpc.core.stored import read_object, sealed_json, typed
from rag_hpc.core.trust import account, private_files
from rag_hpc.errors import ConfigError, InputError

FOLDER, KEY, GROUP, DOOR, KEEPER = ".serve", "key", "group.json", "door.json", "keeper.json"
SOCKET = "door"
T = TypeVar("T")


@dataclass(kw_only=True)
class ServeConfig:
    """Settings of a resident group, `serve.KEY=VALUE`."""

    deadline_ms: int = bounded(1000, 10, 600_000)  # of a query that brings none
    hedge_after_ms: int = bounded(100, 1, 600_000)  # without an answer, a second group is asked as well
    max_batch: int = bounded(32, 1, 1024)  # queries searched together, as many as have come
    max_queue: int = bounded(256, 1, 65_536)  # requests that wait; one more is refused as overloaded
    ann: bool = False  # hold the run's vector index, too, and give its ranking beside the exact ones

    def __post_init__(self) -> None:
        check_bounds(self, "serve")


@dataclass(frozen=True, kw_only=True)
class Group:
    """What a group is asked to be."""

    run: str
    run_dir: str  # a copy of the run's folder does not have the group
    name: str
    ranks: int
    submission: int  # of the run, whose manifests are held
    fingerprint: str  # of what is searched and how: equal for equal answers
    settings: dict[str, Any] = field(default_factory=dict)  # of ServeConfig
    interface: str | None = None  # of the network that other nodes reach rank 0 by
    listens: str = "unix"  # or tcp, where ranks are on several nodes
    job: str = ""  # of Slurm
    cluster: str = "local"
    slurm_conf: str | None = None


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where rank 0 answers: the path of a Unix socket on `host`, or HOST:PORT."""

    address: str
    host: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class KeptBy:
    """The process on `host` that keeps it up."""

    host: str
    pid: int


class Place:
    """The folder of one group, or of one fleet's replicas."""

    def __init__(self, run_dir: Path, name: str, root: str = FOLDER) -> None:
        self.run_dir, self.name, self.folder = run_dir, name, run_dir / root / name

    def create(self) -> None:
        """Make the folder, with a new key. Raises FileExistsError where it is there."""
        with private_files():
            self.folder.parent.mkdir(mode=0o700, exist_ok=True)
            check_own(self.folder.parent)
            self.folder.mkdir(mode=0o700)
            publish_file(self.folder / KEY, secrets.token_hex(32).encode())

    def write(self, name: str, value: Any) -> None:
        """Write one of the JSON files."""
        with private_files():
            publish_file(self.folder / name, sealed_json(dataclasses.asdict(value)), overwrite=True)

    def key(self) -> bytes:
        """Return the key. Raises ConfigError where it is not ours alone, and InputError where there is none."""
        path = self.folder / KEY
        try:
            self._check(KEY)
            return bytes.fromhex(path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"{path}: no key ({error}); run: rag-hpc serve down, then serve up") from error

    def group(self) -> Group:
        """Return what the group was asked to be. Raises as `door` does, and InputError for that of another run."""

        def made(value: dict[str, Any]) -> Group:
            group = typed(Group, value)
            ServeConfig(**group.settings)
            return group

        group = self._read(GROUP, made)
        if group.run_dir != str(self.run_dir):
            raise InputError(f"{self.folder}: a copy of {group.run_dir}'s group; remove it")
        return group

    def door(self) -> Door:
        """Return where rank 0 answers. Raises FileNotFoundError, ConfigError for a file that is not ours alone, and
        CorruptOutput."""
        return self._read(DOOR, lambda value: typed(Door, value))

    def keeper(self) -> KeptBy:
        """Return who keeps the ranks up on this machine. Raises as `door` does."""
        return self._read(KEEPER, lambda value: typed(KeptBy, value))

    def read(self, name: str, kind: type[T]) -> T:
        """Return what another of the JSON files holds. Raises as `door` does."""
        return self._read(name, lambda value: typed(kind, value))

    def _read(self, name: str, make: Callable[[dict[str, Any]], T]) -> T:
        self._check(name)
        return read_object(self.folder / name, "run: rag-hpc serve down, then serve up", make)

    def _check(self, name: str) -> None:
        for path in (self.folder.parent, self.folder, self.folder / name):
            check_own(path)


def groups_of(run_dir: Path) -> list[Place]:
    """Return the places of the run's groups, by name. Raises ConfigError where they are not ours alone."""
    root = run_dir / FOLDER
    if not root.is_dir():
        return []
    check_own(root)
    return [Place(run_dir, path.parent.name) for path in sorted(root.glob(f"*/{GROUP}"))]


def check_own(path: Path) -> None:
    """Raise ConfigError unless a file or folder is ours and nobody else may read or write it; root's is not ours.

    Whoever could write it would be told our questions; whoever could read the key could answer them.
    """
    found = os.lstat(path)
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to {account(found.st_uid)}, not to you: a group that others keep up is not asked"
        )
    if stat.S_ISLNK(found.st_mode) or found.st_mode & 0o077:
        raise ConfigError(f"{path}: a link, or open to others; remove it and run: rag-hpc serve up")


def listener(listens: str, folder: Path, interface: str | None) -> tuple[socket.socket, str]:
    """Return a socket that listens, and its address as Door has it; `folder`: where a Unix socket is made."""
    if listens == "unix":
        path = folder / SOCKET
        with _short(path) as name, private_files():
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(name)
        sock.listen(128)
        return sock, str(path)
    sock = socket.create_server((node_address(interface), 0), backlog=128)
    host, port = sock.getsockname()[:2]
    return sock, f"{host}:{port}"


def connect(door: Door, timeout_s: float) -> socket.socket:
    """Return a connection to a door, not yet greeted. Raises OSError, and InputError for one on another machine."""
    if "/" in door.address:
        if door.host != os.uname().nodename:
            raise InputError(f"the group answers on {door.host} only, where it was started; ask there")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            with _short(Path(door.address)) as name:
                sock.connect(name)
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = door.address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=timeout_s)
    alive(sock)
    return sock


def alive(sock: socket.socket) -> None:
    """Let a TCP connection end within some seconds when the other machine is gone, and send small frames at once."""
    if sock.family == socket.AF_INET:
        options = {socket.TCP_KEEPIDLE: 3, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
        for option, number in {**options, socket.TCP_USER_TIMEOUT: 9000, socket.TCP_NODELAY: 1}.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, number)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def node_address(interface: str | None) -> str:
    """Return the IPv4 address that other nodes reach this one by: the interface's, else that of the host's name.

    Raises ConfigError where there is none but the loopback.
    """
    if interface:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            try:
                asked = struct.pack("256s", interface.encode()[:15])
                return socket.inet_ntoa(fcntl.ioctl(any_socket, 0x8915, asked)[20:24])  # SIOCGIFADDR
            except OSError as error:
                raise ConfigError(
                    f"cluster.interface={interface}: {os.uname().nodename} has no address there ({error}); see: ip addr"
                ) from error
    try:
        found = socket.gethostbyname(os.uname().nodename)
    except OSError as error:
        raise ConfigError(f"{os.uname().nodename} has no address by its name; set cluster.interface") from error
    if found.startswith("127."):
        raise ConfigError(f"{os.uname().nodename} is {found}, its loopback, by its name; set cluster.interface")
    return found


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name for a Unix socket however long its path is: the kernel takes 107 bytes of one."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
