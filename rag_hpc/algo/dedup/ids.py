"""Ids that several documents share, and the numbers that tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from rag_hpc.algo.types import I64, U64

_NUMBERED = re.compile(r"(.+)#([1-9][0-9]{0,17})", re.DOTALL)


def split_id(doc_id: str) -> tuple[str, int]:
    """Return an id without the number that it may end in ("#2"), and that number, 1 where it has none."""
    found = _NUMBERED.fullmatch(doc_id)
    return (found[1], int(found[2])) if found else (doc_id, 1)


def with_number(doc_id: str, number: int) -> str:
    """Return the id of another document of the same name."""
    return f"{split_id(doc_id)[0]}#{number}"


def id_keys(ids: Iterable[str]) -> U64:
    """Return a 64-bit hash of each id."""
    hashes = (blake2b(doc_id.encode("utf-8"), digest_size=8).digest() for doc_id in ids)
    return np.array([int.from_bytes(value, "little") for value in hashes], np.uint64)


class Numbers:
    """Numbers for documents whose ids stood before: those that no id of the corpus ends in."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._bases = [split_id(doc_id)[0] for doc_id in ids]
        self._highest = dict.fromkeys(self._bases, 1)

    def add(self, ids: Iterable[str]) -> None:
        """Take account of ids of the corpus; those without a number need not be among them."""
        for base, number in map(split_id, ids):
            if base in self._highest:
                self._highest[base] = max(self._highest[base], number)

    def given(self) -> I64:
        """Return a number for each document, in the order of the ids."""
        found = []
        for base in self._bases:
            self._highest[base] += 1
            found.append(self._highest[base])
        return np.array(found, np.int64)
