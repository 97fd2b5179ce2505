"""Rows in eight bits come back within half a level, and what is not finite is not hidden."""

from __future__ import annotations

import numpy as np
import pytest

from rag_hpc.algo.rank import int8
from rag_hpc.algo.types import F32, Array

RNG = np.random.default_rng(3)


def _quantized(x_TK: F32) -> tuple[Array, F32]:
    made_TK, scales_T = np.empty(x_TK.shape, dtype=np.int8), np.empty(len(x_TK), dtype=np.float32)
    int8.quantize_rows(x_TK, made_TK, scales_T)
    return made_TK, scales_T


def test_rows_come_back_within_half_a_level() -> None:
    x_TK = (RNG.standard_normal((9, 70)) * np.logspace(-6, 6, 9)[:, None]).astype(np.float32)
    made_TK, scales_T = _quantized(x_TK)
    np.testing.assert_allclose(scales_T, np.abs(x_TK).max(1) / 127, rtol=1e-6)
    assert (np.abs(made_TK * scales_T[:, None] - x_TK) <= 0.501 * scales_T[:, None]).all()
    assert np.abs(made_TK).max() == 127


def test_row_of_zeros_stays_and_nan_and_infinity_show() -> None:
    x_TK = np.ones((3, 20), dtype=np.float32)
    x_TK[0], x_TK[1, 3], x_TK[2, 7] = 0, np.nan, np.inf
    made_TK, scales_T = _quantized(x_TK)
    assert not made_TK[0].any() and scales_T[0] == 0 and not np.isfinite(scales_T[1:]).any()


def test_what_stands_behind_a_product_is_done_on_the_way_back() -> None:
    sums_TN = RNG.integers(-9999, 9999, (7, 33)).astype(np.int32)
    scales_T, scales_N, bias_N = (RNG.random(n).astype(np.float32) / 50 for n in (7, 33, 33))
    added_TN, out_TN = RNG.standard_normal((7, 33)).astype(np.float32), np.empty((7, 33), dtype=np.float32)
    want_TN = (sums_TN * (scales_T[:, None] * scales_N) + bias_N).astype(np.float32)
    int8.scale_back(sums_TN, scales_T, scales_N, bias_N, out_TN)
    np.testing.assert_allclose(out_TN, want_TN, rtol=1e-5)
    int8.scale_back_add(sums_TN, scales_T, scales_N, bias_N, added_TN, out_TN)
    np.testing.assert_allclose(out_TN, want_TN + added_TN, rtol=1e-5, atol=1e-5)
    torch = pytest.importorskip("torch")
    int8.scale_back_gelu(sums_TN, scales_T, scales_N, bias_N, out_TN)
    np.testing.assert_allclose(out_TN, torch.nn.functional.gelu(torch.from_numpy(want_TN)).numpy(), atol=2e-6)
