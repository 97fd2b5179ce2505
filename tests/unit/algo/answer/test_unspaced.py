"""Answers, citations and quotations in languages that part no words by spaces."""

from __future__ import annotations

import pytest

from rag_hpc.algo.answer.answers import exact_match, token_f1
from rag_hpc.algo.answer.cite import parse_citations, uncited_sentences, verify_citations
from rag_hpc.algo.answer.pack import pack
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.answer.score import by_words
from rag_hpc.algo.answer.sentences import sentences_of, words_of


def passage(text: str, title: str = "") -> Passage:
    return Passage(chunk_id="c", doc_id="d", title=title, text=text)


@pytest.mark.parametrize(
    ("answer", "gold", "f1", "match"),
    [
        ("由老王和港务局管理", "老王和港务局", 0.8, 0.0),
        ("北京", "北京市", 4 / 5, 0.0),
        ("1920年6月3日。", "1920年6月3日", 1.0, 1.0),
        ("「東京 タワー」", "東京タワー", 1.0, 1.0),
        ("《红楼梦》、曹雪芹", "红楼梦曹雪芹", 1.0, 1.0),
        ("ＮＨＫ！", "ＮＨＫ", 1.0, 1.0),
        ("上海", "北京", 0.0, 0.0),
        ("กรุงเทพมหานคร", "กรุงเทพ", 12 / 18, 0.0),
        ("ວຽງຈັນ", "ວຽງຈັນ", 1.0, 1.0),
        ("ភ្នំពេញ។", "ភ្នំពេញ", 1.0, 1.0),
        ("ရန်ကုန်မြို့။", "ရန်ကုန်", 8 / 9, 0.0),
        ("GDP 第3位", "gdp第3位", 1.0, 1.0),
        ("“Quick” – brown…", "quick brown", 1.0, 1.0),
    ],
)
def test_characters_count_as_words_do_and_punctuation_of_any_width_as_none(
    answer: str, gold: str, f1: float, match: float
) -> None:
    assert token_f1(answer, [gold]) == pytest.approx(f1)
    assert exact_match(answer, [gold]) == match


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("A 【1】.", [1]),
        ("A 【1†source】.", [1]),
        ("A ［1］.", [1]),
        ("A【２】［３］。", [2, 3]),
        ("A【1，2】、［3、4］.", [1, 2, 3, 4]),
        ("A 【 1 】 [ 2 ] 〔3〕", [1, 2, 3]),
        ("A 【3†L10-L20】[2†x.pdf].", [3, 2]),
        ("A ⟦1⟧, ❲2❳〚3〛.", [1, 2, 3]),
        ("A [1–3], 【5-6】, 【8～9】.", [1, 2, 3, 5, 6, 8, 9]),
        ("A [Source 1][Doc. 2] 【来源3】[Passages 4, 5].", [1, 3, 4, 5]),
        (r"A \[1\].", [1]),
        ("the class [1-9] or [0-9]+ and 【1-400】", [1, 400]),
        ("A [^1].", [1]),
        ("`a【1】` and 【x】, 【0】, 【1.5】, (1)", []),
    ],
)
def test_citations_are_read_in_all_brackets_that_models_write(answer: str, numbers: list[int]) -> None:
    assert parse_citations(answer) == numbers


@pytest.mark.parametrize("mark", ["[1]", "【1】", "［１］", "【1†source】", "⟦1⟧", "[来源 1]"])
def test_a_citation_before_or_behind_the_stop_is_its_sentences(mark: str) -> None:
    held = passage("这座灯塔由老王管理。码头在春天开放。")
    for answer in (f"这座灯塔由老王管理{mark}。码头在春天开放。", f"这座灯塔由老王管理。{mark}码头在春天开放。"):
        (check,) = verify_citations(answer, [held])
        assert (check.sentence, check.reason) == ("这座灯塔由老王管理。", "quoted")
        assert uncited_sentences(answer) == ["码头在春天开放。"]


CLAIMS = {  # passage, what it says, what it does not
    "narrow": ("ファミリーマートは1981年に設立された。", "ﾌｧﾐﾘｰﾏｰﾄは１９８１年設立。", "ﾛｰｿﾝは１９７５年設立。"),
    "zh": (
        "这座灯塔由老王和港务局共同管理，建于一九二〇年，高三十二米。",
        "灯塔的管理者是老王和港务局两方。",
        "灯塔的管理者是小李和渔业公司两方。",
    ),
    "zh-hant": (
        "這座燈塔由老王和港務局共同管理，建於一九二〇年，高三十二米。",
        "燈塔建於一九二〇年，高三十二米。",
        "碼頭毀於一八五〇年，長六十米。",
    ),
    "ja": (
        "この灯台は1920年に建てられ、港湾局と山田さんが共同で管理している。",
        "灯台を管理しているのは港湾局と山田さんです。",
        "工場を経営しているのは鉄道会社と鈴木さんです。",
    ),
    "th": (
        "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย เป็นศูนย์กลางการปกครอง",
        "เมืองหลวงของประเทศไทยคือกรุงเทพมหานคร",
        "ภูเขาไฟระเบิดเมื่อร้อยปีก่อนทำให้หมู่บ้านเสียหาย",
    ),
    "km": (
        "ភ្នំពេញជារាជធានីនិងជាទីក្រុងធំជាងគេនៃព្រះរាជាណាចក្រកម្ពុជា។",
        "រាជធានីនៃព្រះរាជាណាចក្រកម្ពុជាគឺភ្នំពេញ។",
        "ឆ្មាដេកនៅលើតុក្នុងផ្ទះបាយរបស់ខ្ញុំ។",
    ),
    "my": (
        "ရန်ကုန်မြို့သည် မြန်မာနိုင်ငံ၏ အကြီးဆုံးမြို့ ဖြစ်ပြီး စီးပွားရေးဗဟိုချက် ဖြစ်သည်။",
        "မြန်မာနိုင်ငံ၏ အကြီးဆုံးမြို့သည် ရန်ကုန်မြို့ ဖြစ်သည်။",
        "ကြောင်လေးက မီးဖိုချောင်ထဲမှာ အိပ်နေတယ်။",
    ),
}


@pytest.mark.parametrize("language", CLAIMS)
def test_the_check_tells_what_a_passage_says_from_what_it_does_not(language: str) -> None:
    text, said, unsaid = CLAIMS[language]
    assert [c.supported for c in verify_citations(f"{said}[1]", [passage(text)])] == [True]
    assert [c.supported for c in verify_citations(f"{unsaid}[1]", [passage(text)])] == [False]
    assert verify_citations(f"{text}【1】", [passage(text)])[0].reason == "quoted"


def test_a_quotation_in_corner_brackets_must_stand_in_the_passage() -> None:
    held = passage("港務局說燈塔明年春天重建完成，屆時開放參觀。")
    assert verify_citations("港務局說「燈塔明年春天重建」，屆時開放參觀[1]。", [held])[0].supported
    assert verify_citations("港務局說「燈塔後年秋天重建」，屆時開放參觀[1]。", [held])[0].reason == "misquoted"


@pytest.mark.parametrize(
    ("question", "answering", "others"),
    [
        ("新码头什么时候开放？", "新码头于次年春天开放。", "老码头在洪水中被冲毁，市议会决定重建。"),
        ("灯塔的第一任看守人是谁？", "灯塔的第一任看守人是王先生。", "这座灯塔建于一九二〇年，高三十二米。"),
        ("灯台はいつ建てられましたか。", "灯台は1920年に建てられた。", "港には毎朝たくさんの漁船が帰ってくる。"),
        ("กีฬาประจำชาติของไทยคืออะไร", "มวยไทยเป็นกีฬาประจำชาติของประเทศไทย", "ภูเก็ตเป็นเกาะที่ใหญ่ที่สุดในทะเลอันดามัน"),
    ],
)
def test_the_sentence_with_the_questions_characters_is_prose_that_has_most_of_its_words(
    question: str, answering: str, others: str
) -> None:
    held = [passage(others), passage(answering)]
    features = by_words(question, held, sentences_of(held))
    words, prose = features[:, 0], features[:, 3]
    assert words[-1] > 0.6 > 0.4 > words[0]
    assert prose.tolist() == [1.0] * len(features)


@pytest.mark.parametrize("text", ["1920 年" + "灯塔" * 300, "กรุงเทพ " + "ภูเก็ต" * 100])
def test_a_passage_too_long_for_a_prompt_loses_its_end_not_all_behind_its_last_space(text: str) -> None:
    (kept,), counts = pack([passage(text)], 150, len)
    assert counts["cut"] == 1 and text.startswith(kept.text)
    assert 80 < len(kept.text) <= 150 and not text[len(kept.text) :].startswith(("ั", "็", "ุ", "ู"))


def test_words_of_a_mixed_question_are_those_of_both_scripts() -> None:
    assert words_of("GDP的增长 of lruCache") == {"gdp", "增长", "lru", "cach"}
