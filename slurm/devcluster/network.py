"""The cluster's network: one bridge, and per node a network namespace on a veth pair; names in /etc/hosts."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag_hpc.errors import ClusterError

from .config import CONTROLLER, SUBNET, DevClusterConfig, address, hosts_lines
from .processes import SYSTEM_PATH, run

BRIDGE = "rhdc0"
_PREFIX = "rhdc-"
_BEGIN, _END = "# BEGIN rag-hpc devcluster\n", "# END rag-hpc devcluster\n"
HOSTS = Path("/etc/hosts")
NETNS_DIR = Path("/run/netns")


@contextmanager
def machine_lock() -> Iterator[None]:
    """Hold the machine's one devcluster lock: an advisory lock on /etc/hosts, which up and down edit anyway."""
    with HOSTS.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def owner() -> Path | None:
    """Return the state folder whose cluster holds the bridge (kept as the link's alias), or None without a bridge."""
    alias = _links().get(BRIDGE)
    return Path(alias) if alias else None  # a bridge without alias: a killed `up` left it, whose does not matter


def namespace(node: str) -> str:
    """Return the name of a node's network namespace."""
    return f"{_PREFIX}{node}"


def link_name(node: str) -> str:
    """Return the name of the node's link on the bridge's side; inside the node it is eth0."""
    return f"{_PREFIX}v{node}"


def create_bridge(config: DevClusterConfig) -> None:
    """Create the bridge, marked with the state folder. Raises ClusterError when another network has the subnet."""
    taken = run(["ip", "-o", "-4", "addr", "show", "to", f"{SUBNET}.0/24"]).strip()
    if taken:
        raise ClusterError(
            f"devcluster: this machine already has an address in {SUBNET}.0/24: {taken}; take that interface down first"
        )
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "link", "set", BRIDGE, "alias", str(config.state)])
    run(["ip", "addr", "add", f"{CONTROLLER}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])


def create_node(node: str) -> None:
    """Create the node's namespace with loopback and eth0 up."""
    space, link = namespace(node), link_name(node)
    run(["ip", "netns", "add", space])
    run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space])
    run(["ip", "link", "set", link, "master", BRIDGE, "up"])
    run(["ip", "-n", space, "link", "set", "lo", "up"])
    run(["ip", "-n", space, "addr", "add", f"{address(node)}/24", "dev", "eth0"])
    run(["ip", "-n", space, "link", "set", "eth0", "up"])


def set_link(node: str, *, up: bool) -> None:
    """Plug the node's cable in or out."""
    run(["ip", "link", "set", link_name(node), "up" if up else "down"])


def node_pids(node: str) -> list[int]:
    """Return the pids of everything that runs in the node."""
    return [int(word) for word in run(["ip", "netns", "pids", namespace(node)]).split()]


def namespaces() -> list[str]:
    """Return the names of the nodes that still have a network namespace."""
    if not NETNS_DIR.is_dir():
        return []
    return sorted(p.name.removeprefix(_PREFIX) for p in NETNS_DIR.iterdir() if p.name.startswith(_PREFIX))


def remove() -> list[str]:
    """Return the names of the links and namespaces that were removed: all of a cluster, whichever state made it."""
    removed = []
    for name in _links():
        if name == BRIDGE or name.startswith(f"{_PREFIX}v"):
            run(["ip", "link", "del", name])  # by hand: with its namespace a veth would go some time later
            removed.append(f"link {name}")
    for node in namespaces():
        run(["ip", "netns", "del", namespace(node)])
        removed.append(f"namespace {namespace(node)}")
    return removed


def netns_dir_state() -> str:
    """Return what /run/netns is now: absent, plain or mounted (`ip netns add` mounts it onto itself)."""
    if not NETNS_DIR.is_dir():
        return "absent"
    return "mounted" if NETNS_DIR in mount_points() else "plain"


def restore_netns_dir(before: str) -> None:
    """Bring /run/netns back to what it was before, unless someone else's namespaces came meanwhile."""
    if not NETNS_DIR.is_dir() or any(NETNS_DIR.iterdir()):
        return
    if before != "mounted" and netns_dir_state() == "mounted":
        run(["umount", str(NETNS_DIR)])
    if before == "absent" and not any(NETNS_DIR.iterdir()):
        NETNS_DIR.rmdir()


def mount_points() -> list[Path]:
    """Return where something is mounted, as this process sees it."""
    # not os.path.ismount: a folder bound onto itself has its parent's device number
    return [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def write_hosts(config: DevClusterConfig, hosts: Path = HOSTS) -> None:
    """Put the cluster's names into the hosts file as a marked block at its top, in place of an earlier one."""
    block = _BEGIN + "".join(f"{line}\n" for line in hosts_lines(config)) + _END
    _overwrite(hosts, block + _without_block(hosts.read_text()))


def clear_hosts(hosts: Path = HOSTS) -> bool:
    """Return whether the marked block was there; it is gone now and every other byte is as it was."""
    text = hosts.read_text()
    rest = _without_block(text)
    if rest == text:
        return False
    _overwrite(hosts, rest)
    return True


def _without_block(text: str) -> str:
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    return before + after if begin and end else text


def _overwrite(hosts: Path, text: str) -> None:
    """Replace the file's content by one write over it: in a container the file is a mount and cannot be replaced.

    Whoever looks a name up meanwhile reads the whole of it, with blank lines where it was longer: never an empty file.
    """
    data = text.encode()
    with hosts.open("r+b", buffering=0) as stream:
        stream.write(data.ljust(hosts.stat().st_size, b"\n"))
        stream.truncate(len(data))


def _links() -> dict[str, str]:
    if shutil.which("ip", path=SYSTEM_PATH) is None:
        return {}  # nothing of ours can be there
    return {link["ifname"]: link.get("ifalias", "") for link in json.loads(run(["ip", "-j", "link", "show"]))}
