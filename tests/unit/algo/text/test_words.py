"""What a word is in scripts with and without spaces, and that all who need one agree."""

from __future__ import annotations

import re
import unicodedata

import pytest

from rag_hpc.algo.text.sentences import sentence_spans
from rag_hpc.algo.text.words import LETTERS, MARKS, columns, content_words, num_words, words

WORDS = {
    "Hello_1 wörld, it's": ["Hello_1", "wörld", "it", "s"],
    "在1920年6月，GDP很高": ["在", "1920", "年", "6", "月", "GDP", "很", "高"],
    "カタカナ語のｶﾀｶﾅ々〇": list("カタカナ語のｶﾀｶﾅ々〇"),
    "กรุงเทพ ๒๕๖๕": ["ก", "รุ", "ง", "เ", "ท", "พ", "๒๕๖๕"],
    "ວຽງຈັນ": ["ວ", "ຽ", "ງ", "ຈັ", "ນ"],
    "ភ្នំពេញ ៥": ["ភ្នំ"[:2], "នំ", "ពេ", "ញ", "៥"],
    "ရန်ကုန်": ["ရ", "န်", "ကု", "န်"],
    "서울 시민": ["서울", "시민"],
    "𠀀か\u3099": ["𠀀", "か\u3099"],
}


@pytest.mark.parametrize("text", WORDS)
def test_a_word_is_a_run_of_letters_or_one_character_with_its_marks(text: str) -> None:
    assert words(text) == WORDS[text]


def test_the_table_of_scripts_is_that_of_unicode() -> None:
    scripts = re.compile(
        "CJK (UNIFIED|COMPAT)|HIRAGANA|(HALFWIDTH )?KATAKANA|BOPOMOFO|THAI|LAO|MYANMAR|KHMER|TAI |NEW TAI"
    )
    letter, mark = re.compile(f"[{LETTERS}]"), re.compile(f"[{MARKS}]")
    for char in map(chr, range(0xFF, 0x30000)):
        category = unicodedata.category(char)
        if scripts.match(unicodedata.name(char, "")) and category[0] in "LM":
            assert bool(mark.match(char)) == (category[0] == "M"), hex(ord(char))
            assert bool(letter.match(char)) == (category[0] == "L"), hex(ord(char))
        elif not re.match(r"\w", char) and category not in ("Cn", "Mn", "Mc"):
            assert not letter.match(char) and not mark.match(char), hex(ord(char))


def test_content_words_leave_out_what_any_sentence_has() -> None:
    assert content_words("What is the default_mode of it?") == ["default_mode"]
    assert content_words("灯塔的守人是谁？") == ["灯", "塔", "灯塔", "守", "人", "守人"]
    assert content_words("港はどこですか") == ["港"]
    assert content_words("ช้างคืออะไร") == ["ช้าง"]
    assert content_words("GDP的增") == ["gdp", "增"]


def test_numbers_of_words_and_columns_are_those_of_a_reader() -> None:
    assert [num_words(t) for t in ("two words", "灯塔的守人", "GDP很高。", "", "กรุงเทพ")] == [2, 3, 2, 0, 3]
    assert [columns(t) for t in ("abc", "漢字", "é漢", "กา")] == [3, 4, 3, 2]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("他在北京。他说：“你好！”然后走了？好", ["他在北京。", "他说：“你好！”", "然后走了？", "好"]),
        ("値は３．１４である．次に進む．", ["値は３．１４である．", "次に進む．"]),
        ("ភ្នំពេញជារាជធានី។វាធំ។", ["ភ្នំពេញជារាជធានី។", "វាធំ។"]),
        ("ရန်ကုန်သည်မြို့။ကြီးသည်၊သာသည်။", ["ရန်ကုန်သည်မြို့။", "ကြီးသည်၊သာသည်။"]),
        (
            "ภูเก็ตเป็นเกาะที่ใหญ่ที่สุดของไทย ตั้งอยู่ในทะเล ใน พ.ศ. 2500 มีคน",
            ["ภูเก็ตเป็นเกาะที่ใหญ่ที่สุดของไทย", "ตั้งอยู่ในทะเล ใน พ.ศ. 2500 มีคน"],
        ),
        (
            "ວຽງຈັນເປັນນະຄອນຫຼວງຂອງລາວ ຕັ້ງຢູ່ແຄມແມ່ນ້ຳຂອງ",
            ["ວຽງຈັນເປັນນະຄອນຫຼວງຂອງລາວ", "ຕັ້ງຢູ່ແຄມແມ່ນ້ຳຂອງ"],
        ),
    ],
)
def test_sentences_end_as_each_script_ends_them(text: str, sentences: list[str]) -> None:
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences
