"""Ids that several documents share: which documents have one that stood before, and the number that makes it theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np

from rag_hpc.algo.types import I64, Array
from rag_hpc.stages.dedup.signed import SignedCorpus, SignedUnit
from rag_hpc.stores.arrays import ArrayFile
from rag_hpc.stores.extsort import Sorter

REPEATS = "repeats.npy"  # of dedup.group's last unit
_NUMBERED = re.compile(r"(.+)#([1-9][0-9]{0,17})", re.DOTALL)


def repeated_ids(corpus: SignedCorpus, sorter: Sorter, check_stop: Callable[[], None]) -> I64:
    """Return (number, suffix) [R, 2] of this run's R documents whose id an earlier one has, by number.

    `#suffix` after the id, without a number that it may end in, is the id of no other document.
    """
    for unit in _own(corpus):
        check_stop()
        keys = np.array([_key(doc_id) for doc_id in _ids(unit)], np.uint64)
        sorter.add(keys, np.arange(unit.first, unit.stop, dtype=np.int64))
    numbers = np.sort(np.concatenate([np.empty(0, np.int64), *_again(sorter)]))
    if not len(numbers):
        return np.empty((0, 2), np.int64)
    bases = [_split(doc_id)[0] for doc_id in _ids_of(corpus, numbers)]
    highest = dict.fromkeys(bases, 1)
    for unit in _own(corpus):
        check_stop()
        for base, suffix in map(_split, _ids(unit, numbered=True)):
            if base in highest:
                highest[base] = max(highest[base], suffix)
    suffixes = []
    for base in bases:
        highest[base] += 1
        suffixes.append(highest[base])
    return np.stack([numbers, np.array(suffixes, np.int64)], axis=1)


def repeats_in(path: Path, first: int, stop: int) -> dict[int, int]:
    """Return the suffix of each document numbered [first, stop) whose id stood before, by its place in that range."""
    file = ArrayFile(path)
    rows = file.rows(file.rank_of(first, 0), file.rank_of(stop, 0))
    return {int(number) - first: int(suffix) for number, suffix in rows}


def with_suffix(doc_id: str, suffix: int) -> str:
    """Return the id of another document of the same name."""
    return f"{_split(doc_id)[0]}#{suffix}"


def base_of(doc_id: str) -> str:
    """Return an id without the number that it may end in."""
    return _split(doc_id)[0]


def _own(corpus: SignedCorpus) -> list[SignedUnit]:
    return corpus.units[corpus.num_older_units :]


def _ids(unit: SignedUnit, *, numbered: bool = False) -> list[str]:
    import pyarrow.compute as pc

    column = unit.columns(["doc_id"]).column("doc_id")
    found: list[str] = (column.filter(pc.match_substring(column, "#")) if numbered else column).to_pylist()
    return found


def _ids_of(corpus: SignedCorpus, numbers: I64) -> Iterator[str]:
    for unit, rows in corpus.by_unit(numbers):
        yield from unit.columns(["doc_id"]).column("doc_id").take(rows).to_pylist()


def _key(doc_id: str) -> int:
    return int.from_bytes(blake2b(doc_id.encode("utf-8"), digest_size=8).digest(), "little")


def _again(sorter: Sorter) -> Iterator[Array]:
    """Yield the numbers of the rows whose key the row before has, of the rows in order."""
    last = None
    for keys, numbers in sorter.blocks():
        again = np.empty(len(keys), bool)
        again[0] = last is not None and keys[0] == last
        again[1:] = keys[1:] == keys[:-1]
        last = keys[-1]
        yield numbers[again]


def _split(doc_id: str) -> tuple[str, int]:
    found = _NUMBERED.fullmatch(doc_id)
    return (found[1], int(found[2])) if found else (doc_id, 1)
