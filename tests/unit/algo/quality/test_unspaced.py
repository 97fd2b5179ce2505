"""Quality filters on scripts without spaces: a character is a word, and lines end as these scripts end them."""

from __future__ import annotations

import pytest

from rag_hpc.algo.quality.c4 import c4_edits
from rag_hpc.algo.quality.filters import chosen_filters, reject_reason
from rag_hpc.algo.quality.gopher import Measured, QualityLimits, gopher_reason
from rag_hpc.algo.text.edits import apply_edits

LIMITS = QualityLimits()
FILTERS = chosen_filters(["gopher", "-gopher-stop-words"])
ZH = "老灯塔建于一百年前，站在海港北边的礁石上。每天傍晚，看守人点亮灯火，为归来的渔船指引方向。后来城市修建了新码头！"
TH = (
    "ประภาคารเก่าสร้างขึ้นเมื่อหนึ่งร้อยปีก่อน ตั้งอยู่บนโขดหินทางเหนือของท่าเรือ "
    "ทุกเย็นผู้ดูแลจะจุดไฟเพื่อนำทางเรือประมงกลับบ้าน แล้วเขียนสภาพอากาศของวันนั้น"
)
MY = "မီးပြတိုက်ဟောင်းကို လွန်ခဲ့သော နှစ်တစ်ရာက တည်ဆောက်ခဲ့သည်။ ညနေတိုင်း အစောင့်က မီးထွန်းသည်။ ငါးဖမ်းလှေများ ပြန်လာသည်။ မြို့တော်က ထိန်းသိမ်းသည်။"


@pytest.mark.parametrize("text", [ZH, TH, MY])
def test_prose_passes_and_the_same_clause_again_and_again_does_not(text: str) -> None:
    assert gopher_reason(text, FILTERS, LIMITS) is None
    clause = text[:14]
    failed = gopher_reason(clause * 12, FILTERS, LIMITS)
    assert failed is not None and "gram" in failed[0]


def test_words_are_counted_by_character_and_stop_words_are_found_among_them() -> None:
    limits = QualityLimits(stop_words=["的", "在"])
    assert Measured(ZH, limits).words[2][1] > 40
    assert gopher_reason(ZH, ["gopher-stop-words"], limits) is None
    failed = gopher_reason("短文，不够长。", ["gopher-word-count"], LIMITS)
    assert failed is not None and failed[0] == "gopher-word-count"


@pytest.mark.parametrize("text", [ZH, TH, MY, "「灯台は古い。港は新しい。人は多い。」", f"{ZH}\n{'长' * 1200}。"])
def test_c4_keeps_lines_that_end_as_the_script_ends_them(text: str) -> None:
    edits, failed = c4_edits(text, chosen_filters(["c4"]), LIMITS)
    assert failed is None and apply_edits(text, edits) == text


def test_c4_takes_out_headings_and_lines_of_few_words() -> None:
    edits, failed = c4_edits(f"首页\n{ZH}\n更多新闻。\n点击这里", chosen_filters(["c4"]), LIMITS)
    assert failed is None and apply_edits(f"首页\n{ZH}\n更多新闻。\n点击这里", edits) == ZH


def test_a_short_document_of_han_says_as_much_as_a_longer_one_of_letters() -> None:
    assert reject_reason(ZH[:30]) is None
    assert reject_reason(ZH[:20]) == ("too-short", "39 characters, at least 50 allowed")
    assert reject_reason("The old lighthouse was built.") is not None
