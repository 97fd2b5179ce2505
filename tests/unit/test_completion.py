"""Shell completion offers verbs, groups with their choices, and every key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rag_hpc import completion
from rag_hpc.arguments import choices
from rag_hpc.cli import VERBS, parse
from rag_hpc.completion import candidates
from rag_hpc.config import compose


@pytest.fixture
def two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo-a", "demo-b"):
        (tmp_path / "results" / "runs" / name).mkdir(parents=True)
        (tmp_path / "results" / "runs" / name / "run.json").write_text("{}")


def test_verbs_come_first() -> None:
    assert candidates("rag-hpc ") == [f"{verb} " for verb in VERBS]
    assert candidates("rag-hpc re") == ["retry ", "report "]
    assert candidates("rag-hpc --config-dir site st") == ["status ", "study "]


def test_options_and_words_are_those_of_the_verb() -> None:
    assert candidates("rag-hpc status --") == ["--json ", "--config-dir ", "--help "]
    assert candidates("rag-hpc run --cfg ") == ["job "]
    assert candidates("rag-hpc devcluster ") == ["check ", "down ", "status ", "up "]
    assert candidates("rag-hpc bench c") == ["cache ", "checks ", "chunk ", "compress ", "crawl "]
    assert candidates("rag-hpc bench chunk c") == []


def test_a_verb_that_looks_for_runs_is_offered_its_own_keys() -> None:
    assert candidates("rag-hpc retry clu") == [
        "cluster.root=",
        "cluster=",
        *(f"cluster={name} " for name in ("devcluster", "local", "slurm")),
    ]
    assert candidates("rag-hpc retry wor") == ["workers="]
    assert candidates("rag-hpc status wor") == []


@pytest.mark.usefixtures("two_runs")
def test_runs_are_offered_by_name() -> None:
    names = ["demo-a ", "demo-b "]
    assert candidates("rag-hpc report de") == candidates("rag-hpc verify demo-a --baseline d") == names
    assert candidates("rag-hpc scaling demo-a demo-b d") == candidates("rag-hpc status demo-a d") == names
    assert candidates("rag-hpc logs run=") == candidates("rag-hpc run run=d") == [f"run={name}" for name in names]
    assert candidates("rag-hpc status cluster=nosuch run=d") == []


def test_a_site_adds_its_own_choices(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text("name: mine\n")
    assert candidates(f"rag-hpc --config-dir {tmp_path} run cluster=m") == ["cluster=mine "]
    assert candidates(f"rag-hpc run --config-dir {tmp_path} cluster=m") == ["cluster=mine "]


def test_keys_and_choices_follow_what_is_typed() -> None:
    assert candidates("rag-hpc run corpus=b") == ["corpus=beir "]
    assert candidates("rag-hpc plan stage.chunk.") == [
        "stage.chunk.fields=",
        "stage.chunk.heading_tokens=",
        "stage.chunk.max_tokens=",
        "stage.chunk.method=",
        "stage.chunk.model=",
        "stage.chunk.overlap_tokens=",
        "stage.chunk.semantic_percentile=",
        "stage.chunk.semantic_window=",
    ]
    assert "pipeline=baseline " in candidates("rag-hpc run workers=2 pipe")
    assert candidates("rag-hpc run nothing_like_it") == []


def test_every_group_and_choice_offered_can_be_composed() -> None:
    offered = choices()
    assert {"corpus", "pipeline", "cluster", "generator"} <= set(offered)
    for name in offered["corpus"]:
        assert compose([f"corpus={name}"]).corpus.source.value == name
    for name in offered["pipeline"]:
        assert compose([f"pipeline={name}"]).pipeline.name == name


def test_every_key_offered_is_a_key() -> None:
    keys = completion.keys()
    assert len(keys) == len(set(keys)) > 60 and "workers" in keys and "stage.vectors.min_recall" in keys
    for key in ("workers=3", "stage.chunk.max_tokens=99", "cluster.walltime_margin_s=9"):
        assert key.split("=")[0] in keys
        compose([key])


def test_scripts_are_valid_shell(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh"):
        assert completion.completion(parse(["completion", shell])) == 0
        script = capsys.readouterr().out
        assert "-F _rag_hpc rag-hpc" in script
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(("breaks", "expected"), [(" =:", "beir "), (" ", "corpus=beir ")])
def test_bash_is_handed_only_what_it_puts_in(breaks: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.completion(parse(["completion", "bash"])) == 0
    asked = f"""COMP_WORDBREAKS='{breaks}' COMP_LINE='rag-hpc run corpus=b'; COMP_POINT=${{#COMP_LINE}}
    rag-hpc() {{ '{sys.executable}' -m rag_hpc.cli "$@"; }}
    _rag_hpc; printf '[%s]' "${{COMPREPLY[@]}}" """
    script = capsys.readouterr().out + "\n" + asked
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout == f"[{expected}]", done.stderr
