"""Exact inner-product top-k whose bits do not depend on how the rows are sharded, and the merge of shards.

Shapes: Q queries, N rows, D dimensions, K hits, P (query, row) pairs.
A fast fp32 product only proposes candidates; every returned score is `canonical_scores` of one pair, a sum that no
other row can influence. Hits are ordered by (score descending, id ascending), missing ones are (-inf, -1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_hpc.algo.types import F32, F64, I64, Array, Indices
from rag_hpc.errors import ConfigError, InputError

Hits = tuple[F32, I64]

_PAIRS = 2048  # pairs rescored at once: 2048 x 768 float64 = 12 MiB
_CELLS = 1 << 24  # approximate scores held at once: 64 MiB
_MOST_IDS = (1 << 32) - 1  # that sort with their score as one number
_NO_HIT = np.uint64(2**64 - 1)


def exact_topk(queries_QD: F32, vectors_ND: Array, k: int, *, first_id: int = 0, block: int = 65536) -> Hits:
    """Return (scores_QK float32, ids_QK int64), the k rows of largest inner product for each query.

    vectors_ND: float16 or float32, may be a memory map; row i has id `first_id + i`. Peak memory is about
    `block * D * 4` bytes plus 64 MiB, whatever N is. Raises InputError for shapes, types or values that cannot be
    searched (NaN, infinity, products beyond float32).
    """
    _check(queries_QD, vectors_ND, k, block)
    queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
    num_queries = len(queries_QD)
    scores_QK, ids_QK = nothing(num_queries, k)
    for low in range(0, len(vectors_ND), block):
        rows_BD = np.ascontiguousarray(vectors_ND[low : low + block], dtype=np.float32)
        longest = _longest(rows_BD, f"rows {low}..{low + len(rows_BD) - 1}")
        step = max(1, _CELLS // len(rows_BD))
        for at in range(0, num_queries, step):
            part = slice(at, at + step)
            candidates = _search_block(queries_QD[part], rows_BD, longest, scores_QK[part])
            pairs = (*candidates, first_id + low)
            scores_QK[part], ids_QK[part] = _keep_best(scores_QK[part], ids_QK[part], pairs)
    return scores_QK, ids_QK


def rescore(
    queries_QD: F32, rows_ND: Array, ids_QR: I64, k: int, *, first_id: int = 0, longest_row: float | None = None
) -> Hits:
    """Return the k best by canonical score of each query's candidates; those that are none of these rows are left out.

    rows_ND: float16, row i has id `first_id + i`. ids_QR: all different, -1 where there is no candidate. longest_row:
    as `longest` returns it; without it all scores are summed the slow way. Single precision proposes, as in
    `exact_topk`; of what it leaves, float64 sums in any order are scores where another order could not round to others.
    """
    queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
    at_QR = np.where((ids_QR >= first_id) & (ids_QR < first_id + len(rows_ND)), ids_QR - first_id, -1)
    kept_QR = at_QR >= 0
    if at_QR.shape[1] > k and longest_row is not None:
        from rag_hpc.algo.rank import pairs  # numba takes half a second to import

        approx_QR = np.empty(at_QR.shape, dtype=np.float32)
        pairs.half_products(queries_QD, rows_ND.view(np.uint16), at_QR, approx_QR)
        kth_Q = np.partition(approx_QR, at_QR.shape[1] - k, axis=1)[:, at_QR.shape[1] - k].astype(np.float64)
        kept_QR &= approx_QR >= _below(kth_Q - 2 * _error(queries_QD, longest_row))
    at_QC = _moved_up(at_QR, kept_QR)
    scores_QC, slow_QC = np.full(at_QC.shape, -np.inf, dtype=np.float32), at_QC >= 0
    if longest_row is not None:
        slow_QC &= ~_summed(queries_QD, rows_ND, at_QC, longest_row, scores_QC)
    queries_P, places_P = np.nonzero(slow_QC)
    scores_QC[slow_QC] = _scores_of(queries_QD, queries_P, rows_ND, at_QC[queries_P, places_P])
    return merge_topk([(scores_QC, np.where(at_QC >= 0, at_QC + first_id, -1))], k)


def _moved_up(at_QR: I64, kept_QR: Array) -> I64:
    """Return the kept ones of each row in as few columns as hold them, -1 behind."""
    counts_Q = kept_QR.sum(axis=1)
    at_QC = np.full((len(at_QR), int(counts_Q.max(initial=0))), -1, dtype=np.int64)
    at_QC[np.arange(at_QC.shape[1]) < counts_Q[:, None]] = at_QR[kept_QR]
    return at_QC


def _summed(queries_QD: F32, rows_ND: Array, at_QR: I64, longest_row: float, out_QR: F32) -> Array:
    """Fill out_QR with the scores of float16 rows; return where they are the canonical ones in whichever order the
    products, which float64 holds exactly, are added."""
    from rag_hpc.algo.rank import pairs

    sums_QR = np.empty(at_QR.shape, dtype=np.float64)
    pairs.half_sums(queries_QD.astype(np.float64), rows_ND.view(np.uint16), at_QR, sums_QR)
    norms_Q = np.sqrt(np.einsum("qd,qd->q", queries_QD, queries_QD, dtype=np.float64))
    error_Q1 = (2.0 * queries_QD.shape[1] * 2.0**-53 * norms_Q * longest_row)[:, None]  # of either order, with room
    out_QR[:] = (sums_QR - error_Q1 + 0.0).astype(np.float32)
    known: Array = (out_QR == (sums_QR + error_Q1).astype(np.float32)) & (out_QR != 0)
    return known


def nearest_rows(queries_QD: F32, rows_ND: F32, k: int) -> Hits:
    """Return the k rows of largest product in single precision, by (product, row); it depends on the pair alone.

    A matrix product proposes: its sums differ with the number of queries.
    """
    from rag_hpc.algo.rank import pairs

    queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
    approx_QN = queries_QD @ rows_ND.T
    kth_Q = np.partition(approx_QN, len(rows_ND) - k, axis=1)[:, len(rows_ND) - k].astype(np.float64)
    # either product is off by one error: the k-th by pairs is at least the k-th less two, and shows at two less again
    floor_Q = _below(kth_Q - 4 * error_bound(queries_QD, rows_ND))
    at_QR = _moved_up(np.broadcast_to(np.arange(len(rows_ND)), approx_QN.shape), approx_QN >= floor_Q)
    scores_QR = np.empty(at_QR.shape, dtype=np.float32)
    pairs.products(queries_QD, rows_ND, at_QR, scores_QR)
    return merge_topk([(scores_QR, at_QR)], k)


def single(rows_ND: Array) -> F32:
    """Return rows as contiguous float32; of float16 ones by an instruction that numpy has no use for."""
    if rows_ND.dtype != np.float16:
        return np.ascontiguousarray(rows_ND, dtype=np.float32)
    from rag_hpc.algo.rank import pairs

    widened_ND = np.empty(rows_ND.shape, dtype=np.float32)
    pairs.widen(np.ascontiguousarray(rows_ND).view(np.uint16), widened_ND)
    return widened_ND


def longest(rows_ND: Array) -> float:
    """Return the largest norm of rows; of float16 ones in a tenth of the time."""
    if rows_ND.dtype != np.float16:
        return _longest(rows_ND, "rows")
    from rag_hpc.algo.rank import pairs

    return float(pairs.half_longest(np.ascontiguousarray(rows_ND).view(np.uint16)))


def error_bound(left_QD: Array, right_ND: Array) -> F64:
    """Return how far a float32 product of each row on the left with any on the right may lie from the exact one."""
    return _error(left_QD, _longest(right_ND, "rows"))


def largest_error(left_ND: Array, longest_right: float) -> float:
    """Return the largest of `error_bound` over rows, by the norms of the longest on either side."""
    return float(_bound(left_ND.shape[1], np.float64(longest(left_ND)), longest_right))


def nothing(num_queries: int, k: int) -> Hits:
    """Return no hits."""
    return np.full((num_queries, k), -np.inf, dtype=np.float32), np.full((num_queries, k), -1, dtype=np.int64)


def canonical_scores(left_PD: Array, right_PD: Array) -> F32:
    """Return the float32 inner product of each pair of rows, summed in float64 in an order fixed by D alone."""
    products_PD = left_PD.astype(np.float64) * right_PD.astype(np.float64)
    # `+ 0.0` turns -0.0 into 0.0, so that equal scores have equal bytes
    scores_P: F32 = (np.ascontiguousarray(products_PD).sum(-1) + 0.0).astype(np.float32)
    return scores_P


def merge_topk(parts: Sequence[Hits], k: int) -> Hits:
    """Return the k best hits over all shards by (score, id); hits with id -1 are dropped. Ids must be global."""
    if not parts:
        raise ConfigError("merge_topk: no shard answered; give at least one (scores, ids) pair")
    scores = np.concatenate([np.asarray(s, dtype=np.float32) for s, _ in parts], axis=1)
    ids = np.concatenate([np.asarray(i, dtype=np.int64) for _, i in parts], axis=1)
    if ids.size and ids.max() >= _MOST_IDS:
        queries_P, columns_P = np.nonzero(ids >= 0)
        return _group_best(queries_P, scores[queries_P, columns_P], ids[queries_P, columns_P], (len(scores), k))
    return _best_of_rows(scores, ids, k)


def _best_of_rows(scores_QC: F32, ids_QC: I64, k: int) -> Hits:
    """Return each row's k best; ids are below _MOST_IDS. One number stands for a hit, so that plain sorting will do."""
    bits_QC = (scores_QC + np.float32(0)).view(np.uint32)  # -0.0 is no score
    falling_QC = np.where(bits_QC >> 31, bits_QC, bits_QC ^ np.uint32(0x7FFFFFFF))
    keys_QC = (falling_QC.astype(np.uint64) << np.uint64(32)) | (ids_QC.astype(np.uint64) & np.uint64(_MOST_IDS))
    keys_QC[ids_QC < 0] = _NO_HIT
    keys_QC.sort(axis=1)
    best_QK = np.full((len(keys_QC), k), _NO_HIT, dtype=np.uint64)
    best_QK[:, : keys_QC.shape[1]] = keys_QC[:, :k]
    missing_QK, falling_QK = best_QK == _NO_HIT, (best_QK >> np.uint64(32)).astype(np.uint32)
    scores_QK = np.where(falling_QK >> 31, falling_QK, falling_QK ^ np.uint32(0x7FFFFFFF)).view(np.float32)
    ids_QK = (best_QK & np.uint64(_MOST_IDS)).astype(np.int64)
    scores_QK[missing_QK], ids_QK[missing_QK] = -np.inf, -1
    return scores_QK, ids_QK


def _check(queries_QD: Array, vectors_ND: Array, k: int, block: int) -> None:
    if k < 1 or block < 1:
        raise ConfigError(f"top-k: k={k}, block={block}: both must be at least 1")
    if queries_QD.ndim != 2 or vectors_ND.ndim != 2 or queries_QD.shape[1] != vectors_ND.shape[1]:
        raise InputError(
            f"top-k: queries {queries_QD.shape} and vectors {vectors_ND.shape} must be [Q, D] and [N, D] with one D; "
            "encode both with the same model"
        )
    if vectors_ND.dtype not in (np.float16, np.float32):
        raise InputError(f"top-k: vectors are {vectors_ND.dtype}; write them as float16 or float32")


def _longest(rows_BD: Array, where: str) -> float:
    """Return the largest Euclidean norm of the rows."""
    squared = float(np.einsum("bd,bd->b", rows_BD, rows_BD, dtype=np.float64).max(initial=0.0))
    if not np.isfinite(squared) or squared > 1e37:
        raise InputError(f"top-k: {where} hold NaN, infinity or values beyond 1e18; encode them again")
    return float(np.sqrt(squared))


def _error(left_QD: Array, longest: float) -> F64:
    """Return the bound of D roundings of terms no larger than |q||x| (Higham 2002, sec. 3.1)."""
    norms_Q = np.sqrt(np.einsum("qd,qd->q", left_QD, left_QD, dtype=np.float64))
    bound_Q: F64 = _bound(left_QD.shape[1], norms_Q, longest)
    return bound_Q


def _bound(dims: int, norms: Any, longest: float) -> Any:
    return (dims + 8) * (2.0**-23 * norms * longest + 2.0**-125)


def _search_block(queries_QD: F32, rows_BD: F32, longest: float, best_QK: F32) -> tuple[Indices, Indices, F32]:
    """Return (query, row, canonical score) of every pair that could be among the k best.

    `error_Q` bounds |fp32 product - exact|. k rows with approximate score >= t have an exact score >= t - error, so a
    better row shows at least t - 2 error.
    """
    k = best_QK.shape[1]
    _longest(queries_QD, "queries")
    error_Q = _error(queries_QD, longest)
    approx_QB = queries_QD @ rows_BD.T
    floor_Q = best_QK[:, -1].astype(np.float64) - error_Q
    if k < len(rows_BD):
        crowded = np.nonzero((approx_QB >= _below(floor_Q)).sum(1) > 4 * k)[0]
        kth = np.partition(approx_QB[crowded], len(rows_BD) - k, axis=1)[:, len(rows_BD) - k]
        floor_Q[crowded] = np.maximum(floor_Q[crowded], kth.astype(np.float64) - 2 * error_Q[crowded])
    queries_P, rows_P = np.nonzero(approx_QB >= _below(floor_Q))
    return queries_P, rows_P, _scores_of(queries_QD, queries_P, rows_BD, rows_P)


def _scores_of(queries_QD: F32, queries_P: Indices, rows_BD: Array, rows_P: Indices) -> F32:
    scores_P = np.empty(len(rows_P), dtype=np.float32)
    for low in range(0, len(rows_P), _PAIRS):
        part = slice(low, low + _PAIRS)
        scores_P[part] = canonical_scores(queries_QD[queries_P[part]], rows_BD[rows_P[part]])
    return scores_P


def _below(floor_Q: F64) -> F32:
    """Return the floors as a float32 column, never rounded up."""
    column = np.nextafter(floor_Q.astype(np.float32), np.float32(-np.inf))[:, None]
    return np.asarray(column, dtype=np.float32)


def _keep_best(scores_QK: F32, ids_QK: I64, pairs: tuple[Indices, Indices, F32, int]) -> Hits:
    """Return the hits so far merged with the pairs of one block, whose row 0 has the id in the last field."""
    queries_P, rows_P, scores_P, block_id = pairs
    held_Q, held_K = np.nonzero(ids_QK >= 0)
    queries = np.concatenate([held_Q, queries_P])
    scores = np.concatenate([scores_QK[held_Q, held_K], scores_P])
    ids = np.concatenate([ids_QK[held_Q, held_K], rows_P.astype(np.int64) + block_id])
    return _group_best(queries, scores, ids, (len(scores_QK), scores_QK.shape[1]))


def _group_best(queries_P: Indices, scores_P: F32, ids_P: I64, shape: tuple[int, int]) -> Hits:
    """Return the best K of each query's pairs, in order; shape is (Q, K)."""
    order = np.lexsort((ids_P, -scores_P, queries_P))
    queries_P = queries_P[order]
    starts = np.searchsorted(queries_P, np.arange(shape[0]))
    ranks_P = np.arange(len(order)) - starts[queries_P]
    keep = ranks_P < shape[1]
    scores_QK, ids_QK = nothing(*shape)
    scores_QK[queries_P[keep], ranks_P[keep]] = scores_P[order][keep]
    ids_QK[queries_P[keep], ranks_P[keep]] = ids_P[order][keep]
    return scores_QK, ids_QK
