"""How good rankings and answers are, from what evaluate, retrieve and generate wrote."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rag_hpc.core.chunkstore import ChunkStore
from rag_hpc.core.fs import read_json
from rag_hpc.eval.results import Results

CUTS = (1, 3, 5, 10, 20, 50, 100)
METHODS = ("bm25", "dense", "fused", "reranked", "ann")
Ranking = dict[str, list[Any]]  # query id -> document ids or ordinals, best first


@dataclass(kw_only=True)
class Cited:
    """A passage that an answer cites."""

    number: int  # as in the answer's [n]
    supported: bool
    title: str = ""
    url: str = ""
    text: str = ""
    relevant: bool = False  # its document is judged relevant to the question


@dataclass(kw_only=True)
class Sample:
    """A question with its answer. f1 is None where no gold answer is known."""

    query_id: str
    question: str
    answer: str
    found: bool
    held_out: bool
    gold: list[str]
    f1: float | None
    cited: list[Cited] = field(default_factory=list)


def metrics(results: Results) -> dict[str, dict[str, float]]:
    """Return part (answers, or a ranking method) -> measure -> mean; empty while evaluate is not finished."""
    if "evaluate" not in results.manifests:
        return {}
    values = [read_json(path) for path in results.manifests["evaluate"].files("metrics.json")]
    return {value["part"]: value["metrics"] for value in values}


def measure_names(results: Results, found: dict[str, dict[str, float]]) -> list[str]:
    """Return the measures of rankings, in the order that evaluate was asked for them."""
    asked = results.submission["settings"].get("evaluate", {}).get("measures", [])
    names = {name for values in found.values() for name in values if not name.endswith("_vs_exact")}
    return sorted(names, key=lambda name: (asked.index(name) if name in asked else len(asked), name))


def ann_recall(results: Results) -> tuple[str, float] | None:
    """Return the name ("recall@10") and value of the vector index's recall against exact search."""
    for name, value in metrics(results).get("ann", {}).items():
        if name.startswith("recall@") and name.endswith("_vs_exact"):
            return name.removesuffix("_vs_exact"), value
    return None


def recall_curves(results: Results) -> dict[str, list[tuple[int, float]]]:
    """Return method -> (k, mean recall of relevant documents among the k best), over the judged queries.

    A document stands where its best passage does. The lists are cut by passages, so that they hold fewer documents.
    """
    relevant = _relevant(results)
    curves = {}
    for method, rows in _hits_by_method(results).items():
        ranking = _by_rank(rows, "doc_id")
        shares = {
            k: [len(docs & set(ranking.get(q, [])[:k])) / len(docs) for q, docs in relevant.items()] for k in CUTS
        }
        if relevant:
            curves[method] = [(k, statistics.fmean(values)) for k, values in shares.items()]
    return curves


def ann_curve(results: Results) -> list[tuple[int, float]]:
    """Return (k, mean share of the k best passages of exact search that the vector index finds), empty without one."""
    by_method = _hits_by_method(results)
    if "ann" not in by_method or "dense" not in by_method:
        return []
    exact, found = _by_rank(by_method["dense"], "ordinal"), _by_rank(by_method["ann"], "ordinal")
    depth = max(len(ordinals) for ordinals in exact.values())
    curve = []
    for k in [cut for cut in CUTS if cut <= depth]:
        shares = [len(set(best[:k]) & set(found.get(q, [])[:k])) / len(best[:k]) for q, best in exact.items()]
        curve.append((k, statistics.fmean(shares)))
    return curve


def answer_f1(results: Results, *, held_out: bool) -> tuple[float, int] | None:
    """Return the mean token F1 and the number of questions with a gold answer, of those held out or of the others."""
    marked = {q["query_id"] for q in questions(results) if q["held_out"]}
    lines = [line for line in answer_lines(results) if (line["query_id"] in marked) == held_out]
    values = [line["f1"] for line in lines if line["f1"] is not None]
    return (statistics.fmean(values), len(values)) if values else None


def answer_lines(results: Results) -> list[dict[str, Any]]:
    """Return evaluate's line of each question, in order."""
    if "evaluate" not in results.manifests:
        return []
    paths = results.manifests["evaluate"].files("answers.jsonl")
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").split("\n") if line]


def questions(results: Results) -> list[dict[str, Any]]:
    """Return the questions, in order."""
    return results.rows("retrieve.queries", "queries.parquet")


def samples(results: Results, num: int) -> list[Sample]:
    """Return `num` answered questions, evenly spaced over the list so that nobody has picked them."""
    answers = results.rows("generate", "answers.parquet")
    num = min(num, len(answers))
    chosen = [answers[i * len(answers) // num] for i in range(num)]
    scores = {line["query_id"]: line["f1"] for line in answer_lines(results)}
    asked = {q["query_id"]: q for q in questions(results)}
    passages = _Passages(results) if chosen else None
    return [_sample(row, asked[row["query_id"]], scores.get(row["query_id"]), passages) for row in chosen if passages]


class _Passages:
    """The passages that answers were given, by their chunk's id."""

    def __init__(self, results: Results) -> None:
        hits = [row for rows in _hits_by_method(results).values() for row in rows]
        self._ordinals = {hit["chunk_id"]: hit["ordinal"] for hit in hits}
        self._chunks = ChunkStore(results.manifests["chunk"])

    def get(self, given: list[str], number: int) -> dict[str, Any]:
        """Return passage [number] of those given, empty when an answer cites one that it was not given."""
        if not 1 <= number <= len(given):
            return {}
        return self._chunks.rows([self._ordinals[given[number - 1]]], ["title", "url", "text", "doc_id"])[0]


def _sample(row: dict[str, Any], question: dict[str, Any], f1: float | None, passages: _Passages) -> Sample:
    relevant, given = _judged(question), json.loads(row["chunk_ids"])
    supported: dict[int, bool] = {}  # a passage is verified when all sentences that cite it are
    for check in json.loads(row["citations"]):
        supported[check["citation"]] = supported.get(check["citation"], True) and check["supported"]
    cited = []
    for number, verdict in sorted(supported.items()):
        passage = passages.get(given, number)
        cited.append(
            Cited(
                number=number,
                supported=verdict,
                title=passage.get("title", ""),
                url=passage.get("url", ""),
                text=passage.get("text", ""),
                relevant=passage.get("doc_id") in relevant,
            )
        )
    return Sample(
        query_id=row["query_id"],
        question=row["question"],
        answer=row["answer"],
        found=row["found"],
        held_out=question["held_out"],
        gold=json.loads(row["gold"]),
        f1=f1,
        cited=cited,
    )


def _hits_by_method(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Return method -> hits, methods in their usual order."""
    rows = [
        *results.rows("retrieve.search", "hits.parquet"),
        *results.rows("retrieve.search", "ann.parquet"),
        *results.rows("rerank", "hits.parquet"),
    ]
    return {method: found for method in METHODS if (found := [row for row in rows if row["method"] == method])}


def _by_rank(rows: Iterable[dict[str, Any]], key: str) -> Ranking:
    """Return each query's values of `key`, best first, each where it stands first."""
    ranking: dict[str, dict[Any, None]] = {}
    for row in sorted(rows, key=lambda r: int(r["rank"])):
        ranking.setdefault(row["query_id"], {})[row[key]] = None
    return {query_id: list(values) for query_id, values in ranking.items()}


def _relevant(results: Results) -> dict[str, set[str]]:
    judged = {q["query_id"]: _judged(q) for q in questions(results)}
    return {query_id: docs for query_id, docs in judged.items() if docs}


def _judged(question: dict[str, Any]) -> set[str]:
    return {doc_id for doc_id, grade in json.loads(question["relevant"]).items() if grade > 0}
