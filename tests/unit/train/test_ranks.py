"""Training on two ranks: the gradient of one rank with their batches together, and going on after one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trainranks

from rag_hpc.core.job import JobEnv
from rag_hpc.core.stage import Context, Launch
from rag_hpc.launchers.local import rank_variables, session_folder
from rag_hpc.stores.tables import read_table

SUPPORT = Path(__file__).parents[2] / "support"
ENTRY = [sys.executable, "-m", "rag_hpc.cli", "train", "encoder"]


def on_two_ranks(tasks: dict[str, dict[str, Any]], folder: Path) -> dict[str, list[Any]]:
    """Return the steps of each task as both ranks tell them."""
    folder.mkdir()
    (folder / "tasks.json").write_text(json.dumps(tasks))
    command = [sys.executable, str(SUPPORT / "trainranks.py"), str(folder), str(folder / "tasks.json")]
    with session_folder() as places:
        env = [os.environ | rank_variables(rank, 2, {}, places) for rank in (0, 1)]
        ranks = [subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True) for own in env]
        told = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    found = {name: [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in (0, 1)] for name in tasks}
    assert all(first == second for first, second in found.values())
    return {name: steps for name, (steps, _) in found.items()}


@pytest.fixture(scope="module")
def tasks(beir: Path, models: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The settings of short trainings: 0, 1, 2 hard negatives, with GradCache and without, and some more."""
    base = {"data": str(beir), "model": models["encoder"], "batch_size": 8, "epochs": 2, "threads": 1, "max_steps": 4}
    found = {
        f"{num}-{cached}": {**base, "negatives": num, "mini_batch": cached, "max_grad_norm": 0.0}
        for num in (0, 1, 2)
        for cached in (0, 3)
    }
    found["matryoshka"] = {**base, "matryoshka": [8], "mini_batch": 3}
    longer = {"model": models["dropout"], "epochs": 24, "max_steps": 0, "checkpoint_steps": 1, "negatives": 1}
    return {**found, "longer": {**base, **longer}}


@pytest.fixture(scope="module")
def two(tasks: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return on_two_ranks(tasks, tmp_path_factory.mktemp("ranks") / "two")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_two_ranks_have_the_gradient_of_one_with_both_their_batches(
    tasks: dict[str, dict[str, Any]], two: dict[str, list[Any]]
) -> None:
    """Loss, length of the gradient, and all steps after it; GradCache changes nothing either."""
    for name, task in tasks.items():
        if name != "longer":  # with dropout, whose draws differ
            one = trainranks.steps_of(task, Context())
            whole = trainranks.steps_of({**task, "mini_batch": 0}, Context())
            for step, alone, uncached in zip(two[name], one, whole, strict=True):
                assert step == pytest.approx(list(alone), rel=3e-6) == list(uncached), name


def test_a_training_whose_rank_is_killed_goes_on_to_the_same_curve(
    tasks: dict[str, dict[str, Any]], two: dict[str, list[Any]], tmp_path: Path
) -> None:
    command = [*ENTRY, *(f"train.{name}={value}" for name, value in tasks["longer"].items()), "workers=2", "run=one"]
    killed = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    run = tmp_path / "results" / "runs" / "one"
    end = time.monotonic() + 300
    while not list(run.glob("train.encoder-*/carry/unit-00000/step-*")) and time.monotonic() < end:
        time.sleep(0.02)
    lines = (run / "submissions" / "0001" / "jobs.jsonl").read_text().splitlines()
    os.kill(json.loads(lines[-1])["pids"][1], signal.SIGKILL)
    told = killed.communicate(timeout=300)[1].decode()
    assert killed.returncode == 3 and "rag-hpc retry" in told, told
    assert list(run.glob("train.encoder-*/carry/unit-00000/step-*"))
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "the model: stage.encode.model=" in again.stdout, again.stderr
    assert "goes on after step" in (run / "submissions" / "0002" / "train.encoder.log").read_text()
    assert not (next(run.glob("train.encoder-*")) / "carry" / "unit-00000").exists()
    table = read_table(next(run.glob("train.encoder-*/units/unit-00000/steps.parquet")))
    names = ["loss", "gradient", "learning_rate", "tokens"]
    assert [[row[name] for name in names] for row in table.to_pylist()] == two["longer"]


def test_zero_has_the_steps_of_ddp_and_goes_on_from_its_own_checkpoints_and_from_those_of_ddp(
    tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    from safetensors.torch import load_file

    ddp = {**tasks["0-0"], "max_grad_norm": 1.0, "max_steps": 6}
    asked = {"ddp": {**ddp, "carry": str(tmp_path / "ddp"), "stop": 3}}
    for stage in (1, 2, 3):
        zero = {**ddp, "strategy": "deepspeed", "zero_stage": stage}
        own = {**zero, "carry": str(tmp_path / f"zero{stage}")}
        asked |= {f"whole{stage}": zero, f"part{stage}": {**own, "stop": 3}, f"again{stage}": own}
    asked["mixed"] = {**zero, "carry": str(tmp_path / "ddp")}
    two = on_two_ranks(asked, tmp_path / "two")
    one = [pytest.approx(list(step), rel=3e-6) for step in trainranks.steps_of(ddp, Context())]
    for stage in (1, 2, 3):
        assert two[f"whole{stage}"] == one and two[f"part{stage}"] == []
        assert two[f"again{stage}"] == two[f"whole{stage}"]
    assert two["mixed"] == one
    assert trainranks.steps_of({**ddp, "carry": str(tmp_path / "zero3")}, Context()) == one  # on one rank, by ddp
    models = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("zero1", "zero3", "ddp")]
    for name, weight in models[0].items():
        assert all(model[name].shape == weight.shape for model in models), name


def test_ranks_on_one_machine_meet_in_a_file_and_speak_over_the_loopback(tmp_path: Path) -> None:
    told = rank_variables(1, 2, {"NCCL_SOCKET_IFNAME": "ib0"}, {"PRTE_MCA_prte_tmpdir_base": str(tmp_path)})
    job = JobEnv(launch=Launch.torchrun.value, world_size=2, store=str(tmp_path / "store"))
    assert job.to_env().items() <= told.items()
    assert (told["RANK"], told["WORLD_SIZE"], told["GLOO_SOCKET_IFNAME"], told["NCCL_SOCKET_IFNAME"]) == (
        "1",
        "2",
        "lo",
        "ib0",
    )
