"""Kernels from n-gram hashes to signatures and exact sets. Shapes: D bytes, N documents, K permutations, S hashes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rag_hpc.algo.jit import jit
from rag_hpc.algo.sketch_bits import affine32, mix32
from rag_hpc.algo.sketch_text import I64, U8, U32, U64, Work, hash_grams, mix

I32 = npt.NDArray[np.int32]

_EMPTY, _ROUNDS = np.uint32(0xFFFFFFFF), 8
_LANES = 64  # 32-bit numbers in the four vectors of an unrolled loop
_FEW = 8  # empty bins up to which a pass for each is cheaper than one over all n-grams
_MERSENNE, _LOW32 = np.uint64((1 << 61) - 1), np.uint64(0xFFFFFFFF)
FAST, AFFINE32, LEGACY = 0, 1, 2  # families


class Out(NamedTuple):
    """What is written about documents."""

    signatures_NK: U32
    counts_N: I32
    exact_N: U64
    flat_S: U32
    set_ends_N: I64


@jit
def sign_texts(data_D: U8, ends_N: I64, family: int, ab_2K: U64, sets: bool, work: Work, out: Out) -> None:
    """Fill the arrays of `out`, flat_S and set_ends_N only if `sets`."""
    begin, total, spare = np.int64(0), 0, np.empty(2 * (len(work.grams) + _LANES) + ab_2K.shape[1], np.uint32)
    ab32_2K = ab_2K.astype(np.uint32)
    for doc in range(len(ends_N)):
        num_grams, out.exact_N[doc] = hash_grams(data_D, begin, ends_N[doc], work)
        begin, out.counts_N[doc] = ends_N[doc], num_grams
        if sets:
            num_grams = _sort_unique(work.grams[:num_grams], spare)
            out.flat_S[total : total + num_grams] = work.grams[:num_grams]
            total += num_grams
            out.set_ends_N[doc] = total
        _sign(work.grams[:num_grams], family, ab_2K, ab32_2K, spare, out.signatures_NK[doc])


@jit
def sign_sets(flat_S: U32, ends_N: I64, family: int, ab_2K: U64, signatures_NK: U32) -> None:
    """Fill signatures_NK from ready hashes."""
    begin, spare = np.int64(0), np.empty(2 * (len(flat_S) + _LANES) + signatures_NK.shape[1], np.uint32)
    ab32_2K = ab_2K.astype(np.uint32)
    for doc in range(len(ends_N)):
        _sign(flat_S[begin : ends_N[doc]], family, ab_2K, ab32_2K, spare, signatures_NK[doc])
        begin = ends_N[doc]


@jit
def _sign(grams: U32, family: int, ab_2K: U64, ab32_2K: U32, spare: U32, signature_K: U32) -> None:
    signature_K[:] = _EMPTY
    if len(grams) == 0 or len(signature_K) == 0:
        return
    if family == FAST:
        _sign_fast(grams, spare, signature_K)
    elif family == AFFINE32:
        _sign_affine32(grams, ab32_2K[0], ab32_2K[1], signature_K)
    else:
        _sign_legacy(grams, ab_2K[0], ab_2K[1], signature_K)


@jit
def _sign_fast(grams: U32, spare: U32, signature_K: U32) -> None:
    """One-permutation hashing with rounds: each n-gram falls into one bin a round, and a bin keeps its least value.

    A later round counts only in bins that were empty before it; what is empty after the last one has a minimum over
    all n-grams. So the value in a bin is the minimum of one function over the document's n-grams, and two documents
    agree there with probability J exactly. Full bins of a round draw from the union without replacement, and every
    other round turns the order round, so that it picks those that lost before: the variance is below J(1-J)/K, that
    of classical MinHash, for every length.
    """
    num_grams, num_bins = len(grams), np.uint64(len(signature_K))
    size = (num_grams + _LANES) // _LANES * _LANES  # whole vectors: the rest of a loop would take as long as all of it
    places, values, bins_K = spare[:size], spare[size : 2 * size], spare[2 * size :][: len(signature_K)]
    places[num_grams:], values[num_grams:] = _EMPTY, _EMPTY
    for gram in range(num_grams):
        product = np.uint64(grams[gram]) * num_bins
        places[gram], values[gram] = np.uint32(product >> np.uint64(32)), np.uint32(product)
    num_empty = _scatter(places, values, num_grams, signature_K)
    for turn in range(1, _ROUNDS):
        if num_empty == 0:
            return
        seed = _seed(turn)
        for gram in range(num_grams):
            places[gram] = np.uint32((np.uint64(_mixed(grams[gram], seed)) * num_bins) >> np.uint64(32))
            values[gram] ^= _EMPTY
        if num_empty > _FEW:
            num_empty = _fill(places, values, num_grams, bins_K, signature_K)
        else:
            num_empty = _fill_few(places, values, signature_K)
    for place in range(len(signature_K)):
        if signature_K[place] == _EMPTY:
            signature_K[place] = _least(grams, _seed(_ROUNDS + place))


@jit
def _scatter(places: U32, values: U32, num_grams: int, bins_K: U32) -> int:
    """Lower each bin to the least value that falls into it; return how many stay empty."""
    num_empty = 0
    for gram in range(num_grams):
        place, value = np.uint64(places[gram]), values[gram]
        before = bins_K[place]
        bins_K[place] = value if value < before else before
    for least in bins_K:
        num_empty += least == _EMPTY
    return num_empty


@jit
def _fill(places: U32, values: U32, num_grams: int, bins_K: U32, signature_K: U32) -> int:
    """Fill the bins that are empty; return how many stay so."""
    bins_K[:] = _EMPTY
    _scatter(places, values, num_grams, bins_K)
    num_empty = 0
    for place in range(len(signature_K)):
        value = signature_K[place]
        value = bins_K[place] if value == _EMPTY else value
        signature_K[place] = value
        num_empty += value == _EMPTY
    return num_empty


@jit
def _fill_few(places: U32, values: U32, signature_K: U32) -> int:
    """Do as `_fill` does, in a pass of vectors for each empty bin: less work where there are few."""
    num_empty = 0
    for place in range(len(signature_K)):
        if signature_K[place] == _EMPTY:
            bin_, least = np.uint32(place), _EMPTY
            for gram in range(len(places)):
                value = values[gram] if places[gram] == bin_ else _EMPTY
                if value < least:
                    least = value
            signature_K[place] = least
            num_empty += least == _EMPTY
    return num_empty


@jit
def _least(grams: U32, seed: np.uint32) -> np.uint32:
    least: np.uint32 = _EMPTY
    for gram in grams:
        value = _mixed(gram, seed)
        if value < least:  # min() would widen to 64 bits and keep LLVM from using vectors
            least = value
    return least


@jit
def _seed(number: int) -> np.uint32:
    seed: np.uint32 = np.uint32(mix(np.uint64(number)))
    return seed


@jit
def _mixed(gram: np.uint32, seed: np.uint32) -> np.uint32:
    """Return another hash of the n-gram for each seed, by a bijection (constants of Wellons' hash prospector)."""
    mixed: np.uint32 = mix32(gram ^ seed, 16, 15, 0x7FEB352D, 16, 0x846CA68B)
    return mixed


@jit
def _sign_affine32(grams: U32, a_K: U32, b_K: U32, signature_K: U32) -> None:
    last = len(grams) - 1
    for first in range(0, last + 1, 4):  # four n-grams a pass over the signature; the last one may repeat
        one, two = _murmur(grams[first]), _murmur(grams[min(first + 1, last)])
        three, four = _murmur(grams[min(first + 2, last)]), _murmur(grams[min(first + 3, last)])
        for place in range(len(signature_K)):
            a, b = a_K[place], b_K[place]
            low = min(affine32(a, one, b), affine32(a, two, b))
            high = min(affine32(a, three, b), affine32(a, four, b))
            signature_K[place] = min(signature_K[place], min(low, high))


@jit
def _murmur(gram: np.uint32) -> np.uint32:
    """Return the value after the 32-bit finalizer of MurmurHash3."""
    mixed: np.uint32 = mix32(gram, 16, 13, 0x85EBCA6B, 16, 0xC2B2AE35)
    return mixed


@jit
def _sign_legacy(grams: U32, a_K: U64, b_K: U64, signature_K: U32) -> None:
    for gram in grams:
        for place in range(len(signature_K)):
            value = np.uint64(gram) * a_K[place] + b_K[place]  # wraps before the prime, as in datasketch
            value = (value & _MERSENNE) + (value >> np.uint64(61))
            value = value - _MERSENNE if value >= _MERSENNE else value
            signature_K[place] = min(signature_K[place], np.uint32(value & _LOW32))


@jit
def _sort_unique(values: U32, spare: U32) -> int:
    """Sort the values and drop repeats in place; return how many are left."""
    _radix_sort(values, spare)
    num_left, before = 0, np.uint32(0)
    for place in range(len(values)):
        value = values[place]
        is_new = place == 0 or value != before
        before = value
        values[num_left] = value
        num_left += is_new
    return num_left


@jit
def _radix_sort(values: U32, spare: U32) -> None:
    if len(values) < 32:
        for place in range(1, len(values)):
            value, at = values[place], place
            while at > 0 and values[at - 1] > value:
                values[at] = values[at - 1]
                at -= 1
            values[at] = value
        return
    heads = np.zeros((4, 256), np.int64)
    for value in values:
        for byte in range(4):
            heads[byte, (value >> np.uint32(8 * byte)) & np.uint32(255)] += 1
    source, target = values, spare[: len(values)]
    for byte in range(4):
        total = 0
        for digit in range(256):
            count = heads[byte, digit]
            heads[byte, digit] = total
            total += count
        for value in source:
            digit = (value >> np.uint32(8 * byte)) & np.uint32(255)
            target[heads[byte, digit]] = value
            heads[byte, digit] += 1
        source, target = target, source


@jit
def jaccard_pairs(flat_S: U32, ends_N: I64, pairs_P2: I64) -> npt.NDArray[np.float64]:
    """Return the Jaccard similarity_P of pairs of sets; 0.0 when one is empty (no evidence of likeness)."""
    out = np.zeros(len(pairs_P2), np.float64)
    for pair in range(len(pairs_P2)):
        a, b, common = pairs_P2[pair, 0], pairs_P2[pair, 1], 0
        at_a, at_b = ends_N[a - 1] if a else np.int64(0), ends_N[b - 1] if b else np.int64(0)
        size_a, size_b = ends_N[a] - at_a, ends_N[b] - at_b
        while at_a < ends_N[a] and at_b < ends_N[b]:
            left, right = flat_S[at_a], flat_S[at_b]
            common += left == right  # sums instead of branches: which side is smaller can not be predicted
            at_a += left <= right
            at_b += right <= left
        if size_a and size_b:
            out[pair] = common / (size_a + size_b - common)
    return out


@jit
def estimate_pairs(signatures_NK: U32, pairs_P2: I64) -> npt.NDArray[np.float64]:
    """Return the share of equal places of pairs of rows."""
    out = np.empty(len(pairs_P2), np.float64)
    for pair in range(len(pairs_P2)):
        a, b, equal = signatures_NK[pairs_P2[pair, 0]], signatures_NK[pairs_P2[pair, 1]], 0
        for place in range(len(a)):
            equal += a[place] == b[place]
        out[pair] = equal / len(a)
    return out


@jit
def band_keys(signatures_NK: U32, factors_BR: U64) -> U64:
    """Return a hash of the rows R of each band."""
    bands, rows = factors_BR.shape
    keys_NB = np.empty((len(signatures_NK), bands), np.uint64)
    for doc in range(len(signatures_NK)):
        signature_K = signatures_NK[doc]
        for band in range(bands):
            key = np.uint64(0)
            for row in range(rows):
                key += mix(np.uint64(signature_K[band * rows + row]) + np.uint64(1)) * factors_BR[band, row]
            keys_NB[doc, band] = mix(key)
    return keys_NB
