"""Attention around its products in bfloat16: the softmax of the scores, and nothing that is not finite is hidden."""

from __future__ import annotations

import numpy as np
import pytest

from rag_hpc.algo.rank import half
from rag_hpc.algo.types import F32, Array

RNG = np.random.default_rng(5)
torch = pytest.importorskip("torch")


def _halves(values: F32) -> tuple[Array, F32]:
    """Return the bits of the values in bfloat16, and the float32 that they are."""
    rounded = torch.from_numpy(values).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy(), rounded.float().numpy()


def _floats(halves: Array) -> F32:
    found: F32 = torch.from_numpy(halves).view(torch.bfloat16).float().numpy()
    return found


@pytest.mark.parametrize("length", [1, 17, 170])
@pytest.mark.parametrize("spread", [0.1, 8.0, 300.0])
def test_rows_are_the_softmax_of_their_scores(length: int, spread: float) -> None:
    bits_NL, scores_NL = _halves((RNG.standard_normal((9, length)) * spread).astype(np.float32))
    inverse_N, scale = np.empty(9, dtype=np.float32), np.float32(0.25 / np.log(2))
    half.exp_rows(bits_NL, scale, inverse_N)
    want_NL = torch.softmax(torch.from_numpy(scores_NL) * 0.25, -1).numpy()
    got_NL = _floats(bits_NL) * inverse_N[:, None]
    np.testing.assert_allclose(got_NL, want_NL, rtol=0.005, atol=1e-30)
    np.testing.assert_allclose(got_NL.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, -np.nan, np.inf, -np.inf])
def test_row_with_a_score_that_is_not_finite_is_not_finite(broken: float) -> None:
    scores_NL = RNG.standard_normal((3, 40)).astype(np.float32)
    scores_NL[1, 7] = broken
    bits_NL, _ = _halves(scores_NL)
    inverse_N = np.empty(3, dtype=np.float32)
    half.exp_rows(bits_NL, np.float32(1), inverse_N)
    assert np.isfinite(inverse_N).tolist() == [True, False, True]


def test_sum_is_normed_and_nan_stays() -> None:
    (made_NE, exact_NE), (x_NE, other_NE) = (
        _halves((RNG.standard_normal((7, 40)) * 3).astype(np.float32)) for _ in range(2)
    )
    weight_E, bias_E = (RNG.standard_normal(40).astype(np.float32) for _ in range(2))
    summed = torch.from_numpy(exact_NE + other_NE)
    want_NE = torch.nn.functional.layer_norm(summed, (40,), torch.from_numpy(weight_E), torch.from_numpy(bias_E), 1e-5)
    x_NE[3, 9] = 0x7FC0
    half.add_norm(made_NE, x_NE, weight_E, bias_E, np.float32(1e-5))
    got_NE, kept = _floats(made_NE), np.arange(7) != 3
    np.testing.assert_allclose(got_NE[kept], want_NE.numpy()[kept], rtol=0.004, atol=1e-5)
    assert np.isnan(got_NE[3]).all()


def test_heads_come_back_beside_each_other_and_nan_stays() -> None:
    weighed_BHLD = RNG.standard_normal((2, 3, 5, 8)).astype(np.float32)
    weighed_BHLD[1, 2, 4, 7] = np.nan
    bits_BHLD, exact_BHLD = _halves(weighed_BHLD)
    inverse_BHL = RNG.random((2, 3, 5)).astype(np.float32)
    out_BLE = np.empty((2, 5, 24), dtype=np.int16)
    half.put_back(bits_BHLD, inverse_BHL, out_BLE)
    want = torch.from_numpy(exact_BHLD * inverse_BHL[..., None]).transpose(1, 2).reshape(2, 5, 24).to(torch.bfloat16)
    np.testing.assert_array_equal(_floats(out_BLE), want.float().numpy())
    assert np.isnan(_floats(out_BLE)[1, 4, 23])
