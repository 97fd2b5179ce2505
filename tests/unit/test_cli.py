"""The command line: parsing, help, exit codes."""

from __future__ import annotations

import importlib
import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rag_hpc import cli
from rag_hpc.config import compose
from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.registry import BENCHES


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


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["stauts"], "no verb 'stauts'; did you mean status? known: run, plan"),
        (["zzz"], "no verb 'zzz'; known: run, plan"),
        (["run", "--nope"], "'--nope'; see: rag-hpc run --help"),
        (["status", "--jsn"], "Did you mean '--json'? see: rag-hpc status --help"),
        (["run", "--cfg", "jbo"], "'jbo' is not 'job'; see: rag-hpc run --help"),
        (["report", "--out"], "'--out' requires an argument; see: rag-hpc report --help"),
        (["report", "--out="], "--out needs a value"),
        (
            ["bench", "crwal"],
            f"bench takes {'|'.join(BENCHES)}, not 'crwal'; did you mean crawl?",
        ),
        (["devcluster"], "devcluster takes up|down|status|check, not ''; see: rag-hpc devcluster --help"),
        (["completion", "fish"], "completion takes bash|zsh [LINE], not 'fish'"),
        (["run", "corpus"], "run takes key=value settings only, not 'corpus'"),
    ],
)
def test_what_is_not_known_names_what_was_meant_or_is_known(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.parse(argv)
    assert said in str(caught.value)


def test_wrong_usage_exits_with_2_and_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runn"]) == 2
    assert capsys.readouterr().err.startswith("rag-hpc: no verb 'runn'; did you mean run? known: run, plan")
    assert cli.main(["run", "--nope"]) == 2
    assert capsys.readouterr().err.startswith("rag-hpc run: ")


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_verb(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_shows_its_options_keys_and_examples_that_work(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = cli.VERBS[verb]
    assert cli.main([verb, "--help"]) == cli.main(["help", verb]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: rag-hpc {verb} ") and row.settings in " ".join(shown.split())
    assert len(row.examples) >= 2
    assert all(f"  {option}" in shown or f", {option}" in shown for option in row.options)
    for example in row.examples:
        assert f"  rag-hpc {verb} {example}".rstrip() + "\n" in shown
        parsed = cli.parse([verb, *shlex.split(example)])
        if row.keys is None and "," not in example:
            compose(parsed.overrides)


def test_help_of_run_lists_the_choices_of_a_site_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text("name: mine\n")
    assert cli.main(["--config-dir", str(tmp_path), "run", "--help"]) == 0
    assert "devcluster|local|mine|slurm" in capsys.readouterr().out


def test_config_dir_is_taken_before_the_verb_too(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config-dir", str(tmp_path), "runn"]) == 2
    assert "no verb 'runn'" in capsys.readouterr().err
    assert cli.parse(["--config-dir", str(tmp_path), "status"]).config_dir == tmp_path
    assert cli.parse(["--config-dir", "no", "status", "--config-dir", str(tmp_path)]).config_dir == tmp_path


@pytest.mark.parametrize("argv", [["--config-dir"], ["--config-dir", "status"], ["--config-dir=site"]])
def test_a_config_dir_without_a_verb_is_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "--help" in capsys.readouterr().err


def test_a_config_dir_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--config-dir", str(tmp_path / "sit"), "--cfg", "job"]) == 2
    assert f"--config-dir {tmp_path / 'sit'}: no such folder" in capsys.readouterr().err
    monkeypatch.setenv("RAG_HPC_CONFIG_DIR", str(tmp_path))
    assert cli.parse(["run"]).config_dir == tmp_path


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["retry", "stage.chunk.max_tokens=100"],
            "retry does not look at stage.chunk.max_tokens=100; it takes run=, cluster=, "
            "cluster.KEY=, workers=, allow_failed_units=; other settings are for: rag-hpc run",
        ),
        (["status", "cluter=mine"], "status does not look at cluter=mine; did you mean cluster? it takes run=,"),
        (["devcluster", "up", "x=1"], "devcluster does not look at x=1; it takes no settings"),
        (["verify", "a", "run=b"], "verify does not look at run=b"),
        (["why", "a", "b"], "why takes [RUN], not 'a b'"),
        (["verify", "a", "b", "c"], "verify takes [BASELINE] RUN, not 'a b c'"),
        (["plan", "--watch"], "plan takes no --watch; it is for: run"),
        (["clean", "-m"], "clean takes no -m; it is for: run, plan"),
        (["status", "--watch"], "status takes no --watch; it is for: run"),
        (["logs", "--out", "x"], "logs takes no --out; it is for: scaling, sweep, study, publish, metrics"),
    ],
)
def test_what_a_verb_would_not_look_at_is_refused(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.parse(argv)
    assert said in str(caught.value)


def test_a_verb_that_looks_for_runs_takes_the_cluster_and_its_settings() -> None:
    got = cli.parse(["retry", "mine", "workers=3", "cluster=devcluster", "cluster.root=/x", "--config-dir", "site"])
    assert (got.words, len(got.overrides)) == (["mine"], 3)


def test_a_folder_that_may_not_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **more: object) -> None:
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


def test_every_verb_leads_to_a_function_of_its_module() -> None:
    for verb, row in cli.VERBS.items():
        function = getattr(importlib.import_module(row.module), verb)
        assert callable(function) and function.__module__ == row.module
        assert row.help


def test_the_benchmarks_named_are_those_there_are() -> None:
    from rag_hpc.eval.bench.registry import BENCHES

    assert cli.VERBS["bench"].choices == list(BENCHES)


def test_a_reader_that_goes_away_is_no_failure() -> None:
    command = f"{shlex.quote(sys.executable)} -m rag_hpc.cli --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stop_from_the_keyboard_is_incomplete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rag_hpc.launchers.status.find_run", stop)
    assert cli.main(["status"]) == 3
    assert capsys.readouterr().err == "stopped; what is committed stays, the same command goes on\n"


def test_a_verb_alone_in_an_empty_folder_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("What?"))
    for verb in {*cli.VERBS} - {"run", "plan", "list"}:  # the first two would begin with the demo
        needs_words = cli.VERBS[verb].words[:1] not in ("", "[")
        assert cli.main([verb]) in ((2,) if needs_words else (1, 2))
        assert capsys.readouterr().err.startswith(f"rag-hpc {verb}: ")
    assert list(tmp_path.iterdir()) == []
