"""MinHash signatures that agree bit for bit with datasketch, LSH bands and candidate pairs by sorting.

Shapes: S shingles of one document, K permutations, N documents, B bands, P pairs.
Sources: Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rag_hpc.algo.shingle import U64, mix64
from rag_hpc.errors import ConfigError

I64 = npt.NDArray[np.int64]
Signature = npt.NDArray[np.uint32]

_MERSENNE = np.uint64((1 << 61) - 1)
_LOW32 = np.uint64(0xFFFFFFFF)
_BLOCK = 1024  # shingles permuted at a time: 1024 x 128 uint32 stay in the cache
_STEP = 0.001  # integration step of optimal_bands


class Scheme(enum.Enum):
    """Permutation families of datasketch: `affine32` is the default since its 2.0, `legacy` the only one before."""

    affine32 = "affine32"
    legacy = "legacy"


@dataclass(frozen=True)
class Permutations:
    """The factors a_K and summands b_K of K permutations of 32-bit values."""

    scheme: Scheme
    a_K: npt.NDArray[np.unsignedinteger]
    b_K: npt.NDArray[np.unsignedinteger]


def permutations(num_perm: int = 128, seed: int = 1, scheme: Scheme = Scheme.affine32) -> Permutations:
    """Return the permutations that datasketch draws from this seed. Raises ConfigError when num_perm < 1."""
    if num_perm < 1:
        raise ConfigError(f"num_perm={num_perm}: at least 1 permutation is needed; try 128")
    rng = np.random.RandomState(seed)  # its stream is frozen by NumPy's compatibility policy
    if scheme is Scheme.affine32:
        a_K = rng.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        return Permutations(scheme, a_K, rng.randint(0, 1 << 32, num_perm, dtype=np.uint32))
    top = int(_MERSENNE)
    drawn = [(rng.randint(1, top, dtype=np.uint64), rng.randint(0, top, dtype=np.uint64)) for _ in range(num_perm)]
    ab = np.array(drawn, dtype=np.uint64)
    return Permutations(scheme, ab[:, 0].copy(), ab[:, 1].copy())


def signature(hashes_S: U64, perms: Permutations) -> Signature:
    """Return the sig_K of a document from its shingle hashes: the minimum of each permutation of their low 32 bits.

    Without shingles every value is 2^32 - 1, as in datasketch: such documents all look alike, so leave them out.
    """
    sig_K = np.full(len(perms.a_K), 0xFFFFFFFF, dtype=np.uint32)
    low = (hashes_S & _LOW32).astype(np.uint32)
    permute = _affine32 if perms.scheme is Scheme.affine32 else _legacy
    for begin in range(0, len(low), _BLOCK):
        np.minimum(sig_K, permute(low[begin : begin + _BLOCK], perms), out=sig_K)
    return sig_K


def signatures(docs: Sequence[U64], perms: Permutations) -> npt.NDArray[np.uint32]:
    """Return the signatures_NK of the documents' shingle hashes."""
    out = np.empty((len(docs), len(perms.a_K)), dtype=np.uint32)
    for row, hashes_S in enumerate(docs):
        out[row] = signature(hashes_S, perms)
    return out


def _affine32(low: npt.NDArray[np.uint32], perms: Permutations) -> Signature:
    values = low ^ (low >> np.uint32(16))  # MurmurHash3's 32-bit finalizer, then a*h + b modulo 2^32
    values = values * np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values = values * np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    phv = values[:, None] * perms.a_K
    phv += perms.b_K
    least: Signature = phv.min(axis=0)
    return least


def _legacy(low: npt.NDArray[np.uint32], perms: Permutations) -> Signature:
    phv = low.astype(np.uint64)[:, None] * perms.a_K  # wraps modulo 2^64 before the prime, as datasketch does
    phv += perms.b_K
    phv %= _MERSENNE
    phv &= _LOW32
    least: Signature = phv.min(axis=0).astype(np.uint32)
    return least


def estimate(sig_a: Signature, sig_b: Signature) -> float:
    """Return the estimated Jaccard similarity: the share of equal places."""
    return float(np.count_nonzero(sig_a == sig_b)) / len(sig_a)


def estimate_pairs(signatures_NK: npt.NDArray[np.uint32], pairs_P2: I64) -> npt.NDArray[np.float64]:
    """Return the estimated similarity_P of pairs of rows."""
    out = np.empty(len(pairs_P2), dtype=np.float64)
    for begin in range(0, len(pairs_P2), 65536):  # bounds the gathered rows to 2 x 32 MiB at K = 128
        a, b = pairs_P2[begin : begin + 65536].T
        out[begin : begin + 65536] = (signatures_NK[a] == signatures_NK[b]).mean(axis=1)
    return out


def exact_jaccard(shingles_a: U64, shingles_b: U64) -> float:
    """Return |A and B| / |A or B| of two sorted unique arrays; 0.0 when one is empty (no evidence of likeness)."""
    if not len(shingles_a) or not len(shingles_b):
        return 0.0
    if len(shingles_a) > len(shingles_b):
        shingles_a, shingles_b = shingles_b, shingles_a
    at = np.minimum(np.searchsorted(shingles_b, shingles_a), len(shingles_b) - 1)
    common = int(np.count_nonzero(shingles_b[at] == shingles_a))
    return common / (len(shingles_a) + len(shingles_b) - common)


@lru_cache(maxsize=64)
def optimal_bands(num_perm: int, threshold: float, fp_weight: float = 0.5, fn_weight: float = 0.5) -> tuple[int, int]:
    """Return (bands, rows), bands * rows <= num_perm, with the least weighted area of false positives and negatives.

    Same integral and tie rule as datasketch's MinHashLSH. Where candidates are verified afterwards, a larger
    fn_weight buys recall with more pairs to verify. Raises ConfigError for a threshold outside ]0, 1[.
    """
    if num_perm < 1 or not 0.0 < threshold < 1.0:
        raise ConfigError(f"num_perm={num_perm}, threshold={threshold}: need num_perm >= 1 and 0 < threshold < 1")
    below = np.arange(0.0, threshold, _STEP) + _STEP / 2
    above = np.arange(threshold, 1.0, _STEP) + _STEP / 2
    best, found = float("inf"), (1, 1)
    for bands in range(1, num_perm + 1):
        for rows in range(1, num_perm // bands + 1):
            false_pos = float(np.sum(1.0 - (1.0 - below**rows) ** bands)) * _STEP
            false_neg = float(np.sum((1.0 - above**rows) ** bands)) * _STEP
            error = fp_weight * false_pos + fn_weight * false_neg
            if error < best:
                best, found = error, (bands, rows)
    return found


def band_keys(signatures_NK: npt.NDArray[np.uint32], bands: int, rows: int) -> U64:
    """Return keys_NB: a 64-bit hash of each band's rows, equal for equal rows in the same band on every machine.

    Raises ConfigError when the signatures hold fewer than bands * rows values.
    """
    num_docs, num_perm = signatures_NK.shape
    if bands < 1 or rows < 1 or bands * rows > num_perm:
        raise ConfigError(f"bands={bands} x rows={rows} does not fit num_perm={num_perm}; take optimal_bands()")
    factors = mix64(np.arange(1, bands * rows + 1, dtype=np.uint64)) | np.uint64(1)
    keys_NB = np.empty((num_docs, bands), dtype=np.uint64)
    for band in range(bands):
        places = slice(band * rows, (band + 1) * rows)
        mixed = mix64(signatures_NK[:, places].astype(np.uint64) + np.uint64(1))
        keys_NB[:, band] = mix64((mixed * factors[places]).sum(axis=1, dtype=np.uint64))
    return keys_NB


def pairs_from_bands(keys_N: U64, ids_N: I64, window: int = 8) -> I64:
    """Return candidate pairs_P2 (a < b, sorted, unique) of documents that share a key in one band.

    Buckets are runs of a sort by (key, id). A member is paired with those at most `window` places after it in its
    bucket, and with the bucket's smallest id: every pair of a bucket of up to window + 1 members, and at most
    window + 1 pairs a member in a larger one (never n^2). In a large bucket of mutual duplicates this still connects
    all. What can be lost there is a true pair that is far apart in id order and whose chain is cut by verification;
    other bands mix the members anew, so that needs to happen in every band the pair shares.
    Remove exact duplicates first: they make the large buckets.
    """
    order = np.lexsort((ids_N, keys_N))
    keys, ids = keys_N[order], ids_N[order]
    heads = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else np.empty(0, np.int64)
    sizes = np.diff(np.append(heads, len(keys)))
    found = [np.stack([np.repeat(ids[heads], sizes), ids], axis=1)]
    for distance in range(1, min(window, int(sizes.max(initial=1)) - 1) + 1):
        same = np.flatnonzero(keys[distance:] == keys[:-distance])
        found.append(np.stack([ids[same], ids[same + distance]], axis=1))
    pairs_P2 = np.concatenate(found).astype(np.int64)
    return unique_pairs(pairs_P2[pairs_P2[:, 0] < pairs_P2[:, 1]])


def unique_pairs(pairs_P2: I64) -> I64:
    """Return the pairs sorted by (first, second) without repeats."""
    if not len(pairs_P2):
        return np.empty((0, 2), dtype=np.int64)
    out = pairs_P2[np.lexsort((pairs_P2[:, 1], pairs_P2[:, 0]))]
    keep = np.concatenate(([True], np.any(out[1:] != out[:-1], axis=1)))
    kept: I64 = out[keep]
    return kept
