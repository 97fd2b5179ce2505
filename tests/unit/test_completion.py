"""Shell completion offers verbs, groups with their choices, and every key."""

from __future__ import annotations

import subprocess

import pytest

from rag_hpc import completion
from rag_hpc.cli import VERBS, parse
from rag_hpc.config import compose
from rag_hpc.errors import ConfigError


def _words(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert completion.completion(parse(["completion", "words", *words])) == 0
    return capsys.readouterr().out.split()


def test_verbs_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert _words(capsys, "", "1") == list(VERBS)
    assert _words(capsys, "re", "1") == ["retry", "report"]


def test_keys_and_choices_follow_what_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert _words(capsys, "corpus=b", "2") == ["corpus=beir"]
    assert _words(capsys, "stage.chunk.", "2") == [
        "stage.chunk.heading_tokens=", "stage.chunk.max_tokens=", "stage.chunk.method=", "stage.chunk.model=",
        "stage.chunk.overlap_tokens=", "stage.chunk.semantic_percentile=", "stage.chunk.semantic_window="]
    assert "pipeline=baseline" in _words(capsys, "pipe", "3")
    assert _words(capsys, "nothing_like_it", "2") == []


def test_every_group_and_choice_offered_can_be_composed() -> None:
    offered = completion.groups()
    assert {"corpus", "pipeline", "cluster", "generator"} <= set(offered)
    for name in offered["corpus"]:
        assert compose([f"corpus={name}"]).corpus.source.value == name
    for name in offered["pipeline"]:
        assert compose([f"pipeline={name}"]).pipeline.name == name


def test_every_key_offered_is_a_key() -> None:
    keys = completion.keys()
    assert len(keys) == len(set(keys)) > 60 and "workers" in keys and "stage.vectors.min_recall" in keys
    for key in ("workers=3", "stage.chunk.max_tokens=99", "cluster.partition=gpu"):
        assert key.split("=")[0] in keys
        compose([key])


def test_scripts_are_valid_shell(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh"):
        assert completion.completion(parse(["completion", shell])) == 0
        script = capsys.readouterr().out
        assert "complete -F _rag_hpc rag-hpc" in script
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_unknown_shell_is_wrong_usage() -> None:
    for words in ([], ["fish"]):
        with pytest.raises(ConfigError, match="bash or zsh"):
            completion.completion(parse(["completion", *words]))
