"""Quoted words of a question: Lucene's phrases, with the statistics of all shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stagerun

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.topk import merge_topk
from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.errors import MissingDependency
from rag_hpc.search import jvm, lucene
from rag_hpc.search.questions import Questions, analyze_phrases
from rag_hpc.search.searcher import Searcher, SearchSettings
from rag_hpc.search.shards import Shards, analyze

FIELDS = (lucene.CONTENTS, "title")
POSITIONS = {"analyzer": "en", "fields": ["title"], "positions": True}
EDGES = [0, 30, 1500, 1600, 1800]
ASKED = [
    '"w1 w2"',
    'w3 "w0 w1 w0" rare5',
    '"w2 of the w1" w4',
    "\u201cw4 w0\u201d and \u201cw0 w4\u201d",
    'w1 "w2" "absent w1" ""',
    '"w0 w0 w0 w0 w0 w0"',
    '"the of"',
]


@pytest.fixture(scope="module", autouse=True)
def _java() -> None:
    try:
        jvm.start()
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Shards]]:
    """One index of all documents, then the parts of it: texts of few words, so that phrases abound."""
    rng = np.random.default_rng(5)
    words = np.array(["w0", "w1", "w2", "w3", "w4", "of", "the"])
    docs = [
        (
            str(n),
            " ".join(rng.choice(words, rng.integers(1, 40), p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.1, 0.05])),
            f"w{n % 5} w2",
        )
        for n in range(EDGES[-1])
    ]
    folder, how = tmp_path_factory.mktemp("phrases"), lucene.Indexing(fields=["title"], positions=True)
    opened = []
    for number, (low, high) in enumerate([(0, EDGES[-1]), *itertools.pairwise(EDGES)]):
        lucene.build_index(docs[low:high], folder / str(number), how)
        opened.append(Shards([folder / str(number)], fields=FIELDS, threads=2))
    yield opened
    for one in opened:
        one.close()


def test_quoted_words_are_terms_of_several_words() -> None:
    found = analyze_phrases(['find "rate  limits" of \u201cthe state of the art\u201d', '"fox"', '"the" x " "'], "en")
    assert found == [["find", "rate\0limit", "state\0\0\0art"], ["fox"], ["x"]]
    assert analyze_phrases(['an "open quote', ""], "en") == [["open", "quot"], []]
    assert bm25.words_of("state\0\0\0art") == ["state", "art"] and bm25.words_of("fox") == ["fox"]


def test_a_phrase_s_idf_is_the_sum_of_its_words() -> None:
    whole = bm25.Collection(num_docs=10, total_terms=100, df={"b": 2, "a": 5})
    query = bm25.make_query(["a\0b", "a\0\0b", "a\0x", "a\0b"], whole)
    together = bm25.idf(5, 10) + bm25.idf(2, 10)
    assert query.terms == ["a\0\0b", "a\0b"] and query.weights_T.tolist() == [together, 2 * together]


def test_shards_find_and_score_phrases_as_lucene_does_in_one_index(shards: list[Shards]) -> None:
    one, *parts = shards
    asking = Questions(one, SerialComm(), POSITIONS, 0.9, 0.4, [1.0, 0.5])
    queries = asking.queries(ASKED)
    alone = one.top(queries, 50)
    terms = {word for query in queries for term in query.terms for word in bm25.words_of(term)}
    theirs = one.lucene(queries, asking.collections(terms), 50)
    held = alone[1] >= 0
    assert np.array_equal(held, theirs[1] >= 0) and held.any(axis=1).tolist() == [True] * 6 + [False]
    np.testing.assert_allclose(alone[0][held], theirs[0][held], rtol=1e-5)
    assert (alone[1] == theirs[1]).mean() > 0.95  # equal scores in float32 may stand in another order
    found = [part.top(queries, 50) for part in parts]
    merged = merge_topk(
        [(scores, np.where(docs >= 0, docs + start, -1)) for (scores, docs), start in zip(found, EDGES, strict=False)],
        50,
    )
    assert merged[0].tobytes() == alone[0].tobytes() and merged[1].tobytes() == alone[1].tobytes()


def test_phrases_are_counted_as_they_stand(shards: list[Shards]) -> None:
    one = shards[0]
    query = bm25.Query(
        terms=["w1\0w2", "w2\0\0\0w1"], weights_T=np.ones(2), avgdl=(1.0, 1.0), k1=0.9, b=0.4, fields_T=[0, 0]
    )
    ((tf_KT, _),) = one.term_freqs([query], [range(one.max_doc)])
    scores, docs = one.top([query], one.max_doc)
    assert set(docs[0][docs[0] >= 0].tolist()) == set(np.nonzero(tf_KT.any(axis=1))[0].tolist())
    assert tf_KT.max(axis=0).min() > 0 and np.isfinite(scores[0][docs[0] >= 0]).all()
    assert one.df(["w1\0w2"]) == {"w1\0w2": 0}  # not counted: what a phrase weighs comes of its words


def test_runs_with_positions_take_quotes_as_phrases_on_any_ranks(tmp_path: Path) -> None:
    chain = stagerun.chain_or_skip()
    built = chain.again("lexical", tmp_path / "run", positions=True, num_shards=3)
    texts = ['"stable sort" items', '"sort stable" items', "stable sort items"]
    vectors = np.random.default_rng(0).standard_normal((len(texts), 384)).astype(np.float32)

    def search(comm: Comm, index: str) -> tuple[np.ndarray, np.ndarray]:
        scratch = tmp_path / f"{index}-{comm.world_size}-{comm.rank}"
        scratch.mkdir()
        lexical = built if index == "positions" else chain.out["lexical"]
        searcher = Searcher(lexical, chain.out["encode"], None, SearchSettings(depth=15), comm, scratch)
        return searcher.search(texts, vectors).hits.get("bm25", (np.empty(0), np.empty(0)))

    alone, plain = search(SerialComm(), "positions"), search(SerialComm(), "plain")
    assert (
        plain[0][0].tobytes() == plain[0][2].tobytes() == alone[0][2].tobytes()
    )  # without positions quotes say nothing
    assert alone[0][0].tobytes() != alone[0][2].tobytes() and alone[0][0].tobytes() != alone[0][1].tobytes()
    for world_size in (2, 3):
        first, *_ = stagerun.on_ranks(world_size, lambda comm: search(comm, "positions"))
        assert first[0].tobytes() == alone[0].tobytes() and first[1].tobytes() == alone[1].tobytes()


def test_terms_come_with_the_places_of_those_left_out() -> None:
    assert analyze(["the state of the art", ""], gaps=True) == [["", "state", "", "", "art"], []]
