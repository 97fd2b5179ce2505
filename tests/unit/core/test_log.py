"""Text that others wrote does nothing to a terminal, and any encoding of it takes what is printed."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.arguments import as_json
from rag_hpc.core.log import bare, configure, shown, terminals

HOSTILE = "a\x1b]0;x\x07\x1b[2J\x9b31m\x7f\u202ecba\u2066\u200f\u2028\x85\r\n\tb\ud800\U000e0041"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m\x7f\x85", r"\x9b31m\x7f\x85"),
        ("two\r\nlines\t\u2028", r"two\r\nlines\t\u2028"),
        ("\u202egpj.exe\u2066\u061c", r"\u202egpj.exe\u2066\u061c"),
        ("half a pair \udc80", r"half a pair \udc80"),
        ("a hidden tag\U000e0041\ufeff", r"a hidden tag\U000e0041\ufeff"),
        ("naïve – 漢字 👩\u200d🚀 1\u202f000", "naïve – 漢字 👩\u200d🚀 1\u202f000"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_as_its_escape(text: str, line: str) -> None:
    assert shown(text) == line


def test_a_block_keeps_its_lines_and_tabs_and_nothing_else() -> None:
    assert shown("a\n\tb\r\x1b\x0b", block=True) == "a\n\tb\\r\\x1b\\x0b"


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_one_line_that_utf8_can_hold(text: str) -> None:
    assert len(shown(text).encode().splitlines()) <= 1 and len(shown(text).splitlines()) <= 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16", "cp1252", "shift_jis"])
def test_streams_of_any_encoding_take_any_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with terminals():
        print(HOSTILE, "– ü 漢 👩")
    assert sys.stdout is stream
    said = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert said.count("\n") == 2 and said.endswith("\n") and not set("\x1b\x9b\x7f\u202e") & set(said)
    assert encoding != "ascii" or said.endswith("\\u2013 \\xfc \\u6f22 \\U0001f469\n")


def test_progress_bars_draw_behind_the_terminal() -> None:
    before = sys.stdout
    with terminals():
        assert sys.stdout is not before and bare(sys.stdout) is before
    assert bare(sys.stdout) is before


def test_a_closed_standard_output_is_none_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with terminals():
        print("nobody reads this")
    assert sys.stdout is None


def test_lines_of_a_log_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    try:
        configure("w0")
        logging.getLogger("rag_hpc").warning("bad title %s", HOSTILE)
    finally:
        root.handlers[:], _ = kept
        root.setLevel(kept[1])
    said = capsys.readouterr().err
    assert "w0 WARNING bad title a\\x1b]0;x" in said and not set("\x1b\x9b\x7f\u202e\r") & set(said)


def test_json_for_scripts_is_ascii_and_says_the_same() -> None:
    value = {HOSTILE: [HOSTILE, "ü"]}
    text = as_json(value)
    assert text.isascii() and text.replace("\n", "").isprintable()
    assert json.loads(text) == value
