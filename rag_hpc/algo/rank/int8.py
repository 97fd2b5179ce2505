"""Eight-bit arithmetic around integer products: rows to int8 and back, with what stands behind a product.

Each row of activations has a scale of its own, and so has each output of a layer (Dettmers et al. 2022, sec. 2).
What is not finite stays so. T rows, K inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_hpc.algo.floats import bits_of, float_of
from rag_hpc.algo.jit import jit_math
from rag_hpc.algo.types import F32, I32, Array

_MAGNITUDE = np.int32(0x7FFFFFFF)  # the bits of a float32 without its sign; as integers they are in its order
_LEVELS = np.float32(127)
_ONE, _HALF = np.float32(1), np.float32(0.5)
_LOG2_E, _LOWEST = np.float32(1.4426950408889634), np.float32(-87)
# exp2 on [-0.5, 0.5], Taylor
_E1, _E2, _E3, _E4, _E5, _E6 = (np.float32(np.log(2) ** n / np.prod(np.arange(1.0, n + 1))) for n in range(1, 7))
# erf, Abramowitz and Stegun 1964, 7.1.26: off by 1.5e-7 at the most
_P, _ROOT_HALF = np.float32(0.3275911), np.float32(0.5**0.5)
_A1, _A2, _A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
_A4, _A5 = np.float32(-1.453152027), np.float32(1.061405429)


@jit_math
def quantize_rows(x_TK: F32, made_TK: Array, scales_T: F32) -> None:
    """Fill made_TK (int8) and scales_T so that their product is x_TK, rounded to 127 levels of each row's largest."""
    for row in range(len(x_TK)):
        x_K, made_K, largest = x_TK[row], made_TK[row], np.int32(0)
        for k in range(len(x_K)):
            largest = max(largest, bits_of(x_K[k]) & _MAGNITUDE)
        scales_T[row] = float_of(largest) / _LEVELS
        inverse = _LEVELS / float_of(max(largest, np.int32(1 << 23)))  # the smallest normal number
        for k in range(len(x_K)):
            made_K[k] = np.int8(np.rint(x_K[k] * inverse))


@jit_math
def scale_back(sums_TN: I32, scales_T: F32, scales_N: F32, bias_N: F32, out_TN: F32) -> None:
    """Fill out_TN with the product of what was quantized, and the bias added."""
    for row in range(len(sums_TN)):
        sums_N, out_N, scale = sums_TN[row], out_TN[row], scales_T[row]
        for n in range(len(sums_N)):
            out_N[n] = np.float32(sums_N[n]) * (scale * scales_N[n]) + bias_N[n]


@jit_math
def scale_back_add(sums_TN: I32, scales_T: F32, scales_N: F32, bias_N: F32, added_TN: F32, out_TN: F32) -> None:
    """Fill out_TN like scale_back, with another array added."""
    for row in range(len(sums_TN)):
        sums_N, out_N, added_N, scale = sums_TN[row], out_TN[row], added_TN[row], scales_T[row]
        for n in range(len(sums_N)):
            out_N[n] = np.float32(sums_N[n]) * (scale * scales_N[n]) + bias_N[n] + added_N[n]


@jit_math
def scale_back_gelu(sums_TN: I32, scales_T: F32, scales_N: F32, bias_N: F32, out_TN: F32) -> None:
    """Fill out_TN with GELU of what scale_back gives."""
    for row in range(len(sums_TN)):
        sums_N, out_N, scale = sums_TN[row], out_TN[row], scales_T[row]
        for n in range(len(sums_N)):
            x = np.float32(sums_N[n]) * (scale * scales_N[n]) + bias_N[n]
            size = abs(x)
            t = _ONE / (_ONE + _P * _ROOT_HALF * size)
            tail = t * (_A1 + t * (_A2 + t * (_A3 + t * (_A4 + t * _A5)))) * _exp(-_HALF * size * size)
            out_N[n] = _HALF * (x + size * (_ONE - tail))


@jit_math
def _exp(x: Any) -> Any:
    """Return e to a power that is not above 0."""
    y = max(x, _LOWEST) * _LOG2_E
    whole = np.rint(y)
    f = y - whole
    part = _ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))
    return float_of(bits_of(part) + (np.int32(whole) << np.int32(23)))
