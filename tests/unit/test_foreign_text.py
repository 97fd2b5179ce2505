"""What strangers wrote, printed by the verbs: no escape reaches the terminal, no line is forged, any encoding works."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_run
import numpy as np
import pytest

from rag_hpc import cli
from rag_hpc.algo.answer.cite import check_quotes
from rag_hpc.core.failures import FAILURES
from rag_hpc.core.fs import canonical_json
from rag_hpc.eval import milestones, verdicts, verify
from rag_hpc.generators.base import Answer, Passage, Quote
from rag_hpc.search.answer import Answered
from rag_hpc.serve import ask
from rag_hpc.stores.tables import Rejects

EVIL = "\x1b[31mred\x9b2J\u202e\ud800\r\nforged: line"
SAFE = r"\x1b[31mred\x9b2J\u202e\ud800\r\nforged: line"
STEERS = set("\x1b\x9b\x07\x7f\u202e\r")
Say = Callable[..., str]


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Return a function that runs a verb over the runs in the temporary folder and returns all that it prints."""

    def run(verb: str, *words: str) -> str:
        cli.main([verb, *words, f"cluster.root={tmp_path}"])
        said = capsys.readouterr()
        assert not STEERS & set(said.out + said.err) and "Traceback" not in said.err
        return said.out + said.err

    return run


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """A run whose second stage failed, in a stranger's words."""
    run_dir = fake_run.build(tmp_path, fake_run.Shape(finish=1))
    (stage_dir,) = run_dir.glob("clean-*")
    (stage_dir / FAILURES).mkdir()
    value = {
        "unit": 0,
        "error": "ValueError",
        "message": EVIL,
        "traceback": f"Traceback\n  bad page\nValueError: {EVIL}",
        "host": EVIL,
        "submission": 1,
        "unix": 1.0,
    }
    (stage_dir / FAILURES / "unit-00000.1.json").write_bytes(canonical_json(value))
    submission = run_dir / "submissions" / "0001"
    (submission / "clean.log").write_text(
        f"w0 ERROR {EVIL}\n\tindented\n" * 20, encoding="utf-8", errors="surrogatepass", newline=""
    )
    (submission / "clean.outcome.json").write_bytes(
        canonical_json({"outcome": "stopped", "reason": EVIL, "exit_code": 1})
    )
    return run_dir


def test_why_shows_a_stranger_s_traceback_reason_and_log_as_text(failed: Path, say: Say) -> None:
    said = say("why", "demo-cluster")
    assert f"gate: stopped: {SAFE}" in said
    assert f"ago on {SAFE}" in said
    assert r"ValueError: \x1b[31mred\x9b2J" in said and "\n  bad page\n" in said
    assert r"w0 ERROR \x1b[31mred\x9b2J" in said and "\n\tindented\n" in said


def test_logs_shows_escapes_as_text(failed: Path, say: Say) -> None:
    said = say("logs", "clean", "run=demo-cluster", "--lines", "4")
    assert said.count(r"\x1b[31mred\x9b2J\u202e") == 2 or said.count("indented") == 2


def test_status_shows_the_first_reject_on_one_line(tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop_all(self: fake_run.FakeRun, start: int, stop: int) -> Any:
        def write(out: Path) -> Any:
            rejects = Rejects()
            rejects.add(EVIL.encode(errors="replace").decode(), "bad-title", f"found {EVIL[:-20]}")
            np.save(out / "documents.npy", np.arange(0), allow_pickle=False)
            return fake_run.Counts(items_in=1, items_out=0, dropped=rejects.write(out))

        return write

    monkeypatch.setattr(fake_run.FakeRun, "_clean", drop_all)
    fake_run.build(tmp_path, fake_run.Shape(stages=["crawl", "clean"], dropped_in_silence=0))
    for verb in ("status", "why"):
        said = say(verb, "demo-cluster")
        (line,) = [line for line in said.splitlines() if line.startswith("the first: ")]
        assert r"\x1b[31mred\x9b2J\u202e?\r\nforged: line: bad-title found \x1b[31m" in line


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("status", ("de\x1b[31mmo",)),
        ("milestones", ("de\x1b[31mmo",)),
        ("verify", ("de\x1b[31mmo", "de\x1b[31mmo")),
        ("scaling", ("de\x1b[31mmo", "de\x1b[31mmo")),
        ("report", ("de\x1b[31mmo",)),
        ("status", ("no\x1b[31mne",)),
        ("no\x1bverb", ()),
    ],
)
def test_names_of_runs_and_of_what_is_not_there_are_shown_as_text(
    tmp_path: Path, say: Say, verb: str, words: tuple[str, ...]
) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="de\x1b[31mmo", finish=1))
    assert r"\x1b" in say(verb, *words)


def test_cells_and_query_ids_are_one_line_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, say: Say) -> None:
    few: dict[str, Any] = {"stages": ["crawl", "retrieve.queries", "retrieve.search"], "ann": False}
    runs = [fake_run.build(tmp_path, fake_run.Shape(name=name, seed=seed, **few)) for name, seed in ("a7", "b8")]
    lists = iter([{(EVIL, "dense"): [(1, 0.5)]}, {(EVIL, "dense"): [(2, 0.5)]}])
    monkeypatch.setattr(verify, "_lists", lambda results: next(lists))
    assert f"first list that differs: query {SAFE}, dense" in say("verify", *(run.name for run in runs))
    row = verdicts.Milestone(name="M", predicted="1", result="2", verdict="hit", note=EVIL)
    monkeypatch.setattr(milestones, "judge", lambda *asked: [row])
    assert f"hit      {SAFE}" in say("milestones", "a")


def test_ask_shows_titles_ids_and_answers_of_strangers_as_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, say: Say
) -> None:
    fake_run.build(tmp_path, fake_run.Shape())
    passage = Passage(chunk_id="c", doc_id=EVIL, title=EVIL, text=f"first {EVIL}")
    quote = Quote(number=1, start=0, end=len(passage.text), score=1.0)
    said = Answer(text=f"first {EVIL} [1]", short=EVIL, found=True, citations=[1], quotes=[quote])
    checks = check_quotes(said.text, said.quotes, [passage])
    found = Answered(answer=said, passages=[passage], checks=checks)
    asker, near = SimpleNamespace(answer=lambda asked: found), SimpleNamespace(coverage="1/1")
    monkeypatch.setattr(ask, "opened", lambda *run: contextlib.nullcontext((asker, near)))
    lines = say("ask", "What?", "run=demo-cluster").splitlines()
    assert lines == [
        f"{SAFE}:",
        r"first \x1b[31mred\x9b2J\u202e\ud800\r",
        "forged: line [1]",
        f"[1] {SAFE}  {SAFE}  (quoted)",
        "a whole page, as it is stored: rag-hpc page ID run=demo-cluster",
    ]
    assert json.loads(say("ask", "What?", "run=demo-cluster", "--json"))["short"] == EVIL


ALL = """
import os, sys
from rag_hpc import cli
from rag_hpc.algo.answer.cite import check_quotes
for argv in {calls!r}:
    print("==", argv[0], flush=True)
    print(cli.main(argv), flush=True)
"""


def test_every_verb_that_prints_works_in_ascii_and_latin1(tmp_path: Path) -> None:
    fake_run.build(tmp_path, fake_run.baseline())
    fake_run.build(tmp_path, fake_run.Shape(finish=6))
    (tmp_path / "é").mkdir()
    (tmp_path / "é" / "ü–漢.txt").write_text("text")
    root, here, a, b = f"cluster.root={tmp_path}", f"corpus.path='{tmp_path / 'é'}'", "demo-baseline", "demo-cluster"
    calls = [
        *([verb, b, *json_too, root] for verb in ("status", "milestones") for json_too in ([], ["--json"])),
        ["why", b, root],
        ["verify", a, b, root],
        ["scaling", a, b, root, "--json"],
        ["scaling", a, b, root],
        ["report", a, root, "--out", str(tmp_path / "é–.html")],
        ["plan", "run=e", root, "corpus=files", here],
        ["run", "--cfg", "job", "corpus=files", here],
        ["ask", "Wie heißt – 漢字?", "run=nö–", root],
        ["completion", "bash"],
        ["clean", "run=nö–", root],
        ["logs", "crawl", f"run={b}", root],
        ["run", "--help"],
    ]
    for encoding, shown in (("ascii", "\\xe9\\u2013.html"), ("latin-1", "é\\u2013.html")):
        calls = calls if encoding == "ascii" else calls[8:9]
        done = subprocess.run(
            [sys.executable, "-c", ALL.format(calls=calls)],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        said = done.stdout.decode(encoding)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")[-2000:]
        codes = [line for line in said.splitlines() if line in ("0", "1", "2", "3")]
        assert len(codes) == len(calls) and codes.count("0") >= min(5, len(calls))
        assert f"wrote {tmp_path}/{shown}" in said
