"""A judge that is down, and a generator whose vLLM is not there, through the command line."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import fakeragas
import pytest
from chatserver import ChatServer

from rag_hpc.models.folder import model_folder
from tests.e2e.conftest import SMALL, Cli, Copy

pytestmark = pytest.mark.timeout(900)  # the first test makes the run that others look at, too
TESTS = Path(__file__).parents[1]
HIDE_VLLM = """
import importlib.machinery as m
found = m.PathFinder.find_spec.__func__
m.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.split(".")[0] == "vllm" else found(cls, name, *rest))
"""


def test_a_judge_that_is_down_is_gone_on_with_and_asked_nothing_twice(
    cli: Cli, cluster: Path, corpus: Path, copy: Copy
) -> None:
    run_dir = copy("judged")
    env = {"PYTHONPATH": f"{TESTS / 'slurm/judgesite'}:{TESTS / 'support'}"}
    with ChatServer() as server:
        server.answer, server.statuses = fakeragas.number, [200] * 3 + [503] * 99
        judge = [f"stage.judge.base_url={server.url}", "stage.judge.model=m", "stage.judge.metrics=[faithfulness]"]
        words = ["run=judged", "pipeline=judged", "corpus=beir", f"corpus.path={corpus}", "workers=1", *SMALL]
        done = cli("run", *words, *judge, "stage.judge.concurrency=1", env=env)
        assert done.returncode == 3, done.stderr
        assert re.search(r"judge: \d of 2 samples of unit-\d+ are judged, and are not asked again; .*503", done.stderr)
        assert "rag-hpc retry run=judged" in done.stderr and not list(run_dir.glob("judge-*/manifest.json"))
        tried = len(server.bodies)
        assert 3 < tried < 99  # it was tried again, and given up
        server.statuses = []
        done = cli("retry", "run=judged", env=env)
        assert done.returncode == 0, done.stderr
        asked = Counter(json.dumps(body, sort_keys=True) for body in server.bodies)
    again = sum(asked.values()) - len(asked)
    assert again == tried - 3  # what was refused, and nothing that was answered
    lines = [line for path in run_dir.glob("judge-*/units/*/scores.jsonl") for line in path.read_text().splitlines()]
    assert len({json.loads(line)["query_id"] for line in lines}) == len(lines) == 6


def test_without_vllm_nothing_is_started(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    hidden, here = tmp_path / "hidden", tmp_path / "here"
    for folder in (hidden, here):
        folder.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE_VLLM)
    model = model_folder("minilm")  # of an encoder, which nobody reads that far
    words = ["corpus=beir", f"corpus.path={corpus}", "generator=vllm", f"generator.model={model}"]
    done = cli("run", *words, cwd=here, env={"PYTHONPATH": str(hidden)})
    assert done.returncode == 2, done.stderr
    assert "has no vLLM" in done.stderr and "rag-hpc[serve-cpu]" in done.stderr
    assert "generator.vllm.python=" in done.stderr and list(here.iterdir()) == []
