"""The texts of batch scripts: complete, quoted, and without a flag that nobody set."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest
from accounts import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.core.stage import Launch
from rag_hpc.errors import ConfigError
from rag_hpc.launchers import array, ports
from rag_hpc.slurm import scripts
from rag_hpc.slurm.cluster import ClusterConfig, Launcher
from rag_hpc.slurm.scripts import StageJob

HOSTILE = "a'; echo foo"
BARE = ClusterConfig(name="site", launcher=Launcher.slurm)
FULL = ClusterConfig(
    name="site",
    launcher=Launcher.slurm,
    account="acct",
    partition="cpu",
    qos="long",
    constraint="amd",
    reservation="class",
    gres="gpu:a100:1",
    exclude="n7",
    time_min=90,
    mem_gib=2.5,
    cpus_per_task=3,
    interface="ib0",
    prologue=["module load python/3.11"],
    env={"HF_HOME": "two words"},
    secrets_file="/home/me/keys",
    scratch="/local/me",
)


def job(
    launch: Launch = Launch.mpi, world: int = 4, folder: str = "/runs/r/submissions/0003", **more: object
) -> StageJob:
    base = StageJob(
        run="r",
        stage="encode",
        launch=launch,
        world=world,
        num_nodes=world,
        plan=Path(folder) / "encode.plan.json",
        python="/venv/bin/python",
        submitted_unix=12.5,
    )
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


def flags(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_script_of_a_group_is_this_text() -> None:
    asked = scripts.GroupJob(
        run_dir=Path("/runs/my run"),
        group="1",
        folder=Path("/runs/my run/.serve/1"),
        ranks=4,
        python="/venv/bin/python",
    )
    assert (
        scripts.group_script(asked, dataclasses.replace(FULL, env={}, scratch=None))
        == """#!/bin/bash
#SBATCH --account=acct
#SBATCH --partition=cpu
#SBATCH --qos=long
#SBATCH --constraint=amd
#SBATCH --reservation=class
#SBATCH --exclude=n7
#SBATCH --job-name=rh-my-run-serve.1-dc071f43
#SBATCH --array=0-3
#SBATCH --output='/runs/my run/.serve/1/rank-%a.job.log'
#SBATCH --ntasks=1
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --time=90
#SBATCH --mem=2560M
#SBATCH --cpus-per-task=3

umask 077
module load python/3.11
cd -- '/runs/my run' && [ -O . ] || { echo '/runs/my run: not a folder of this account; see: rag-hpc why' >&2; exit 2; }
export OMP_NUM_THREADS=1
export PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false
export PYTHONSAFEPATH=1
export RAG_HPC_LAUNCH=array
export RAG_HPC_WALLTIME_S=5400
export RAG_HPC_WALLTIME_MARGIN_S=120
/venv/bin/python -P -m rag_hpc.launchers.keeper '/runs/my run' 1 "$SLURM_ARRAY_TASK_ID"
code=$?
[ "$code" -lt 3 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
"""
    )
    assert scripts.submission_of("rh-my-run-serve.1-dc071f43", Path("/runs/my run")) is None  # no run cancels it


def test_a_group_in_a_hostile_folder_runs_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / HOSTILE).mkdir()
    asked = scripts.GroupJob(
        run_dir=tmp_path / HOSTILE, group="1", folder=tmp_path / HOSTILE, ranks=1, python=f"{tmp_path}/python"
    )
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", scripts.group_script(asked, BARE)],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"<-P><-m><rag_hpc.launchers.keeper><{tmp_path / HOSTILE}><1><0>"


def test_mpi_script_is_this_text() -> None:
    assert (
        scripts.mpi_script(job(environment={"HF_HOME": "two words"}), FULL)
        == """#!/bin/bash
#SBATCH --account=acct
#SBATCH --partition=cpu
#SBATCH --qos=long
#SBATCH --constraint=amd
#SBATCH --reservation=class
#SBATCH --exclude=n7
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --job-name=rh-r-encode-ea939f18.3
#SBATCH --open-mode=append
#SBATCH --output=/runs/r/submissions/0003/jobs/encode.%j.log
#SBATCH --time=90
#SBATCH --mem=2560M
#SBATCH --cpus-per-task=3
#SBATCH --ntasks=4
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1

umask 077
module load python/3.11
cd -- /runs/r && [ -O . ] || { echo '/runs/r: not a folder of this account; see: rag-hpc why' >&2; exit 2; }
export OMP_NUM_THREADS=1
export PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false
export HF_HOME='two words'
export PYTHONSAFEPATH=1
export RAG_HPC_LAUNCH=mpi
export RAG_HPC_WORLD_SIZE=4
export RAG_HPC_WALLTIME_S=5400
export RAG_HPC_WALLTIME_MARGIN_S=120
export RAG_HPC_SUBMITTED_UNIX="$(stat -c %.3Y /runs/r/submissions/0003/encode.plan.json 2>/dev/null || echo 12.500)"
export RAG_HPC_SCRATCH=/local/me
set -a; . /home/me/keys; set +a
exec srun --kill-on-bad-exit=1 --cpus-per-task=3 --mpi=pmix -n 4 /venv/bin/python -P -m rag_hpc.worker \
/runs/r/submissions/0003/encode.plan.json rank
"""
    )


def test_torchrun_script_meets_at_a_tested_port_of_the_batch_host() -> None:
    text = scripts.torchrun_script(job(Launch.torchrun, world=2, wants_gpu=True), FULL)
    assert 'head="$(hostname)"\nport="$(/venv/bin/python -P -m rag_hpc.launchers.ports)" || exit 1\nexec srun ' in text
    static = (
        '--rdzv-backend static --rdzv-id "$SLURM_JOB_ID" --master-addr "$head" --master-port "$port" --no-python /venv'
    )
    assert static in text and "--max-restarts 0" in text and "c10d" not in text
    start = """ sh -c 'exec env PET_NODE_RANK="$SLURM_PROCID" "$@"' sh /venv/bin/python -P -m torch.distributed.run """
    assert start in text
    assert {"nodes=2", "ntasks-per-node=1", "gres=gpu:a100:1"} <= set(flags(text))
    assert "export GLOO_SOCKET_IFNAME=ib0\nexport NCCL_SOCKET_IFNAME=ib0\n" in text


@pytest.mark.parametrize(
    ("gres", "ranks"), [(None, 1), ("gpu", 1), ("gpu:a100:4", 4), ("gpu:2,shard:8", 2), ("fpga:3", 1)]
)
def test_torchrun_starts_a_rank_for_each_gpu_of_a_node(gres: str | None, ranks: int) -> None:
    text = scripts.torchrun_script(job(Launch.torchrun, world=2, wants_gpu=True), dataclasses.replace(FULL, gres=gres))
    assert f" --nproc-per-node {ranks} --max-restarts 0 " in text
    assert f"export RAG_HPC_WORLD_SIZE={2 * ranks}\n" in text and "nodes=2" in flags(text)


def test_nobody_set_a_flag_so_none_is_sent() -> None:
    expected = {"job-name", "open-mode", "output"}
    assert {flag.split("=")[0] for flag in flags(scripts.gate_script(job(), BARE))} == expected | {"ntasks", "requeue"}
    expected |= {"kill-on-invalid-dep"}
    text = scripts.mpi_script(job(num_nodes=None), BARE)
    assert {flag.split("=")[0] for flag in flags(text)} == expected | {"ntasks"}
    assert "WALLTIME" not in text and "SCRATCH" not in text and "SOCKET_IFNAME" not in text
    [text] = array.array_texts(job(Launch.array), BARE, max_size=10)
    assert {flag.split("=")[0] for flag in flags(text)} == expected | {"array", "nodes", "signal", "hold"}


def test_gate_is_small_and_needs_no_gpu_and_no_secrets() -> None:
    text = scripts.gate_script(job(Launch.torchrun, wants_gpu=True), FULL)
    assert {"time=60", "mem=2560M", "ntasks=1", "output=/runs/r/submissions/0003/gates.log"} <= set(flags(text))
    assert "gres" not in text and "/home/me/keys" not in text and "exclude=n7" in flags(text)
    assert text.endswith("exec /venv/bin/python -P -m rag_hpc.launchers.gate /runs/r 3 encode\n")


def test_gate_comes_back_after_its_node_and_what_waits_for_it_goes_when_it_does_not() -> None:
    assert "requeue" in flags(scripts.gate_script(job(), BARE))
    assert "kill-on-invalid-dep=yes" in flags(scripts.mpi_script(job(), BARE))
    assert "kill-on-invalid-dep=yes" in flags(array.array_texts(job(Launch.array), BARE, max_size=10)[0])


@pytest.mark.parametrize(
    ("mem_gib", "workers", "gate"),
    [(None, None, None), (0.0, "0", "4096M"), (2.5, "2560M", "2560M"), (9, "9216M", "4096M")],
)
def test_memory_of_nothing_is_the_whole_node_and_null_is_no_flag(
    mem_gib: float | None, workers: str | None, gate: str | None
) -> None:
    def asked(text: str) -> str | None:
        return next((flag.removeprefix("mem=") for flag in flags(text) if flag.startswith("mem=")), None)

    site = dataclasses.replace(BARE, mem_gib=mem_gib)
    assert asked(scripts.mpi_script(job(), site)) == workers and asked(scripts.gate_script(job(), site)) == gate
    assert asked(array.array_texts(job(Launch.array), site, max_size=10)[0]) == workers


def test_mpirun_takes_the_place_of_srun_where_the_site_says_so() -> None:
    text = scripts.mpi_script(job(), dataclasses.replace(FULL, mpi="mpirun"))
    assert "\nexec mpirun -n 4 /venv/bin/python -P -m rag_hpc.worker " in text and "srun" not in text


def run_script(text: str, folder: Path) -> list[str]:
    """Run a script by bash where srun and mpirun print their words, one a line."""
    for name in ("srun", "mpirun"):
        program = folder / name
        told = '"MY=$HF_HOME" "SECRET=$TOKEN" "UMASK=$(umask)" "SAFE=$PYTHONSAFEPATH"'
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" {told}\n')
        program.chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "HOME": str(folder)}
    done = subprocess.run(["bash"], input=text, capture_output=True, text=True, env=env, cwd=folder, check=False)
    assert done.stderr == "" and done.returncode == 0
    return done.stdout.split("\n")


def test_hostile_values_reach_the_worker_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE / "r" / "submissions" / "0001"
    folder.mkdir(parents=True)
    (tmp_path / HOSTILE / "keys").write_text("TOKEN='from the file'\n")
    cluster = dataclasses.replace(
        FULL,
        prologue=[],
        account=HOSTILE,
        mpi=HOSTILE,
        interface=HOSTILE,
        scratch=HOSTILE,
        secrets_file=str(tmp_path / HOSTILE / "keys"),
    )
    made = job(folder=str(folder), environment={"HF_HOME": HOSTILE}, python=f"/bin/{HOSTILE}")
    said = run_script(scripts.mpi_script(made, cluster), tmp_path)
    assert said[2:9] == [f"--mpi={HOSTILE}", "-n", "4", f"/bin/{HOSTILE}", "-P", "-m", "rag_hpc.worker"]
    assert said[9:11] == [str(folder / "encode.plan.json"), "rank"]
    assert said[11:] == [f"MY={HOSTILE}", "SECRET=from the file", "UMASK=0077", "SAFE=1", ""]


def test_array_script_of_submitit_quotes_hostile_values_too(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE / "r" / "submissions" / "0001"
    folder.mkdir(parents=True)
    made = job(Launch.array, folder=str(folder), python=f"/bin/{HOSTILE}")
    [text] = array.array_texts(made, dataclasses.replace(BARE, account=HOSTILE), max_size=10)
    said = run_script(text, tmp_path)
    logs = folder / "jobs" / "encode"
    assert said[:8] == [
        "--unbuffered",
        "--output",
        str(logs / "%A_%a_%t_log.out"),
        "--open-mode=append",
        f"/bin/{HOSTILE}",
        "-u",
        "-m",
        "submitit.core._submit",
    ]
    assert said[8] == str(logs) and said[-2] == "SAFE=1"  # submitit's own `python -m` has no -P


@pytest.mark.parametrize("value", ["x\n#SBATCH --uid=0", "x\rfoo", "x\0y"])
def test_line_break_is_refused_everywhere(value: str) -> None:
    for made, cluster in [
        (job(environment={"TZ": value}), BARE),
        (job(python=value), BARE),
        (job(folder=f"/runs/{value}/submissions/0001"), BARE),
        (job(), dataclasses.replace(BARE, prologue=[f"module load {value}"])),
    ]:
        for make in (scripts.mpi_script, scripts.gate_script):
            with pytest.raises(ConfigError, match="line break"):
                make(made, cluster)
    with pytest.raises(ConfigError, match="line break"):
        array.array_texts(job(Launch.array, folder=f"/runs/{value}/submissions/0001"), BARE, max_size=4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("A B", "no name of a variable"),
        ("PYTHONPATH", r"PYTHONPATH is none of .* put `export PYTHONPATH=...` into cluster.prologue"),
        ("OMPI_MCA_mca_base_component_path", "could load code"),
        ("HF_TOKEN", "HF_TOKEN looks like a secret.*cluster.secrets_file"),
    ],
)
def test_a_variable_that_a_run_may_not_set_is_refused_whoever_wrote_it_there(name: str, words: str) -> None:
    """A stored request may have been changed since it was composed."""
    made = job(environment={name: "1"})
    for make in (scripts.mpi_script, scripts.gate_script):
        with pytest.raises(ConfigError, match=words):
            make(made, BARE)
    with pytest.raises(ConfigError, match=words):
        array.array_texts(dataclasses.replace(made, launch=Launch.array), BARE, max_size=4)
    with pytest.raises(ConfigError, match=words):
        ClusterConfig(env={name: "1"})


def test_a_job_does_not_enter_a_folder_that_is_no_longer_ours(
    tmp_path: Path, stranger: Account, shared_root: Path
) -> None:
    """Others may have put theirs in its place while the job waited; submitit would unpickle what lies there."""
    folder = shared_root / "r" / "submissions" / "0001"
    folder.mkdir(parents=True)
    os.chown(shared_root / "r", stranger.uid, stranger.gid)
    [text] = array.array_texts(job(Launch.array, folder=str(folder)), BARE, max_size=10)
    for script in (text, scripts.gate_script(job(folder=str(folder)), BARE)):
        done = subprocess.run(["bash"], input=script, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{shared_root}/r: not a folder of this account" in done.stderr


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("$TMPDIR", 'export RAG_HPC_SCRATCH="${TMPDIR}"'),
        ("${SLURM_TMPDIR}/rh", 'export RAG_HPC_SCRATCH="${SLURM_TMPDIR}"/rh'),
        ("$(rm -rf x)", "export RAG_HPC_SCRATCH='$(rm -rf x)'"),
        ("$A;B", "export RAG_HPC_SCRATCH='$A;B'"),
    ],
)
def test_scratch_may_name_a_variable_of_the_job_and_nothing_else(given: str, line: str) -> None:
    assert line in scripts.mpi_script(job(), dataclasses.replace(BARE, scratch=given)).splitlines()


def test_percent_in_a_path_is_no_pattern() -> None:
    text = scripts.mpi_script(job(folder="/runs/50%j/submissions/0001"), BARE)
    assert "output=/runs/50%%j/submissions/0001/jobs/encode.%j.log" in flags(text)
    with pytest.raises(ConfigError, match="patterns"):
        array.array_texts(job(Launch.array, folder="/runs/50%j/submissions/0001"), BARE, max_size=4)


def test_job_name_needs_no_quotes_and_keeps_its_mark_however_long_the_run_s_name_is() -> None:
    assert scripts.job_name("my run; rm", "dedup.sign", "1a.2") == "rh-my-run--rm-dedup.sign-1a.2"
    assert scripts.job_name("x" * 300, "dedup.sign", "1a.2").endswith("xx-dedup.sign-1a.2")


def test_job_is_told_to_belong_to_one_run_and_submission_by_its_name_alone() -> None:
    name = job(stage="dedup.sign", folder="/a/r-dedup/submissions/0012").name(".gate")
    assert scripts.submission_of(name, Path("/a/r-dedup")) == 12
    for other in ("/b/r-dedup", "/a/r", "/a/r-dedup.sign"):
        assert scripts.submission_of(name, Path(other)) is None
    assert scripts.submission_of("rh-r-dedup-dedup.sign", Path("/a/r-dedup")) is None


@given(num_workers=st.integers(1, 3000), max_size=st.integers(1, 1200))
@settings(max_examples=50, deadline=None)
def test_blocks_hold_each_worker_once_and_none_is_too_large(num_workers: int, max_size: int) -> None:
    found = array.blocks(num_workers, max_size)
    assert [index for block in found for index in block] == list(range(num_workers))
    assert max(map(len, found)) <= max_size


def test_array_is_throttled_and_told_in_time() -> None:
    cluster = dataclasses.replace(FULL, array_parallelism=3, time_min=2)
    [text] = array.array_texts(job(Launch.array, world=8), cluster, max_size=10, dependency="afterok:4")
    wanted = {"array=0-7%3", "signal=USR2@60", "dependency=afterok:4", "reservation=class", "mem=2560M"}
    assert wanted <= set(flags(text))
    assert "--cpus-per-task=3" in text.splitlines()[-1]


def test_port_lies_below_the_ephemeral_range_and_is_free() -> None:
    taken = {ports.FIRST + 5, ports.FIRST + 6}
    assert ports.find_port(5, last=ports.FIRST + 100, free=lambda port: port not in taken) == max(taken) + 1
    found = ports.find_port(9, last=ports.ephemeral_start(), free=ports.can_bind)
    assert ports.FIRST <= found < ports.ephemeral_start()


def test_port_wraps_around_and_gives_up_when_all_are_taken() -> None:
    last = ports.FIRST + 10
    assert ports.find_port(0, last=last, free=lambda port: port == ports.FIRST + 9) == ports.FIRST + 9
    with pytest.raises(Exception, match="no free port"):
        ports.find_port(0, last=last, free=lambda port: False)


def test_bound_port_is_not_free() -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen(1)
        assert not ports.can_bind(holder.getsockname()[1])
