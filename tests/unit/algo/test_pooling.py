"""Pooling gives the same on numpy and torch, and padding never leaks into a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rag_hpc.algo import pooling
from rag_hpc.algo.pooling import Pooling
from rag_hpc.errors import ConfigError

HIDDEN = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MASK = np.array([[1, 1, 0], [1, 1, 1]])


def test_mean_is_over_real_tokens_only() -> None:
    loud = HIDDEN.copy()
    loud[0, 2] = 1e9
    got = pooling.masked_mean(loud, MASK)
    np.testing.assert_array_equal(got, [HIDDEN[0, :2].mean(0), HIDDEN[1].mean(0)])


def test_text_without_tokens_is_zero_not_nan() -> None:
    got = pooling.normalize(pooling.masked_mean(HIDDEN, np.zeros((2, 3), dtype=np.int64)))
    np.testing.assert_array_equal(got, np.zeros((2, 4)))


def test_cls_is_the_first_token() -> None:
    np.testing.assert_array_equal(pooling.pool(HIDDEN, MASK, Pooling.cls), HIDDEN[:, 0])


def test_normalized_vectors_have_length_one() -> None:
    got = pooling.normalize(pooling.pool(HIDDEN, MASK, Pooling.mean))
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("how", list(Pooling))
def test_torch_tensors_give_the_numpy_values(how: Pooling) -> None:
    torch = pytest.importorskip("torch")
    ours = pooling.normalize(pooling.pool(HIDDEN, MASK, how))
    theirs = pooling.normalize(pooling.pool(torch.from_numpy(HIDDEN), torch.from_numpy(MASK), how))
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "want"),
    [
        ({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False, "include_prompt": True}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": "mean"}, "mean"),
    ],
)
def test_both_spellings_of_the_folder_are_read(config: dict[str, Any], want: str) -> None:
    assert pooling.from_sentence_transformers(config).value == want


@pytest.mark.parametrize(
    "config",
    [{}, {"pooling_mode_max_tokens": True}, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}],
)
def test_unknown_pooling_is_refused_with_the_known_ones(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="known: mean, cls"):
        pooling.from_sentence_transformers(config)
