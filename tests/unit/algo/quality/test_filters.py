from __future__ import annotations

import pytest

from rag_hpc.algo.quality.c4 import C4
from rag_hpc.algo.quality.filters import ALL_FILTERS, alpha_share, chosen_filters, reject_reason, repeated_share
from rag_hpc.algo.quality.gopher import GOPHER_QUALITY, GOPHER_REPETITION
from rag_hpc.errors import ConfigError

ENGLISH = "The scheduler starts a job when the resources that it asked for are free and nobody else needs them more. "
CODE = "int main(int argc, char **argv) {\n    std::vector<int> xs{1, 2, 3};\n    return xs.size() - argc;\n}\n" * 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("short", ("too-short", "5 characters, at least 50 allowed")),
        (ENGLISH * 100, ("too-long", "10600 characters, at most 5000 allowed")),
        ("12345 67890 !?" * 20, ("low-alpha", "0, at least 0.3 allowed")),
        ("click here for more\n" * 50, ("repeated-lines", "0.98, at most 0.6 allowed")),
        (ENGLISH * 3, None),
        (CODE, None),
    ],
)
def test_reject_reasons_say_what_was_measured(text: str, reason: tuple[str, str] | None) -> None:
    assert reject_reason(text, max_chars=5000) == reason


def test_limits_are_inclusive() -> None:
    text = "abcdefghij"
    assert reject_reason(text, min_chars=10, max_chars=10) is None


def test_shares() -> None:
    assert alpha_share("ab 12") == 0.5
    assert alpha_share(" \n") == 0.0
    assert alpha_share("हिन्दी") == 1.0
    assert alpha_share("é1\u00a0") == 0.5
    assert repeated_share("ab\nab\n\ncd\n  ab") == 0.5
    assert repeated_share("") == 0.0


def test_filters_are_chosen_by_name_and_by_set_in_one_order() -> None:
    assert chosen_filters([]) == []
    assert chosen_filters(["c4", "gopher"]) == list(ALL_FILTERS) == [*GOPHER_QUALITY, *GOPHER_REPETITION, *C4]
    assert chosen_filters(["gopher-stop-words", "gopher-word-count"]) == ["gopher-word-count", "gopher-stop-words"]
    assert chosen_filters(["gopher-quality", "-gopher-stop-words"]) == [*GOPHER_QUALITY][:-1]
    assert chosen_filters(["c4", "-c4", "c4-policy"]) == ["c4-policy"]


def test_an_unknown_filter_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no filter 'gophr'.*sets: gopher, .*filters: gopher-word-count"):
        chosen_filters(["gophr"])
