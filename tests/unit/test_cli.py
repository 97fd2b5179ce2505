"""The command line: parsing, help, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_hpc import cli
from rag_hpc.errors import ConfigError


def test_overrides_words_flags_and_values_are_told_apart() -> None:
    got = cli.parse(["scaling", "A", "B", "--json", "cluster.root=/x", "--out", "f.svg"])
    assert got.words == ["A", "B"]
    assert got.flags == {"--json"}
    assert got.overrides == ["cluster.root=/x"]
    assert got.values == {"--out": "f.svg"}


def test_a_question_may_hold_an_equals_sign() -> None:
    got = cli.parse(["ask", "What", "does", "a=b", "mean?", "run=demo"])
    assert got.words == ["What", "does", "a=b", "mean?"]
    assert got.override("run") == "demo"


def test_additions_and_deletions_are_overrides() -> None:
    assert cli.parse(["run", "+x=1", "~corpus.questions"]).overrides == ["+x=1", "~corpus.questions"]


def test_the_last_of_equal_overrides_wins() -> None:
    assert cli.parse(["status", "run=a", "run=b"]).override("run") == "b"


@pytest.mark.parametrize("argv", [["runn"], ["run", "--nope"], ["report", "--out"]])
def test_unknown_verbs_and_options_name_the_known_ones(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"known:|needs a value"):
        cli.parse(argv)


def test_wrong_usage_exits_with_2_and_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runn"]) == 2
    assert "no verb 'runn'; known: run, plan" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--help"], ["run", "--help"]])
def test_help_names_every_verb(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb}" in shown for verb in cli.VERBS)


def test_config_dir_is_taken_before_the_verb_too(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config-dir", str(tmp_path), "runn"]) == 2
    assert "no verb 'runn'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--config-dir"], ["--config-dir", "site"], ["--config-dir=site"]])
def test_a_config_dir_without_a_verb_is_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert f"no verb after {' '.join(argv)}; known: run" in capsys.readouterr().err


def test_a_config_dir_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--config-dir", str(tmp_path / "sit"), "--cfg", "job"]) == 2
    assert f"--config-dir {tmp_path / 'sit'}: no such folder" in capsys.readouterr().err
    monkeypatch.setenv("RAG_HPC_CONFIG_DIR", str(tmp_path))
    assert cli.parse(["run"]).config_dir == tmp_path


@pytest.mark.parametrize(("argv", "said"), [
    (["retry", "stage.chunk.max_tokens=100"], "retry does not look at stage.chunk.max_tokens=100; it takes run=, "
                                              "cluster=, workers=, allow_failed_units="),
    (["status", "cluter=mine"], "status does not look at cluter=mine"),
    (["status", "a", "b"], "status takes 1 name, not 2: a b"), (["verify", "a", "b", "c"], "verify takes 2 names"),
    (["status", "--watch"], "status takes no --watch; it is for: run"),
    (["logs", "--out", "x"], "logs takes no --out; it is for: report, scaling"),
])
def test_what_a_verb_would_not_look_at_is_refused(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.parse(argv)
    assert said in str(caught.value)


def test_a_verb_that_looks_for_runs_takes_the_cluster_and_its_settings() -> None:
    got = cli.parse(["retry", "mine", "workers=3", "cluster=devcluster", "cluster.root=/x", "--config-dir", "site"])
    assert (got.words, len(got.overrides)) == (["mine"], 3)


def test_a_folder_that_may_not_be_written_is_named(monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied", "/shared/results/runs/x")

    monkeypatch.setattr("rag_hpc.launchers.status.find_run", refuse)
    assert cli.main(["status"]) == 1
    assert "rag-hpc status: /shared/results/runs/x: permission denied; " in capsys.readouterr().err


def test_clean_all_wants_the_name_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["clean", "--all"]) == 2
    assert "say which, run=NAME" in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from rag_hpc import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_every_verb_leads_to_a_function() -> None:
    import importlib

    for target, text in cli.VERBS.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), target
        assert text
