"""Fusion of ranked lists: by weighted standard scores, which runs use, and by reciprocal ranks, its common peer.

Shapes: Q queries, K hits of one list, C of two. Sums are exactly rounded: no order of lists or hits changes one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rag_hpc.algo.rank.topk import Hits, merge_topk
from rag_hpc.algo.types import F32, F64, I64, Array
from rag_hpc.errors import ConfigError

# (a figure, the vectors' weight there), on a line in between; BM25 has the rest. Chosen on the halves of questions that
# `rag-hpc bench rank` does not judge.
BY_WORDS = ((0.2, 0.8), (0.4, 0.5))  # of the best BM25 score in what a document could score: questions in other words
BY_ENCODER = ((0.5, 0.3), (0.8, 0.8))  # of how well the encoder finds passages again: languages that it does not know


def weighted(rankings: Sequence[tuple[Array, Array]], weights: Sequence[float], depth: int) -> tuple[I64, F32]:
    """Return (ids, scores) of the `depth` best by the weighted sum of standard scores, ties by id.

    rankings: (ids_K, scores_K) each, larger is better, ids distinct. Scores are standardized over their own list; one
    that is shorter than the longest holds zeros for the rest, as BM25 scores what has no word of the query. What a list
    lacks has the lowest score in it. Source: Renda and Straccia 2003 (Z-scores).
    """
    longest = max((len(ids) for ids, _ in rankings), default=0)
    lists = []
    for (ids, scores), weight in zip(rankings, weights, strict=True):
        given = np.asarray(scores, dtype=np.float64).tolist()
        standard = _standard_scores(given + [0.0] * (longest - len(given)))
        if standard:
            hits = dict(zip(np.asarray(ids).tolist(), standard, strict=False))
            lists.append((weight, hits, min(standard)))
    every = {one for _, hits, _ in lists for one in hits}
    sums = {one: np.float32(math.fsum(w * hits.get(one, lowest) for w, hits, lowest in lists)) for one in every}
    ordered = sorted(every, key=lambda one: (-sums[one], one))[:depth]  # by what is returned, or ties would be hidden
    return np.array(ordered, dtype=np.int64), np.array([sums[one] for one in ordered], dtype=np.float32)


def weighted_rows(left: Hits, right: Hits, right_weight_Q: F64, depth: int) -> Hits:
    """Return what `weighted` gives for each row of two rankings [Q, K] with weights 1 - right_weight and right_weight,
    to the bit; missing hits are (-inf, -1) and come last."""
    longest_Q = np.maximum(*((ids >= 0).sum(axis=1) for _, ids in (left, right)))
    shares, missing = [], []
    for (scores, ids), weight_Q in ((left, 1 - right_weight_Q), (right, right_weight_Q)):
        standard_QK, lowest_Q = _standard_rows(scores, ids >= 0, longest_Q)
        shares.append(weight_Q[:, None] * standard_QK)
        missing.append(np.repeat((weight_Q * lowest_Q)[:, None], ids.shape[1], axis=1))
    ids_QC, share_QC = np.concatenate([left[1], right[1]], axis=1), np.concatenate(shares, axis=1)
    order_QC = np.argsort(ids_QC, axis=1, kind="stable")  # of an id in both, the left one stands first
    ids_QC, share_QC, other_QC = (
        np.take_along_axis(part, order_QC, axis=1) for part in (ids_QC, share_QC, np.concatenate(missing[::-1], axis=1))
    )
    both_QC = (ids_QC[:, :-1] == ids_QC[:, 1:]) & (ids_QC[:, 1:] >= 0)
    other_QC[:, :-1] = np.where(both_QC, share_QC[:, 1:], other_QC[:, :-1])
    ids_QC[:, 1:][both_QC] = -1
    return merge_topk([((share_QC + other_QC).astype(np.float32), ids_QC)], depth)


def dense_weight(coverage: float, found_again: float | None) -> float:
    """Return the weight of the vectors for a query.

    coverage: its best BM25 score in the highest that any document could have. found_again: the mean reciprocal rank at
    which the encoder finds the corpus's passages again by a part of them; None: it was not tried, and is trusted; 0: it
    has no tokens for the corpus's letters, so that its vectors say nothing.
    """
    if found_again == 0:
        return 0.0
    by_words = _between(coverage, BY_WORDS)
    return by_words if found_again is None else min(by_words, _between(found_again, BY_ENCODER))


def rrf(rankings: Sequence[Array], depth: int, *, k: int = 60) -> tuple[I64, F64]:
    """Return (ids, scores) of the `depth` best by the sum over rankings of 1 / (k + rank), ranks from 1.

    Each ranking holds ids, best first, of which `depth` are read; -1 marks a missing hit, and an id's second appearance
    in one ranking is ignored. Ties by id. Source: Cormack, Clarke and Buettcher 2009.
    """
    if k < 0 or depth < 1:
        raise ConfigError(f"fusion: k={k}, depth={depth}: k must be at least 0 and depth at least 1; try k=60")
    parts: dict[int, list[float]] = {}
    for ranking in rankings:
        seen: set[int] = set()
        for rank, one in enumerate(np.asarray(ranking)[:depth].tolist(), start=1):
            if one >= 0 and one not in seen:
                seen.add(one)
                parts.setdefault(int(one), []).append(1.0 / (k + rank))
    ordered = sorted((-math.fsum(values), one) for one, values in parts.items())[:depth]
    ids = np.array([one for _, one in ordered], dtype=np.int64)
    return ids, np.array([-score for score, _ in ordered], dtype=np.float64)


def _standard_scores(scores: list[float]) -> list[float]:
    """Return the scores less their mean, in standard deviations; zeros where all are equal."""
    if not scores:
        return []
    mean, deviation = _moments(scores)
    return [(score - mean) / deviation if deviation > 0 else 0.0 for score in scores]


def _standard_rows(scores_QK: F32, held_QK: Array, longest_Q: I64) -> tuple[F64, F64]:
    """Return each row's standard scores, zeros where nothing is held, and the lowest of a row."""
    lengths_Q = held_QK.sum(axis=1)
    given_QK = np.where(held_QK, scores_QK, np.float32(0)).astype(np.float64)
    sizes_Q, divisor_Q = list(zip(lengths_Q.tolist(), longest_Q.tolist(), strict=True)), np.maximum(longest_Q, 1)
    sums = [math.fsum(scores[:length]) for scores, (length, _) in zip(given_QK.tolist(), sizes_Q, strict=True)]
    mean_Q1 = (np.array(sums) / divisor_Q)[:, None]
    squares_QK, absent = (given_QK - mean_Q1) ** 2, (mean_Q1[:, 0] ** 2).tolist()
    rows = zip(squares_QK.tolist(), absent, sizes_Q, strict=True)
    sums = [math.fsum(row[:length] + [one] * (longest - length)) for row, one, (length, longest) in rows]
    deviation_Q1 = np.sqrt(np.array(sums) / divisor_Q)[:, None]
    flat_Q1 = deviation_Q1 == 0
    divisor_Q1 = np.where(flat_Q1, 1.0, deviation_Q1)
    standard_QK = np.where(flat_Q1 | ~held_QK, 0.0, (given_QK - mean_Q1) / divisor_Q1)
    least_Q = np.where(held_QK, given_QK, np.inf).min(axis=1, initial=np.inf)
    least_Q = np.where(lengths_Q < longest_Q, np.minimum(least_Q, 0.0), least_Q)
    least_Q[longest_Q == 0] = 0.0
    lowest_Q: F64 = np.where(flat_Q1[:, 0], 0.0, (least_Q - mean_Q1[:, 0]) / divisor_Q1[:, 0])
    return standard_QK, lowest_Q


def _moments(scores: list[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation of scores, of which there are some."""
    mean = math.fsum(scores) / len(scores)
    return mean, math.sqrt(math.fsum((score - mean) * (score - mean) for score in scores) / len(scores))


def _between(figure: float, ends: tuple[tuple[float, float], tuple[float, float]]) -> float:
    (low, at_low), (high, at_high) = ends
    share = min(1.0, max(0.0, (figure - low) / (high - low)))
    return at_low + share * (at_high - at_low)
