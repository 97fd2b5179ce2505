"""Candidate pairs from buckets: documents that share a band's key. Shapes: R rows, P pairs."""

from __future__ import annotations

import numpy as np

from rag_hpc.algo.types import I64, U64


class Buckets:
    """Turns rows (key, document) that come sorted, block by block, into pairs of documents of one key.

    A document is paired with those at most `window` places before it in its bucket, and with the bucket's smallest:
    all pairs of a bucket of up to window + 1 documents, and at most window + 1 pairs a document in a larger one. In a
    large bucket of mutual duplicates this still connects all. What can be lost there is a true pair that is far apart
    in the order of documents and whose chain is cut by verification; it would have to happen in every band that the
    pair shares. Take out exact copies first: they make the large buckets.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._keys = np.empty(0, dtype=np.uint64)  # the last rows of the block before, all of one bucket
        self._docs = np.empty(0, dtype=np.int64)
        self._smallest = np.empty(0, dtype=np.int64)  # of that bucket

    def pairs(self, keys_R: U64, docs_R: I64) -> I64:
        """Return pairs_P2, smaller document first, of the next block; a pair may come twice."""
        num_old = len(self._keys)
        keys, docs = np.concatenate([self._keys, keys_R]), np.concatenate([self._docs, docs_R])
        smallest = self._smallest_of_bucket(keys, docs)
        if len(keys):
            begin = max(int(np.searchsorted(keys, keys[-1])), len(keys) - max(1, self._window))
            self._keys, self._docs, self._smallest = keys[begin:], docs[begin:], smallest[-1:]
        parts = [np.stack([smallest, docs], axis=1)[num_old:]]
        for distance in range(1, self._window + 1):
            later = distance + np.flatnonzero(keys[distance:] == keys[: max(0, len(keys) - distance)])
            if not len(later):
                break
            later = later[later >= num_old]
            parts.append(np.stack([docs[later - distance], docs[later]], axis=1))
        joined = np.concatenate(parts)
        pairs: I64 = joined[joined[:, 0] < joined[:, 1]]
        return pairs

    def _smallest_of_bucket(self, keys: U64, docs: I64) -> I64:
        """Return for each row its bucket's smallest document, which is its first."""
        heads = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
        first = docs[heads]
        if len(self._smallest):
            first[0] = self._smallest[0]
        return np.repeat(first, np.diff(np.append(heads, len(keys))))
