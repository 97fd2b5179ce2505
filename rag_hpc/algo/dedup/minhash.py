"""What is done with MinHash signatures: hash families, estimates of similarity, LSH bands.

Shapes: K permutations, N documents, B bands, P pairs. The signatures themselves come from `sketch`.
Sources: Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3.
"""

from __future__ import annotations

import enum
from functools import lru_cache

import numpy as np

from rag_hpc.algo.types import F64, I64, U32, U64
from rag_hpc.errors import ConfigError, InputError

MAX_PERM = 1 << 16  # 16 bits of a hash name a bin of the fast family


class Family(enum.Enum):
    """Hash families: ours, and those of datasketch: `affine32`, its default since 2.0, `legacy` the only one before."""

    fast = "fast"
    affine32 = "affine32"
    legacy = "legacy"
    datasketch = "affine32"  # noqa: PIE796 - another name for its default


def permutations(num_perm: int = 128, family: Family = Family.fast, seed: int = 1) -> U64:
    """Return factors_2K: factors and summands of datasketch's permutations for this seed; zeros for the fast family.

    Raises ConfigError when num_perm is not in 1 ... 65536.
    """
    if not 1 <= num_perm <= MAX_PERM:
        raise ConfigError(f"num_perm={num_perm}: 1 to {MAX_PERM} permutations are possible; try 128")
    if family is Family.fast:
        return np.zeros((2, num_perm), np.uint64)
    rng = np.random.RandomState(seed)  # its stream is frozen by NumPy's compatibility policy
    if family is Family.affine32:
        a_K = rng.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        return np.stack([a_K, rng.randint(0, 1 << 32, num_perm, dtype=np.uint32)]).astype(np.uint64)
    top = (1 << 61) - 1
    drawn = [(rng.randint(1, top, dtype=np.uint64), rng.randint(0, top, dtype=np.uint64)) for _ in range(num_perm)]
    return np.ascontiguousarray(np.array(drawn, dtype=np.uint64).T)


def mix64(values: U64) -> U64:
    """Return the values after the 64-bit finalizer of MurmurHash3, a bijection that spreads every bit."""
    out: U64 = values ^ (values >> np.uint64(33))
    out *= np.uint64(0xFF51AFD7ED558CCD)
    out ^= out >> np.uint64(33)
    out *= np.uint64(0xC4CEB9FE1A85EC53)
    out ^= out >> np.uint64(33)
    return out


def estimate_pairs(signatures_NK: U32, pairs_P2: I64) -> F64:
    """Return the estimated similarity_P of pairs of rows: the share of equal places. Raises InputError for no row."""
    from rag_hpc.algo.dedup import sketch_sign

    rows = np.ascontiguousarray(signatures_NK, np.uint32)
    return sketch_sign.estimate_pairs(rows, check_pairs(pairs_P2, len(rows)))


def check_pairs(pairs_P2: I64, num_docs: int) -> I64:
    """Return the pairs as compiled code takes them, which does not check places. Raises InputError for no document."""
    pairs = np.ascontiguousarray(pairs_P2, np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= num_docs):
        raise InputError(f"pairs name documents {pairs.min()}..{pairs.max()}; there are {num_docs}")
    return pairs


@lru_cache(maxsize=64)
def bands_for(num_perm: int, threshold: float, min_recall: float = 0.995) -> tuple[int, int]:
    """Return (bands, rows) with the most rows that still bring a pair at the threshold together with min_recall.

    More rows mean fewer pairs to verify. The chance is that of independent permutations, 1 - (1 - J^rows)^bands.
    Raises ConfigError where even one row is too few.
    """
    if num_perm < 1 or not 0.0 < threshold <= 1.0 or not 0.0 < min_recall < 1.0:
        raise ConfigError(
            f"num_perm={num_perm}, threshold={threshold}, min_recall={min_recall}: need num_perm >= 1, "
            "a threshold above 0 and up to 1, and a recall between 0 and 1"
        )
    for rows in range(num_perm, 0, -1):
        bands = num_perm // rows
        if 1.0 - (1.0 - threshold**rows) ** bands >= min_recall:
            return bands, rows
    raise ConfigError(
        f"num_perm={num_perm} can not find pairs at threshold={threshold} with recall {min_recall}; "
        "take more permutations"
    )


def band_keys(signatures_NK: U32, bands: int, rows: int) -> U64:
    """Return keys_NB: a 64-bit hash of each band's rows, equal for equal rows in the same band on every machine.

    Raises ConfigError when the signatures hold fewer than bands * rows values.
    """
    from rag_hpc.algo.dedup import sketch_sign

    num_perm = signatures_NK.shape[1]
    if bands < 1 or rows < 1 or bands * rows > num_perm:
        raise ConfigError(f"bands={bands} x rows={rows} does not fit num_perm={num_perm}; take bands_for()")
    factors = mix64(np.arange(1, bands * rows + 1, dtype=np.uint64)) | np.uint64(1)
    return sketch_sign.band_keys(np.ascontiguousarray(signatures_NK, np.uint32), factors.reshape(bands, rows))
