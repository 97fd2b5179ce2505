"""Fields beside the text: a weighted sum of each field's BM25, with the statistics of all shards in that field."""

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
from rag_hpc.errors import ConfigError, MissingDependency
from rag_hpc.search import jvm, lucene
from rag_hpc.search.questions import FieldWeights, weights_of
from rag_hpc.search.searcher import Searcher, SearchSettings
from rag_hpc.search.shards import Shards, analyze
from rag_hpc.stages.registry import make_stage

FIELDS = (lucene.CONTENTS, "title")
EDGES = [0, 40, 700, 760, 900]  # uneven shards
WEIGHTS = [1.0, 2.5]
TITLES = FieldWeights(contents=0.0, title=3.0, heading=0.0)
ASKED = [f"w{i % 40} w{7 * i % 90} w{i % 7} rare{i}" for i in range(30)]


@pytest.fixture(scope="module", autouse=True)
def _java() -> None:
    try:
        jvm.start()
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def documents() -> list[tuple[str, str, str]]:
    rng = np.random.default_rng(3)
    words = np.array([f"w{i}" for i in range(100)])
    parts = 1 / np.arange(1, 101)
    docs = []
    for number in range(EDGES[-1]):
        text = " ".join(rng.choice(words, rng.integers(1, 50), p=parts / parts.sum()))
        # of the first shard every second title is empty, and the later ones have others' words
        title = "" if number < EDGES[1] and number % 2 else " ".join(rng.choice(words[number % 50 :], 3))
        docs.append((str(number), text, title))
    return docs


@pytest.fixture(scope="module")
def folders(documents: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One index of all documents, then the parts of it."""
    folder, how = tmp_path_factory.mktemp("fields"), lucene.Indexing(fields=["title"])
    ranges = [(0, EDGES[-1]), *itertools.pairwise(EDGES)]
    for number, (low, high) in enumerate(ranges):
        lucene.build_index(documents[low:high], folder / str(number), how)
    return [folder / str(number) for number in range(len(ranges))]


@pytest.fixture(scope="module")
def shards(folders: list[Path]) -> Iterator[list[Shards]]:
    opened = [Shards([folder], fields=FIELDS) for folder in folders]
    yield opened
    for one in opened:
        one.close()


def queries_of(*shards: Shards, weights: list[float] = WEIGHTS) -> tuple[list[bm25.Collection], list[bm25.Query]]:
    words = analyze(ASKED)
    terms = {word for row in words for word in row}
    wholes = []
    for number in range(len(FIELDS)):
        found = [one.collection(terms, number) for one in shards]
        df = {term: sum(one.df[term] for one in found) for term in terms}
        num_docs, total_terms = (sum(getattr(one, name) for one in found) for name in ("num_docs", "total_terms"))
        wholes.append(bm25.Collection(num_docs=num_docs, total_terms=total_terms, df=df))
    return wholes, [bm25.make_query(row, wholes, weights=weights) for row in words]


def test_shards_with_the_collection_s_statistics_have_the_bits_of_one_index(shards: list[Shards]) -> None:
    one, *parts = shards
    wholes, queries = queries_of(*parts)
    assert wholes == queries_of(one)[0] and wholes[0].num_docs > wholes[1].num_docs
    found = [(scores, np.where(docs >= 0, docs + start, -1)) for (scores, docs), start in _tops(parts, queries)]
    merged, alone = merge_topk(found, 25), one.top(queries, 25)
    assert merged[0].tobytes() == alone[0].tobytes() and merged[1].tobytes() == alone[1].tobytes()
    local = [(scores, np.where(docs >= 0, docs + start, -1)) for (scores, docs), start in _tops(parts, None)]
    assert not np.array_equal(merge_topk(local, 25)[1], alone[1])  # each shard's own statistics rank otherwise


def _tops(parts: list[Shards], queries: list[bm25.Query] | None) -> list[tuple[tuple[np.ndarray, np.ndarray], int]]:
    return [(part.top(queries or queries_of(part)[1], 25), start) for part, start in zip(parts, EDGES, strict=False)]


def test_scores_are_those_of_every_document_and_of_lucene_s_boosted_fields(shards: list[Shards]) -> None:
    one = shards[0]
    wholes, queries = queries_of(one)
    scores, docs = one.top(queries, 10)
    theirs = one.lucene(queries, wholes, 10)
    np.testing.assert_allclose(scores, theirs[0], rtol=1e-5)
    assert (docs == theirs[1]).mean() > 0.99
    for row, query in enumerate(queries):
        ((tf_KT, lengths_KF),) = one.term_freqs([query], [range(one.max_doc)])
        having = np.nonzero(tf_KT.any(axis=1))[0]
        best = bm25.rank(having, bm25.canonical_scores(tf_KT[having], lengths_KF[having], query), 10)
        assert docs[row].tolist() == best[0].tolist() and scores[row].tobytes() == best[1].tobytes()


def test_plain_anserini_ranks_the_same_with_these_weights(shards: list[Shards], folders: list[Path]) -> None:
    opened = jvm.java("io.anserini.search.SimpleSearcher")(
        jvm.java_string(str(folders[0])), signature="(Ljava/lang/String;)V"
    )
    weights = jvm.java("java.util.HashMap")()
    number = jvm.java("java.lang.Float")
    for name, weight in zip(FIELDS, WEIGHTS, strict=True):
        weights.put(jvm.java_string(name), number(weight))
    scores, docs = shards[0].top(queries_of(shards[0])[1], 10)
    equal = 0
    for text, row, ids in zip(ASKED, scores, docs, strict=True):
        hits = opened.search_fields(jvm.java_string(text), weights, 10)
        np.testing.assert_allclose([hit.score for hit in hits], row, rtol=1e-4)
        equal += [hit.docid for hit in hits] == [str(i) for i in ids]
    assert equal >= len(ASKED) - 2  # equal scores may stand in another order


def test_a_field_without_weight_is_not_searched(shards: list[Shards]) -> None:
    one = shards[0]
    text_only = bm25.make_query(["w3"], one.collection(["w3"]))
    both = one.top(queries_of(one, weights=[1.0, 0.0])[1], 10)
    assert not np.array_equal(both[1], one.top(queries_of(one)[1], 10)[1])
    wholes = [one.collection(["w3"], number) for number in range(len(FIELDS))]
    ours = bm25.make_query(["w3"], wholes, weights=[1.0, 0.0])
    assert ours.terms == text_only.terms == ["w3"] and ours.weights_T.tobytes() == text_only.weights_T.tobytes()


def test_weights_of_unknown_fields_are_refused() -> None:
    assert weights_of([], FieldWeights()) == [1.0]
    assert weights_of(["title"], FieldWeights(title=2.0, contents=0.0)) == [0.0, 2.0]
    with pytest.raises(ConfigError, match=r"title is no field .* has contents, heading; .*fields=\[heading,title\]"):
        weights_of(["heading"], FieldWeights(title=2.0))
    with pytest.raises(ConfigError, match="a weight above 0"):
        weights_of([], FieldWeights(contents=0.0))
    with pytest.raises(ConfigError, match="weights >= 0"):
        FieldWeights(title=-1.0)


def test_headings_are_of_passages_alone() -> None:
    with pytest.raises(ConfigError, match="headings are of passages"):
        make_stage("lexical", {"fields": ["heading"], "whole_documents": True})
    with pytest.raises(ConfigError, match="twice"):
        make_stage("lexical", {"fields": ["title", "title"]})


@pytest.mark.parametrize(("num_shards", "whole", "extra"), [(7, False, ["title", "heading"]), (2, True, ["title"])])
def test_runs_search_their_fields_with_the_same_bits_on_any_ranks(
    num_shards: int, whole: bool, extra: list[str], tmp_path: Path
) -> None:
    chain = stagerun.chain_or_skip()
    built = chain.again("lexical", tmp_path / "run", fields=extra, whole_documents=whole, num_shards=num_shards)
    texts = ["a stable sort keeps equal items", "sockets guide", "note 3", "of the"]
    vectors = np.random.default_rng(0).standard_normal((len(texts), 384)).astype(np.float32)

    def search(comm: Comm, fields: FieldWeights) -> tuple[np.ndarray, np.ndarray]:
        scratch = tmp_path / f"{comm.world_size}-{comm.rank}-{fields.contents}"
        scratch.mkdir()
        settings = SearchSettings(depth=15, fields=fields)
        found = Searcher(built, chain.out["encode"], None, settings, comm, scratch).search(texts, vectors)
        return found.hits.get("bm25", (np.empty(0), np.empty(0)))

    alone, weighted = search(SerialComm(), FieldWeights()), search(SerialComm(), TITLES)
    assert not np.array_equal(alone[1], weighted[1]) and (alone[1][:3, 0] >= 0).all()
    titles = [row["title"] for row in chain.table("chunk", "chunks.parquet")]
    assert {"sockets" in titles[i].lower() or "guide" in titles[i].lower() for i in weighted[1][1] if i >= 0} == {True}
    for world_size in sorted({2, 3, num_shards}):
        first, *_ = stagerun.on_ranks(world_size, lambda comm: search(comm, FieldWeights()))
        assert first[0].tobytes() == alone[0].tobytes() and first[1].tobytes() == alone[1].tobytes()
