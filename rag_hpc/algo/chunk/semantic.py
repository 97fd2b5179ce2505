"""Where a text changes its topic: neighbouring windows of sentences whose embeddings part.

Source: Hearst 1997, TextTiling (blocks on both sides of a gap, depth scores), with an encoder's cosine in the place of
word counts. S sentences, W windows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag_hpc.algo.types import F32, I64

_STEPS = 1000  # similarities are rounded to thousandths: the last bits of a sum never move a break


def windows(text: str, spans_S: Sequence[tuple[int, int]], size: int) -> list[str]:
    """Return the text of each `size` consecutive sentences: S - size + 1 windows, one at least when there is any."""
    last = max(len(spans_S) - size, 0)
    firsts = range(last + 1) if spans_S else ()
    return [text[spans_S[at][0] : spans_S[min(at + size, len(spans_S)) - 1][1]] for at in firsts]


def topic_starts(vectors_WD: F32, size: int, percentile: float) -> I64:
    """Return the sentences (positions, ascending) that begin a topic.

    The similarity at a sentence is that of the window before it and the window from it on; its depth, how far it lies
    below the peaks on both sides; a topic begins where a local minimum's depth reaches the percentile of all depths.
    """
    if len(vectors_WD) <= size:
        return np.zeros(0, dtype=np.int64)
    lengths_W = np.linalg.norm(vectors_WD.astype(np.float64), axis=1)
    unit_WD = vectors_WD / np.maximum(lengths_W, 1e-12)[:, None]
    similar = np.rint((unit_WD[:-size] * unit_WD[size:]).sum(axis=1) * _STEPS).astype(np.int64)
    depths = _peaks(similar) + _peaks(similar[::-1])[::-1] - 2 * similar
    padded = np.concatenate([[np.iinfo(np.int64).max], similar, [np.iinfo(np.int64).max]])
    is_valley = (similar <= padded[:-2]) & (similar < padded[2:])
    least = max(1, int(np.percentile(depths, percentile, method="higher")))
    starts: I64 = np.flatnonzero(is_valley & (depths >= least)) + size
    return starts


def _peaks(similar: I64) -> I64:
    """Return at each place the height that is reached by climbing to the left as long as it goes up."""
    peaks: I64 = similar.copy()
    for at in range(1, len(peaks)):
        peaks[at] = peaks[at - 1] if similar[at - 1] >= similar[at] else similar[at]
    return peaks
