from __future__ import annotations

import re
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.chunk.chunking import Span, Tokens, chunk_ids, chunk_spans
from rag_hpc.algo.chunk.structure import TOPIC, Breaks, find_breaks, given_headings
from rag_hpc.algo.extract.decode import markdown_headings

WORD = re.compile(r"[a-z]+|[A-Z0-9]|[^\w\s]|[^\x00-\x7f]")
PIECE = 3  # letters of a word's token
TEXTS = st.text(alphabet=st.sampled_from("abcdABC  .!?,\n\n#|é字"), max_size=200)


def tokens_of(text: str) -> Tokens:
    """Words in pieces of three letters, like a wordpiece."""
    starts, is_word = [], []
    for match in WORD.finditer(text):
        if match[0].strip():
            pieces = range(match.start(), match.end(), PIECE)
            starts += pieces
            is_word += [place == match.start() for place in pieces]
    return Tokens(starts_T=np.array(starts, dtype=np.int64), is_word_T=np.array(is_word, dtype=np.bool_))


@dataclass
class Limit:
    text: str
    most: int

    def room(self, start: int) -> int:
        return self.most

    def num_tokens(self, start: int, end: int) -> int:
        return len(tokens_of(self.text[start:end]).starts_T)


def cut(text: str, most: int, overlap: int = 0, extra: Breaks | None = None) -> list[str]:
    return [text[span.start : span.end] for span in spans_of(text, most, overlap, extra)]


def spans_of(text: str, most: int, overlap: int = 0, extra: Breaks | None = None) -> list[Span]:
    breaks = find_breaks(text, given_headings([list(heading) for heading in markdown_headings(text)], text))
    return chunk_spans(
        text, tokens_of(text), breaks + extra if extra else breaks, Limit(text, most), overlap_tokens=overlap
    )


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.integers(1, 20), st.integers(0, 10))
def test_chunks_hold_every_token_and_keep_the_limit(text: str, most: int, overlap: int) -> None:
    spans = spans_of(text, most, overlap)
    for span in spans:
        piece = text[span.start : span.end]
        assert piece == piece.strip() != ""
        assert 1 <= span.num_tokens == len(tokens_of(piece).starts_T) <= most
    for before, after in pairwise(spans):
        assert before.start < after.start and before.end < after.end  # guaranteed progress
        assert after.start >= before.end or len(tokens_of(text[after.start : before.end]).starts_T) <= overlap
    covered = {at for span in spans for at in range(span.start, span.end)}
    assert covered >= {at for at, ch in enumerate(text) if not ch.isspace()} or not spans
    assert bool(spans) == bool(len(tokens_of(text).starts_T))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 20))
def test_without_overlap_chunks_share_nothing(text: str, most: int) -> None:
    assert all(before.end <= after.start for before, after in pairwise(spans_of(text, most)))


def test_sections_stay_whole_where_they_fit() -> None:
    text = "# A\n\na b c d.\n\ne f g h.\n\n# B\n\ni j k l.\n\n## C\n\nm n o p q r s t u v w x."
    assert cut(text, 20) == ["# A\n\na b c d.\n\ne f g h.", "# B\n\ni j k l.", "## C\n\nm n o p q r s t u v w x."]


def test_paragraphs_then_lines_then_sentences_then_words() -> None:
    assert cut("a b c d\n\ne f\ng h. I j", 8) == ["a b c d", "e f\ng h. I j"]
    assert cut("a b c d\ne f. G h i", 8) == ["a b c d", "e f. G h i"]
    assert cut("a b c dd. E f g, h i", 8) == ["a b c dd.", "E f g, h i"]
    assert cut("a b c d e f, g h", 8) == ["a b c d e f, g", "h"]
    assert cut("a," * 5, 8) == ["a,a,a,a,", "a,"]
    assert cut("a b c d e,f,g,h", 6)[0] == "a b c d"
    assert cut("a b\n\nc d e f g h i j k l", 8)[0] == "a b"  # a paragraph where only a sentence was looked for


def test_code_is_not_cut_where_it_fits() -> None:
    text = "A b. C d e.\n\n```\nx = 1\n\ny = 2\n```\n"
    assert cut(text, 13) == ["A b. C d e.", "```\nx = 1\n\ny = 2\n```"]
    assert cut("```\n" + "x = 1\n\n" * 3 + "```", 11)[0] == "```\nx = 1\n\nx = 1"


def test_overlap_is_whole_sentences() -> None:
    assert cut("Aa bb cc. Dd ee ff. Gg hh ii.", 14, 7) == ["Aa bb cc. Dd ee ff.", "Dd ee ff. Gg hh ii."]


def test_overlap_gives_way_to_a_better_end() -> None:
    assert cut("Aa bb. Cc dd ee ff gg hh.", 8, 3) == ["Aa bb.", "Cc dd ee ff gg hh."]


def test_overlap_stays_in_its_section() -> None:
    assert cut("# A\nb c d.\n\n# E\nf g h i j.", 9, 4) == ["# A\nb c d.", "# E\nf g h i j."]


def test_tail_of_a_long_sentence_is_carried_over() -> None:
    found = cut(" ".join("abcdefghijklmn"), 6, 2)
    assert [piece.replace(" ", "") for piece in found] == ["abcdef", "efghij", "ijklmn"]


def test_overlap_is_at_most_half_of_a_chunk() -> None:
    found = cut(" ".join("abcdefghijklmn"), 6, 100)
    assert [piece.replace(" ", "") for piece in found] == ["abcdef", "defghi", "jklmn"]  # the last gives way


def test_topics_are_stronger_than_paragraphs() -> None:
    text = "A b. C d.\n\nE f. G h. I j."
    topic = Breaks(places_B=np.array([text.index("G")]), ranks_B=np.array([TOPIC], dtype=np.int8))
    assert cut(text, 12) == ["A b. C d.", "E f. G h. I j."]
    assert cut(text, 12, extra=topic) == cut(text, 12, 4, extra=topic) == ["A b. C d.\n\nE f.", "G h. I j."]


def test_word_is_cut_only_when_it_alone_is_too_long() -> None:
    assert cut("ab " + "x" * 27 + " cd", 9) == ["ab", "x" * 27, "cd"]
    assert [len(piece) for piece in cut("x" * 30, 4)] == [12, 12, 6]


class Costly(Limit):
    def num_tokens(self, start: int, end: int) -> int:
        return super().num_tokens(start, end) + 2


def test_slice_that_has_more_tokens_alone_is_made_shorter() -> None:
    text = "ab cd. Ef gh. Ij kl."
    given_tokens = tokens_of(text)
    loose = Tokens(starts_T=given_tokens.starts_T, is_word_T=given_tokens.is_word_T, exact=False)
    spans = chunk_spans(text, loose, find_breaks(text), Costly(text, 8))
    assert [span.num_tokens for span in spans] == [5, 6, 6]


def test_slices_of_a_word_are_read_alone() -> None:
    text = "x" * 30
    spans = chunk_spans(text, tokens_of(text), find_breaks(text), Costly(text, 4))
    assert [(span.end - span.start, span.num_tokens) for span in spans] == [(6, 4)] * 5


def test_places_to_cut_inside_one_token_are_not_counted() -> None:
    text = "a " + "x" * 300 + " b"
    tokens = Tokens(starts_T=np.array([0, 2, 303]), is_word_T=np.array([True] * 3))

    class Three(Limit):
        def num_tokens(self, start: int, end: int) -> int:
            return 3

    assert chunk_spans(text, tokens, find_breaks(text), Three(text, 50)) == [Span(0, len(text), 3)]


def test_tokens_that_share_a_character_are_in_one_chunk() -> None:
    tokens = Tokens(starts_T=np.array([0, 1, 1, 1, 2]), is_word_T=np.array([True, True, False, False, True]))
    spans = chunk_spans("a€b", tokens, find_breaks("a€b"), Limit("a€b", 3))
    assert [(s.start, s.end) for s in spans] == [(0, 1), (1, 2), (2, 3)]


class OneEach(Limit):
    def num_tokens(self, start: int, end: int) -> int:
        return 1


def test_one_endless_word_and_endless_space_are_cut_in_linear_time() -> None:
    word, gap = "a" * 3_000_000, "a" + " " * 3_000_000 + "b"
    one = Tokens(starts_T=np.array([0]), is_word_T=np.array([True]))
    two = Tokens(starts_T=np.array([0, len(gap) - 1]), is_word_T=np.array([True, True]))
    begun = time.process_time()
    spans = chunk_spans(word, one, find_breaks(word), OneEach(word, 254))
    assert max(span.end - span.start for span in spans) <= 254 * 32 and spans[-1].end == len(word)
    assert all(before.end == after.start for before, after in pairwise(spans))
    spans = chunk_spans(gap, two, find_breaks(gap), OneEach(gap, 254))
    assert [gap[span.start : span.end] for span in spans] == ["a", "b"]
    assert time.process_time() - begun < 10


def test_text_without_tokens_has_no_chunks() -> None:
    assert cut(" \n", 5) == []


def test_ids_name_the_place() -> None:
    assert chunk_ids("http://h/p", [Span(0, 5, 2), Span(3, 9, 2)]) == ["http://h/p#0-5", "http://h/p#3-9"]
