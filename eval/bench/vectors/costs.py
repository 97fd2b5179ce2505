"""A batch of questions at p workers, put together from one worker's measured times and simulated messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCH, DEPTH, PROBES = 64, 100, 32
DRAWS = 200
HIT_BYTES = 12  # a float32 score and an int64 id


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of a batch, as measured. Keys of dicts are p."""

    lists_s: Mapping[int, float]  # a worker's choice of lists
    scan_s: Mapping[int, Sequence[float]]  # of one worker's share, without that choice
    rescore_s: Mapping[int, Sequence[float]]
    merge_s: float  # of two blocks of hits
    latency_s: float  # of a message
    byte_s: float  # of each of its bytes
    chosen_bytes: int = 0  # of chosen lists that workers tell each other; 0 = each chooses all

    def message_s(self, num_bytes: float) -> float:
        """Return what a message takes."""
        return self.latency_s + self.byte_s * num_bytes


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Seconds of a batch at one p, by what they go to."""

    lists: float
    scan: float  # a mean worker's
    rescore: float
    waiting: float  # for the slowest worker, beyond the mean
    merges: float
    messages: float

    @property
    def total(self) -> float:
        """T."""
        return self.lists + self.scan + self.rescore + self.waiting + self.merges + self.messages


def simulate(costs: Costs, p: int, seed: int = 0) -> Batch:
    """Return the mean batch over DRAWS draws of every worker's time."""
    rng, rounds = np.random.default_rng([seed, p]), math.ceil(math.log2(p)) if p > 1 else 0
    means, slowest = [], []
    for measured in (costs.scan_s[p], costs.rescore_s[p]):
        drawn_SP = rng.choice(np.asarray(measured), (DRAWS, p))
        means.append(float(drawn_SP.mean()))
        slowest.append(float(drawn_SP.max(axis=1).mean()))
    hits, ids = BATCH * DEPTH * HIT_BYTES, BATCH * DEPTH * 8
    messages = rounds * (2 * costs.message_s(hits) + costs.message_s(ids))  # two merges up, one cut down
    if costs.chosen_bytes:
        messages += 2 * rounds * costs.message_s(costs.chosen_bytes)  # up and down a tree
    return Batch(
        lists=costs.lists_s[p],
        scan=means[0],
        rescore=means[1],
        waiting=sum(slowest) - sum(means),
        merges=2 * rounds * costs.merge_s,
        messages=messages,
    )
