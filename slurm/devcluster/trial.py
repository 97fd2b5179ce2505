"""`rag-hpc devcluster check`: whether a cluster works on this machine, and goes without a trace."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rag_hpc.errors import ClusterError

from .control import down, up
from .network import HOSTS, NETNS_DIR, owner
from .prerequisites import check
from .processes import SYSTEM_PATH, run

DAEMONS = {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "slurmstepd"}
LIBMPI = "libmpi.so.40"  # the system's, which goes with Slurm's PMIx; conf/cluster/devcluster.yaml says why
_HELLO = """
import array, os, time
from mpi4py import MPI
time.sleep(0.5)  # core/comm.py says why
total = array.array("q", [0])
MPI.COMM_WORLD.Allreduce(array.array("q", [MPI.COMM_WORLD.rank + 1]), total)
print(os.uname().nodename, total[0])"""


def trial(say: Callable[[str], None] = print) -> None:
    """Start a cluster, run a step and an MPI job over its nodes, and stop it, saying each.

    Raises ClusterError when one of them fails, when another cluster is up, or when something is left afterwards.
    """
    check()
    if other := owner():
        raise ClusterError(f"devcluster: one is up with state {other}; stop it first: rag-hpc devcluster down")
    before, begun = snapshot(), time.monotonic()
    try:
        cluster = up(share=[Path.cwd()])
        say(f"up: {', '.join(cluster.nodes)} in {time.monotonic() - begun:.1f} s")
        env = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", **cluster.env(), "MPI4PY_LIBMPI": LIBMPI}
        say(f"srun -n1: ran on {run(['srun', '-n1', '--chdir=/', 'hostname'], env=env).strip()}")
        size = str(len(cluster.nodes))
        hello = ["srun", "--kill-on-bad-exit=1", "--mpi=pmix", "-N", size, "-n", size, "--chdir=/"]
        hello += [sys.executable, "-c", _HELLO]
        said = sorted(run(hello, env=env, timeout_s=120).splitlines())
        total = sum(range(1, len(cluster.nodes) + 1))
        if said != [f"{node} {total}" for node in cluster.nodes]:
            raise ClusterError(f"devcluster: ranks of an MPI job over {size} nodes did not meet; they said: {said}")
        say(f"MPI: {size} ranks met on {', '.join(cluster.nodes)}")
    finally:
        down()
    after = snapshot()
    if left := [name for name, value in after.items() if value != before[name]]:
        told = "; ".join(f"{name}: {before[name]} before, {after[name]} now" for name in left)
        raise ClusterError(f"devcluster: down, but not without a trace: {told}")
    say("down: nothing is left")


def snapshot() -> dict[str, object]:
    """Return what a cluster changes on its machine: taken before and after, the two are equal."""
    own_net = Path("/proc/self/ns/net").readlink()
    processes = set()
    for entry in Path("/proc").iterdir():
        try:
            away = entry.name.isdigit() and (entry / "ns/net").readlink() != own_net
            # others have networks of their own, too: mpirun of a run on this machine is one
            away = away and b"SLURM_" in (entry / "environ").read_bytes()
            daemon = entry.name.isdigit() and (entry / "comm").read_text().strip() in DAEMONS
            if (away or daemon) and (entry / "cmdline").read_bytes():  # no command line: a zombie init has to reap
                processes.add(int(entry.name))
        except OSError:
            continue
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    return {
        "processes": processes,
        "links": sorted(line.split()[0] for line in links.splitlines()),
        "namespaces": sorted(p.name for p in NETNS_DIR.iterdir()) if NETNS_DIR.is_dir() else None,
        "mounts": sorted(line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "hosts": HOSTS.read_bytes(),
        "devices": sorted(p.name for p in Path("/dev").iterdir()),
        "state": sorted(p.name for p in Path("/var/lib").glob("rag-hpc*")),
    }
