"""A node: one process that holds a mount and a host name of its own, inside the node's network namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rag_hpc.errors import ClusterError, ConfigError

from .config import DevClusterConfig
from .network import namespace, node_pids
from .processes import clean_env, find, kill, run, spawn, wait_for

_TMP = Path("/tmp")
# the host's /tmp stays reachable at $2, inside this node only, so that shares can be bound back at any later time
_HOLD = """set -e
echo "$1" >/proc/sys/kernel/hostname
mount --rbind /tmp "$2"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
: >"$3"
exec sleep infinity"""
_BIND = 'mountpoint -q "$2" || { mkdir -p "$2" && mount --bind "$1" "$2"; }'


def start_holder(config: DevClusterConfig, node: str) -> None:
    """Start the node without slurmd: own host name, own /tmp (PMIx of two nodes clash in one) and /dev/shm."""
    hold = config.state / "nodes" / node
    hold.mkdir(parents=True, exist_ok=True)
    ready = config.state / "run" / f"{node}.ready"
    spawn(
        config,
        node,
        [
            "ip",
            "netns",
            "exec",
            namespace(node),
            "unshare",
            "-m",
            "-u",
            "sh",
            "-c",
            _HOLD,
            "sh",
            node,
            str(hold),
            str(ready),
        ],
    )
    wait_for(lambda: ready.exists() or find(config, node) is None, f"node {node}", timeout_s=30)
    if not ready.exists():
        raise ClusterError(f"devcluster: node {node} could not be set up; see {config.state}/log/{node}.out")


def enter(config: DevClusterConfig, node: str) -> list[str]:
    """Return the start of a command line that runs a program inside the node."""
    pid = find(config, node)
    if node not in config.nodes or pid is None:
        raise ClusterError(f"devcluster: no node {node!r} is up; nodes: {', '.join(config.nodes)}")
    return ["nsenter", "-t", str(pid), "-m", "-u", "-n"]


def run_in(
    config: DevClusterConfig, node: str, argv: Sequence[str], *, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Return the finished program, with its text output; a non-zero exit is not an error here."""
    return subprocess.run(
        [*enter(config, node), *argv],
        env=clean_env(config),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
    )


def start_slurmd(config: DevClusterConfig, node: str) -> None:
    """Start the node's slurmd unless it runs."""
    if find(config, f"slurmd-{node}") is None:
        spawn(config, f"slurmd-{node}", [*enter(config, node), "slurmd", "-D", "-N", node])


def kill_slurmd(config: DevClusterConfig, node: str, *, steps: bool) -> None:
    """Kill the node's slurmd; with steps also everything else that runs in the node."""
    slurmd = find(config, f"slurmd-{node}")
    kill([] if slurmd is None else [slurmd])  # first, so that it starts nothing new
    if steps:
        holder = find(config, node)
        kill(pid for pid in node_pids(node) if pid != holder)


def default_shares() -> list[Path]:
    """Return what jobs need to run this very program: the Python, its virtual environment, the code and the cwd."""
    paths = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2], Path.cwd()]
    return [path for path in paths if path.resolve() != _TMP]


def hidden_paths(paths: Iterable[Path], tmp: Path = _TMP) -> list[Path]:
    """Return the folders below tmp that nodes need bound back: real paths before links, none inside another.

    Raises ConfigError for a path that is no folder, or that is tmp itself.
    """
    kept: list[Path] = []
    given = list(paths)
    as_named = [Path(os.path.abspath(path)) for path in given]  # noqa: PTH100 - resolve() would follow links
    for path in [*(path.resolve() for path in given), *as_named]:
        if not path.is_dir():
            raise ConfigError(f"devcluster share {path}: not a folder; create it or leave it out")
        if path == tmp:
            raise ConfigError(f"devcluster share {path}: every node has a {tmp} of its own; share a folder below it")
        if tmp in path.parents and path not in kept:
            kept.append(path)
    return [path for path in kept if not any(other in path.parents for other in kept)]


def bind_shares(config: DevClusterConfig, node: str, paths: Iterable[Path]) -> None:
    """Make the host's folders below /tmp appear in the node at the same paths."""
    for path in paths:
        source = config.state / "nodes" / node / path.relative_to(_TMP)
        run([*enter(config, node), "sh", "-c", _BIND, "sh", str(source), str(path)])
