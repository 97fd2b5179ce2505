from __future__ import annotations

import itertools
import re
import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.shingle import shingles

TEXTS = st.text(alphabet=st.sampled_from("aB0_ .,\nßİ字é\u00a0\u2028\x1c"), max_size=80)


def reference(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    n = min(n, len(words))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} if words else set()


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 6))
def test_hash_sets_meet_exactly_where_the_word_ngrams_do(a: str, b: str, n: int) -> None:
    found_a, found_b = set(shingles(a, n).tolist()), set(shingles(b, n).tolist())
    assert len(found_a) == len(reference(a, n))
    short = min(len(re.findall(r"\w+", t.lower())) for t in (a, b))
    if short >= n:  # shorter texts have n-grams of another length, which must not meet
        assert len(found_a & found_b) == len(reference(a, n) & reference(b, n))


def test_no_two_orders_of_few_words_meet() -> None:
    grams = [" ".join(gram) for gram in itertools.product("abcd", repeat=5)]
    assert len({int(shingles(gram)[0]) for gram in grams}) == 4**5


def test_case_and_punctuation_do_not_count_but_order_does() -> None:
    assert shingles("One two, THREE four five!").tolist() == shingles("one two three four five").tolist()
    assert shingles("one two three four five").tolist() != shingles("five four three two one").tolist()


def test_text_shorter_than_n_has_one_shingle_and_no_words_none() -> None:
    assert len(shingles("a b c")) == 1
    assert shingles("a b c").tolist() != shingles("a b").tolist()
    assert len(shingles(" .,! ")) == 0
    assert shingles("").dtype == np.uint64


def test_result_is_sorted_and_unique() -> None:
    found = shingles("a b c d e " * 20)
    assert len(found) == 5
    assert np.all(found[1:] > found[:-1])


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from rag_hpc.algo.shingle import shingles; print(shingles('to be or not to be é').tolist())"
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(p for p in sys.path if p)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == str(shingles("to be or not to be é").tolist())


def test_lone_surrogates_do_not_break_it() -> None:
    assert len(shingles("a\ud800b c")) == 1
