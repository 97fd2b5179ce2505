"""Which pairs make which step: a function of the seed alone, so that whoever resumes takes the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from rag_hpc.core.hashing import hash_value
from rag_hpc.errors import InputError
from rag_hpc.stores.trained import Pair


def batches_of(pairs: Sequence[Pair], size: int, epochs: int, seed: int) -> list[list[int]]:
    """Return the positions of each step's pairs, `size` in each, epochs one after another.

    No step holds a question or a passage twice: in it, each passage counts as wrong for all questions but its own. A
    pair that would be the second waits for a later step, and the few left at the end of an epoch are left out.
    Raises InputError when no step can be filled.
    """
    batches: list[list[int]] = []
    for epoch in range(epochs):
        waiting = deque(np.random.default_rng([seed, epoch]).permutation(len(pairs)).tolist())
        while len(batch := _next_batch(pairs, waiting, size)) == size:
            batches.append(batch)
    if not batches:
        num = len({pair.positive for pair in pairs})
        raise InputError(
            f"train.batch_size={size}: no {size} of the {len(pairs)} pairs ({num} passages) differ in question and "
            "passage; lower it"
        )
    return batches


def order_hash(pairs: Sequence[Pair], batches: Sequence[Sequence[int]]) -> str:
    """Return the hash of which pairs are in which step: a checkpoint of another order is of another training."""
    ids = [(pair.query_id, pair.positive_id) for pair in pairs]
    return hash_value([[ids[at] for at in batch] for batch in batches])


def share_of(batch: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """Return a rank's part of a step; the parts, in the order of ranks, are the step."""
    each = len(batch) // world_size
    return batch[rank * each : (rank + 1) * each]


def _next_batch(pairs: Sequence[Pair], waiting: deque[int], size: int) -> list[int]:
    """Return the next step's pairs, taken out of `waiting`; fewer than `size` when there are no more that differ."""
    batch: list[int] = []
    put_off: list[int] = []
    seen: set[str] = set()
    while waiting and len(batch) < size:
        at = waiting.popleft()
        texts = {pairs[at].query, pairs[at].positive}
        if seen & texts:
            put_off.append(at)
        else:
            seen |= texts
            batch.append(at)
    waiting.extendleft(reversed(put_off))
    return batch
