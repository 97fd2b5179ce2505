from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from realdata import DATA

from rag_hpc.algo.dedup.minhash import Family, band_keys, bands_for, estimate_pairs, permutations
from rag_hpc.algo.dedup.sketch import from_texts, jaccard_pairs, shingle_sets, signatures, sketch, sketch_texts
from rag_hpc.errors import ConfigError, InputError

datasketch = pytest.importorskip("datasketch")
FAMILIES = [Family.affine32, Family.legacy] if int(datasketch.__version__.split(".")[0]) >= 2 else [Family.legacy]
TEXTS = [" ".join(f"w{(i * 7) % (50 + d)}" for i in range(d, 160)) for d in range(0, 40, 3)]


def theirs(hashes: np.ndarray, num_perm: int, family: Family) -> datasketch.MinHash:
    """Return datasketch's signature of the same shingle hashes."""
    extra = {"scheme": family.value} if len(FAMILIES) == 2 else {}
    signature = datasketch.MinHash(num_perm=num_perm, hashfunc=int, **extra)
    signature.update_batch(hashes.tolist())
    return signature


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "num_perm"), [(1, 1), (2, 9), (7, 16), (300, 128), (5000, 64)])
def test_signature_equals_datasketchs(family: Family, size: int, num_perm: int) -> None:
    hashes = np.random.default_rng(size).integers(0, 2**32, size, dtype=np.uint32)
    hashes[:1] = 0xFFFFFFFF
    ours = signatures(hashes, np.array([size]), num_perm=num_perm, family=family)[0]
    np.testing.assert_array_equal(ours, theirs(hashes, num_perm, family).hashvalues)


@pytest.mark.parametrize("family", FAMILIES)
def test_signatures_of_texts_go_to_datasketch_and_back(family: Family) -> None:
    ours = sketch_texts(TEXTS, family=family).signatures_NK
    flat, ends = shingle_sets(*from_texts(TEXTS))
    made = [theirs(part, 128, family) for part in np.split(flat, ends[:-1])]
    extra = {"scheme": family.value} if len(FAMILIES) == 2 else {}
    pairs = np.array(list(itertools.combinations(range(len(TEXTS)), 2)))
    estimates = estimate_pairs(np.array([one.hashvalues for one in made], np.uint32), pairs)  # theirs read by ours
    for (a, b), estimate in zip(pairs.tolist(), estimates.tolist(), strict=True):
        loaded = datasketch.MinHash(128, hashvalues=ours[a], **extra)  # ours read by theirs
        assert loaded.jaccard(made[b]) == pytest.approx(estimate)


@pytest.mark.skipif(len(FAMILIES) == 1, reason="datasketch before 2.0 knows the legacy scheme only")
def test_the_family_named_after_datasketch_is_its_default() -> None:
    assert datasketch.MinHash(8).scheme == Family.datasketch.value


@pytest.mark.parametrize("family", Family)
def test_signature_depends_on_the_set_alone(family: Family) -> None:
    hashes = np.random.default_rng(1).integers(0, 2**32, 500, dtype=np.uint32)
    twice = np.concatenate([hashes[::-1], hashes[:100]])
    found = signatures(np.concatenate([hashes, twice]), np.array([500, 1100]), family=family)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("size", [1, 6, 40, 150, 1200])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_estimate_is_unbiased_and_varies_no_more_than_classical_minhash(size: int, share: float) -> None:
    rng, num_pairs, num_perm = np.random.default_rng(size), 1500, 128
    common = round(size * share)
    width = 2 * size - common  # of the union
    union = rng.integers(0, 2**32, (num_pairs, width), dtype=np.uint32)
    flat = np.concatenate([union[:, :size], union[:, size - common :]], axis=1).ravel()
    found = signatures(flat, np.arange(1, 2 * num_pairs + 1) * size, num_perm=num_perm)
    exact = common / width
    errors = estimate_pairs(found, np.arange(2 * num_pairs).reshape(-1, 2)) - exact
    classical = np.sqrt(exact * (1 - exact) / num_perm)
    assert abs(errors.mean()) <= 4 * classical / np.sqrt(num_pairs) + 1e-9
    assert np.sqrt((errors**2).mean()) <= 1.05 * classical + 1e-9  # 1.05: a sample's own spread


@pytest.mark.parametrize("num_perm", [1, 100, 4096, 65536])
def test_sets_without_a_common_hash_agree_nowhere(num_perm: int) -> None:
    hashes = np.random.default_rng(7).integers(0, 2**32, 600, dtype=np.uint32)
    found = signatures(hashes, np.array([300, 600]), num_perm=num_perm)
    assert (found[0] != found[1]).all()
    assert (found != 0xFFFFFFFF).all()


def test_families_estimate_the_same_similarity() -> None:
    flat, ends = shingle_sets(*from_texts(TEXTS))
    pairs = np.array(list(itertools.combinations(range(len(TEXTS)), 2)))
    exact = jaccard_pairs(flat, ends, pairs)
    for family in Family:
        estimates = estimate_pairs(signatures(flat, ends, num_perm=1024, family=family), pairs)
        assert np.abs(estimates - exact).max() < 0.07  # 4 standard errors


def test_bands_keep_the_recall_they_promise() -> None:
    assert bands_for(128, 0.8) == (21, 6)
    assert bands_for(128, 1.0) == (1, 128)
    for num_perm, threshold, recall in itertools.product((32, 128, 256), (0.3, 0.5, 0.8, 0.95), (0.9, 0.995)):
        bands, rows = bands_for(num_perm, threshold, recall)
        assert bands * rows <= num_perm
        assert 1 - (1 - threshold**rows) ** bands >= recall
        more = rows + 1
        assert 1 - (1 - threshold**more) ** (num_perm // more) < recall


@pytest.mark.parametrize(
    "call",
    [
        lambda: permutations(0),
        lambda: permutations(65537),
        lambda: bands_for(128, 0.0),
        lambda: bands_for(0, 0.5),
        lambda: bands_for(2, 0.1),
    ],
)
def test_impossible_settings_are_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]


def test_pairs_of_no_document_are_refused() -> None:
    with pytest.raises(InputError, match="there are 3"):
        estimate_pairs(np.zeros((3, 4), np.uint32), np.array([[0, 3]]))


def test_band_keys_are_equal_exactly_where_the_bands_are() -> None:
    sigs = np.random.default_rng(3).integers(0, 3, (60, 12), dtype=np.uint32)
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


def test_band_keys_are_those_of_every_machine() -> None:
    keys = band_keys(np.arange(8, dtype=np.uint32)[None, :], 2, 4)
    assert keys[0].tolist() == PINNED


PINNED = [4896620391173900960, 5293170302168887706]  # another value is another stage version


def test_a_word_more_less_or_other_does_not_change_the_verdict() -> None:
    texts = [" ".join(f"v{(i * i + d) % 9973}" for i in range(300)) for d in range(100)]
    edited = []
    for number, text in enumerate(texts):
        words, place = text.split(), (0, 150, 299)[number % 3]
        words[place : place + (number // 3) % 2] = [["new"], ["other"], []][number % 3 if place else 0]
        edited.append(" ".join(words))
    found = sketch(*from_texts(texts + edited), sets=True)
    pairs = np.array([[row, row + len(texts)] for row in range(len(texts))])
    assert (jaccard_pairs(found.flat_S, found.set_ends_N, pairs) >= 0.95).all()
    keys = band_keys(found.signatures_NK, *bands_for(128, 0.8))
    assert (keys[pairs[:, 0]] == keys[pairs[:, 1]]).any(axis=1).all()


def test_true_near_duplicates_are_found() -> None:
    zstandard = pytest.importorskip("zstandard")
    folder = DATA / "html_ipython"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set RAG_HPC_DATA")

    def rows(name: str) -> list[dict[str, object]]:
        raw = zstandard.ZstdDecompressor().stream_reader((folder / name).read_bytes()).read()
        return [json.loads(line) for line in raw.split(b"\n") if line]

    docs = rows("docs.jsonl.zst")
    place = {row["id"]: n for n, row in enumerate(docs)}
    truth = {tuple(sorted((place[r["a"]], place[r["b"]]))): r["jaccard"] for r in rows("neardup_pairs.jsonl.zst")}
    found = sketch(*from_texts([str(row["text"]) for row in docs]), sets=True)
    exact = jaccard_pairs(found.flat_S, found.set_ends_N, np.array(list(truth)))
    np.testing.assert_allclose(exact, list(truth.values()), atol=1e-4)
    keys = band_keys(found.signatures_NK, *bands_for(128, 0.8))
    wanted = np.array([pair for pair, jaccard in truth.items() if float(str(jaccard)) >= 0.8])
    together = (keys[wanted[:, 0]] == keys[wanted[:, 1]]).any(axis=1)
    assert together.mean() >= 0.99
