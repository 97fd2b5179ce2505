from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.dedup import sketch_bits
from rag_hpc.algo.dedup.minhash import Family
from rag_hpc.algo.dedup.sketch import from_texts, jaccard, jaccard_pairs, shingle_sets, sketch, sketch_texts
from rag_hpc.algo.text.words import LETTERS, MARKS, WORD, words
from rag_hpc.errors import ConfigError, InputError

HARD = (  # case, classes, widths
    "字の〇ー𠀀กิำ๕ກັក្ខាကျွ\u3099ΣσςİıßẞKÅﬁ①²½Ⅳǅ🎉👩\u200d\u0307\u0301Ⱥⱥ١\u2028\x85\xa0\x1c\u200b\x00\ufeff\ud800"
)
_WORD_ALONE = re.compile(f"[{LETTERS}{MARKS}][{MARKS}]*")
PIECES = st.one_of(
    st.text(alphabet="abcXYZ09_ .,-\n", max_size=30),
    st.text(alphabet=HARD, max_size=4),
    st.text(max_size=3),
    st.integers(1, 80).map(lambda n: "Wd"[:n] * n),
    st.integers(1, 70).map(lambda n: " \n" * n),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def grams(text: str, n: int = 5) -> list[tuple[str, ...]]:
    found = words(text.lower())
    n = min(n, len(found))
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)] if found else []


def sets(texts: list[str], n: int = 5) -> list[set[int]]:
    flat, ends = shingle_sets(*from_texts(texts), n)
    return [set(part.tolist()) for part in np.split(flat, ends[:-1])]


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 6))
def test_hashes_meet_exactly_where_the_word_ngrams_do(a: str, b: str, n: int) -> None:
    found = sketch(*from_texts([a, b]), ngram=n)
    assert found.num_shingles_N.tolist() == [len(grams(a, n)), len(grams(b, n))]
    set_a, set_b = sets([a, b], n)
    assert (len(set_a), len(set_b)) == (len(set(grams(a, n))), len(set(grams(b, n))))
    if min(len(words(t.lower())) for t in (a, b)) >= n:  # n-grams of another length must not meet
        assert len(set_a & set_b) == len(set(grams(a, n)) & set(grams(b, n)))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.data())
def test_exact_hash_is_equal_for_texts_that_differ_in_case_and_white_space_only(text: str, data: st.DataObject) -> None:
    def normal(t: str) -> str:
        return " ".join(_WORD_ALONE.sub(" \\g<0> ", t.lower()).split())

    spaces = data.draw(st.lists(st.sampled_from([" ", "\n\t", "\u2003 ", " " * 70]), min_size=1, max_size=5))
    other = re.sub(r"\s", lambda match: match.group() + spaces[match.start() % len(spaces)], text.swapcase())
    exact = sketch(*from_texts([text, other, normal(text), text + "x", " \n" + text + "\t"])).exact_N
    assert (exact[0] == exact[1]) == (normal(text) == normal(other))
    assert exact[0] == exact[2] == exact[4]
    assert exact[0] != exact[3]


def test_every_code_point_is_classed_and_lowered_as_python_does() -> None:
    points = [chr(code) for code in range(0x110000)]
    texts = ["".join(f"x{c}y " for c in points[at : at + 64]) for at in range(0, len(points), 64)]
    lowered = [" ".join(text.lower().split()) for text in texts]
    found, again = sketch_texts(texts, ngram=1, num_perm=1), sketch_texts(lowered, ngram=1, num_perm=1)
    assert found.num_shingles_N.tolist() == [len(words(text)) for text in lowered]
    np.testing.assert_array_equal(found.exact_N, again.exact_N)
    np.testing.assert_array_equal(found.signatures_NK, again.signatures_NK)


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXTS, max_size=6), st.sampled_from(list(Family)))
def test_a_document_does_not_depend_on_those_around_it(texts: list[str], family: Family) -> None:
    together = sketch(*from_texts(texts), num_perm=19, family=family, sets=True)
    for row, text in enumerate(texts):
        data, ends = from_texts([text])
        alone = sketch(data[: ends[0]], ends, num_perm=19, family=family)
        np.testing.assert_array_equal(together.signatures_NK[row], alone.signatures_NK[0])
        assert together.exact_N[row] == alone.exact_N[0]
    flat, ends = shingle_sets(*from_texts(texts))
    np.testing.assert_array_equal(together.flat_S, flat)
    np.testing.assert_array_equal(together.set_ends_N, ends)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=150), min_size=1, max_size=5))
def test_bytes_that_are_not_utf8_are_no_words_and_do_no_harm(parts: list[bytes]) -> None:
    data, ends = np.frombuffer(b"".join(parts), np.uint8), np.cumsum([len(part) for part in parts])
    found = sketch(data, ends, ngram=1, num_perm=8)
    assert sketch(np.frombuffer(parts[0], np.uint8), ends[:1], ngram=1, num_perm=8).exact_N[0] == found.exact_N[0]
    for part, count in zip(parts, found.num_shingles_N.tolist(), strict=True):
        if part.isascii():
            assert count == len(re.findall(rb"\w+", part))
    cut = "word 字".encode()[:-1]
    assert sketch(np.frombuffer(cut, np.uint8), np.array([len(cut)]), ngram=1).num_shingles_N.tolist() == [1]


def test_broken_bytes_do_not_depend_on_the_capitals_beside_them() -> None:
    broken, after = b"one \xff word", " \u03a3 more".encode()
    both = sketch(np.frombuffer(broken + after, np.uint8), np.array([len(broken), len(broken + after)]))
    alone = sketch(np.frombuffer(broken, np.uint8), np.array([len(broken)]))
    assert both.exact_N[0] == alone.exact_N[0]


UNSPACED = {
    "zh": "老灯塔建于一百年前站在海港北边的礁石上每天傍晚看守人点"
    "亮灯火为归来的渔船指引方向然后在记录本上写下当天的天气",
    "ja": "古い灯台は百年前に建てられ港の北の岩の上に立っている毎晩番"
    "人が明かりをともして帰ってくる漁船を導きその日の天気を書く",
    "th": "ประภาคารเก่าสร้างขึ้นเมื่อหนึ่งร้อยปีก่อนและตั้งอยู่บนโขดหินทางเหนือของท่าเรือทุกเย็นผู้ดูแลจะจุดไฟเพื่อนำทางเรือประมงกลับบ้าน",
    "lo": "ປະພາຄານເກົ່າສ້າງຂຶ້ນເມື່ອຮ້ອຍປີກ່ອນແລະຕັ້ງຢູ່ເທິງໂຂດຫີນທາງເໜືອຂອງທ່າເຮືອທຸກແລງຜູ້ດູແລຈະຈູດໄຟເພື່ອນຳທາງເຮືອຫາປາກັບບ້ານ",
    "km": "ប៉មភ្លើងហ្វារចាស់ត្រូវបានសាងសង់កាលពីមួយរយឆ្នាំមុនហើយឈរនៅលើថ្មប៉ប្រះទឹកខាងជើងកំពង់ផែរៀងរាល់ល្ងាចអ្នកយាមបំភ្លឺភ្លើងសម្រាប់ទូកនេសាទ",
    "my": "မီးပြတိုက်ဟောင်းကိုလွန်ခဲ့သောနှစ်တစ်ရာကတည်ဆောက်ခဲ့ပြီးဆိပ်ကမ်းမြောက်ဘက်ရှိကျောက်ဆောင်ပေါ်တွင်ရပ်နေသည်ညနေတိုင်းအစောင့်ကမီးထွန်းသည်",
}


@pytest.mark.parametrize("language", UNSPACED)
def test_one_added_character_leaves_texts_without_spaces_alike(language: str) -> None:
    text = UNSPACED[language]
    middle = next(at for at in range(len(text) // 2, len(text)) if WORD.match(text, at))
    changed = text[:middle] + WORD.findall(text)[0] + text[middle:]
    a, b = (np.array(sorted(own), np.uint32) for own in sets([text, changed]))
    assert 0.8 < jaccard(a, b) < 1
    one, other, spaced = sketch_texts([text, changed, "\n".join(words(text))]).exact_N
    assert one != other and one == spaced


def test_few_words_make_one_shingle_and_none_make_none() -> None:
    found = sketch_texts(["a b c", "a b", " .,! ", "", "A, b: c"])
    assert found.num_shingles_N.tolist() == [1, 1, 0, 0, 1]
    assert (found.signatures_NK[0] != found.signatures_NK[1]).all()
    np.testing.assert_array_equal(found.signatures_NK[0], found.signatures_NK[4])
    assert (found.signatures_NK[2:4] == 0xFFFFFFFF).all()
    assert sets(["a b c", ""]) == [{int(shingle_sets(*from_texts(["a b c"]))[0][0])}, set()]


def test_order_counts_even_among_few_words() -> None:
    orders = sets([" ".join("abcd"[(i >> (2 * j)) & 3] for j in range(5)) for i in range(4**5)])
    assert len(set.union(*orders)) == 4**5


def test_hashes_are_those_of_every_machine() -> None:
    text = ["The same text gives the same keys on every machine, überall, and incomprehensibilities too"]
    found = sketch(*from_texts(text), num_perm=4, sets=True)
    assert found.signatures_NK[0].tolist() == PINNED_SIGNATURE  # another value is another stage version
    assert (int(found.exact_N[0]), int(found.flat_S[0])) == PINNED_HASHES


PINNED_SIGNATURE = [24452026, 831715926, 2208904836, 2641584244]
PINNED_HASHES = (1966283956665018458, 253573844)


def test_machines_without_an_instruction_do_the_same_without_it() -> None:
    @numba.njit
    def vector(data: np.ndarray, mask: np.uint64) -> tuple[np.ndarray, np.ndarray]:
        packed, places = np.zeros(128, np.uint8), np.zeros(128, np.uint32)
        sketch_bits.pack_lower(data, 0, mask, packed, 0)
        sketch_bits.put_places(mask, np.uint64(64), places, 0)
        return packed, places

    @numba.njit
    def portable(data: np.ndarray, mask: np.uint64) -> tuple[np.ndarray, np.ndarray]:
        packed, places = np.zeros(128, np.uint8), np.zeros(128, np.uint32)
        pack_runs(data, 0, mask, packed, 0)
        put_each(mask, np.uint64(64), places, 0)
        return packed, places

    pack_runs, put_each = numba.njit(sketch_bits.pack_runs), numba.njit(sketch_bits.put_each)
    rng = np.random.default_rng(2)
    masks = [0, 1, 1 << 63, 2**64 - 1, *(int(m) & int(n) for m, n in rng.integers(0, 2**64, (200, 2), dtype=np.uint64))]
    for mask in masks:
        data, size = rng.integers(0, 128, 64, dtype=np.uint8), mask.bit_count()
        kept = [place for place in range(64) if mask >> place & 1]
        blanks = np.where(np.isin(data, [*range(9, 14), *range(28, 32)]), 32, data).astype(np.uint8)
        for packed, places in (vector(data, np.uint64(mask)), portable(data, np.uint64(mask))):
            assert packed[:size].tobytes() == blanks[kept].tobytes().lower()
            assert places[:size].tolist() == [64 + place for place in kept]


def test_threads_give_what_one_gives() -> None:
    texts = [f"word{i % 97} stands in text {i} of many words " * (i % 40) for i in range(600)]
    expected = sketch_texts(texts)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(sketch_texts, [texts] * 8):
            np.testing.assert_array_equal(found.signatures_NK, expected.signatures_NK)
            np.testing.assert_array_equal(found.exact_N, expected.exact_N)
    np.testing.assert_array_equal(sketch(*from_texts(texts)).signatures_NK, expected.signatures_NK)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, 40)), min_size=2, max_size=5), st.data())
def test_jaccard_is_the_ratio_of_the_sets(found: list[set[int]], data: st.DataObject) -> None:
    flat = np.array([value for one in found for value in sorted(one)], np.uint32)
    ends = np.cumsum([len(one) for one in found])
    places = st.integers(0, len(found) - 1)
    pairs = data.draw(st.lists(st.tuples(places, places), max_size=8))
    expected = [len(found[a] & found[b]) / len(found[a] | found[b]) if found[a] and found[b] else 0.0 for a, b in pairs]
    assert jaccard_pairs(flat, ends, np.array(pairs, np.int64).reshape(-1, 2)).tolist() == expected
    one, two = (np.array(sorted(values), np.uint32) for values in found[:2])
    assert jaccard(one, two) == jaccard_pairs(flat, ends, np.array([[0, 1]]))[0]


def test_sets_of_many_hashes_are_sorted_and_unique() -> None:
    flat, ends = shingle_sets(*from_texts([" ".join(f"w{i % 700}" for i in range(3000)), "a b c d e f"]))
    assert ends.tolist() == [700, 702]
    assert (flat[1:700] > flat[:699]).all()


@pytest.mark.parametrize("ends", [[3, 2], [-1], [99]])
def test_ends_that_do_not_fit_are_refused(ends: list[int]) -> None:
    with pytest.raises(InputError, match="ascend"):
        sketch(np.zeros(5, np.uint8), np.array(ends))


def test_a_document_whose_places_do_not_fit_32_bits_is_refused() -> None:
    with pytest.raises(InputError, match="2147483648 bytes"):
        sketch(np.broadcast_to(np.uint8(32), (1 << 31) + 5), np.array([5, (1 << 31) + 5]), num_perm=1)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="ngram"):
        sketch(*from_texts(["a"]), ngram=0)
    with pytest.raises(ConfigError, match="num_perm"):
        sketch(*from_texts(["a"]), num_perm=0)
    with pytest.raises(InputError, match=r"documents 0\.\.1"):
        jaccard_pairs(np.zeros(1, np.uint32), np.array([1]), np.array([[0, 1]]))


def test_no_documents_give_empty_arrays() -> None:
    found = sketch_texts([])
    assert found.signatures_NK.shape == (0, 128)
    assert shingle_sets(*from_texts([]))[1].shape == (0,)
