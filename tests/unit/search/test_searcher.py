"""The searcher: every rank's shards together give what one index gives, whatever the ranks hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stagerun

from rag_hpc.algo.rank import bm25
from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.search import ann, lucene
from rag_hpc.search.exact import Exact
from rag_hpc.search.searcher import Found, Searcher, SearchSettings
from rag_hpc.search.shards import Shards, analyze
from rag_hpc.stores.chunks import ChunkStore

TEXTS = [
    "Which argument of a deque drops older items?",
    "the the of a",
    "sha256 sha256 digest block",
    "a stable sort keeps equal items",
    "zyxwv",
]


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


@pytest.fixture(scope="module")
def queries(chain: stagerun.Chain) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(TEXTS), 384)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _search(
    chain: stagerun.Chain,
    folder: Path,
    queries: np.ndarray,
    comm: Comm,
    depth: int = 15,
    exact: Exact = Exact.auto,
    judged: np.ndarray | None = None,
    num_probes: int = 4,
) -> Found:
    scratch = folder / f"{comm.world_size}-{comm.rank}-{exact.value}"
    scratch.mkdir()
    settings = SearchSettings(depth=depth, num_probes=num_probes, exact=exact)
    out = chain.out
    searcher = Searcher(out["lexical"], out["encode"], out["vectors.build"], settings, comm, scratch)
    return searcher.search(TEXTS, queries, judged)


def test_ranks_find_the_same_bytes(chain: stagerun.Chain, queries: np.ndarray, tmp_path: Path) -> None:
    alone = _search(chain, tmp_path, queries, SerialComm())
    for world_size in (2, 3, 7):
        first, *others = stagerun.on_ranks(world_size, lambda comm: _search(chain, tmp_path, queries, comm))
        assert set(first.hits) == set(alone.hits) == {"bm25", "dense", "ann", "fused"}
        for method, (scores, ids) in alone.hits.items():
            assert scores.tobytes() == first.hits[method][0].tobytes(), method
            assert ids.tobytes() == first.hits[method][1].tobytes(), method
        assert all(other.hits == {} for other in others)
        assert all(set(found.seconds) == {"bm25", "dense", "ann"} for found in (first, *others))


@pytest.mark.parametrize("threads", [1, 3])
def test_hits_do_not_depend_on_who_else_is_in_the_batch(
    threads: int, chain: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ann, "num_threads", lambda: threads)
    vectors = np.random.default_rng(1).standard_normal((256, 384)).astype(np.float32)
    texts = [TEXTS[n % len(TEXTS)] for n in range(256)]
    out = chain.out
    settings = SearchSettings(depth=15, num_probes=2, exact=Exact.never)
    searcher = Searcher(out["lexical"], out["encode"], out["vectors.build"], settings, SerialComm(), tmp_path)
    whole = searcher.search(texts, vectors).hits
    for batch, upto in ((1, 20), (19, 256), (20, 256)):  # at 20 queries FAISS takes a matrix product
        for low in range(0, upto, batch):
            found = searcher.search(texts[low : low + batch], vectors[low : low + batch]).hits
            for method, (scores, ids) in whole.items():
                assert found[method][1].tobytes() == ids[low : low + batch].tobytes(), (method, batch, low)
                assert found[method][0].tobytes() == scores[low : low + batch].tobytes(), (method, batch, low)


def test_lexical_hits_are_those_of_one_index(chain: stagerun.Chain, queries: np.ndarray, tmp_path: Path) -> None:
    chunks = ChunkStore(chain.out["chunk"])
    texts = chunks.indexed_texts(0, len(chunks))
    lucene.build_index(((str(i), text) for i, text in enumerate(texts)), tmp_path / "one")
    one = Shards([tmp_path / "one"])
    scores, ids = _search(chain, tmp_path, queries, SerialComm()).hits["bm25"]
    words = analyze(TEXTS)
    whole = one.collection({word for row in words for word in row})
    asked = [bm25.make_query(row, whole) for row in words]
    ours = one.top(asked, 15)
    assert ids.tobytes() == ours[1].tobytes() and scores.tobytes() == ours[0].tobytes()
    theirs, _ = one.lucene(asked, [whole], 15)
    np.testing.assert_allclose(scores, theirs, rtol=1e-5)
    assert (ids >= 0).any(axis=1).tolist() == [True, False, True, True, False]
    one.close()


def test_stop_words_and_unknown_words_find_nothing(chain: stagerun.Chain, queries: np.ndarray, tmp_path: Path) -> None:
    scores, ids = _search(chain, tmp_path, queries, SerialComm()).hits["bm25"]
    for row in (1, 4):
        assert (ids[row] == -1).all() and np.isneginf(scores[row]).all()
    assert (ids[[0, 2, 3], 0] >= 0).all()


def test_missing_hits_are_marked_where_depth_exceeds_the_collection(
    chain: stagerun.Chain, queries: np.ndarray, tmp_path: Path
) -> None:
    num_chunks = len(ChunkStore(chain.out["chunk"]))
    found = _search(chain, tmp_path, queries, SerialComm(), depth=num_chunks + 10)
    for method in ("dense", "ann"):
        scores, ids = found.hits[method]
        assert (ids[:, :num_chunks] >= 0).all() and (ids[:, num_chunks:] == -1).all()
        assert np.isneginf(scores[:, num_chunks:]).all()
        assert (np.sort(ids[:, :num_chunks]) == np.arange(num_chunks)).all()
    np.testing.assert_array_equal(found.hits["ann"][1], found.hits["dense"][1])  # with all lists probed
    assert found.hits["ann"][0].tobytes() == found.hits["dense"][0].tobytes()


def test_without_a_vector_index_there_are_no_approximate_hits(
    chain: stagerun.Chain, queries: np.ndarray, tmp_path: Path
) -> None:
    settings = SearchSettings(depth=3)
    searcher = Searcher(chain.out["lexical"], chain.out["encode"], None, settings, SerialComm(), tmp_path)
    assert set(searcher.search(TEXTS, queries).hits) == {"bm25", "dense", "fused"}


def test_the_hits_of_an_index_are_fused_where_exact_search_only_judges(
    chain: stagerun.Chain, queries: np.ndarray, tmp_path: Path
) -> None:
    few = {"num_probes": 1, "depth": 5}
    always, never = (
        _search(chain, tmp_path, queries, SerialComm(), exact=e, **few) for e in (Exact.always, Exact.never)
    )
    assert set(never.hits) == {"bm25", "ann", "fused"} and "dense" not in never.seconds
    same = (always.hits["dense"][1] == never.hits["ann"][1]).all(axis=1)
    assert not same.all()  # one list is probed
    assert (always.hits["fused"][1][same] == never.hits["fused"][1][same]).all()
    assert not (always.hits["fused"][1][~same] == never.hits["fused"][1][~same]).all()
    for world_size in (1, 3):
        found, *_ = stagerun.on_ranks(
            world_size,
            lambda comm: _search(chain, tmp_path, queries, comm, exact=Exact.sample, judged=np.array([1, 4]), **few),
        )
        scores, ids = found.hits["dense"]
        assert (ids[[0, 2, 3]] == -1).all() and (ids[[1, 4]] == always.hits["dense"][1][[1, 4]]).all()
        assert scores[[1, 4]].tobytes() == always.hits["dense"][0][[1, 4]].tobytes()
        assert found.hits["fused"][0].tobytes() == never.hits["fused"][0].tobytes()


def test_questions_are_taken_apart_as_the_passages_were(
    chain: stagerun.Chain, queries: np.ndarray, tmp_path: Path
) -> None:
    german = chain.again("lexical", tmp_path / "run", analyzer="de", num_shards=2)
    settings = SearchSettings(depth=15)
    scores, ids = (
        Searcher(german, chain.out["encode"], None, settings, SerialComm(), tmp_path)
        .search(TEXTS, queries)
        .hits["bm25"]
    )
    own = Shards([tmp_path / "lexical-0", tmp_path / "lexical-1"])
    words = analyze(TEXTS, "de")
    whole = own.collection({word for row in words for word in row})
    best = own.top([bm25.make_query(row, whole) for row in words], 15)
    assert words != analyze(TEXTS) and (ids[1] >= 0).any()  # "the" is no stop word of German
    assert scores.tobytes() == best[0].tobytes() and ids.tobytes() == best[1].tobytes()
    own.close()
