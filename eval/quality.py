"""How good rankings and answers are, from what evaluate, retrieve and generate wrote."""

from __future__ import annotations

import json
import random
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rag_hpc.algo.answer.cite import verdicts
from rag_hpc.eval.results import Results
from rag_hpc.stores.answers import ANSWERS
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.documents import find_document, page_number
from rag_hpc.stores.hits import ANN, HITS, all_exact
from rag_hpc.stores.metrics import STAND_INS, Measured, read_handed_on, read_judged, read_measured, read_metrics
from rag_hpc.stores.questions import QUERIES

CUTS = (1, 3, 5, 10, 20, 50, 100)
OF_ANSWERS = "answers"  # the part of evaluate that is no ranking
SEED = 0  # of the draw of samples
METHODS = ("bm25", "dense", "fused", "reranked", "ann")
Ranking = dict[str, list[Any]]  # query id -> document ids or ordinals, best first


@dataclass(kw_only=True)
class Cited:
    """A passage that an answer cites."""

    number: int  # as in the answer's [n]
    verdict: str  # one of cite.VERDICTS
    title: str = ""
    url: str = ""
    doc_id: str = ""
    page: int | None = None  # of a PDF
    text: str = ""
    quotes: list[tuple[int, int]] = field(default_factory=list)  # what of the text is quoted, start and end
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


def measured(results: Results) -> list[Measured]:
    """Return what evaluate measured, part by part; empty while it is not finished."""
    return read_measured(results.manifests["evaluate"]) if "evaluate" in results.manifests else []


def stand_ins(results: Results) -> bool:
    """Return whether titles ask for their own documents in place of questions: no measure of them is one of quality."""
    return any(question.get("stand_in") for question in questions(results))


def caveats(results: Results) -> list[str]:
    """Return what must be known before a figure of rankings or answers is quoted, a line each."""
    lines = []
    if stand_ins(results):
        lines.append(
            f"{results.name}: the queries are {STAND_INS}, each asks for its own document: the figures tell that "
            "search works, not how good it is"
        )
    rows = questions(results)
    absent = {doc_id: why for q in rows for doc_id, why in json.loads(q.get("absent") or "{}").items()}
    if absent:
        num, reasons = len({doc_id for q in rows for doc_id in _judged(q)}), Counter(absent.values())
        lines.append(
            f"{results.name}: {len(absent)} of {num} documents judged relevant cannot be found "
            f"({', '.join(f'{reason} {count}' for reason, count in reasons.most_common())})"
        )
    return lines


def metrics(results: Results) -> dict[str, dict[str, float]]:
    """Return part (answers, or a ranking method) -> measure -> mean; empty while evaluate is not finished."""
    return read_metrics(results.manifests["evaluate"]) if "evaluate" in results.manifests else {}


def handed_on(results: Results) -> str | None:
    """Return the ranking that the answers were made from, None while evaluate is not finished."""
    if "evaluate" not in results.manifests:
        return None
    return read_handed_on(results.manifests["evaluate"]) or ("reranked" if "rerank" in results.manifests else "fused")


def measure_names(results: Results, by_part: dict[str, dict[str, float]]) -> list[str]:
    """Return the measures of rankings, in the order that evaluate was asked for them."""
    asked = results.submission["settings"].get("evaluate", {}).get("measures", [])
    names = {name for values in by_part.values() for name in values if "_vs_exact" not in name}
    return sorted(names, key=lambda name: (asked.index(name) if name in asked else len(asked), name))


def ann_recall(results: Results) -> tuple[str, float] | None:
    """Return the name ("recall@10") and value of the vector index's recall against exact search."""
    for name, value in metrics(results).get("ann", {}).items():
        if name.startswith("recall@") and name.endswith("_vs_exact"):
            return name.removesuffix("_vs_exact"), value
    return None


def ann_judged(results: Results) -> str:
    """Return over how many questions the index was judged and the interval of that; empty in runs that do not say."""
    found = metrics(results).get("ann", {})
    low, high, num = (
        next((value for name, value in found.items() if name.endswith(f"_vs_exact.{end}")), None)
        for end in ("low", "high", "judged")
    )
    asked = "titles" if stand_ins(results) else "questions"
    return "" if low is None or high is None or num is None else f"[{low:.4f}, {high:.4f}] over {num:.0f} {asked}"


def recall_curves(results: Results) -> dict[str, list[tuple[int, float]]]:
    """Return method -> (k, mean recall of relevant documents among the k best), over the judged queries.

    A document stands where its best passage does. The lists are cut by passages, so that they hold fewer documents.
    """
    relevant, by_method = _relevant(results), _hits_by_method(results)
    if "retrieve.search" in results.manifests and not all_exact(results.manifests["retrieve.search"]):
        by_method.pop("dense", None)  # of a sample
    curves = {}
    for method, rows in by_method.items():
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
    exact, approximate = _by_rank(by_method["dense"], "ordinal"), _by_rank(by_method["ann"], "ordinal")
    depth = max(len(ordinals) for ordinals in exact.values())
    curve = []
    for k in [cut for cut in CUTS if cut <= depth]:
        shares = [len(set(best[:k]) & set(approximate.get(q, [])[:k])) / len(best[:k]) for q, best in exact.items()]
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
    return read_judged(results.manifests["evaluate"]) if "evaluate" in results.manifests else []


def questions(results: Results) -> list[dict[str, Any]]:
    """Return the questions, in order."""
    return results.rows("retrieve.queries", QUERIES)


def samples(results: Results, num: int) -> list[Sample]:
    """Return `num` questions with their answers, drawn at random with SEED so that nobody has picked them."""
    answers = results.rows("generate", ANSWERS)
    drawn = random.Random(SEED).sample(range(len(answers)), min(num, len(answers)))  # draws nothing secret
    chosen = [answers[i] for i in sorted(drawn)]
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
        self._documents = results.manifests["dedup.drop"]

    def get(self, given: list[str], number: int) -> dict[str, Any]:
        """Return passage [number] of those given, empty when an answer cites one that it was not given."""
        if not 1 <= number <= len(given):
            return {}
        columns = ["title", "url", "text", "doc_id", "start"]
        return self._chunks.rows([self._ordinals[given[number - 1]]], columns)[0]

    def page(self, passage: dict[str, Any], at: int) -> int | None:
        """Return the page of a PDF on which a place in a passage lies, None for other documents."""
        if ".pdf" not in passage.get("doc_id", "").lower():
            return None
        document = find_document(self._documents, passage["doc_id"])
        return page_number(document, passage["start"] + at) if document else None


def _sample(row: dict[str, Any], question: dict[str, Any], f1: float | None, passages: _Passages) -> Sample:
    relevant, given = _judged(question), json.loads(row["chunk_ids"])
    checks = json.loads(row["citations"])
    cited = []
    for number, verdict in verdicts(checks).items():
        passage = passages.get(given, number)
        shown = {key: passage.get(key, "") for key in ("title", "url", "doc_id", "text")}
        places = [(c["start"], c["end"]) for c in checks if c["citation"] == number and c.get("start", -1) >= 0]
        page = passages.page(passage, places[0][0] if places else 0)
        judged = shown["doc_id"] in relevant
        quotes = sorted(places)
        cited.append(Cited(number=number, verdict=verdict, relevant=judged, quotes=quotes, page=page, **shown))
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
    tables = (("retrieve.search", HITS), ("retrieve.search", ANN), ("rerank", HITS))
    rows = [row for stage, name in tables for row in results.rows(stage, name)]
    return {method: hits for method in METHODS if (hits := [row for row in rows if row["method"] == method])}


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
    """Return the documents that are judged relevant to a question."""
    return {doc_id for doc_id, grade in json.loads(question["relevant"]).items() if grade > 0}
