"""The development cluster's settings, folders and the text of its configuration files."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc.errors import ConfigError

log = logging.getLogger(__name__)

DEFAULT_STATE = Path("/var/lib/rag-hpc-devcluster")
STATE_VAR = "RAG_HPC_DEVCLUSTER"
SUBNET = "10.77.0"  # nodes .1 .2 ..., controller .254
CONTROLLER = f"{SUBNET}.254"
CONTROLLER_NAME = "ctl"  # what jobs call the machine that runs the controller
GPU_PREFIX = "gpu"
DATABASE = "slurm_acct_db"


def default_state_dir() -> Path:
    """Return the folder of the cluster of this machine: $RAG_HPC_DEVCLUSTER or /var/lib/rag-hpc-devcluster."""
    return Path(os.environ.get(STATE_VAR) or DEFAULT_STATE)


def check_state(state: Path) -> None:
    """Return when a cluster can live in this folder. Raises ConfigError when its paths could not work."""
    if Path("/tmp") in (state, *state.parents):
        raise ConfigError(
            f"devcluster state {state}: each node has its own /tmp, so the state cannot lie there; "
            f"use {DEFAULT_STATE} or set {STATE_VAR}"
        )
    if len(str(state)) > 70 or any(c.isspace() or c in "#,=" for c in str(state)):
        raise ConfigError(
            f"devcluster state {state}: socket paths and slurm.conf need a path of at most 70 characters "
            "without blanks, '#', ',' or '='; choose another folder"
        )


@dataclass(kw_only=True)
class DevClusterConfig:
    """Shape of the cluster and where it lives; everything that it writes is under `state`."""

    state: Path
    num_nodes: int = 4
    cpus_per_node: int = 2  # may oversubscribe the machine: slurmd takes the configured number as true
    mem_mib: int = 5000
    gpus_per_node: int = 2  # copies of /dev/null under state/dev: handed out to jobs, of no other use
    slurmd_timeout_s: int = 20
    kill_wait_s: int = 5
    grace_s: int = 5
    requeue_delay_s: int = 20  # Slurm's own default, 120, makes each requeue wait two minutes
    unkillable_s: int = 600  # of a step that will not die; a busy machine takes longer over it than Slurm's own 60
    slurmctld_port: int = 26817  # below the ephemeral range and away from a real Slurm's 6817-6819
    slurmd_port: int = 26818
    slurmdbd_port: int = 26819
    hostname: str = field(default_factory=lambda: socket.gethostname().split(".")[0])

    def __post_init__(self) -> None:
        self.state = Path(self.state).resolve()
        check_state(self.state)
        if not 1 <= self.num_nodes <= 64:
            raise ConfigError(f"devcluster num_nodes={self.num_nodes}: from 1 to 64; try 4")

    @property
    def nodes(self) -> list[str]:
        """Return the node names, n1 first."""
        return [f"n{k}" for k in range(1, self.num_nodes + 1)]

    @property
    def slurm_conf(self) -> Path:
        """Return the path that clients need as SLURM_CONF."""
        return self.state / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """Return the socket of the cluster's own munged."""
        return self.state / "munge" / "munge.socket"

    @property
    def mariadb_socket(self) -> Path:
        """Return the socket of the cluster's own MariaDB, its only entry."""
        return self.state / "mariadb" / "mariadb.socket"


def address(node: str) -> str:
    """Return the IPv4 address of node nK."""
    return f"{SUBNET}.{int(node[1:])}"


def hosts_lines(config: DevClusterConfig) -> list[str]:
    """Return the /etc/hosts lines of the controller and the nodes."""
    return [f"{CONTROLLER} {CONTROLLER_NAME}", *(f"{address(node)} {node}" for node in config.nodes)]


def slurm_conf_text(config: DevClusterConfig) -> str:
    """Return slurm.conf.

    The controller has its address in brackets: the machine's own name may resolve to loopback, or not at all. There is
    no password of accounting: the socket says which munged proves us to slurmdbd.
    """
    state, every = config.state, f"n[1-{config.num_nodes}]"
    nodes = "\n".join(
        f"NodeName={node} NodeAddr={address(node)} CPUs={config.cpus_per_node} RealMemory={config.mem_mib} "
        f"Gres={GPU_PREFIX}:{config.gpus_per_node} State=UNKNOWN"
        for node in config.nodes
    )
    return f"""\
ClusterName=devcluster
SlurmctldHost={config.hostname}({CONTROLLER})
SlurmctldPort={config.slurmctld_port}
SlurmdPort={config.slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={config.munge_socket},cred_expire={config.requeue_delay_s}
StateSaveLocation={state}/slurmctld
SlurmdSpoolDir={state}/spool/%n
SlurmctldPidFile={state}/run/slurm-slurmctld.pid
SlurmdPidFile={state}/run/slurm-%n.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={config.mem_mib // config.cpus_per_node // 2}
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout={config.slurmd_timeout_s}
KillWait={config.kill_wait_s}
UnkillableStepTimeout={config.unkillable_s}
MinJobAge=300
MaxArraySize=1001
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={CONTROLLER}
AccountingStoragePort={config.slurmdbd_port}
AccountingStoragePass={config.munge_socket}
AccountingStorageTRES=gres/{GPU_PREFIX}
GresTypes={GPU_PREFIX}
{nodes}
PartitionName=cpu Nodes={every} Default=YES PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=gpu Nodes={every} PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=preempt Nodes={every} PriorityTier=1 PreemptMode=REQUEUE GraceTime={config.grace_s} State=UP
"""


def gres_conf_text(config: DevClusterConfig) -> str:
    """Return gres.conf: a count without files is refused by slurmd, so each GPU names one."""
    return f"Name={GPU_PREFIX} File={config.state}/dev/{GPU_PREFIX}[0-{config.gpus_per_node - 1}]\n"


def cgroup_conf_text(slurm_version: tuple[int, int]) -> str:
    """Return cgroup.conf that keeps slurmd away from the machine's cgroups, which it may not own or even see.

    `disabled` came with 23.11; before it, v1 is the plugin that does nothing until some other plugin asks it.
    """
    return f"CgroupPlugin={'disabled' if slurm_version >= (23, 11) else 'cgroup/v1'}\n"


def slurmdbd_conf_text(config: DevClusterConfig) -> str:
    """Return slurmdbd.conf; no password: MariaDB knows root by its Unix socket."""
    state = config.state
    return f"""\
AuthType=auth/munge
AuthInfo=socket={config.munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={config.slurmdbd_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc={DATABASE}
DebugLevel=info
LogFile={state}/log/slurmdbd.log
PidFile={state}/run/slurm-slurmdbd.pid
"""


def mariadb_conf_text(config: DevClusterConfig) -> str:
    """Return my.cnf: no TCP port, small and without the safety that data thrown away on `down` does not need."""
    folder = config.state / "mariadb"
    return f"""\
[mariadbd]
datadir={folder}/data
socket={config.mariadb_socket}
pid-file={folder}/pid
tmpdir={folder}
user=root
skip-networking
init-file={config.slurm_conf.parent}/init.sql
innodb_buffer_pool_size=64M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
performance_schema=OFF
"""


def write_files(config: DevClusterConfig, slurm_version: tuple[int, int]) -> None:
    """Write every configuration file, the munge key and the stand-ins for GPUs below config.state."""
    for name in ("etc", "run", "log", "slurmctld", "spool", "dev", "shared", "munge", "mariadb"):
        (config.state / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    config.state.chmod(0o755)  # munged wants its socket reachable for everyone; secrets are 0600 below it
    (config.state / "mariadb").chmod(0o700)
    etc = config.slurm_conf.parent
    config.slurm_conf.write_text(slurm_conf_text(config))
    (etc / "gres.conf").write_text(gres_conf_text(config))
    (etc / "cgroup.conf").write_text(cgroup_conf_text(slurm_version))
    (etc / "my.cnf").write_text(mariadb_conf_text(config))
    # slurmdbd would make it too, but then dies of Debian 13's client library, which loses its options on the way
    (etc / "init.sql").write_text(f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n")
    _write_private(etc / "slurmdbd.conf", slurmdbd_conf_text(config).encode())
    _write_private(config.state / "munge" / "munge.key", secrets.token_bytes(128))
    for node in config.nodes:
        (config.state / "spool" / node).mkdir(exist_ok=True)
    for k in range(config.gpus_per_node):
        _make_device(config.state / "dev" / f"{GPU_PREFIX}{k}")


def _make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:  # in a container without CAP_MKNOD
        log.warning("%s is no device: jobs get their GPUs counted, but no CUDA_VISIBLE_DEVICES", path)
        path.touch()


def _write_private(path: Path, body: bytes) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(body)
