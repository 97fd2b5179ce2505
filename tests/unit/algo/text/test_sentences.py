from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.text.sentences import sentence_spans

WRAPPED = "A batch script is a shell script that holds options,\nand they are read by sbatch before the job is queued."


def pieces(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "stop." Then left.', ['He said "stop."', "Then left."]),
        ("See e.g. Fig. 3 by J. Doe et al. for it. Next.", ["See e.g. Fig. 3 by J. Doe et al. for it.", "Next."]),
        ("Version 2.0 of foo.bar works... mostly. Yes.", ["Version 2.0 of foo.bar works... mostly.", "Yes."]),
        ("It began in 1990. It ended.", ["It began in 1990.", "It ended."]),
        ("اردو جملہ۔ دوسرا جملہ۔", ["اردو جملہ۔", "دوسرا جملہ۔"]),
        ("हिन्दी वाक्य। दूसरा वाक्य॥ तीसरा", ["हिन्दी वाक्य।", "दूसरा वाक्य॥", "तीसरा"]),
        ("Հայերեն։ Երկրորդ։ አማርኛ። ሁለተኛ፧ ሦስተኛ", ["Հայերեն։", "Երկրորդ։", "አማርኛ።", "ሁለተኛ፧", "ሦስተኛ"]),
        ("See 3.al. It was approx. 5, APPROX. 6.", ["See 3.al. It was approx. 5, APPROX. 6."]),
        ("A tapprox. It, a coconut. He, two zal. She.", ["A tapprox.", "It, a coconut.", "He, two zal.", "She."]),
        ("Il s'est. Et cité. Она. Он №5. É. X_al. End.", "Il s'est.|Et cité.|Она.|Он №5.|É. X_al.|End.".split("|")),
        ("See \u017ft. Paul. It\u0131. Co. of 1920 x. y", ["See \u017ft. Paul.", "It\u0131.", "Co. of 1920 x. y"]),
        ("1. Install it. Run it.\n2. Go.", ["1. Install it.", "Run it.", "2. Go."]),
        ("第一句。第二句！完", ["第一句。", "第二句！", "完"]),
        ("No stop here\n\nNew paragraph", ["No stop here", "New paragraph"]),
        ("Heading\nThe text starts. It goes on.", ["Heading", "The text starts.", "It goes on."]),
        ("- first item\n- second item", ["- first item", "- second item"]),
        ("    x = 1\n    y = 2\n", ["x = 1", "y = 2"]),
        ("  \n\t ", []),
        ("", []),
    ],
)
def test_splits(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_hard_wrapped_prose_stays_one_sentence() -> None:
    assert pieces(WRAPPED) == [WRAPPED]
    indented = "\n".join("    " + line for line in WRAPPED.split("\n"))
    assert pieces(indented) == [indented.strip()]


def test_line_with_another_indent_is_no_continuation() -> None:
    text = WRAPPED.replace("\nand", "\n    and")
    assert len(pieces(text)) == 2


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("aB1 .!?\n\t\"')。-\u00a0\u2003é"), max_size=120) | st.text(max_size=60))
def test_spans_cover_all_but_space_and_never_overlap(text: str) -> None:
    end_before = 0
    for start, end in sentence_spans(text):
        assert end_before <= start < end <= len(text)
        assert not text[end_before:start].strip()
        assert text[start:end] == text[start:end].strip()
        end_before = end
    assert not text[end_before:].strip()


@pytest.mark.parametrize("unit", [".", " ", "\n", ". ", '" ', "a.", '...""', "a\n", "1. ", "of. ", "กา "])
def test_monotonous_text_takes_linear_time(unit: str) -> None:
    begin = time.process_time()
    sentence_spans(unit * 200_000 + "x")
    assert time.process_time() - begin < 5
