"""RM3 over four shards, beside Anserini's own on one index of the same documents."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rag_hpc.algo.rank.rm3 import Rm3
from rag_hpc.core.comm import SerialComm
from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.pairs import difference_of_means
from rag_hpc.eval.bench.rank.collections import READERS
from rag_hpc.eval.bench.rows import Row
from rag_hpc.search import jvm, lucene
from rag_hpc.search.feedback import Feedback
from rag_hpc.search.questions import Questions
from rag_hpc.search.shards import Shards, num_threads
from rag_hpc.stores.chunks import split_evenly

SHARDS = 4
DEPTH = 10  # hits, as the measure reads
HOW = Rm3(fb_docs=10)
Ranking = dict[str, list[tuple[str, float]]]  # question -> documents, best first
Grades = dict[str, dict[str, int]]
Measure = Callable[[Ranking, Grades], Mapping[str, float]]


def row(name: str, data: Path, folder: Path, measured: Measure) -> Row:
    """Return nDCG@10 over all judged questions of a collection, of whole documents."""
    if name not in READERS:
        raise ConfigError(f"feedback={name}: not one of {', '.join(READERS)}")
    documents, queries, judged = READERS[name](data, "")
    grades: Grades = {}
    for one in judged:
        grades.setdefault(one["query"], {})[one["document"]] = int(one["grade"])
    asked = {query["_id"]: query["text"] for query in queries if query["_id"] in grades}
    names = [document["_id"] for document in documents]
    texts = [f"{document['title']}\n{document['text']}" for document in documents]
    how = lucene.Indexing(term_vectors=True)
    spans = [(0, len(texts)), *split_evenly(len(texts), SHARDS)]
    folders = [folder / f"index-{number}" for number in range(len(spans))]
    for (start, stop), place in zip(spans, folders, strict=True):
        lucene.build_index(((str(n), texts[n]) for n in range(start, stop)), place, how)
    rankings = _ours(folders[1:], asked, names) | {"anserini": _anserini(folders[0], asked, names)}
    scores = {ranking: measured(found, grades) for ranking, found in rankings.items()}
    means = {ranking: statistics.fmean(values.values()) for ranking, values in scores.items()}
    widened, plain = ([scores[ranking][q] for q in asked] for ranking in ("rm3", "bm25"))
    gain, (low, high) = difference_of_means(widened, plain)
    same = statistics.fmean(rankings["rm3"][q] == rankings["anserini"][q] for q in asked)
    ours = means.pop("rm3")
    return Row(
        name=f"rank.{name}.rm3",
        ours=ours,
        unit="nDCG@10",
        peers=means,
        ratio=ours - means["anserini"],
        note=f"ratio: ours less anserini; over bm25 {gain:+.4f}, 95% of it in [{low:+.4f}, {high:+.4f}]; "
        f"{len(asked)} questions, of {same:.1%} the ten are anserini's in its order; {SHARDS} shards",
    )


def _ours(folders: Sequence[Path], asked: Mapping[str, str], names: Sequence[str]) -> dict[str, Ranking]:
    shards = Shards(folders, threads=num_threads())
    questions = Questions(shards, SerialComm(), {}, 0.9, 0.4, [1.0])
    widened = Feedback(shards, questions, SerialComm(), HOW, lambda docs: docs)
    rankings = {}
    texts = [*asked.values()]
    for ranking, queries in {"rm3": widened.queries(texts), "bm25": questions.queries(texts)}.items():
        found = shards.top(queries, DEPTH)[1]
        rankings[ranking] = {
            query: [(names[doc], 0.0) for doc in docs if doc >= 0]
            for query, docs in zip(asked, found.tolist(), strict=True)
        }
    shards.close()
    return rankings


def _anserini(folder: Path, asked: Mapping[str, str], names: Sequence[str]) -> Ranking:
    searcher = jvm.java("io.anserini.search.SimpleSearcher")(
        jvm.java_string(str(folder)), signature="(Ljava/lang/String;)V"
    )
    searcher.set_rm3(HOW.fb_terms, HOW.fb_docs, HOW.original_weight)
    hits = {query: searcher.search(jvm.java_string(text), DEPTH) for query, text in asked.items()}
    searcher.close()
    return {query: [(names[int(hit.docid)], 0.0) for hit in found] for query, found in hits.items()}
