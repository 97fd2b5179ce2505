"""What the machine must offer before a development cluster can start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

from rag_hpc.errors import ClusterError, MissingDependency

from .processes import SYSTEM_PATH

APT_LINE = (
    "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client slurmdbd munge mariadb-server "
    "iproute2 openmpi-bin libpmix-dev"
)
_NEEDED = {  # package -> its programs and libraries
    "slurmctld": ["slurmctld"],
    "slurmd": ["slurmd"],
    "slurmdbd": ["slurmdbd"],
    "munge": ["munged"],
    "slurm-client": ["sbatch", "srun", "sinfo", "sacct", "sacctmgr"],
    "mariadb-server": ["mariadbd", "mariadb-install-db"],
    "iproute2": ["ip"],
    "util-linux": ["unshare", "nsenter", "setsid", "mountpoint"],
    "libpmix-dev": ["libpmix.so"],  # Slurm's plugin opens it by the name without a version; without it no srun works
}
_LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
# tried in namespaces of its own, so it leaves nothing: what a node needs from the kernel
_PROBE = """set -e
ip link add name probe0 type bridge
ip link add name probe1 type veth peer name probe2
mount -t tmpfs tmpfs /tmp
echo probe >/proc/sys/kernel/hostname"""

Which = Callable[[str], "str | None"]  # where a program or a library is, None when it is not installed


def requirements(*, which: Which | None = None) -> list[str]:
    """Return what is missing, one sentence each with its remedy; empty when `up` can work."""
    missing = _not_installed(which or _which)
    if missing:
        return [f"{', '.join(missing)} not installed; run: {APT_LINE}"]
    if os.geteuid() != 0:
        return ["a development cluster needs root for its network namespaces; run: sudo -E rag-hpc devcluster up"]
    return _missing_rights()


def check(*, which: Which | None = None) -> None:
    """Return when `up` can work. Raises MissingDependency for programs, ClusterError for rights."""
    missing = requirements(which=which)
    if missing and APT_LINE in missing[0]:
        raise MissingDependency(f"devcluster: {missing[0]}")
    if missing:
        raise ClusterError(f"devcluster: {'; '.join(missing)}")


def _not_installed(which: Which) -> list[str]:
    return [
        f"{package} ({', '.join(absent)})"
        for package, names in _NEEDED.items()
        if (absent := [name for name in names if which(name) is None])
    ]


def _which(name: str) -> str | None:
    if ".so" not in name:
        return shutil.which(name, path=SYSTEM_PATH)
    # in a process of its own: an MPI that is loaded here later would take this PMIx for the one that it brings
    done = subprocess.run([sys.executable, "-c", _LOAD, name], env={"PATH": SYSTEM_PATH}, capture_output=True)
    return name if done.returncode == 0 else None


def _missing_rights() -> list[str]:
    try:
        done = subprocess.run(
            ["unshare", "-n", "-m", "-u", "sh", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=20,
            env={"PATH": SYSTEM_PATH},
        )
    except subprocess.TimeoutExpired:
        return ["creating a network namespace hung for 20 s; see the kernel log"]
    if done.returncode == 0:
        return []
    return [
        f"this machine does not let root create network namespaces, bridges or mounts ({done.stderr.strip()}); "
        "in a container start it with --privileged (or --cap-add SYS_ADMIN --cap-add NET_ADMIN)"
    ]
