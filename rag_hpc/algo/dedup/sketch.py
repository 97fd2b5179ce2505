"""MinHash signatures and exact sets of word n-grams, straight from UTF-8 bytes.

Documents come as Arrow keeps a string column: one buffer of bytes and the end of each document in it.
Words are those of `words(text.lower())` (text/words.py). A text with fewer than n words (but at least one) has one
n-gram, of all its words; a text without words has none. Nothing depends on the machine or on other documents.
Shapes: D bytes, N documents, K permutations, S n-gram hashes of all documents, P pairs.
Sources: Broder 1997; Li, Owen, Zhang 2012 (one permutation); Dahlgaard, Knudsen, Thorup 2017 (filling empty bins).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.dedup.minhash import Family, check_pairs, permutations
from rag_hpc.algo.types import F64, I32, I64, U8, U32, U64, Array
from rag_hpc.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rag_hpc.algo.dedup.sketch_text import Work


AT_ONCE = 512  # texts turned into bytes at a time, so that they are still in the cache when they are read
MAX_BYTES = (1 << 31) - 1  # of a document: places take 32 bits, and lower case and spaces may take as much again
FAMILIES = list(Family)  # the kernels know them by their place


@dataclass(frozen=True)
class Sketches:
    """What is kept of documents to find those that are alike."""

    signatures_NK: U32
    num_shingles_N: I32  # word n-grams, repeats included; 0: no words, so no evidence of likeness
    exact_N: U64  # equal for texts that differ only in case and white space (Chinese and the like: in any at all)
    flat_S: U32  # 32-bit n-gram hashes, sorted and unique within each document; empty unless asked for
    set_ends_N: I64  # the end of each document's hashes; likewise


def from_texts(texts: Sequence[str]) -> tuple[U8, I64]:
    """Return (data_D, ends_N) of the texts in UTF-8."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends_N = np.cumsum([0, *map(len, encoded)])[1:]
    return np.frombuffer(b"".join(encoded), np.uint8), ends_N


def sketch(
    data_D: U8, ends_N: I64, *, num_perm: int = 128, ngram: int = 5, family: Family = Family.fast, sets: bool = False
) -> Sketches:
    """Return the sketches of the documents data_D[ends_N[i - 1] : ends_N[i]], with sets when asked, without the GIL.

    `fast` takes two or three hashes an n-gram instead of num_perm; the other families are datasketch's, bit for bit.
    Raises ConfigError for num_perm or ngram < 1, InputError for ends that are not ascending within the data and for
    documents of 2 GiB and more.
    """
    ends = _check(len(data_D), ends_N)
    out = _room(len(ends), num_perm, int(ends[-1]) if sets and len(ends) else 0)
    _fill(data_D, ends, _Settings(ngram, family, permutations(num_perm, family), sets), out)
    num_hashes = int(out[-1][-1]) if sets and len(ends) else 0
    return Sketches(out[0], out[1], out[2], out[3][:num_hashes].copy(), out[4][: len(ends) if sets else 0])


def sketch_texts(
    texts: Sequence[str], *, num_perm: int = 128, ngram: int = 5, family: Family = Family.fast
) -> Sketches:
    """Return the sketches of the texts, without sets: `sketch` of `from_texts`, a few at a time."""
    out, settings = _room(len(texts), num_perm, 0), _Settings(ngram, family, permutations(num_perm, family), False)
    for at in range(0, len(texts), AT_ONCE):
        _fill(*from_texts(texts[at : at + AT_ONCE]), settings, [column[at : at + AT_ONCE] for column in out])
    return Sketches(out[0], out[1], out[2], out[3][:0], out[4][:0])


def signatures(flat_S: U32, ends_N: I64, *, num_perm: int = 128, family: Family = Family.fast) -> U32:
    """Return signatures_NK from n-gram hashes, those of `sketch` for the same hashes."""
    from rag_hpc.algo.dedup import sketch_sign

    factors = permutations(num_perm, family)
    out = np.empty((len(ends_N), num_perm), np.uint32)
    ends = _check(len(flat_S), ends_N)
    sketch_sign.sign_sets(_frozen(flat_S, np.uint32), ends, FAMILIES.index(family), factors, out)
    return out


def shingle_sets(data_D: U8, ends_N: I64, ngram: int = 5) -> tuple[U32, I64]:
    """Return (flat_S, ends_N): each document's 32-bit n-gram hashes, sorted and unique within the document."""
    ends = _check(len(data_D), ends_N)
    out = _room(len(ends), 0, int(ends[-1]) if len(ends) else 0)
    _fill(data_D, ends, _Settings(ngram, Family.fast, np.empty((2, 0), np.uint64), True), out)
    return out[3][: int(out[4][-1]) if len(ends) else 0].copy(), out[4]


def jaccard(set_a: U32, set_b: U32) -> float:
    """Return |A and B| / |A or B| of two sorted unique sets; 0.0 when one is empty (no evidence of likeness)."""
    ends = np.cumsum([len(set_a), len(set_b)])
    return float(jaccard_pairs(np.concatenate([set_a, set_b]), ends, np.array([[0, 1]]))[0])


def jaccard_pairs(flat_S: U32, ends_N: I64, pairs_P2: I64) -> F64:
    """Return the exact similarity_P of pairs of the sets that `shingle_sets` made. Raises InputError for others."""
    from rag_hpc.algo.dedup import sketch_sign

    ends = _check(len(flat_S), ends_N)
    return sketch_sign.jaccard_pairs(_frozen(flat_S, np.uint32), ends, check_pairs(pairs_P2, len(ends)))


@dataclass(frozen=True)
class _Settings:
    ngram: int
    family: Family
    factors_2K: U64
    sets: bool


def _room(num_docs: int, num_perm: int, num_bytes: int) -> list[Any]:
    """Return the arrays of Sketches, with room for hashes: a word and what parts it from the next take 2 bytes."""
    shapes = (num_docs, num_perm), num_docs, num_docs, num_bytes // 2 + num_docs, num_docs
    return [np.empty(*of) for of in zip(shapes, (np.uint32, np.int32, np.uint64, np.uint32, np.int64), strict=True)]


def _fill(data_D: U8, ends_N: I64, settings: _Settings, out: Sequence[Any]) -> None:
    from rag_hpc.algo.dedup import sketch_sign

    data, ends, work = _prepare(data_D, ends_N, settings.ngram)
    number = FAMILIES.index(settings.family)
    sketch_sign.sign_texts(data, ends, number, settings.factors_2K, settings.sets, work, sketch_sign.Out(*out))


def _prepare(data_D: U8, ends_N: I64, ngram: int) -> tuple[U8, I64, Work]:
    """Return data and ends that the kernels can take, and their buffers."""
    from rag_hpc.algo.dedup import sketch_text

    if ngram < 1:
        raise ConfigError(f"ngram={ngram}: at least 1 word; try 5")
    if _longest(ends_N) > MAX_BYTES:
        raise InputError(f"a document has {_longest(ends_N)} bytes; at most {MAX_BYTES} are possible, cut it in parts")
    data, ends = _frozen(data_D, np.uint8), ends_N
    special = sketch_text.documents_for_python(data, ends)
    if len(special):
        data, ends = _lowered(data, ends, special)
    return data, ends, sketch_text.workspace(_longest(ends), ngram)


def _longest(ends_N: I64) -> int:
    return int(np.diff(ends_N, prepend=0).max(initial=0))


def _lowered(data: U8, ends: I64, special: I64) -> tuple[U8, I64]:
    """Return data and ends with some documents in lower case."""
    documents = [part.tobytes() for part in np.split(data[: int(ends[-1])], ends[:-1])]
    for doc in special:
        try:
            text = documents[doc].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # not from a str: left as the kernels take it, whichever documents stand beside it
            continue
        documents[doc] = text.lower().encode("utf-8", "surrogatepass")
    lengths = accumulate(map(len, documents))
    return np.frombuffer(b"".join(documents), np.uint8), np.fromiter(lengths, np.int64, len(documents))


def _check(size: int, ends_N: I64) -> I64:
    ends = np.ascontiguousarray(ends_N, np.int64)
    if len(ends) and (ends[0] < 0 or ends[-1] > size or (ends[1:] < ends[:-1]).any()):
        raise InputError(f"ends of documents must ascend from 0 to at most {size}, the size of the data")
    return ends


def _frozen(array: Array, dtype: type[np.generic]) -> Any:
    """Return a read-only view: the kernels are then compiled for one type, whoever made the array."""
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view
