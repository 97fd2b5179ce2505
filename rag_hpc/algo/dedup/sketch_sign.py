"""Kernels from n-gram hashes to signatures and exact sets. Shapes: D bytes, N documents, K permutations, S hashes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rag_hpc.algo.dedup.sketch_bits import BLOCK, affine32, equal_mask, lowest, mix32, popcount
from rag_hpc.algo.dedup.sketch_text import Work, hash_grams, mix
from rag_hpc.algo.jit import jit, jit_inner
from rag_hpc.algo.types import F64, I32, I64, U8, U32, U64

_EMPTY, _TURNS = np.uint32(0xFFFFFFFF), 4
_ORDER = np.uint32(0x9E3779B1)  # odd: another order of the n-grams, in which no two are equal
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
    begin, total, spare = np.int64(0), 0, _spare(len(work.grams), ab_2K.shape[1])
    ab32_2K = ab_2K.astype(np.uint32)
    for doc in range(len(ends_N)):
        num_grams, out.exact_N[doc] = hash_grams(data_D, begin, ends_N[doc], work)
        begin, out.counts_N[doc] = ends_N[doc], num_grams
        if sets:
            num_grams = _sort_unique(work.grams[:num_grams], spare)
            out.flat_S[total : total + num_grams] = work.grams[:num_grams]
            total += num_grams
            out.set_ends_N[doc] = total
        _sign(work.grams, num_grams, family, ab_2K, ab32_2K, spare, out.signatures_NK[doc])


@jit
def sign_sets(flat_S: U32, ends_N: I64, family: int, ab_2K: U64, signatures_NK: U32) -> None:
    """Fill signatures_NK from ready hashes."""
    begin, longest = np.int64(0), np.int64(0)
    for doc in range(len(ends_N)):
        longest = max(longest, ends_N[doc] - begin)
        begin = ends_N[doc]
    grams, spare = np.empty(longest + BLOCK, np.uint32), _spare(longest + BLOCK, signatures_NK.shape[1])
    begin, ab32_2K = np.int64(0), ab_2K.astype(np.uint32)
    for doc in range(len(ends_N)):
        num_grams = ends_N[doc] - begin
        grams[:num_grams] = flat_S[begin : ends_N[doc]]
        _sign(grams, num_grams, family, ab_2K, ab32_2K, spare, signatures_NK[doc])
        begin = ends_N[doc]


@jit
def _spare(num_grams: Any, num_perm: int) -> U32:
    """Return room for three numbers an n-gram and three a permutation, in whole blocks."""
    return np.zeros(3 * (num_grams + num_perm + 2 * BLOCK), np.uint32)


@jit_inner
def _sign(grams: U32, num_grams: int, family: int, ab_2K: U64, ab32_2K: U32, spare: U32, signature_K: U32) -> None:
    signature_K[:] = _EMPTY
    if num_grams == 0 or len(signature_K) == 0:
        return
    if family == FAST:
        _sign_fast(grams, num_grams, spare, signature_K)
    elif family == AFFINE32:
        _sign_affine32(grams[:num_grams], ab32_2K[0], ab32_2K[1], signature_K)
    else:
        _sign_legacy(grams[:num_grams], ab_2K[0], ab_2K[1], signature_K)


@jit_inner
def _sign_fast(grams: U32, num_grams: int, spare: U32, signature_K: U32) -> None:
    """One-permutation hashing with rounds: each n-gram falls into one bin a round, and a bin keeps its least value.

    A later round counts only in bins that were empty before it; what is empty after the last one has a minimum over
    all n-grams. So the value in a bin is the minimum of one function over the document's n-grams, and two documents
    agree there with probability J exactly. Full bins of a round draw from the union without replacement, and every
    other round turns the order round, so that it picks those that lost before: the variance is below J(1-J)/K, that
    of classical MinHash, for every length. Two rounds make a turn: one hash names a bin for each, and both are gone
    through in one loop, as most documents need the second.
    """
    size, room = _whole(num_grams), _whole(len(signature_K))
    values, here, there = spare[:size], spare[size : 2 * size], spare[2 * size : 3 * size]
    spare = spare[3 * size :]
    bins, first, second = spare[:room], spare[room : 2 * room], spare[2 * room : 3 * room]
    bins[:], num_empty = _EMPTY, room
    for turn in range(_TURNS):
        if num_empty > _FEW:
            _throw(grams, np.uint32(len(signature_K)), turn, values, here, there)
            first[:], second[:] = _EMPTY, _EMPTY
            _scatter(values, here, there, num_grams, first, second)
            for place in range(room):
                value = bins[place]
                value = first[place] if value == _EMPTY else value
                bins[place] = second[place] if value == _EMPTY else value
            bins[len(signature_K) :] = 0  # no bins: only there to make whole blocks
        else:
            _fill_few(grams, np.uint32(len(signature_K)), turn, values[:num_grams], bins)
        num_empty = _num_empty(bins)
        if num_empty == 0:
            break
    for place in range(len(signature_K)):
        signature_K[place] = bins[place]
    if num_empty:
        for place in range(len(signature_K)):
            if signature_K[place] == _EMPTY:
                signature_K[place] = _least(grams[:num_grams], _seed(_TURNS + place))


@jit_inner
def _whole(count: int) -> int:
    """Return the count, rounded up to whole blocks: the rest of a loop of vectors would take as long as all of it."""
    return (count + BLOCK - 1) // BLOCK * BLOCK


@jit_inner
def _throw(grams: U32, num_bins: np.uint32, turn: int, values: U32, here: U32, there: U32) -> None:
    """Fill the arrays with each n-gram's value and its bins in the two rounds of a turn."""
    seed = _seed(turn)
    for gram in range(len(values)):
        mixed = _mixed(grams[gram], seed) if turn else grams[gram]
        values[gram], here[gram] = affine32(mixed, _ORDER, 0), _bin(mixed, 16, num_bins)
        there[gram] = _bin(mixed, 0, num_bins)


@jit_inner
def _bin(mixed: np.uint32, shift: int, num_bins: np.uint32) -> np.uint32:
    """Return the bin that 16 bits of a hash name, in 32-bit arithmetic, which has twice the lanes."""
    bits = np.uint32((mixed >> np.uint32(shift)) & np.uint32(0xFFFF))
    bin_: np.uint32 = np.uint32(affine32(bits, num_bins, 0) >> np.uint32(16))
    return bin_


@jit_inner
def _num_empty(bins: U32) -> Any:
    num_empty: Any = 0
    for block in range(0, len(bins), BLOCK):
        num_empty += np.int64(popcount(equal_mask(bins, block, _EMPTY)))
    return num_empty


@jit_inner
def _scatter(values: U32, here: U32, there: U32, num_grams: int, first: U32, second: U32) -> None:
    """Lower each bin to the least value that falls into it, and in the second round to the least of the inverse."""
    for gram in range(num_grams):
        value, place, other = values[gram], np.uint64(here[gram]), np.uint64(there[gram])
        before = first[place]
        first[place] = value if value < before else before
        value, before = np.uint32(~value), second[other]
        second[other] = value if value < before else before


@jit_inner
def _fill_few(grams: U32, num_bins: np.uint32, turn: int, values: U32, bins: U32) -> None:
    """Fill empty bins with a pass of vectors for each: less work where there are few."""
    seed = _seed(turn)
    for block in range(0, len(bins), BLOCK):
        empty = equal_mask(bins, block, _EMPTY)
        while empty:
            place = block + np.int64(lowest(empty))
            empty &= empty - np.uint64(1)
            least = _least_in(place, grams, seed, num_bins, 0, values)
            bins[place] = _least_in(place, grams, seed, num_bins, 1, values) if least == _EMPTY else least


@jit_inner
def _least_in(place: Any, grams: U32, seed: np.uint32, num_bins: np.uint32, second: int, values: U32) -> np.uint32:
    """Return the least value that falls into a bin in a turn's first or second round.

    Values are written down first and compared then, as LLVM makes no vectors of one loop that does both.
    """
    bin_, shift, flip = np.uint32(place), 16 - 16 * second, np.uint32(_EMPTY * second)
    for gram in range(len(values)):
        mixed = _mixed(grams[gram], seed)
        value = np.uint32(affine32(mixed, _ORDER, 0) ^ flip)
        values[gram] = value if _bin(mixed, shift, num_bins) == bin_ else _EMPTY
    return _minimum(values)


@jit_inner
def _minimum(values: U32) -> np.uint32:
    least: np.uint32 = _EMPTY
    for place in range(len(values)):  # by place: LLVM does not know that the values of an iteration lie side by side
        value = values[place]
        if value < least:  # min() would widen to 64 bits and keep LLVM from using vectors
            least = value
    return least


@jit_inner
def _least(grams: U32, seed: np.uint32) -> np.uint32:
    least: np.uint32 = _EMPTY
    for gram in range(len(grams)):
        value = _mixed(grams[gram], seed)
        if value < least:
            least = value
    return least


@jit_inner
def _seed(number: int) -> np.uint32:
    seed: np.uint32 = np.uint32(mix(np.uint64(number)))
    return seed


@jit_inner
def _mixed(gram: np.uint32, seed: np.uint32) -> np.uint32:
    """Return another hash of the n-gram for each seed, by a bijection (constants of Wellons' hash prospector)."""
    mixed: np.uint32 = mix32(gram ^ seed, 16, 15, 0x7FEB352D, 16, 0x846CA68B)
    return mixed


@jit_inner
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


@jit_inner
def _murmur(gram: np.uint32) -> np.uint32:
    """Return the value after the 32-bit finalizer of MurmurHash3."""
    mixed: np.uint32 = mix32(gram, 16, 13, 0x85EBCA6B, 16, 0xC2B2AE35)
    return mixed


@jit_inner
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
def jaccard_pairs(flat_S: U32, ends_N: I64, pairs_P2: I64) -> F64:
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
def estimate_pairs(signatures_NK: U32, pairs_P2: I64) -> F64:
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
