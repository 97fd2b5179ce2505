"""Start, stop and ask about the development cluster of this machine; there is one at a time."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rag_hpc.errors import ClusterError, ConfigError

from . import network, nodes
from .cluster import DevCluster
from .config import DevClusterConfig, default_state_dir, write_files
from .prerequisites import check
from .processes import clean_env, daemon_env, find, kill, owned_pids, run, spawn, wait_for, wait_for_daemon

log = logging.getLogger(__name__)

_MARK = "devcluster.json"  # first file written and last one removed: the folder is ours to delete
_BASE = ("munged", "mariadbd", "slurmdbd")


def up(state: Path | None = None, *, num_nodes: int = 4, share: Sequence[Path] = ()) -> DevCluster:
    """Return the running cluster, started when it was not; what was cut or killed in it is brought back.

    share: folders below /tmp that jobs shall see (each node has its own /tmp); the Python in use, the code and the
    current folder are always seen. Raises MissingDependency, ConfigError, or ClusterError: not root, another
    cluster is up, or the start or the first job step failed (then nothing is left behind).
    """
    check()
    config = DevClusterConfig(state=state or default_state_dir(), num_nodes=num_nodes)
    visible = nodes.hidden_paths([*share, *nodes.default_shares()])
    with network.machine_lock(), readable_by_all():
        other = network.owner()
        if other not in (None, config.state):
            raise ClusterError(
                f"devcluster: another one is up with state {other}; stop it first: "
                f"rag-hpc devcluster down, with RAG_HPC_DEVCLUSTER={other}"
            )
        cluster = DevCluster(config)
        if _running(config):
            _start_accounting(config)
        else:
            _start(config)
        for node in config.nodes:
            nodes.bind_shares(config, node, visible)
        try:
            cluster.repair()
        except ClusterError as err:
            raise ClusterError(f"{err}\n{_log_tails(config)}") from err
    return cluster


@contextlib.contextmanager
def readable_by_all() -> Iterator[None]:
    """Let other users into what is made meanwhile: munge refuses a socket in a folder that they cannot enter."""
    mask = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(mask)


def down(state: Path | None = None) -> list[str]:
    """Return what was removed: processes, links, namespaces, names and the state folder; [] when nothing was there."""
    config = DevClusterConfig(state=state or default_state_dir())
    with network.machine_lock():
        if os.geteuid() != 0 and (_read_mark(config) or network.owner() == config.state):
            raise ClusterError(f"devcluster: only root can stop {config.state}; run: sudo -E rag-hpc devcluster down")
        return _remove(config)


def status(state: Path | None = None) -> dict[str, Any]:
    """Return {up, state, slurm_conf, seconds, nodes: [{name, state, cpus}], daemons: {name: running}}.

    up: munge and the controller answer; accounting and single nodes may be away. seconds: since `up` finished, None
    when down.
    """
    config = DevClusterConfig(state=state or default_state_dir())
    record = _read_mark(config)
    if not record:
        return {
            "up": False,
            "state": str(config.state),
            "slurm_conf": None,
            "seconds": None,
            "nodes": [],
            "daemons": {},
        }
    config.num_nodes = record["num_nodes"]
    names = [*_BASE, "slurmctld", *(f"slurmd-{node}" for node in config.nodes)]
    daemons = {name: find(config, name) is not None for name in names}
    since = record.get("up_at")
    listed = DevCluster(config).node_states() if daemons["slurmctld"] else []
    ready = bool(since and listed and daemons["munged"])
    return {
        "up": ready,
        "state": str(config.state),
        "slurm_conf": str(config.slurm_conf),
        "seconds": round(time.time() - since, 1) if since else None,
        "nodes": listed,
        "daemons": daemons,
    }


def _running(config: DevClusterConfig) -> bool:
    record = _read_mark(config)
    if not record.get("up_at") or not all(find(config, name) for name in ("munged", *config.nodes)):
        return False
    if record["num_nodes"] != config.num_nodes:
        raise ConfigError(
            f"devcluster: it is up with {record['num_nodes']} nodes, not {config.num_nodes}; "
            "run: rag-hpc devcluster down"
        )
    return True


def _start(config: DevClusterConfig) -> None:
    before = time.monotonic()
    _remove(config)  # what a killed `up` or a reboot left
    try:
        _claim(config)
        write_files(config, _slurm_version())
        _start_all(config)
    except BaseException as err:  # also Ctrl-C: a half cluster is of no use to anyone
        tails = _log_tails(config)
        _remove(config)
        if isinstance(err, ClusterError):
            raise ClusterError(f"{err}\n{tails}") from err
        raise
    _write_mark(config, {**_read_mark(config), "up_at": time.time()})
    log.info("devcluster: %d nodes up in %.1f s", config.num_nodes, time.monotonic() - before)


def _slurm_version() -> tuple[int, int]:
    numbers = re.findall(r"\d+", run(["slurmd", "-V"]))  # "slurm-wlm 22.05.8"
    return int(numbers[0]), int(numbers[1])


def _start_all(config: DevClusterConfig) -> None:
    network.create_bridge(config)
    network.write_hosts(config)  # before anything starts that looks up a name
    data = config.state / "mariadb" / "data"
    options = "--user=root --skip-test-db --skip-name-resolve --auth-root-authentication-method=socket".split()
    # the slowest step, so everything that does not need it goes on meanwhile
    spawn(config, "mariadb-install", ["mariadb-install-db", "--no-defaults", f"--datadir={data}", *options])
    start_munge(config)
    for node in config.nodes:
        network.create_node(node)
        nodes.start_holder(config, node)
    wait_for(lambda: find(config, "mariadb-install") is None, "mariadb-install-db to end", timeout_s=120)
    if not (data / "mysql").is_dir():
        raise ClusterError(f"devcluster: mariadb-install-db made no database in {data}")
    _start_accounting(config)
    DevCluster(config).repair()
    run(["srun", "-n1", "--chdir=/", "true"], env=clean_env(config))  # nodes can be idle and yet start no step


def start_munge(config: DevClusterConfig) -> None:
    """Start the cluster's munged."""
    munge = config.munge_socket.parent
    spawn(
        config,
        "munged",
        [
            "munged",
            "--foreground",
            f"--socket={config.munge_socket}",
            f"--key-file={munge}/munge.key",
            f"--pid-file={munge}/munged.pid",
            f"--seed-file={munge}/munged.seed",
            f"--log-file={config.state}/log/munged.log",
        ],
    )


def _start_accounting(config: DevClusterConfig) -> None:
    """Start what does not run of the database and slurmdbd, and return once it knows the cluster."""
    if find(config, "mariadbd") is None:
        config.mariadb_socket.unlink(missing_ok=True)  # of one that was killed
        spawn(config, "mariadbd", ["mariadbd", f"--defaults-file={config.slurm_conf.parent}/my.cnf"])
        wait_for_daemon(config, "mariadbd", config.mariadb_socket.exists)
    if find(config, "slurmdbd") is None:
        spawn(config, "slurmdbd", ["slurmdbd", "-D"])
        wait_for_daemon(config, "slurmdbd", lambda: _add_cluster(config))


def _add_cluster(config: DevClusterConfig) -> bool:
    try:
        if not run(["sacctmgr", "-n", "-P", "list", "cluster", "format=cluster"], env=daemon_env(config)).strip():
            run(["sacctmgr", "-i", "add", "cluster", "devcluster"], env=daemon_env(config))
    except ClusterError as err:
        log.debug("slurmdbd is not ready: %s", err)
        return False
    return True


def _remove(config: DevClusterConfig) -> list[str]:
    if any(config.state in point.parents for point in network.mount_points()):
        # a node sees the host's /tmp below the state folder: deleting from here would delete that too
        raise ClusterError(
            f"devcluster: something is mounted below {config.state}, as seen from inside a node; "
            "run this outside of the cluster's jobs"
        )
    record, removed = _read_mark(config), []
    ours = network.owner() in (None, config.state)  # else the network and the names are another cluster's
    inside = [pid for node in network.namespaces() for pid in network.node_pids(node)] if ours else []
    while pids := sorted({*owned_pids(config.state), *inside}):
        kill(pids)
        removed += [f"process {pid}" for pid in pids]
        inside = [pid for node in network.namespaces() for pid in network.node_pids(node)] if ours else []
    if ours:
        removed += network.remove()
        removed += ["names in /etc/hosts"] if network.clear_hosts() else []
        network.restore_netns_dir(record.get("netns_dir", "mounted"))
    if record:
        shutil.rmtree(config.state)
        removed.append(f"folder {config.state}")
    return removed


def _claim(config: DevClusterConfig) -> None:
    if config.state.exists() and (not config.state.is_dir() or any(config.state.iterdir())):
        raise ConfigError(f"devcluster state {config.state}: in use by something else; name an empty or new folder")
    config.state.mkdir(parents=True, exist_ok=True)
    _write_mark(config, {"num_nodes": config.num_nodes, "netns_dir": network.netns_dir_state()})


def _read_mark(config: DevClusterConfig) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((config.state / _MARK).read_text())
    except FileNotFoundError:
        return {}
    return record


def _write_mark(config: DevClusterConfig, record: dict[str, Any]) -> None:
    draft = config.state / f"{_MARK}.new"
    draft.write_text(json.dumps(record))
    os.replace(draft, config.state / _MARK)


def _log_tails(config: DevClusterConfig, num_lines: int = 6) -> str:
    folder = config.state / "log"
    logs = sorted(folder.glob("*.out")) if folder.is_dir() else []
    tails = [(path.name, path.read_text(errors="replace").splitlines()[-num_lines:]) for path in logs]
    return "\n".join(f"--- {name}\n" + "\n".join(lines) for name, lines in tails if lines)
