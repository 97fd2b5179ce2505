"""The only module that talks to Slurm: sbatch, squeue, sacct, scontrol, scancel, sinfo.

Few calls, each for many jobs at once. An error is never read as "the job is gone": such a job is UNKNOWN.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import publish_file
from rag_hpc.core.job import SECRET
from rag_hpc.core.stored import read_object, sealed_json, typed
from rag_hpc.errors import ClusterError, CorruptOutput, MissingDependency
from rag_hpc.slurm import states as texts
from rag_hpc.slurm import usage
from rag_hpc.slurm.states import State
from rag_hpc.slurm.usage import Taken

log = logging.getLogger(__name__)

CACHE_S = 30.0  # the scheduler is asked about a run's jobs at most this often
PATIENCE_S = 60.0  # a controller that restarts is back by then
RETRY_S = (5.0, 10.0, 15.0, 15.0, 15.0)
TIMEOUT_S = 120.0
FORGOTTEN = "the scheduler does not remember it"
FOREIGN = tuple(
    """
    SLURM_ SLURMD_ SBATCH_ SRUN_ SALLOC_ SQUEUE_ SACCT_ SINFO_ SCANCEL_ SCONTROL_ SUBMITIT_ PMIX_ PMI_ PMI2_ OMPI_ PRTE_
    HYDI_ TORCHELASTIC_ RAG_HPC_
    """.split()
)
FOREIGN_NAMES = tuple(
    """
    MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK CUDA_VISIBLE_DEVICES
    ROCR_VISIBLE_DEVICES GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK
    """.split()
)
KEPT = ("RAG_HPC_LOG", "RAG_HPC_DATA", "RAG_HPC_CONFIG_DIR", "RAG_HPC_DEVCLUSTER")
REMEDIES = {  # words of sbatch, any case -> what to do about them; the first that fits
    "munge": "munge, by which Slurm knows you, does not answer on this machine: try munge -n, tell the site's admins",
    "submitjob": "the site's limit on jobs in the queue is reached: wait until some have ended",
    "job violates": "the site's limit is reached: lower workers or wait until jobs have ended",
    "account or account/partition": "set cluster.account; yours are in: sacctmgr show assoc user=$USER",
    "invalid partition": "set cluster.partition to one that sinfo lists",
    "invalid qos": "set cluster.qos; yours are in: sacctmgr show assoc user=$USER format=qos",
    "memory specification": "lower cluster.mem_gib below what a node has: sinfo -o '%n %m'",
    "memory required": "lower cluster.mem_gib below what a node has: sinfo -o '%n %m'",
    "time limit": "lower cluster.time_min below the partition's limit: sinfo -o '%P %l'",
    "node configuration is not available": "ask for less: cluster.cpus_per_task, cluster.mem_gib, cluster.gres",
    "node count": "lower workers, or choose a partition with more nodes",
    "feature": "set cluster.constraint to a feature that nodes have: sinfo -o '%n %f'",
    "generic resource": "set cluster.gres as the site spells it: sinfo -o '%n %G'",
    "reservation": "set cluster.reservation to one that is yours: scontrol show reservation",
    "array specification": "lower cluster.max_array_size: scontrol show config | grep MaxArraySize",
    "qos": "the site's limit is reached: lower workers or wait until jobs have ended",
    "limit": "the site's limit is reached: lower workers or wait until jobs have ended",
    "unable to contact": "the controller does not answer; try again in a minute: sinfo",
}
_TRANSIENT = (
    "unable to contact slurm controller",
    "connection refused",
    "zero bytes were transmitted",
    "munge encode failed",  # of this machine, so that nothing was sent
)
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo lists it."""

    name: str
    default: bool
    up: bool
    num_nodes: int


class NoPlaces(ClusterError):
    """The site lets no more jobs of ours wait or run at a time."""


class Slurm:
    """The commands of one Slurm. `env`: what commands and jobs inherit, by default this process's, cleaned."""

    def __init__(
        self,
        *,
        slurm_conf: str | None = None,
        env: Mapping[str, str] | None = None,
        run: Run = subprocess.run,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.env = clean_environment(os.environ if env is None else env, slurm_conf)
        self._run, self._clock, self._sleep = run, clock, sleep
        self._silent_since: float | None = None  # when the controller was first not reached, if it was not since

    def require(self) -> None:
        """Return if the commands are there. Raises MissingDependency otherwise."""
        missing = [
            name
            for name in ("sbatch", "squeue", "scancel", "scontrol", "srun")
            if shutil.which(name, path=self.env.get("PATH")) is None
        ]
        if missing:
            raise MissingDependency(
                f"no {', '.join(missing)} on PATH: this is no machine of a Slurm cluster; log in "
                "to one, load the site's slurm module, or run with cluster=local"
            )

    def answers(self) -> bool:
        """Return whether the controller answers at once."""
        try:
            self._call(["sinfo", "-h", "-o", "%P"], patient=False)
        except ClusterError:
            return False
        return True

    def submit(self, script: str, *, args: Sequence[str] = ()) -> str:
        """Return the id of the queued job, as sbatch gave it: whoever uses it looks first whether `queued` has it.

        Raises ClusterError with Slurm's words and a remedy, and NoPlaces where the limit on queued jobs is reached.
        """
        text = self._call(["sbatch", "--parsable", *args], stdin=script)
        ids = [line.split(";")[0].strip() for line in text.split("\n")]
        ids = [found for found in ids if found.isdigit()]
        if not ids:
            raise ClusterError(f"sbatch gave no job id but {text.strip()!r}; is it a site's wrapper? see: type sbatch")
        return ids[-1]

    def queued(self, *, patient: bool = True) -> dict[str, str]:
        """Return the names of all of the user's jobs that wait or run, by id; an array has one. One call of squeue.

        patient: a controller that does not answer is asked again for a minute.
        """
        told = self._call(["squeue", "--me", "-h", "-o", "%F|%j"], patient=patient)
        rows = [line.split("|", 1) for line in told.split("\n")]
        return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2 and row[0].strip().isdigit()}

    def states(self, ids: Sequence[str], *, cache: Path | None = None) -> dict[str, State]:
        """Return the states by id or id_task, each of `ids` among them: one squeue call, and one of sacct if need be.

        With `cache`, a file, the scheduler is asked at most once in CACHE_S. Never raises: what cannot be found out
        is UNKNOWN, with the error as its reason.
        """
        wanted = sorted(set(ids))
        if not wanted:
            return {}
        cached = self._cached(cache, wanted)
        if cached is not None:
            return cached
        found, trouble = self._ask(wanted)
        for job_id in wanted:
            if not texts.of_job(found, job_id):
                found[job_id] = State(reason=trouble or FORGOTTEN)
        if cache is not None:
            plain = {key: dataclasses.asdict(value) for key, value in found.items()}
            publish_file(cache, sealed_json({"unix": self._clock(), "ids": wanted, "states": plain}), overwrite=True)
        return found

    def details(self, ids: Sequence[str]) -> dict[str, State]:
        """Return the states with exit codes and memory: from the controller, which knows at once, else from sacct."""
        found: dict[str, State] = {}
        for job_id in ids:
            try:
                found.update(texts.parse_scontrol(self._call(["scontrol", "-o", "show", "job", job_id], patient=False)))
            except ClusterError as error:
                log.debug("scontrol: %s", error)
        missing = [job_id for job_id in ids if not texts.of_job(found, job_id)]
        if missing:
            found.update(self.states(missing))
        return found

    def taken(self, ids: Sequence[str]) -> dict[str, list[Taken]]:
        """Return what accounting says that jobs took, in one call; empty where there is none. Raises ClusterError."""
        if not ids or not shutil.which("sacct", path=self.env.get("PATH")):
            return {}
        argv = ["sacct", "-n", "-P", "-D", "-j", ",".join(sorted(set(ids))), "-o", usage.FORMAT]
        return usage.parse_taken(self._call(argv, patient=False))

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel the jobs in one call; those that ended meanwhile are no error."""
        if ids:
            self._call(["scancel", "--quiet", *sorted(set(ids))], accept=("invalid job id", "already"))

    def release(self, ids: Sequence[str]) -> None:
        """Let held jobs start, one after another in this order."""
        if ids:
            self._call(["scontrol", "release", ",".join(ids)])

    def partitions(self) -> list[Partition]:
        """Return the partitions, hidden ones included."""
        found: dict[str, Partition] = {}
        for line in self._call(["sinfo", "-h", "-a", "-o", "%P|%a|%D"]).split("\n"):
            name, _, rest = line.strip().partition("|")
            up, _, nodes = rest.partition("|")
            if name and nodes.isdigit():
                plain = name.rstrip("*")
                before = found[plain].num_nodes if plain in found else 0
                found[plain] = Partition(plain, name.endswith("*"), up == "up", before + int(nodes))
        return list(found.values())

    def check_partition(self, wanted: str | None) -> int:
        """Return the number of nodes in the partition, or comma-separated partitions; null means the default one.

        Raises ClusterError, before anything is queued, when it does not exist or is closed.
        """
        known = {partition.name: partition for partition in self.partitions()}
        if wanted is None:
            chosen = [p for p in known.values() if p.default]
            if not chosen:
                raise ClusterError(
                    f"this site has no default partition; set cluster.partition to one of: {_list(known)}"
                )
            return chosen[0].num_nodes
        for name in wanted.split(","):
            if name not in known:
                raise ClusterError(f"partition {name!r} does not exist; known: {_list(known)}")
            if not known[name].up:
                raise ClusterError(f"partition {name!r} is closed at present; known: {_list(known)}")
        return min(known[name].num_nodes for name in wanted.split(","))

    def check_offers(
        self,
        wanted: str | None,
        *,
        time_min: int | None,
        gres: str | None,
        key: Callable[[str], str] = "cluster.{}".format,
    ) -> None:
        """Return if the partition, or one of them, could ever run such a job; null means the default one.

        `key` names the setting that holds a resource. Raises ClusterError where sbatch would take the job, and it would
        then wait for ever.
        """
        if time_min is None and gres is None:
            return
        offers = texts.parse_offers(self._call(["sinfo", "-h", "-a", "-o", texts.SINFO_OFFERS]), wanted)
        if unmet := texts.unmet(offers, time_min, gres, key):
            raise ClusterError(f"partition {wanted or 'by default'}: {unmet}")

    def max_array_size(self) -> int | None:
        """Return the site's MaxArraySize: an array's largest index is one less. None when it does not tell."""
        matched = re.search(r"^MaxArraySize\s*=\s*(\d+)", self._call(["scontrol", "show", "config"]), re.MULTILINE)
        return int(matched[1]) if matched else None

    def broken_nodes(self, nodes: str) -> list[str]:
        """Return those of a node list that are down, drained or failing."""
        text = self._call(["sinfo", "-h", "-N", "-n", nodes, "-t", "down,drain,draining,fail,failing", "-o", "%N"])
        return sorted(set(text.split()))

    def _ask(self, ids: list[str]) -> tuple[dict[str, State], str]:
        trouble = ""
        try:
            text = self._call(
                ["squeue", "-h", "-r", "-t", "all", "-j", ",".join(ids), "-o", texts.SQUEUE_FORMAT],
                accept=("invalid job id",),
                patient=False,
            )
            found = texts.parse_squeue(text)
        except ClusterError as error:
            found, trouble = {}, str(error)
        missing = [job_id for job_id in ids if not texts.of_job(found, job_id)]
        if missing and shutil.which("sacct", path=self.env.get("PATH")):
            try:
                argv = ["sacct", "-n", "-P", "-X", "-j", ",".join(missing), "-o", texts.SACCT_FORMAT]
                text = self._call(argv, patient=False)
                told = texts.parse_sacct(text)
                # while the controller is away, accounting knows who has ended, but not who still runs
                found.update({key: state for key, state in told.items() if state.ended or not trouble})
            except ClusterError as error:
                log.debug("sacct: %s", error)  # many sites have none
        return found, trouble

    def _cached(self, cache: Path | None, wanted: list[str]) -> dict[str, State] | None:
        if cache is None:
            return None

        def taken(value: dict[str, Any]) -> dict[str, State] | None:
            fresh = 0 <= self._clock() - value["unix"] < CACHE_S and set(wanted) <= set(value["ids"])
            return {key: typed(State, state) for key, state in value["states"].items()} if fresh else None

        try:
            return read_object(cache, "", taken)
        except (FileNotFoundError, CorruptOutput):  # the scheduler is asked again
            return None

    def _call(
        self, argv: list[str], *, stdin: str | None = None, patient: bool = True, accept: Sequence[str] = ()
    ) -> str:
        """Return a command's output. While the controller cannot be reached it is asked again, for a minute in all."""
        for pause_s in (*RETRY_S, 0.0):
            code, output, complaint = self._once(argv, stdin)
            if code == 0 or any(words in complaint.lower() for words in accept):
                self._silent_since = None
                return output
            if not patient or not is_transient(complaint, again=argv[0] != "sbatch"):
                break
            left_s = self._left_s(argv[0], complaint)
            if min(pause_s, left_s) <= 0:
                break
            self._sleep(min(pause_s, left_s))
        kind = NoPlaces if "submitjob" in complaint.lower() else ClusterError
        raise kind(explain(argv[0], complaint or f"exit code {code}"))

    def _left_s(self, command: str, complaint: str) -> float:
        """Return how long the controller is still to be asked, since the call that first did not reach it."""
        if self._silent_since is None:
            self._silent_since = self._clock()
            said = complaint.split("\n")[-1]
            log.warning("the controller does not answer (%s: %s); trying for another %.0f s", command, said, PATIENCE_S)
        return PATIENCE_S - (self._clock() - self._silent_since)

    def _once(self, argv: list[str], stdin: str | None) -> tuple[int, str, str]:
        feed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin.encode()}
        try:
            done = self._run(
                argv, env=self.env, capture_output=True, timeout=TIMEOUT_S, check=False, umask=0o077, **feed
            )
        except FileNotFoundError:
            raise MissingDependency(
                f"no {argv[0]} on PATH; load the site's slurm module, or run with cluster=local"
            ) from None
        except subprocess.TimeoutExpired:
            return 124, "", f"no answer within {TIMEOUT_S:.0f} s"
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace").strip()


def connect(name: str, slurm_conf: str | None = None) -> Slurm:
    """Return the Slurm of a cluster; `devcluster` is looked up on this machine. Raises ClusterError when it is down."""
    if slurm_conf is None and name == "devcluster" and "SLURM_JOB_ID" not in os.environ:
        from rag_hpc.slurm import devcluster

        found = devcluster.status()
        if not any(found["daemons"].values()):  # one whose controller is away is waited for
            raise ClusterError("devcluster is not up; run: rag-hpc devcluster up")
        slurm_conf = str(found["slurm_conf"])
    return Slurm(slurm_conf=slurm_conf)


def clean_environment(env: Mapping[str, str], slurm_conf: str | None = None) -> dict[str, str]:
    """Return what commands and jobs inherit: nothing of an enclosing job or launcher, and nothing secret.

    Sites may store a job's environment; secrets go to jobs in cluster.secrets_file.
    """
    kept = {
        key: value
        for key, value in env.items()
        if key in KEPT or not (key.startswith(FOREIGN) or key in FOREIGN_NAMES or SECRET.search(key.upper()))
    }
    if "SLURM_JOB_ID" in env:
        kept.pop("TMPDIR", None)  # the enclosing job's own, gone by the time that the new job runs
    conf = slurm_conf or env.get("SLURM_CONF")
    return {**kept, "SLURM_CONF": conf} if conf else kept


def is_transient(complaint: str, *, again: bool = False) -> bool:
    """Return whether the controller was not reached at all, so that asking again cannot do a thing twice.

    With `again` doing it twice is no harm, and an answer that got lost counts too.
    """
    return any(words in complaint.lower() for words in (*_TRANSIENT, *["socket timed out"] * again))


def explain(command: str, complaint: str) -> str:
    """Return Slurm's words with what to do about them."""
    lines = [line for line in complaint.split("\n") if line.strip()]
    said = "; ".join(line.strip().removeprefix(f"{command}: ").removeprefix("error: ") for line in lines[-3:])
    known = [remedy for words, remedy in REMEDIES.items() if words in said.lower()]
    return f"{command}: {said}. {known[0] if known else 'See the script with: rag-hpc plan'}"


def _list(partitions: Mapping[str, Partition]) -> str:
    return ", ".join(f"{p.name}{'' if p.up else ' (closed)'}" for p in partitions.values()) or "none"
