from __future__ import annotations

import json

import pytest
import zstandard
from realdata import DATA

from rag_hpc.algo.quality.language import Language, language, language_reason

ENGLISH = "The scheduler starts a job when the resources that it asked for are free and nobody else needs them more."
GERMAN = "Der Planer startet den Auftrag, sobald die angeforderten Ressourcen frei sind und niemand sonst sie braucht."
CHINESE = "北京是中华人民共和国的首都，位于华北平原的北部，是全国的政治、文化和国际交往中心。"
CODE = "{x[i]++; y[j] = 0x1f;} #define A(b) b_c(d)\nfoo(bar::baz, 12);\n" * 3


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        (CHINESE, "zh"),
        (ENGLISH.upper(), "en"),
        ("\n\n" + GERMAN.replace(" ", "\n"), "de"),
    ],
)
def test_prose_is_recognised_and_sure(text: str, code: str) -> None:
    found = language(text)
    assert found.code == code and found.is_sure


@pytest.mark.parametrize("text", ["", "12 34 -- !?", "\n"])
def test_text_without_letters_has_no_language(text: str) -> None:
    assert language(text) == Language("unknown", 0.0, False)


def test_what_the_page_declares_decides_only_where_the_text_does_not() -> None:
    assert language(ENGLISH, "de").code == "en"
    short = "Hotel Taxi Restaurant"
    guesses = {declared: language(short, declared) for declared in ("", "de", "xx")}
    assert not guesses[""].is_sure and guesses["xx"] == guesses[""]
    assert guesses["de"].code == "de"


def test_only_a_sure_other_language_is_a_reason() -> None:
    assert language_reason(language(GERMAN), []) is None
    assert language_reason(language(GERMAN), ["en", "de"]) is None
    reason = language_reason(language(GERMAN), ["en"])
    assert reason is not None and reason[0] == "language-de" and "wanted en" in reason[1]
    assert language_reason(language(CODE), ["fr"]) is None  # code is no ground, whatever it resembles


@pytest.mark.parametrize(("file", "field", "least"), [("passages", "text", 0.99), ("questions", "question", 0.98)])
def test_twelve_languages_of_xquad(file: str, field: str, least: float) -> None:
    path = DATA / "qa_xquad" / f"{file}.jsonl.zst"
    if not path.is_file():
        pytest.skip(f"no {path}; set RAG_HPC_DATA")
    lines = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode().split("\n")
    rows = [json.loads(line) for line in lines[::7] if line]
    found = [language(row[field]).code == row["lang"] for row in rows]
    assert len({row["lang"] for row in rows}) == 12
    assert sum(found) / len(found) >= least
