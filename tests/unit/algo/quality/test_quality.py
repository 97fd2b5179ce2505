"""Quality filters: what each catches, what they count, and that they decide as datatrove's do on real pages."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from realdata import DATA

from rag_hpc.algo.extract.extract import clean_text
from rag_hpc.algo.quality.c4 import C4, c4_edits
from rag_hpc.algo.quality.gopher import GOPHER_QUALITY, GOPHER_REPETITION, Measured, QualityLimits, gopher_reason
from rag_hpc.algo.text.edits import apply_edits
from rag_hpc.algo.text.sentences import sentence_spans
from rag_hpc.errors import ConfigError

EVERY = int(os.environ.get("RAG_HPC_QUALITY_EVERY", "45"))  # 1: all documents, some minutes
CORPORA = ("docs_cpp/docs", "docs_powershell/docs", "html_ipython/docs", "qa_squad2/passages")
LIMITS = QualityLimits()
GOPHER = [*GOPHER_QUALITY, *GOPHER_REPETITION]
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "theta", "kappa", "lambda", "sigma", "omega")


def prose(num_words: int) -> str:
    """Return sentences in which no two words follow each other twice."""
    made = [f"{WORDS[i % len(WORDS)]}{i}" for i in range(num_words)]
    return "the cat was with that dog and " + " ".join(made) + "."


# ---- each filter by itself


@pytest.mark.parametrize(
    ("name", "text", "measured"),
    [
        ("gopher-word-count", "too few words", "3, at least 50 allowed"),
        ("gopher-word-count", "word " * 100_001, "1e+05, at most 100000 allowed"),
        ("gopher-word-length", "an ox is at it " * 5, "2, at least 3 allowed"),
        ("gopher-word-length", "antidisestablishmentarianism " * 5, "28, at most 10 allowed"),
        ("gopher-symbols", "one # two", "0.3333, at most 0.1 allowed"),
        ("gopher-symbols", "one two… three four", "0.2, at most 0.1 allowed"),
        ("gopher-bullet-lines", "- a\n• b\n  - c", "1, at most 0.9 allowed"),
        ("gopher-ellipsis-lines", "read more...\nand more…\nend.", "0.6667, at most 0.3 allowed"),
        ("gopher-alphabetic-words", "1 2 3 four", "0.25, at least 0.8 allowed"),
        ("gopher-stop-words", "and The END of", "2, at least 3 allowed"),
        ("gopher-duplicate-lines", "a\nb\na\na", "0.5, at most 0.3 allowed"),
        ("gopher-duplicate-line-chars", "aaaa\nb\naaaa", "0.3636, at most 0.2 allowed"),
        ("gopher-duplicate-paragraphs", "a\n\nb\n\na\n\na", "0.5, at most 0.3 allowed"),
        ("gopher-duplicate-paragraph-chars", "aaaa\n\nb\n\naaaa", "0.3077, at most 0.2 allowed"),
        ("gopher-top-2-gram", "a b c a b", "0.6667, at most 0.2 allowed"),
        ("gopher-top-3-gram", "a b c d a b c", "0.7692, at most 0.18 allowed"),
        ("gopher-top-4-gram", "a b c d", "1, at most 0.16 allowed"),
        ("gopher-duplicate-5-grams", "a b c d e a b c d e", "0.2632, at most 0.15 allowed"),
        ("gopher-duplicate-10-grams", " ".join("abcdefghij" * 2), "0.2564, at most 0.1 allowed"),
    ],
)
def test_each_filter_of_gopher_names_itself_and_what_it_measured(name: str, text: str, measured: str) -> None:
    limits = dataclasses.replace(LIMITS, min_stop_words=3)
    assert gopher_reason(text, [name], limits) == (name, measured)


def test_good_prose_passes_all_and_only_chosen_filters_run() -> None:
    assert gopher_reason(prose(100), GOPHER, LIMITS) is None
    assert gopher_reason("x", [], LIMITS) is None
    assert gopher_reason("x", list(C4), LIMITS) is None
    assert gopher_reason("", GOPHER, LIMITS) == ("gopher-word-count", "0, at least 50 allowed")
    assert gopher_reason("", GOPHER[1:], LIMITS) == ("gopher-word-length", "0, at least 3 allowed")


def test_limits_are_the_callers() -> None:
    assert gopher_reason("too few words", ["gopher-word-count"], dataclasses.replace(LIMITS, min_words=3)) is None
    with pytest.raises(ConfigError, match="max_top_ngrams needs 3 figures, for n-grams of 2, 3, 4 words"):
        QualityLimits(max_top_ngrams=[0.2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't stop, it's (e.g.) 32-bit...", "do n't stop , it 's ( e.g. ) 32 - bit ..."),
        ("a/b std::vector<int> x=1 v1.2.", "a / b std::vector < int > x=1 v1.2 ."),
        ("http://x.org/a-b, well-known U.S. I'm $5 50% 10-20 “so”.", None),
        ("grüße naïve Ünder-Ölen. ἀρχή！", None),
    ],
)
def test_words_are_spacys(text: str, words: str | None) -> None:
    if words is None:
        needs_datatrove()
        from datatrove.utils.text import split_into_words

        words = " ".join(split_into_words(text))
    want = words.split()
    hashes, lengths, (num_words, *_) = Measured(text, LIMITS).words
    assert lengths.tolist() == [len(word) for word in want] and num_words == len(want)
    assert len(dict(zip(want, hashes.tolist(), strict=True))) == len(set(hashes.tolist()))  # a hash for each word


def slow_ngrams(words: list[str]) -> list[int]:
    """Return the numbers of characters as the paper has them, by counting strings."""
    found = []
    for n in (2, 3, 4):
        grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        found.append(max((len(g) * c for g, c in Counter(grams).most_common(1)), default=0))
    for n in range(5, 11):
        seen, at, chars = set(), 0, 0
        while at <= len(words) - n:
            gram = tuple(words[at : at + n])
            chars += sum(map(len, gram)) * (gram in seen)
            at += n if gram in seen else 1
            seen.add(gram)
        found.append(chars)
    return found


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=60))
@settings(deadline=None, max_examples=200)
def test_ngrams_are_counted_as_by_hand(words: list[str]) -> None:
    text = " ".join(words)
    counted = [round(share * max(1, len(text))) for share in Measured(text, LIMITS).ngrams]
    assert counted == slow_ngrams(words)


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=200)
def test_any_text_gets_a_verdict(text: str) -> None:
    for name in GOPHER:
        reason = gopher_reason(text, [name], LIMITS)
        assert reason is None or reason[0] == name
    c4_edits(text, C4, LIMITS)


# ---- C4

LONG = f"This line holds a word of {'x' * 1001} characters."
PAGE = (
    f"Short line.\n{LONG}\nThis line has enough words to stay[1] here.\nThis one does not end in a stop\n\n\n"
    "Please enable Javascript to see all of this page.\nOur privacy policy says a lot of things.\n\n"
    "The last line is a good one? It is indeed!\n"
)


def c4(text: str, *filters: str, **limits: Any) -> str | tuple[str, str]:
    edits, reason = c4_edits(text, filters, QualityLimits(**limits))
    return reason or apply_edits(text, edits)


def test_lines_that_fail_are_taken_out_and_paragraphs_stay() -> None:
    assert c4(PAGE, *C4) == ("This line has enough words to stay here.\n\nThe last line is a good one? It is indeed!")


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("c4-terminal-punctuation", "This one does not end in a stop"),
        ("c4-short-lines", "Short line."),
        ("c4-javascript", "Please enable Javascript to see all of this page."),
        ("c4-citations", "[1]"),
        ("c4-policy", "Our privacy policy says a lot of things."),
        ("c4-long-words", LONG),
    ],
)
def test_each_line_filter_takes_its_own(name: str, gone: str) -> None:
    left = c4(PAGE, name)
    assert isinstance(left, str)
    assert [line for line in left.split("\n") if line] == [line for line in PAGE.replace(gone, "").split("\n") if line]


@pytest.mark.parametrize(
    ("name", "text", "detail"),
    [
        ("c4-lorem-ipsum", "Good.\nLorem Ipsum dolor.", "in 'Lorem Ipsum dolor.'"),
        ("c4-curly-bracket", "if (a) { b; }", "in 'if (a) { b; }'"),
        ("c4-sentences", "One. Two.", "2, at least 3 allowed"),
    ],
)
def test_each_page_filter_drops_the_page(name: str, text: str, detail: str) -> None:
    assert c4(text, name) == (name, detail)
    assert (
        c4(
            text,
            *(
                other
                for other in C4
                if other not in (name, "c4-terminal-punctuation", "c4-short-lines", "c4-sentences")
            ),
        )
        == text
    )


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        ('He said "all five words stay"', True),
        ("He said 'these five words go'", False),
        ("All of it goes on...", False),
        (f"This is a long word: {'x' * 999}.", True),
        ("Here are five words now.[1]", True),
        ("[1] Here are four words.", False),
    ],
)
def test_lines_stay_or_go_as_in_the_authors_code(line: str, stays: bool) -> None:
    left = c4(line, *(name for name in C4 if name != "c4-sentences"))
    assert isinstance(left, str) and bool(left) is stays


def test_pages_are_judged_by_the_lines_that_stay() -> None:
    assert c4("Fine line of five words.\nfunction() {", "c4-terminal-punctuation", "c4-curly-bracket") == (
        "Fine line of five words."
    )


# ---- as datatrove decides


def needs_datatrove() -> None:
    if importlib.util.find_spec("datatrove") is None or importlib.util.find_spec("spacy") is None:
        pytest.skip("datatrove and spacy are not installed; pip install 'rag-hpc[bench]'")


@lru_cache(maxsize=1)
def real_texts() -> tuple[str, ...]:
    return tuple(_real_texts())


def _real_texts() -> Iterator[str]:
    for name in CORPORA:
        path = DATA / f"{name}.jsonl.zst"
        if not path.is_file():
            pytest.skip(f"no {path}; set RAG_HPC_DATA")
        lines = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode().split("\n")
        yield from filter(None, (clean_text(json.loads(line)["text"]) for line in lines[::EVERY] if line))


def agreement(peer: Any, ours: Any) -> float:
    """Return the share of texts on which both keep, or both drop."""
    from datatrove.data import Document

    same = [(peer.filter(Document(text=text, id="")) is True) == (ours(text) is None) for text in real_texts()]
    assert 0 < sum(ours(text) is None for text in real_texts()) < len(same) > 300
    return sum(same) / len(same)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("peer", "names"), [("GopherQualityFilter", GOPHER_QUALITY), ("GopherRepetitionFilter", GOPHER_REPETITION)]
)
def test_gopher_agrees_with_datatrove(peer: str, names: dict[str, Any]) -> None:
    needs_datatrove()
    from datatrove.pipeline import filters

    assert agreement(getattr(filters, peer)(), lambda text: gopher_reason(text, list(names), LIMITS)) >= 0.995


@pytest.mark.filterwarnings("ignore")
def test_c4_agrees_with_datatrove(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same sentences and end marks all verdicts and texts are the same; with its own nearly all verdicts."""
    needs_datatrove()
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter, c4_filters

    peer, limits = C4QualityFilter(), QualityLimits(c4_min_line_words=3, c4_min_sentences=5)
    assert agreement(peer, lambda text: c4_edits(text, C4, limits)[1]) >= 0.985
    monkeypatch.setattr(c4_filters, "END_PUNCTUATION", (".", "?", "!", '"'))
    monkeypatch.setattr(c4_filters, "split_into_sentences", lambda text, language: sentence_spans(text))
    for text in real_texts():
        document = Document(text=text, id="")
        edits, reason = c4_edits(text, C4, limits)
        assert (peer.filter(document) is True) == (reason is None)
        if reason is None:
            lines = [line.strip() for line in apply_edits(text, edits).split("\n")]
            assert [line for line in lines if line] == document.text.split("\n")
