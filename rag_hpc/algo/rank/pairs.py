"""Products of float32 queries with single rows, which no other row can influence, without a copy of the rows; and
float16 rows widened or summed.

Each product is one sum, in an order that the compiled code fixes. Q queries, R rows for each, D dimensions, K sums.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types  # type: ignore[import-untyped]
from numba.extending import intrinsic  # type: ignore[import-untyped]

from rag_hpc.algo.jit import jit_math
from rag_hpc.algo.types import F32, F64, I64, U16


@intrinsic  # type: ignore[untyped-decorator]
def _widened(typing: Any, value: Any) -> Any:
    """The float32 of a float16's bits; one instruction for many where the CPU has it."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), code


@jit_math
def products(queries_QD: F32, rows_ND: F32, at_QR: I64, out_QR: F32) -> None:
    """Fill out_QR with the product of each query and each of its rows; -inf where `at` is -1."""
    for query in range(len(at_QR)):
        query_D = queries_QD[query]
        for place in range(at_QR.shape[1]):
            at = at_QR[query, place]
            if at < 0:
                out_QR[query, place] = -np.inf
                continue
            row_D, total = rows_ND[at], np.float32(0)
            for d in range(len(query_D)):
                total += row_D[d] * query_D[d]
            out_QR[query, place] = total


@jit_math
def half_products(queries_QD: F32, bits_ND: U16, at_QR: I64, out_QR: F32) -> None:
    """Fill out_QR like `products`, of the bits of float16 rows."""
    for query in range(len(at_QR)):
        query_D = queries_QD[query]
        for place in range(at_QR.shape[1]):
            at = at_QR[query, place]
            if at < 0:
                out_QR[query, place] = -np.inf
                continue
            row_D, total = bits_ND[at], np.float32(0)
            for d in range(len(query_D)):
                total += _widened(row_D[d]) * query_D[d]
            out_QR[query, place] = total


@jit_math
def half_sums(queries_QD: F64, bits_ND: U16, at_QR: I64, out_QR: F64) -> None:
    """Fill out_QR like `half_products`, with sums in double precision."""
    for query in range(len(at_QR)):
        query_D = queries_QD[query]
        for place in range(at_QR.shape[1]):
            at = at_QR[query, place]
            if at < 0:
                out_QR[query, place] = -np.inf
                continue
            row_D, total = bits_ND[at], np.float64(0)
            for d in range(len(query_D)):
                total += np.float64(_widened(row_D[d])) * query_D[d]
            out_QR[query, place] = total


@jit_math
def half_longest(bits_ND: U16) -> float:
    """Return the largest Euclidean norm of float16 rows, rounded up."""
    most = np.float32(0)
    for row in range(len(bits_ND)):
        row_D, total = bits_ND[row], np.float32(0)
        for d in range(len(row_D)):
            value = _widened(row_D[d])
            total += value * value
        most = max(most, total)
    return math.sqrt(np.float64(most) * (1 + (bits_ND.shape[1] + 8) * 2.0**-23))


@jit_math
def widen(bits_ND: U16, out_ND: F32) -> None:
    """Fill out_ND with the numbers of float16 rows."""
    for row in range(len(bits_ND)):
        row_D, out_D = bits_ND[row], out_ND[row]
        for d in range(len(row_D)):
            out_D[d] = _widened(row_D[d])


@jit_math
def move(bits_ND: U16, at_P: I64, old_P: I64, new_P: I64, scale: float, sums_KS: I64) -> None:
    """Take float16 rows out of their old sums (-1: none) and add them to their new ones, [K, D + 1]: each number times
    the scale, a power of two, as the nearest integer, and a one behind."""
    for place in range(len(at_P)):
        row_D, old, new = bits_ND[at_P[place]], old_P[place], new_P[place]
        if new >= 0:
            sum_S = sums_KS[new]
            for d in range(len(row_D)):
                sum_S[d] += np.int64(np.rint(np.float64(_widened(row_D[d])) * scale))
            sum_S[len(row_D)] += 1
        if old >= 0:
            sum_S = sums_KS[old]
            for d in range(len(row_D)):
                sum_S[d] -= np.int64(np.rint(np.float64(_widened(row_D[d])) * scale))
            sum_S[len(row_D)] -= 1
