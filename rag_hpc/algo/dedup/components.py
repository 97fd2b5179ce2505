"""Connected components over integer ids, as one process or with the ids divided among ranks.

Shapes: N nodes, P pairs, R ranks. A component's label is its smallest member, so it depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from rag_hpc.algo.types import I64, Array
from rag_hpc.errors import InputError

BATCH_PAIRS = 1 << 22  # that are joined at a time: a pass over the labels costs more than the pairs


class Ranks(Protocol):
    """What is asked of the communicator."""

    rank: int
    world_size: int

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Return what every rank sent to this one; parts[r] goes to rank r."""

    def sum(self, array: Array) -> Array:
        """Return the sum over ranks."""


class Partition:
    """The nodes bounds[0]..bounds[-1]-1 divided among ranks: rank r owns those from bounds[r] to bounds[r + 1] - 1."""

    def __init__(self, bounds: I64, ranks: Ranks) -> None:
        self.bounds, self.ranks = bounds, ranks
        self.low, self.high = int(bounds[ranks.rank]), int(bounds[ranks.rank + 1])

    def components(self, batches: Iterable[I64]) -> I64:
        """Return the labels of this rank's nodes, after every rank has given all its pairs_P2.

        The second node of a pair is this rank's own and not smaller than the first, which may be any rank's;
        InputError otherwise. Memory is that of this rank's labels, of one batch and of the pairs that reach into
        other ranks' nodes.

        Each rank joins what lies inside its range; what is left is a graph between roots of these trees. In rounds,
        the larger root of every pair is hooked below the smaller one by its owner, and hooked roots follow their
        parents' parents until all are flat. Source: Shiloach, Vishkin 1982.
        """
        parent, across = self._join_own(batches)
        roots_P2 = np.stack([self.ask(across[:, 0], lambda own: parent[own - self.low]), across[:, 1]], axis=1)
        hooked = np.empty(0, dtype=np.int64)
        while self._any(len(roots_P2 := unique_pairs(roots_P2[roots_P2[:, 0] != roots_P2[:, 1]]))):
            mine = np.concatenate(self.send(roots_P2.max(axis=1), np.sort(roots_P2, axis=1)))
            np.minimum.at(parent, mine[:, 1] - self.low, mine[:, 0])
            hooked = np.unique(np.concatenate([hooked, mine[:, 1]]))
            self._flatten(parent, hooked)
            ends = self.ask(roots_P2.reshape(-1), lambda own: parent[own - self.low])
            roots_P2 = ends.reshape(-1, 2)
        inside = parent >= self.low
        parent[inside] = parent[parent[inside] - self.low]
        return parent

    def ask(self, nodes: I64, answer: Callable[[I64], Array]) -> Array:
        """Return the owners' answers, in the order of `nodes`; `answer` gives a row for each of this rank's nodes."""
        asked, back = np.unique(nodes, return_inverse=True)
        replies = self.ranks.exchange([answer(own) for own in self.send(asked, asked)])
        return np.concatenate(replies)[back.reshape(-1)]

    def send(self, nodes: I64, rows: Array) -> list[Array]:
        """Return the rows that came in, rank by rank, after each went to the owner of its node."""
        owner = np.searchsorted(self.bounds, nodes, side="right") - 1
        order = np.argsort(owner, kind="stable")
        cuts = np.searchsorted(owner[order], np.arange(1, self.ranks.world_size))
        return self.ranks.exchange(np.split(rows[order], cuts))

    def _join_own(self, batches: Iterable[I64]) -> tuple[I64, I64]:
        """Return (parent, across): this rank's trees, flat, and the pairs (another's node, root of ours), unique."""
        parent = np.arange(self.high - self.low, dtype=np.int64)
        across = np.empty((0, 2), dtype=np.int64)
        for pairs_P2 in gathered(batches):
            _check_ids(pairs_P2[:, 0], int(self.bounds[0]), self.high)
            _check_ids(pairs_P2[:, 1], self.low, self.high)
            own = pairs_P2[:, 0] >= self.low
            parent = _union(parent, pairs_P2[own] - self.low)
            others = pairs_P2[~own]
            others[:, 1] = parent[others[:, 1] - self.low] + self.low  # so that many become one
            across = unique_pairs(np.concatenate([across, others]))
        parent += self.low
        across[:, 1] = parent[across[:, 1] - self.low]
        return parent, unique_pairs(across)

    def _flatten(self, parent: I64, hooked: I64) -> None:
        changed = True
        while self._any(changed):
            was = parent[hooked - self.low]
            grand = self.ask(was, lambda own: parent[own - self.low])
            changed = not np.array_equal(was, grand)
            parent[hooked - self.low] = grand

    def _any(self, mine: float) -> bool:
        return bool(self.ranks.sum(np.array([mine > 0], dtype=np.int64))[0])


def unique_pairs(pairs_P2: I64) -> I64:
    """Return the pairs sorted by (first, second) without repeats."""
    out = pairs_P2[np.lexsort((pairs_P2[:, 1], pairs_P2[:, 0]))]
    fresh = np.ones(len(out), dtype=bool)
    fresh[1:] = np.any(out[1:] != out[:-1], axis=1)
    kept: I64 = out[fresh]
    return kept


def gathered(batches: Iterable[I64]) -> Iterable[I64]:
    """Yield the pairs in batches of about BATCH_PAIRS."""
    waiting: list[I64] = []
    for pairs_P2 in batches:
        waiting.append(pairs_P2)
        if sum(map(len, waiting)) >= BATCH_PAIRS:
            waiting = [np.concatenate(waiting)]
            yield waiting.pop()  # and hold it no longer
    if waiting:
        yield np.concatenate(waiting)


def _union(parent_N: I64, pairs_P2: I64) -> I64:
    """Return flat labels after joining the pairs: union-find over whole arrays.

    A round hooks the larger root of every still open pair below the smaller one, then halves all paths until they
    are flat. A parent is never larger than its child, so there are no cycles and the root is the smallest member.
    """
    a, b = pairs_P2[:, 0], pairs_P2[:, 1]
    while len(a):
        root_a, root_b = parent_N[a], parent_N[b]
        is_open = root_a != root_b
        a, b = root_a[is_open], root_b[is_open]
        np.minimum.at(parent_N, np.maximum(a, b), np.minimum(a, b))
        _halve_paths(parent_N)
    return parent_N


def _halve_paths(parent_N: I64) -> None:
    while True:
        grand_N = parent_N[parent_N]
        if np.array_equal(grand_N, parent_N):
            return
        parent_N[:] = grand_N


def _check_ids(ids: I64, low: int, high: int) -> None:
    if ids.size and (int(ids.min()) < low or int(ids.max()) >= high):
        raise InputError(
            f"components: ids run from {int(ids.min())} to {int(ids.max())} but there are nodes {low} to {high - 1};"
            " were pairs and documents read from the same run?"
        )
