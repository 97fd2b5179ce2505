from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.extract.entities import unescape


def test_references_are_replaced() -> None:
    assert unescape("a &amp;&#x41;&#66; &nosuch; &lt;b&gt;") == "a &AB &nosuch; <b>"


def test_reference_of_thousands_of_digits_is_no_error() -> None:
    assert unescape("a&#" + "9" * 5000 + ";b&#x" + "f" * 9000) == "a\ufffdb\ufffd"


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="&#x;0123456789abfAF ", max_size=60))
def test_any_text_can_be_unescaped(text: str) -> None:
    assert isinstance(unescape(text), str)
