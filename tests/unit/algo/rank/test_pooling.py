"""The pooling that a sentence-transformers folder asks for."""

from __future__ import annotations

from typing import Any

import pytest

from rag_hpc.algo.rank import pooling
from rag_hpc.errors import ConfigError


@pytest.mark.parametrize(
    ("config", "want"),
    [
        ({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False, "include_prompt": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"embedding_dimension": 8, "pooling_mode": "mean"}, "mean"),
    ],
)
def test_both_spellings_of_the_folder_are_read(config: dict[str, Any], want: str) -> None:
    assert pooling.from_sentence_transformers(config).value == want


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": "mean_sqrt_len_tokens"},
    ],
)
def test_unknown_pooling_is_refused_with_the_known_ones(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="known: mean, cls, lasttoken"):
        pooling.from_sentence_transformers(config)


def test_prompt_left_out_of_the_pooling_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves its prompt out"):
        pooling.from_sentence_transformers({"pooling_mode": "mean", "include_prompt": False})
