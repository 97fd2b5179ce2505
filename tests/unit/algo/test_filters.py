from __future__ import annotations

import pytest

from rag_hpc.algo.filters import alpha_share, language, reject_reason, repeated_share

ENGLISH = "The scheduler starts a job when the resources that it asked for are free and nobody else needs them more. "
GERMAN = (
    "Der Planer startet einen Auftrag, sobald die angeforderten Ressourcen frei sind. Wer die Rechner mit anderen "
    "teilt, sollte nur so viel Zeit verlangen, wie er wirklich braucht, denn lange Aufträge warten länger. "
    "Abgebrochene Läufe können später an derselben Stelle fortgesetzt werden, wenn das Programm seinen Zustand von "
    "Zeit zu Zeit auf die Festplatte schreibt. Über den Fortschritt unterrichtet eine Nachricht. "
)
CHINESE = (
    "北京是中华人民共和国的首都，位于华北平原的北部，是全国的政治、文化和国际交往中心。这座城市有三千多年的历史，"
    "保存了许多古代建筑，例如故宫、天坛和颐和园。每年都有大量游客从世界各地来到这里参观。"
)
CODE = "int main(int argc, char **argv) {\n    std::vector<int> xs{1, 2, 3};\n    return xs.size() - argc;\n}\n" * 2


@pytest.mark.parametrize(("text", "name"), [(ENGLISH, "en"), (GERMAN, "de"), (CHINESE, "zh")])
def test_language_of_prose(text: str, name: str) -> None:
    found, score = language(text * 3)
    assert found == name
    assert 0.25 < score <= 1.0


def test_language_of_nothing_is_a_pair_with_a_low_score() -> None:
    assert language("x")[1] < 0.25


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("short", "too-short"),
        (ENGLISH * 100, "too-long"),
        ("12345 67890 !?" * 20, "low-alpha"),
        ("click here for more\n" * 50, "repeated-lines"),
        (GERMAN * 2, "language-de"),
        (CHINESE, "language-zh"),
        (ENGLISH * 3, None),
        (CODE, None),
    ],
)
def test_reject_reasons(text: str, slug: str | None) -> None:
    assert reject_reason(text, max_chars=5000, languages=["en"]) == slug


def test_any_language_is_welcome_when_none_is_named() -> None:
    assert reject_reason(GERMAN * 2) is None
    assert reject_reason(GERMAN * 2, languages=["en", "de"]) is None


def test_first_failing_test_names_the_reason() -> None:
    assert reject_reason("1", min_chars=2, languages=["en"]) == "too-short"


def test_limits_are_inclusive() -> None:
    text = "abcdefghij"
    assert reject_reason(text, min_chars=10, max_chars=10) is None


def test_shares() -> None:
    assert alpha_share("ab 12") == 0.5
    assert alpha_share(" \n") == 0.0
    assert alpha_share("हिन्दी") == 1.0
    assert repeated_share("ab\nab\n\ncd\n  ab") == 0.5
    assert repeated_share("") == 0.0
