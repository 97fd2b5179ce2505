"""A running development cluster: what tests and demonstrations do with it and to it."""

from __future__ import annotations

import logging
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag_hpc.errors import ClusterError, ConfigError

from . import network, nodes
from .config import DevClusterConfig
from .processes import clean_env, find, kill, run, spawn, wait_for

log = logging.getLogger(__name__)

_USABLE = {"idle", "mixed", "allocated", "completing", "reserved", "planned"}


class DevCluster:
    """Handle of the cluster whose state folder is `state`; get one from `up`."""

    def __init__(self, config: DevClusterConfig) -> None:
        self._config = config

    @property
    def state(self) -> Path:
        """Return the folder that holds all of the cluster's files."""
        return self._config.state

    @property
    def slurm_conf(self) -> Path:
        """Return the path of slurm.conf."""
        return self._config.slurm_conf

    @property
    def nodes(self) -> list[str]:
        """Return the node names, n1 first."""
        return self._config.nodes

    def env(self) -> dict[str, str]:
        """Return the variables to add to a client's environment so that sbatch, squeue and sacct reach this cluster.

        Jobs need them too: a launcher that strips SLURM_* keeps SLURM_CONF.
        """
        return {"SLURM_CONF": str(self.slurm_conf)}

    def mkshared(self, name: str) -> Path:
        """Return a folder, created if absent, that the host and all nodes see at the same path."""
        if not name or name.startswith(".") or Path(name).name != name:
            raise ConfigError(f"devcluster shared folder {name!r}: a plain name without '/', not starting with '.'")
        folder = self.state / "shared" / name
        folder.mkdir(exist_ok=True)
        return folder

    def run_on(self, node: str, argv: Sequence[str], *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Return the finished program, run as root in the node outside of any job; its exit code is not checked."""
        return nodes.run_in(self._config, node, argv, timeout_s=timeout_s)

    def cut(self, node: str) -> None:
        """Pull the node's network cable: its processes go on, nobody hears of them."""
        network.set_link(self._known(node), up=False)

    def heal(self, node: str) -> None:
        """Plug the node's network cable in."""
        network.set_link(self._known(node), up=True)

    def kill_slurmd(self, node: str, steps: bool = True) -> None:
        """Kill the node's slurmd; with steps the whole node dies, without them its jobs go on as orphans."""
        nodes.kill_slurmd(self._config, self._known(node), steps=steps)

    def start_slurmd(self, node: str) -> None:
        """Start the node's slurmd, as after a reboot; nothing happens when it runs."""
        nodes.start_slurmd(self._config, self._known(node))

    def kill_slurmctld(self, crash: bool = False) -> None:
        """Stop the controller; running jobs go on. With crash it saves nothing before.

        A crashed controller forgets up to 5 s: a job started in them is started again on its node, which refuses it
        ("Duplicate jobid") and is drained; the job is held. Slurm's behaviour, not this cluster's; `repair` resumes.
        """
        pid = find(self._config, "slurmctld")
        kill([] if pid is None else [pid], signal.SIGKILL if crash else signal.SIGTERM)

    def start_slurmctld(self) -> None:
        """Start the controller, which recovers its jobs from disk, unless it runs; return once it answers."""
        self._spawn_slurmctld()
        wait_for(lambda: self.node_states() != [], "the controller to answer", timeout_s=90)

    def node_states(self) -> list[dict[str, Any]]:
        """Return [{name, state, cpus}] as Slurm tells; a state with '*' does not respond. [] without a controller."""
        try:
            text = run(["sinfo", "-h", "-N", "-p", "cpu", "-o", "%N %T %c"], env=clean_env(self._config))
        except ClusterError as err:
            log.debug("the controller does not answer: %s", err)
            return []
        rows = [line.split() for line in text.splitlines()]
        return [{"name": name, "state": state, "cpus": int(cpus)} for name, state, cpus in rows]

    def wait_ready(self, timeout_s: float = 90) -> None:
        """Return once every node takes jobs. Raises ClusterError with the nodes' states after timeout_s."""

        def all_usable() -> bool:
            states = [row["state"] for row in self.node_states()]
            return len(states) == len(self.nodes) and _USABLE.issuperset(states)

        try:
            wait_for(all_usable, "all nodes to take jobs", timeout_s=timeout_s, step_s=0.1)
        except ClusterError as err:
            raise ClusterError(f"{err}; nodes: {self.node_states()}; logs: {self.state}/log") from err

    def repair(self, timeout_s: float = 90) -> None:
        """Plug in every cable, start what does not run, resume drained nodes, and wait until all take jobs."""
        self._spawn_slurmctld()  # the nodes start meanwhile
        for node in self.nodes:
            self.heal(node)
            self.start_slurmd(node)
        self.start_slurmctld()
        for row in self.node_states():
            if row["state"].startswith("drain"):
                run(["scontrol", "update", f"NodeName={row['name']}", "State=RESUME"], env=clean_env(self._config))
        self.wait_ready(timeout_s)

    def _spawn_slurmctld(self) -> None:
        if find(self._config, "slurmctld") is None:
            spawn(self._config, "slurmctld", ["slurmctld", "-D"])

    def _known(self, node: str) -> str:
        if node not in self.nodes:
            raise ConfigError(f"devcluster: no node {node!r}; nodes: {', '.join(self.nodes)}")
        return node
