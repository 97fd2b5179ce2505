"""A collection that is judged: no document is lost, and BM25 ranks as plain Lucene over whole documents does."""

from __future__ import annotations

import json
from pathlib import Path

import fixedcorpus
import numpy as np
import pytest
import stagerun

from rag_hpc.algo.rank import bm25
from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.inline import same_for_any_p
from rag_hpc.search import lucene
from rag_hpc.search.searcher import Found, Searcher, SearchSettings
from rag_hpc.search.shards import Shards, analyze
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.chunks import ChunkStore

KEPT = {"keep_all": True}
LEXICAL = {"num_shards": 3, "whole_documents": True}
DEPTH = 20
QUERIES = [*fixedcorpus.ASKED.values(), "Empty", "a long note on paths", "of the"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> stagerun.Chain:
    """The fixed corpus as a BEIR folder, as far as its vectors; many of its documents are cut into passages."""
    folder = tmp_path_factory.mktemp("judged")
    dedup = {f"dedup.{step}": KEPT for step in ("sign", "group", "verify", "link", "drop")}
    settings = {
        "crawl": {"source": "beir", "path": str(fixedcorpus.write_beir(folder / "beir")), "pages_per_unit": 30},
        "clean": KEPT,
        **dedup,
        "chunk": {"max_tokens": 48, "overlap_tokens": 8, "heading_tokens": 8},
        "lexical": LEXICAL,
        "encode": {"tokens_per_unit": 1000},
    }
    chain = stagerun.Chain(folder / "run", settings)
    return stagerun.chain_or_skip(lambda: chain.run(*stagerun.TO_CHUNK, "lexical", "encode"))


def search(chain: stagerun.Chain, folder: Path, comm: Comm, allowed: np.ndarray | None = None) -> Found:
    vectors = np.random.default_rng(0).standard_normal((len(QUERIES), 384)).astype(np.float32)
    scratch = folder / f"{comm.world_size}-{comm.rank}"
    scratch.mkdir()
    settings = SearchSettings(depth=DEPTH)
    searcher = Searcher(chain.out["lexical"], chain.out["encode"], None, settings, comm, scratch)
    searcher.restrict(allowed)
    return searcher.search(QUERIES, vectors)


def test_every_document_with_a_word_or_a_title_has_passages(judged: stagerun.Chain) -> None:
    pages = {row["doc_id"] for row in judged.table("crawl", "pages.parquet")}
    assert pages - {row["doc_id"] for row in judged.table("chunk", "chunks.parquet")} == {"bell", "marks"}
    assert judged.rejects("clean") == {"bell": "binary"} and judged.rejects("chunk") == {"marks": "no-tokens"}


def test_bm25_is_that_of_plain_lucene_over_whole_documents(judged: stagerun.Chain, tmp_path: Path) -> None:
    chunks = ChunkStore(judged.out["chunk"]).column("doc_id")
    whole: dict[str, str] = {}
    for line in Path(judged.settings["crawl"]["path"], "corpus.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["_id"] in chunks:
            whole.setdefault(record["_id"], f"{record['title']} {record['text']}")  # the first of two of one id
    ids, texts = list(whole), whole.values()
    lucene.build_index(((str(i), text) for i, text in enumerate(texts)), tmp_path / "one")
    plain = Shards([tmp_path / "one"])
    scores, found = search(judged, tmp_path, SerialComm()).hits["bm25"]
    asked = [bm25.make_query(words, plain.collection(words)) for words in analyze(QUERIES)]
    best, docs = plain.top(asked, DEPTH)
    assert scores.tobytes() == best.tobytes()
    for row, text in enumerate(QUERIES):
        ours = [chunks[i] for i in found[row].tolist() if i >= 0]
        assert ours == [ids[i] for i in docs[row].tolist() if i >= 0], text
        assert len(ours) == len(set(ours))
    plain.close()


def test_a_document_is_named_by_its_passage_nearest_to_the_query(judged: stagerun.Chain, tmp_path: Path) -> None:
    found = search(judged, tmp_path, SerialComm())
    chunks = ChunkStore(judged.out["chunk"]).column("doc_id")
    vectors = np.concatenate([np.load(path) for path in judged.out["encode"].files("vectors.npy")]).astype(np.float64)
    asked = np.random.default_rng(0).standard_normal((len(QUERIES), 384)).astype(np.float32).astype(np.float64)
    several = 0
    for row, ids in enumerate(found.hits["bm25"][1]):
        for ordinal in (int(i) for i in ids if i >= 0):
            own = [i for i, doc_id in enumerate(chunks) if doc_id == chunks[ordinal]]
            several += len(own) > 1
            assert ordinal == own[int(np.argmax((vectors[own] * asked[row]).sum(axis=1)))]
    assert several > 20


def test_a_document_counts_where_one_of_its_passages_is_let_through(judged: stagerun.Chain, tmp_path: Path) -> None:
    names = ChunkStore(judged.out["chunk"]).column("doc_id")
    (tmp_path / "all").mkdir()
    every = search(judged, tmp_path / "all", SerialComm()).hits["bm25"][1]
    mask = np.random.default_rng(2).random(len(names)) < 0.3
    left = {names[n] for n in np.flatnonzero(mask)}
    _, found = search(judged, tmp_path, SerialComm(), mask).hits["bm25"]
    assert mask[found[found >= 0]].all()
    for row, ids in enumerate(every):
        want = [names[n] for n in ids if n >= 0 and names[n] in left]
        assert [names[n] for n in found[row] if n >= 0][: len(want)] == want


def test_ranks_and_workers_change_nothing(judged: stagerun.Chain, tmp_path: Path) -> None:
    alone = search(judged, tmp_path, SerialComm()).hits
    first, *_ = stagerun.on_ranks(3, lambda comm: search(judged, tmp_path, comm))
    assert all(
        part.tobytes() == first.hits[method][i].tobytes() for method in alone for i, part in enumerate(alone[method])
    )
    same_for_any_p(make_stage("lexical", dict(LEXICAL)), judged.out, tmp_path / "any", ps=(1, 2))
