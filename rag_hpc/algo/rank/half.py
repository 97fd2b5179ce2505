"""What stands between a network's products in bfloat16, whose bits numpy sees as int16.

Attention's weights are rounded first and summed then, and the sum divides what they weigh, not them: two passes over
the scores less. What is not finite shows. N rows, L keys, B texts, H heads, D dimensions of a head, E of all heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_hpc.algo.floats import bits_of, float_of
from rag_hpc.algo.jit import jit_math
from rag_hpc.algo.types import F32, Array

_ONE, _NAN, _LOWEST = np.float32(1), np.float32("nan"), np.float32(-126)
_MAGNITUDE, _INFINITY, _NO_KEY = np.int16(0x7FFF), np.int16(0x7F80), np.int16(-0x8000)
_SIGN_AT, _WIDER = np.int16(15), np.int32(16)
# exp2 on [-0.5, 0.5], Taylor: off by 4e-5 at the most, a fiftieth of what bfloat16 rounds away
_E1, _E2, _E3, _E4 = (np.float32(np.log(2) ** n / np.prod(np.arange(1.0, n + 1))) for n in range(1, 5))


@jit_math
def exp_rows(scores_NL: Array, scale: Any, inverse_N: F32) -> None:
    """Put 2 ** (scale * (score - the row's largest)) in place of each score, and 1 / the row's sum into inverse_N."""
    for row in range(len(scores_NL)):
        scores_L, top, largest = scores_NL[row], _NO_KEY, np.int16(0)
        for at in range(len(scores_L)):
            top = max(top, _ordered(scores_L[at]))
            largest = max(largest, np.int16(scores_L[at] & _MAGNITUDE))
        highest, total = _wide(_ordered(top)), np.float32(0)
        for at in range(len(scores_L)):
            y = max((_wide(scores_L[at]) - highest) * scale, _LOWEST)
            whole = np.rint(y)
            f = y - whole
            part = _ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * _E4)))
            bits = bits_of(part) + (np.int32(whole) << np.int32(23))
            bits = (bits + np.int32(0x8000)) & np.int32(-0x10000)
            total += float_of(bits)
            scores_L[at] = np.int16(bits >> _WIDER)
        inverse_N[row] = _ONE / total if largest < _INFINITY else _NAN


@jit_math
def put_back(weighed_BHLD: Array, inverse_BHL: F32, out_BLE: Array) -> None:
    """Fill out_BLE with the heads beside each other, each row times its inverse."""
    num_texts, num_heads, length, width = weighed_BHLD.shape
    for text in range(num_texts):
        for head in range(num_heads):
            for at in range(length):
                inverse, weighed_D = inverse_BHL[text, head, at], weighed_BHLD[text, head, at]
                out_D = out_BLE[text, at, head * width : (head + 1) * width]
                for d in range(width):
                    out_D[d] = _narrow(_wide(weighed_D[d]) * inverse)


@jit_math
def add_norm(made_NE: Array, x_NE: Array, weight_E: F32, bias_E: F32, epsilon: Any) -> None:
    """Put the layer norm of made_NE + x_NE in place of made_NE; the sum is not rounded in between."""
    sum_E = np.empty(len(weight_E), dtype=np.float32)
    share = _ONE / np.float32(len(weight_E))
    for row in range(len(made_NE)):
        made_E, x_E, total, square = made_NE[row], x_NE[row], np.float32(0), np.float32(0)
        for at in range(len(sum_E)):
            sum_E[at] = _wide(made_E[at]) + _wide(x_E[at])
            total += sum_E[at]
        mean = total * share
        for at in range(len(sum_E)):
            square += (sum_E[at] - mean) * (sum_E[at] - mean)
        scale = _ONE / np.sqrt(square * share + epsilon)
        for at in range(len(sum_E)):
            made_E[at] = _narrow((sum_E[at] - mean) * scale * weight_E[at] + bias_E[at])


@jit_math
def _ordered(half: Any) -> Any:
    """Return an int16 whose order is that of the numbers; of such a one, the bits again."""
    return np.int16(half ^ ((half >> _SIGN_AT) & _MAGNITUDE))


@jit_math
def _wide(half: Any) -> Any:
    """Return the float32 that these 16 bits are."""
    return float_of(np.int32(half) << _WIDER)


@jit_math
def _narrow(number: Any) -> Any:
    """Return the 16 bits nearest to a float32, ties to even."""
    bits = bits_of(number)
    return np.int16((bits + np.int32(0x7FFF) + ((bits >> _WIDER) & np.int32(1))) >> _WIDER)
