from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo import minhash
from rag_hpc.algo.components import components
from rag_hpc.algo.minhash import (
    Scheme,
    band_keys,
    estimate,
    estimate_pairs,
    exact_jaccard,
    optimal_bands,
    pairs_from_bands,
    permutations,
    signature,
    signatures,
    unique_pairs,
)
from rag_hpc.algo.shingle import shingles
from rag_hpc.errors import ConfigError

datasketch = pytest.importorskip("datasketch")
DATA = Path(os.environ.get("RAG_HPC_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
HAS_SCHEMES = int(datasketch.__version__.split(".")[0]) >= 2


def theirs(hashes: np.ndarray, num_perm: int, scheme: Scheme) -> np.ndarray:
    """Return datasketch's hash values of the same 64-bit hashes."""
    extra = {"scheme": scheme.value} if HAS_SCHEMES else {}
    sketch = datasketch.MinHash(num_perm=num_perm, hashfunc=lambda value: value & 0xFFFFFFFF, **extra)
    sketch.update_batch(hashes.tolist())
    return sketch.hashvalues


SCHEMES = list(Scheme) if HAS_SCHEMES else [Scheme.legacy]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("size", "num_perm"), [(1, 1), (7, 16), (300, 128), (5000, 64)])
def test_signature_equals_datasketch(scheme: Scheme, size: int, num_perm: int) -> None:
    hashes = np.random.default_rng(size).integers(0, 2**64, size, dtype=np.uint64)
    ours = signature(hashes, permutations(num_perm, scheme=scheme))
    np.testing.assert_array_equal(ours, theirs(hashes, num_perm, scheme))


@pytest.mark.skipif(not HAS_SCHEMES, reason="datasketch before 2.0 knows the legacy scheme only")
def test_default_scheme_is_datasketchs_default() -> None:
    assert datasketch.MinHash(8).scheme == permutations(8).scheme.value


def test_signature_does_not_depend_on_order_or_block() -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, 3000, dtype=np.uint64)
    perms = permutations(32)
    parts = [signature(part, perms) for part in np.array_split(hashes[::-1], 7)]
    np.testing.assert_array_equal(signature(hashes, perms), np.minimum.reduce(parts))


def test_estimate_is_close_to_the_exact_similarity() -> None:
    common = [f"word{i}" for i in range(400)]
    a = shingles(" ".join([*common, *[f"a{i}" for i in range(100)]]))
    b = shingles(" ".join([*common, *[f"b{i}" for i in range(100)]]))
    sigs = signatures([a, b, a], permutations(512))
    exact = exact_jaccard(a, b)
    assert abs(estimate(sigs[0], sigs[1]) - exact) < 0.08  # 4 standard errors
    assert estimate(sigs[0], sigs[2]) == 1.0
    pairs = np.array([[0, 1], [0, 2]])
    assert estimate_pairs(sigs, pairs).tolist() == [estimate(sigs[0], sigs[1]), 1.0]


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_exact_jaccard_is_the_set_ratio(a: set[int], b: set[int]) -> None:
    expected = len(a & b) / len(a | b) if a and b else 0.0
    assert exact_jaccard(np.array(sorted(a), np.uint64), np.array(sorted(b), np.uint64)) == expected


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("num_perm", [32, 128])
def test_optimal_bands_agree_with_datasketch(num_perm: int, threshold: float) -> None:
    lsh = datasketch.MinHashLSH(threshold=threshold, num_perm=num_perm)
    assert optimal_bands(num_perm, threshold) == (lsh.b, lsh.r)


def test_weight_on_misses_lowers_the_rows() -> None:
    assert optimal_bands(128, 0.8, 0.1, 0.9)[1] < optimal_bands(128, 0.8, 0.9, 0.1)[1]


@pytest.mark.parametrize(
    "call", [lambda: permutations(0), lambda: optimal_bands(128, 1.0), lambda: optimal_bands(0, 0.5)]
)
def test_impossible_settings_are_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]


def test_band_keys_are_equal_exactly_where_the_bands_are() -> None:
    rng = np.random.default_rng(3)
    sigs = rng.integers(0, 3, (60, 12), dtype=np.uint32)
    keys = band_keys(sigs, 4, 3)
    assert keys.shape == (60, 4)
    for i, j, band in itertools.product(range(60), range(60), range(4)):
        same = np.array_equal(sigs[i, band * 3 : band * 3 + 3], sigs[j, band * 3 : band * 3 + 3])
        assert (keys[i, band] == keys[j, band]) == same


def test_band_keys_differ_between_bands_and_row_orders() -> None:
    keys = band_keys(np.array([[1, 2, 1, 2], [2, 1, 2, 1]], dtype=np.uint32), 2, 2)
    assert len(set(keys.ravel().tolist())) == 4
    with pytest.raises(ConfigError, match="does not fit"):
        band_keys(np.zeros((1, 4), np.uint32), 3, 2)


def test_keys_are_pinned() -> None:
    sig = signature(shingles("the same text gives the same keys on every machine"), permutations(8))
    assert [int(key) for key in band_keys(sig[None, :], 2, 4)[0]] == PINNED


PINNED = [3669543026922786798, 16859949941451187127]  # another value is another stage version


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), max_size=60), st.integers(1, 5), st.randoms())
def test_pairs_connect_each_bucket_and_nothing_else(members: list[tuple[int, int]], window: int, rng: object) -> None:
    keys, ids = (np.array([m[i] for m in members], dtype=t) for i, t in ((0, np.uint64), (1, np.int64)))
    pairs = pairs_from_bands(keys, ids, window)
    buckets = {key: sorted({i for k, i in members if k == key}) for key, _ in members}
    allowed = {pair for bucket in buckets.values() for pair in itertools.combinations(bucket, 2)}
    found = [tuple(pair) for pair in pairs.tolist()]
    assert set(found) <= allowed
    assert found == sorted(set(found))
    if len(set(members)) == len(members):
        wanted = {p for b in buckets.values() for p in itertools.combinations(b, 2) if len(b) <= window + 1}
        assert wanted <= set(found)
    labels = components(pairs, 51)
    for bucket in buckets.values():
        assert len({int(labels[i]) for i in bucket}) == 1
    order = np.array(rng.sample(range(len(ids)), len(ids)), dtype=np.int64)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(pairs_from_bands(keys[order], ids[order], window), pairs)


def test_large_bucket_gives_linear_pairs() -> None:
    ids = np.arange(20_000)
    assert len(pairs_from_bands(np.zeros(20_000, np.uint64), ids, window=4)) < 5 * 20_000


def test_no_documents_give_no_pairs() -> None:
    assert pairs_from_bands(np.empty(0, np.uint64), np.empty(0, np.int64)).shape == (0, 2)
    assert unique_pairs(np.empty((0, 2), np.int64)).shape == (0, 2)


def test_documents_without_words_get_datasketchs_empty_signature() -> None:
    assert signature(shingles("..."), permutations(4)).tolist() == [0xFFFFFFFF] * 4
    assert minhash.estimate(*signatures([shingles("."), shingles("!")], permutations(4))) == 1.0


def test_true_near_duplicates_are_found() -> None:
    zstandard = pytest.importorskip("zstandard")
    folder = DATA / "html_ipython"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set RAG_HPC_DATA")

    def rows(name: str) -> list[dict[str, object]]:
        raw = zstandard.ZstdDecompressor().stream_reader((folder / name).read_bytes()).read()
        return [json.loads(line) for line in raw.split(b"\n") if line]

    docs = [shingles(str(row["text"])) for row in rows("docs.jsonl.zst")]
    place = {row["id"]: n for n, row in enumerate(rows("docs.jsonl.zst"))}
    truth = {tuple(sorted((place[r["a"]], place[r["b"]]))): r["jaccard"] for r in rows("neardup_pairs.jsonl.zst")}
    for (a, b), jaccard in truth.items():
        assert exact_jaccard(docs[a], docs[b]) == pytest.approx(jaccard, abs=1e-4)
    sigs = signatures(docs, permutations(128))
    keys = band_keys(sigs, *optimal_bands(128, 0.8, 0.2, 0.8))
    ids = np.flatnonzero([len(doc) > 0 for doc in docs])
    pairs = unique_pairs(np.concatenate([pairs_from_bands(keys[ids, band], ids) for band in range(keys.shape[1])]))
    kept = {tuple(p) for p in pairs.tolist() if exact_jaccard(docs[p[0]], docs[p[1]]) >= 0.8}
    wanted = {p for p, jaccard in truth.items() if float(str(jaccard)) >= 0.8}
    assert kept <= wanted | {p for p, j in truth.items() if float(str(j)) >= 0.7999}
    assert len(kept & wanted) >= 0.97 * len(wanted)
