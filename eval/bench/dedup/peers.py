"""What users pick today for MinHash signatures, with the fastest shingling in Python that we could give them.

Both libraries take ready shingles. Two ways are timed: word 5-grams as bytes, which the library hashes as its
documentation shows, and 64-bit hashes of the 5-grams made by xxhash and numpy, so that no 5-gram is ever built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rag_hpc.algo.text.words import WORD
from rag_hpc.algo.types import U32, U64, Array

NUM_PERM, SEED, NGRAM = 128, 1, 5
_ASCII_WORDS = bytes(code if code < 128 and (chr(code).isalnum() or code == ord("_")) else 32 for code in range(256))


def words(text: str) -> list[bytes]:
    """Return the words of text/words.py in lower case."""
    text = text.lower()
    if text.isascii():  # the same words as the pattern finds, in half the time
        return text.encode("ascii").translate(_ASCII_WORDS).split()
    return [word.encode("utf-8", "surrogatepass") for word in WORD.findall(text)]


def grams(text: str) -> list[bytes]:
    """Return the word 5-grams, repeats included."""
    found = words(text)
    return list(map(b" ".join, zip(found, found[1:], found[2:], found[3:], found[4:], strict=False)))


def gram_hashes(text: str) -> U64:
    """Return a 64-bit hash of each word 5-gram."""
    import xxhash

    found = words(text)
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, found), np.uint64, len(found))
    out: U64 = np.zeros(max(0, len(found) - NGRAM + 1), np.uint64)
    for place in range(NGRAM if len(out) else 0):
        out += hashes[place : place + len(out)] * np.uint64(0x9E3779B97F4A7C15 * (2 * place + 1) & (1 << 64) - 1)
    out ^= out >> np.uint64(32)
    return out


def datasketch_bytes(texts: Sequence[str], num_perm: int = NUM_PERM) -> list[Any]:
    """Return datasketch's signatures from 5-grams in bytes, hashed by xxhash."""
    import datasketch  # type: ignore[import-untyped]
    import xxhash

    found: list[Any] = datasketch.MinHash.bulk(map(grams, texts), num_perm=num_perm, hashfunc=xxhash.xxh32_intdigest)
    return found


def datasketch_hashes(texts: Sequence[str], num_perm: int = NUM_PERM) -> list[Any]:
    """Return datasketch's signatures from ready hashes."""
    return datasketch_ready([gram_hashes(text) for text in texts], num_perm)


def datasketch_ready(hashes: Sequence[Array], num_perm: int = NUM_PERM) -> list[Any]:
    """Return datasketch's signatures of documents' hashes, of which it takes 32 bits."""
    import datasketch

    lists = ((one & np.uint64(0xFFFFFFFF)).tolist() for one in hashes)
    found: list[Any] = datasketch.MinHash.bulk(lists, num_perm=num_perm, hashfunc=int)
    return found


def rensa_bytes(texts: Sequence[str]) -> Any:
    """Return rensa's exact signatures from 5-grams in bytes."""
    from rensa import RMinHash  # type: ignore[import-untyped]

    return RMinHash.digest_matrix_from_token_byte_sets([grams(text) for text in texts], NUM_PERM, SEED)


def rensa_hashes(texts: Sequence[str]) -> Any:
    """Return rensa's exact signatures from ready hashes."""
    return rensa_ready([gram_hashes(text) for text in texts])


def rensa_ready(hashes: Sequence[Array], rho: bool = False) -> Any:
    """Return rensa's signatures of documents' hashes; with `rho` of at most 15 of them, picked by their position."""
    from rensa import RMinHash

    flat = np.concatenate(hashes).astype(np.uint64)
    ends = np.cumsum([0, *map(len, hashes)]).astype(np.uint64)
    name = "digest_matrix_from_flat_token_hashes" + ("_rho" if rho else "")
    return getattr(RMinHash, name)(flat, ends, NUM_PERM, SEED)


def rows_of(signatures: Any) -> U32:
    """Return a peer's signatures as an array [documents, permutations]."""
    rows = signatures.to_rows() if hasattr(signatures, "to_rows") else [one.hashvalues for one in signatures]
    return np.array(rows, dtype=np.uint32)


DATASKETCH: dict[str, Callable[[Sequence[str], int], Any]] = {  # of texts and permutations
    "datasketch 2, 5-grams": datasketch_bytes,
    "datasketch 2, hashes": datasketch_hashes,
}
RENSA: dict[str, Callable[[Sequence[str]], Any]] = {
    "rensa exact, 5-grams": rensa_bytes,
    "rensa exact, hashes": rensa_hashes,
}
