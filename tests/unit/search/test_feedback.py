"""Queries widened over shards: Anserini's RM3 on one index, and the same bits on any ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stagerun
from realdata import DATA

from rag_hpc.algo.rank.rm3 import Rm3
from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.rank.collections import READERS
from rag_hpc.search import jvm, lucene
from rag_hpc.search.feedback import Feedback
from rag_hpc.search.questions import Questions
from rag_hpc.search.searcher import Searcher, SearchSettings
from rag_hpc.search.shards import Shards

TEXTS = ["a stable sort keeps equal items", "sockets and streams", "zyxwv", "of the"]


@pytest.mark.parametrize("whole", [False, True])
def test_ranks_widen_alike(whole: bool, tmp_path: Path) -> None:
    chain = stagerun.chain_or_skip()
    built = chain.again("lexical", tmp_path / "run", term_vectors=True, whole_documents=whole, num_shards=5)
    vectors = np.random.default_rng(0).standard_normal((len(TEXTS), 384)).astype(np.float32)

    def search(comm: Comm, rm3: Rm3) -> tuple[np.ndarray, np.ndarray]:
        scratch = tmp_path / f"{comm.world_size}-{comm.rank}-{rm3.fb_docs}"
        scratch.mkdir()
        settings = SearchSettings(depth=15, rm3=rm3)
        found = Searcher(built, chain.out["encode"], None, settings, comm, scratch).search(TEXTS, vectors)
        return found.hits.get("bm25", (np.empty(0), np.empty(0)))

    plain, alone = search(SerialComm(), Rm3()), search(SerialComm(), Rm3(fb_docs=4))
    assert not np.array_equal(plain[1][0], alone[1][0]) and (alone[1][:2, 0] >= 0).all() and (alone[1][2:] == -1).all()
    for world_size in (2, 3, 7):
        first, *_ = stagerun.on_ranks(world_size, lambda comm: search(comm, Rm3(fb_docs=4)))
        assert first[0].tobytes() == alone[0].tobytes() and first[1].tobytes() == alone[1].tobytes()


def test_an_index_without_documents_words_is_refused(tmp_path: Path) -> None:
    chain = stagerun.chain_or_skip()
    settings = SearchSettings(rm3=Rm3(fb_docs=10))
    with pytest.raises(ConfigError, match=r"set stage\.lexical\.term_vectors=true"):
        Searcher(chain.out["lexical"], chain.out["encode"], None, settings, SerialComm(), tmp_path)


def test_cranfield_is_widened_as_anserini_widens_it(tmp_path: Path) -> None:
    try:
        jvm.start()
        documents, queries, _ = READERS["cranfield"](DATA, "")
    except InputError as error:
        pytest.skip(str(error))
    texts = [f"{row['title']}\n{row['text']}" for row in documents]
    lucene.build_index(
        ((str(n), text) for n, text in enumerate(texts)), tmp_path / "one", lucene.Indexing(term_vectors=True)
    )
    shards = Shards([tmp_path / "one"])
    asked = [row["text"] for row in queries][:60]
    questions = Questions(shards, SerialComm(), {}, 0.9, 0.4, [1.0])
    widened = Feedback(shards, questions, SerialComm(), Rm3(fb_docs=10), lambda docs: docs)
    scores, docs = shards.top(widened.queries(asked), 20)
    searcher = jvm.java("io.anserini.search.SimpleSearcher")(
        jvm.java_string(str(tmp_path / "one")), signature="(Ljava/lang/String;)V"
    )
    searcher.set_rm3(10, 10, 0.5)
    equal = 0
    for text, row, ids in zip(asked, scores, docs.tolist(), strict=True):
        hits = searcher.search(jvm.java_string(text), 20)
        equal += [int(hit.docid) for hit in hits] == ids
        np.testing.assert_allclose([hit.score for hit in hits], row, rtol=1e-4)
    assert equal >= 57  # equal weights may be summed to either side in float32
    shards.close()
