"""The command line: parsing, help, exit codes."""

from __future__ import annotations

import pytest

from rag_hpc import cli
from rag_hpc.errors import ConfigError


def test_overrides_words_flags_and_values_are_told_apart() -> None:
    got = cli.parse(["verify", "A", "B", "--json", "cluster.root=/x", "--out", "f.html"])
    assert got.words == ["A", "B"]
    assert got.flags == {"--json"}
    assert got.overrides == ["cluster.root=/x"]
    assert got.values == {"--out": "f.html"}


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
