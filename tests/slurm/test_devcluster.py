"""The development cluster against its promises, on the real thing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rag_hpc import cli
from rag_hpc.errors import ClusterError, ConfigError
from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.devcluster import control
from rag_hpc.slurm.devcluster.config import DevClusterConfig
from rag_hpc.slurm.devcluster.processes import alive, find, spawn, wait_for
from rag_hpc.slurm.usage import FORMAT, parse_taken

pytestmark = pytest.mark.timeout(600)  # what waits in vain says so before
Sh = Callable[..., str]
Snapshot = Callable[[], dict[str, object]]
DEBIAN_MPI = Path("/usr/lib/x86_64-linux-gnu/libmpi.so.40")
MPI_PROGRAM = """
from mpi4py import MPI
import numpy, socket, time
time.sleep(0.5)  # core/comm.py says why
world = MPI.COMM_WORLD
total = numpy.empty(1, "i8")
world.Allreduce(numpy.array([world.rank], "i8"), total)
hosts = world.gather(socket.gethostname())
if world.rank == 0:
    print(world.size, total[0], *hosts)
"""


def job_state(sh: Sh, job: str) -> str:
    return sh("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def run_python(call: str, state: Path, before: str = "") -> list[str]:
    return [
        sys.executable,
        "-c",
        f"from pathlib import Path; from rag_hpc.slurm import devcluster as dc\n{before}\n"
        f"dc.{call}(Path({str(state)!r}))",
    ]


def submit(sh: Sh, folder: Path, *options: str, script: str) -> str:
    path = folder / "job.sh"
    path.write_text(f"#!/bin/bash\n{script}\n")
    return sh("sbatch", "--parsable", "-o", str(folder / "%A-%a.out"), *options, str(path), cwd=folder).strip()


def test_status_names_four_idle_nodes_with_two_cpus(devcluster: dc.DevCluster) -> None:
    status = dc.status(devcluster.state)
    assert status["up"] and status["slurm_conf"] == str(devcluster.slurm_conf)
    assert [(n["name"], n["cpus"]) for n in status["nodes"]] == [("n1", 2), ("n2", 2), ("n3", 2), ("n4", 2)]


def test_second_up_returns_the_running_cluster_at_once(devcluster: dc.DevCluster) -> None:
    controller = find(devcluster._config, "slurmctld")
    took = []
    for _ in range(3):  # other work on the machine only ever adds
        before = time.monotonic()
        again = dc.up(devcluster.state)
        took.append(time.monotonic() - before)
    assert min(took) < 3
    assert again.slurm_conf == devcluster.slurm_conf and find(again._config, "slurmctld") == controller


def test_up_elsewhere_is_refused_and_names_the_cluster_that_is_up(devcluster: dc.DevCluster, shared_tmp: Path) -> None:
    with pytest.raises(ClusterError, match=str(devcluster.state)):
        dc.up(shared_tmp / "second")
    with pytest.raises(ClusterError, match="one is up with state"):
        dc.trial()
    assert dc.down(shared_tmp / "second") == []  # and cannot take the other one down with it
    assert dc.status(devcluster.state)["up"]


def test_up_with_another_node_count_is_refused(devcluster: dc.DevCluster) -> None:
    with pytest.raises(ConfigError, match="4 nodes, not 3"):
        dc.up(devcluster.state, num_nodes=3)


def test_array_runs_on_four_hosts_and_each_task_holds_a_gpu(sh: Sh, shared_tmp: Path) -> None:
    job = submit(
        sh,
        shared_tmp,
        "-a",
        "0-7",
        "-p",
        "gpu",
        "--gres=gpu:1",
        script=(
            f"echo $(hostname) $(id -u) ${{CUDA_VISIBLE_DEVICES:-none}} $SLURM_CONF"
            f" > {shared_tmp}/task-$SLURM_ARRAY_TASK_ID\n"
            f"until [ $(ls {shared_tmp}/task-* | wc -l) = 8 ]; do sleep 0.1; done"
        ),
    )  # all of them at once
    wait_for(lambda: set(job_state(sh, job).split()) == {"COMPLETED"}, "the array", timeout_s=120, step_s=0.2)
    rows = [(shared_tmp / f"task-{k}").read_text().split() for k in range(8)]
    assert sorted(row[0] for row in rows) == ["n1", "n1", "n2", "n2", "n3", "n3", "n4", "n4"]
    assert {row[1] for row in rows} == {"0"}
    assert {row[2] for row in rows} <= {"0", "1"}
    assert {row[3] for row in rows} == {os.environ["SLURM_CONF"]}


def test_sacct_answers_on_the_host_and_inside_a_job(sh: Sh, shared_tmp: Path) -> None:
    job = submit(sh, shared_tmp, script="sleep 1.5")

    def recorded() -> bool:  # accounting trails the controller by some seconds
        return sh("sacct", "-n", "-X", "-j", job, "-o", "state").strip() == "COMPLETED"

    wait_for(recorded, "sacct to know the job", timeout_s=90, step_s=0.2)
    assert sh("srun", "sacct", "-n", "-X", "-j", job, "-o", "state").strip() == "COMPLETED"
    ((name, (start,)),) = parse_taken(sh("sacct", "-n", "-P", "-D", "-j", job, "-o", FORMAT)).items()
    assert (name, start.nodes, start.gpus) == (job, 1, 0) and start.cpus >= 1 and 1 <= start.elapsed_s <= 60
    assert start.energy_j is None  # no plugin measures it here


@pytest.mark.parametrize("library", ["", str(DEBIAN_MPI)], ids=["wheel", "debian"])
def test_srun_pmix_joins_four_ranks_on_four_hosts(
    sh: Sh, shared_tmp: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mpi4py")
    if library:
        if not DEBIAN_MPI.exists():
            pytest.skip(f"{DEBIAN_MPI} is absent: apt-get install openmpi-bin")
        monkeypatch.setenv("MPI4PY_LIBMPI", library)
    (shared_tmp / "ranks.py").write_text(MPI_PROGRAM)
    out = sh("srun", "-K", "--mpi=pmix", "-N4", "-n4", sys.executable, str(shared_tmp / "ranks.py"))
    assert out.split() == ["4", "6", "n1", "n2", "n3", "n4"]


def test_nodes_have_own_tmp_own_name_and_see_shares(devcluster: dc.DevCluster, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("seen")
    assert devcluster.run_on("n2", ["cat", str(tmp_path / "given")]).stdout == "seen"
    assert devcluster.run_on("n2", ["hostname"]).stdout == "n2\n"
    devcluster.run_on("n2", ["touch", "/tmp/of-n2"])
    assert devcluster.run_on("n2", ["test", "-e", "/tmp/of-n2"]).returncode == 0
    assert devcluster.run_on("n3", ["test", "-e", "/tmp/of-n2"]).returncode == 1
    assert not Path("/tmp/of-n2").exists()


def test_nodes_reach_each_other_and_the_host_by_name_but_not_the_world(devcluster: dc.DevCluster) -> None:
    dial = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).close()"

    def reaches(host: str, port: int) -> bool:
        return devcluster.run_on("n1", [sys.executable, "-c", dial, host, str(port)]).returncode == 0

    assert reaches("n4", 26818) and reaches("ctl", 26817)
    assert not reaches("192.0.2.1", 80)


def test_cut_node_stops_answering_and_heals(faulty: dc.DevCluster) -> None:
    def state() -> str:
        return {row["name"]: row["state"] for row in faulty.node_states()}["n2"]

    faulty.cut("n2")
    wait_for(lambda: state().endswith("*"), "n2 to be missed", timeout_s=120, step_s=0.2)
    faulty.heal("n2")
    faulty.wait_ready()
    assert state() == "idle"


def test_job_outlives_its_controller(faulty: dc.DevCluster, sh: Sh, shared_tmp: Path) -> None:
    job = submit(sh, shared_tmp, script=f"echo on > {shared_tmp}/on; sleep 3; echo done > {shared_tmp}/done")
    wait_for((shared_tmp / "on").exists, "the job to start", timeout_s=60)
    faulty.kill_slurmctld()
    assert dc.status(faulty.state)["daemons"]["slurmctld"] is False
    faulty.start_slurmctld()
    wait_for(lambda: job_state(sh, job) == "COMPLETED", "the job to end", timeout_s=120, step_s=0.2)
    assert (shared_tmp / "done").exists()


def test_repair_resumes_a_drained_node(faulty: dc.DevCluster, sh: Sh) -> None:
    sh("scontrol", "update", "NodeName=n4", "State=DRAIN", "Reason=test")
    assert faulty.node_states()[3]["state"] == "drained"
    faulty.repair()
    assert faulty.node_states()[3]["state"] == "idle"


def test_node_death_kills_its_job_and_requeues_it(faulty: dc.DevCluster, sh: Sh, shared_tmp: Path) -> None:
    submit(
        sh,
        shared_tmp,
        "-w",
        "n3",
        "--requeue",
        script=(f'echo $$ > {shared_tmp}/try-${{SLURM_RESTART_COUNT:-0}}\n[ -n "$SLURM_RESTART_COUNT" ] || sleep 300'),
    )
    first = shared_tmp / "try-0"
    wait_for(lambda: first.exists() and first.read_text() != "", "the job to start", timeout_s=60)
    faulty.kill_slurmd("n3", steps=True)
    assert not alive(int(first.read_text()))
    wait_for(lambda: faulty.node_states()[2]["state"] == "down*", "n3 to be given up", timeout_s=120, step_s=0.2)
    faulty.start_slurmd("n3")
    wait_for((shared_tmp / "try-1").exists, "the job's second try", timeout_s=120, step_s=0.2)


def test_slurmd_death_alone_leaves_its_job_running(faulty: dc.DevCluster, sh: Sh, shared_tmp: Path) -> None:
    job = submit(
        sh, shared_tmp, "-w", "n1", script=f"echo on > {shared_tmp}/on; sleep 2; echo done > {shared_tmp}/done"
    )
    wait_for((shared_tmp / "on").exists, "the job to start", timeout_s=60)
    faulty.kill_slurmd("n1", steps=False)
    assert find(faulty._config, "slurmd-n1") is None
    faulty.start_slurmd("n1")
    wait_for((shared_tmp / "done").exists, "the orphan to finish", timeout_s=60)
    wait_for(lambda: job_state(sh, job) == "COMPLETED", "Slurm to know", timeout_s=120, step_s=0.2)


def test_preempted_job_is_told_and_runs_again(sh: Sh, shared_tmp: Path) -> None:
    # it stays until it is killed: a job that ends on the signal counts as COMPLETED or FAILED and is not requeued
    (shared_tmp / "work.sh").write_text(
        f"trap 'echo told > {shared_tmp}/told' TERM\necho on > {shared_tmp}/try-${{SLURM_RESTART_COUNT:-0}}\n"
        'for _ in $(seq 3000); do [ -n "$SLURM_RESTART_COUNT" ] && exit 0; sleep 0.1; done\n'
    )
    low = submit(
        sh,
        shared_tmp,
        "-p",
        "preempt",
        "--requeue",
        "-N4",
        "--exclusive",
        script=f"exec srun -N1 -n1 bash {shared_tmp}/work.sh",
    )
    wait_for((shared_tmp / "try-0").exists, "the low job to start", timeout_s=60)
    high = submit(sh, shared_tmp, "-p", "cpu", "-N4", "--exclusive", script="hostname")
    wait_for((shared_tmp / "told").exists, "the low job to be told", timeout_s=60)
    wait_for(lambda: job_state(sh, high) == "COMPLETED", "the high job to end", timeout_s=120, step_s=0.2)
    wait_for(lambda: job_state(sh, low) == "COMPLETED", "the low job to run again", timeout_s=120, step_s=0.2)
    assert (shared_tmp / "try-1").exists()


def test_down_refuses_to_run_inside_a_node(devcluster: dc.DevCluster) -> None:
    done = devcluster.run_on("n1", run_python("down", devcluster.state))
    assert done.returncode == 1 and "inside a node" in done.stderr
    assert dc.status(devcluster.state)["up"]


def test_cluster_of_a_killed_suite_is_taken_down_and_a_living_one_is_not(
    devcluster: dc.DevCluster, killed_suite: tuple[Path, Callable[[], None]]
) -> None:
    state, take_down_leftovers = killed_suite
    config = DevClusterConfig(state=state)
    control._claim(config)
    for folder in ("run", "log"):
        (state / folder).mkdir()
    left = spawn(config, "munged", ["sleep", "600"])
    take_down_leftovers()
    assert not alive(left) and not state.exists() and not list(state.parent.glob(f"{state.name}*"))
    assert dc.status(devcluster.state)["up"]


# Last in this file: these take the session's cluster down and bring it up again in the same folder.
def test_down_leaves_nothing_and_up_takes_less_than_20_s(
    sh: Sh,
    devcluster: dc.DevCluster,
    machine_snapshot: Snapshot,
    tmp_path_factory: pytest.TempPathFactory,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sh("sbatch", "-a", "0-3", "-o", "/dev/null", "--wrap", "setsid sleep 600 & sleep 600")  # steps to clean up after
    wait_for(lambda: "R" in sh("squeue", "-h", "-o", "%t"), "the job to start", timeout_s=60)
    removed = dc.down(devcluster.state)
    try:
        assert f"folder {devcluster.state}" in removed and "link rhdc0" in removed
        assert not devcluster.state.exists()
        after = machine_snapshot()  # compared with the time before the first `up` by the session's fixture
        assert after["processes"] == set()
        assert not any(word in str(after) for word in ("rhdc", "rag-hpc devcluster", str(devcluster.state)))
        assert dc.down(devcluster.state) == []
        assert dc.status(devcluster.state)["up"] is False
        monkeypatch.setenv("RAG_HPC_DEVCLUSTER", str(devcluster.state))
        assert cli.main(["devcluster", "check"]) == 0
        said = capsys.readouterr().out
        assert "ran on n1\nMPI: 4 ranks met on n1, n2, n3, n4\ndown: nothing is left\n" in said
    finally:
        took = [timed_up(devcluster.state, tmp_path_factory.getbasetemp())]
    while min(took) >= 20 and len(took) < 3:  # other work on the machine only ever adds
        dc.down(devcluster.state)
        took.append(timed_up(devcluster.state, tmp_path_factory.getbasetemp()))
    record_property("up_s", round(min(took), 1))
    assert min(took) < 20


def timed_up(state: Path, share: Path) -> float:
    """Start the cluster and return how many seconds that took."""
    begun = time.monotonic()
    dc.up(state, share=[share])
    return time.monotonic() - begun


UP_WITHOUT_PMIX = """
import sys
from pathlib import Path
from rag_hpc import cli
from rag_hpc.errors import RagHpcError
from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.devcluster import control
print(*dc.requirements())
control.check = lambda: None
try:
    dc.up(Path(sys.argv[1]))
except RagHpcError as err:
    print(err)
    sys.exit(err.exit_code)"""


def test_up_whose_first_step_fails_is_no_up_and_leaves_nothing(
    devcluster: dc.DevCluster, machine_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory
) -> None:
    [library] = Path("/usr/lib").glob("*/libpmix.so")
    hide = f'mount --bind /dev/null {library} && exec "$@"'
    dc.down(devcluster.state)
    before = machine_snapshot()
    try:
        command = [sys.executable, "-c", UP_WITHOUT_PMIX, str(devcluster.state)]
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", hide, "sh", *command], capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 1, done.stderr
        assert "libpmix-dev (libpmix.so) not installed" in done.stdout and "srun -n1" in done.stdout
        assert "PMIx" in done.stdout  # Slurm's own words
        assert machine_snapshot() == before
    finally:
        dc.up(devcluster.state, share=[tmp_path_factory.getbasetemp()])


KILLED_AFTER = """
import os
from rag_hpc.slurm.devcluster import control, network
real = {step}
def last(*given):
    real(*given)
    if {word!r} in given:
        os.kill(os.getpid(), 9)
{step} = last"""


@pytest.mark.parametrize(("step", "word"), [("network.create_node", "n2"), ("control.spawn", "mariadbd")])
def test_killed_up_is_cleaned_by_down(
    step: str,
    word: str,
    devcluster: dc.DevCluster,
    machine_snapshot: Snapshot,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dc.down(devcluster.state)
    before = machine_snapshot()
    try:
        starting = run_python("up", devcluster.state, KILLED_AFTER.format(step=step, word=word))
        assert subprocess.run(starting, start_new_session=True, timeout=180).returncode == -signal.SIGKILL
        assert dc.status(devcluster.state)["up"] is False
        assert dc.down(devcluster.state) != []
        assert machine_snapshot() == before
    finally:
        dc.up(devcluster.state, share=[tmp_path_factory.getbasetemp()])


def test_a_process_in_a_network_of_its_own_is_the_cluster_s_when_a_job_started_it(sh: Sh) -> None:
    alone = ["unshare", "--net", "sleep", "60"]
    ours = subprocess.Popen(alone, env={**os.environ, "SLURM_JOB_ID": "1"})
    others = subprocess.Popen(alone, env={name: v for name, v in os.environ.items() if not name.startswith("SLURM_")})
    try:
        wait_for(lambda: ours.pid in dc.snapshot()["processes"], "the namespace", timeout_s=20)
        wait_for(lambda: own_network(others.pid), "the other namespace", timeout_s=20)
        assert others.pid not in dc.snapshot()["processes"]
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()


def own_network(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
