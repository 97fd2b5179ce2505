"""evaluate: one unit a ranking method, and one for the answers; measures under ir_measures' names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.algo.answer import strings
from rag_hpc.algo.answer.answers import exact_match, token_f1
from rag_hpc.algo.answer.cite import citation_recall, without_citations
from rag_hpc.algo.answer.nuggets import Nugget, nugget_scores, support
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.settings import path_field
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.search.recall import of_queries
from rag_hpc.sources.files.nuggets import read_nuggets
from rag_hpc.stores.answers import read_answers
from rag_hpc.stores.hits import ANN, HITS, RERANKED, Method, all_exact, handed_on
from rag_hpc.stores.metrics import METRICS, RUN, STAND_INS, write_judged, write_metrics
from rag_hpc.stores.questions import read_questions
from rag_hpc.stores.tables import rows_of

OF_ANSWERS = (
    *("f1", "em", "f1_sentence", "citation_precision", "citation_recall"),
    *("unanswerable_refused", "answerable_answered"),
)


@dataclass(kw_only=True)
class EvaluateConfig:
    """Settings of evaluation."""

    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "R@10", "R@100", "AP"])
    k: int = 10  # of the recall of the vector index against exact search
    # of answers' texts beside gold ones: string_similarity, bleu, chrf, rouge_l; null: those whose packages are there
    texts: list[str] | None = None
    nuggets: str = path_field("")  # JSONL of {qid, nuggets: [{text, importance: vital or okay}]}, as of TREC RAG

    def __post_init__(self) -> None:
        if not self.measures or self.k < 1:
            raise ConfigError("stage.evaluate: at least one measure, e.g. measures=[nDCG@10], and k >= 1 are needed")
        if unknown := sorted(set(self.texts or ()) - set(strings.PACKAGES)):
            raise ConfigError(f"stage.evaluate.texts: {unknown[0]!r} is none of {', '.join(strings.PACKAGES)}")


class Evaluate(Stage):
    """Judges rankings by documents (a document counts where its first passage stands) and answers by tokens."""

    Config: ClassVar[type] = EvaluateConfig
    name = "evaluate"
    version = 5
    needs = ("retrieve.queries", "retrieve.search", "generate")
    wants = ("rerank",)
    identity = (METRICS,)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the units; what only some layouts have comes last, so that the others keep their index."""
        check_measures(self.config.measures)
        parts = ["answers", "bm25", *(["dense"] if all_exact(inputs["retrieve.search"]) else []), "fused"]
        parts += [RERANKED] if "rerank" in inputs else []
        parts += ["ann"] if inputs["retrieve.search"].holders(ANN) else []
        given: dict[str, Any] = {}
        if texts := strings.installed() if self.config.texts is None else self.config.texts:
            given["texts"] = texts  # what is installed where the run is planned
        if self.config.nuggets:
            read_nuggets(Path(self.config.nuggets))
            given["nuggets"] = hash_file(Path(self.config.nuggets))
        last = RERANKED if "rerank" in inputs else handed_on(inputs).value
        rankings = [{"part": part, "handed_on": part == last} for part in parts[1:]]
        return [Unit(i, one) for i, one in enumerate([{"part": parts[0], "handed_on": False, **given}, *rankings])]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write metrics.json and, by part, run.trec or answers.jsonl."""
        part = unit.inputs["part"]
        queries = read_questions(ctx.inputs["retrieve.queries"])
        stand_ins = any(query.get("stand_in") for query in queries)
        by_query: dict[str, dict[str, float]] = {}
        if part == "answers":
            rows = read_answers(ctx.inputs["generate"])
            metrics, lines = judge_answers(rows, unit.inputs.get("texts", ()), self._nuggets(unit))
            write_judged(out, [{**line, "query_is": STAND_INS} if stand_ins else line for line in lines])
        else:
            hits = ctx.inputs["rerank" if part == RERANKED else "retrieve.search"]
            table = HITS if part == RERANKED else Method(part).table
            rows = [row for row in rows_of(hits, table) if row["method"] == part]
            run = by_document(rows)
            (out / RUN).write_text(trec_lines(run, f"{part}.stand-ins" if stand_ins else part), encoding="utf-8")
            metrics, by_query = judge_queries(run, queries, self.config.measures)
            if part == "ann":
                exact = [row for row in rows_of(hits, HITS) if row["method"] == "dense"]
                metrics |= judge_index(rows, exact, self.config.k)
        chosen = unit.inputs["handed_on"]
        write_metrics(out, part, len(queries), metrics, by_query=by_query, stand_ins=stand_ins, handed_on=chosen)
        return Counts(items_in=1, items_out=1)

    def _nuggets(self, unit: Unit) -> dict[str, list[Nugget]]:
        if "nuggets" not in unit.inputs:
            return {}
        path = Path(self.config.nuggets)
        if hash_file(path) != unit.inputs["nuggets"]:
            raise InputError(f"stage.evaluate.nuggets: {path} changed since the plan was made; run again")
        return read_nuggets(path)


def check_measures(names: Iterable[str]) -> list[Any]:
    """Return the parsed measures; raises ConfigError naming the one that ir_measures cannot compute."""
    import ir_measures

    measures = []
    for name in names:
        try:
            measure: Any = ir_measures.parse_measure(name)
            measure.validate_params()
            measures.append(measure)
        except (NameError, ValueError, AssertionError) as error:  # the last: a measure that needs a cutoff, as P and R
            raise ConfigError(
                f"stage.evaluate.measures: {name!r} is no whole measure of ir_measures ({error}); "
                "try nDCG@10, RR@10, R@100 or AP"
            ) from error
    return measures


def by_document(rows: Iterable[dict[str, Any]]) -> dict[str, list[tuple[str, float]]]:
    """Return query id -> (doc id, score), best first; a document stands where its best passage does."""
    run: dict[str, list[tuple[str, float]]] = {}
    for row in sorted(rows, key=lambda r: (r["query_id"], r["rank"])):
        ranking = run.setdefault(row["query_id"], [])
        if row["doc_id"] not in {doc_id for doc_id, _ in ranking}:
            ranking.append((row["doc_id"], row["score"]))
    return run


def judge_ranking(
    run: dict[str, list[tuple[str, float]]], queries: list[dict[str, Any]], measures: list[str]
) -> dict[str, float]:
    """Return the mean of each measure over the judged queries; ranks decide, so equal scores keep their order."""
    return judge_queries(run, queries, measures)[0]


def judge_queries(
    run: dict[str, list[tuple[str, float]]], queries: list[dict[str, Any]], measures: list[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the means as `judge_ranking`, and measure -> judged query -> value."""
    import ir_measures

    judged = grades_of(queries)
    if not judged:
        return {}, {}
    ranked = {q: {doc_id: float(-rank) for rank, (doc_id, _) in enumerate(run.get(q, []))} for q in judged}
    calculated: Any = ir_measures.calc(check_measures(measures), judged, ranked)
    means, values = calculated
    by_query: dict[str, dict[str, float]] = {str(measure): {} for measure in means}
    for metric in sorted(values, key=lambda metric: metric.query_id):
        by_query[str(metric.measure)][metric.query_id] = round(float(metric.value), 6)
    named = sorted((str(measure), round(float(value), 6)) for measure, value in means.items())
    return dict(named), by_query


def grades_of(queries: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the grades by document id of the judged queries, by query id."""
    qrels = {q["query_id"]: {d: int(g) for d, g in json.loads(q["relevant"]).items()} for q in queries}
    return {query_id: grades for query_id, grades in qrels.items() if grades}


def judge_answers(
    rows: list[dict[str, Any]], texts: Sequence[str] = (), nuggets: Mapping[str, Sequence[Nugget]] | None = None
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the means over the questions that have a value of them, and a line each.

    texts: measures of strings. nuggets: by question.
    """
    known = nuggets or {}
    lines = [_judge_one(row, texts, known.get(row["query_id"], ())) for row in rows]
    names = (*OF_ANSWERS, *texts, *sorted({key for line in lines for key in line if key.startswith("nuggets_")}))
    metrics: dict[str, float] = {}
    for key in names:
        values = [line[key] for line in lines if line.get(key) is not None]
        if values:
            metrics[key] = round(sum(values) / len(values), 6)
    metrics["answered"] = round(sum(line["found"] for line in lines) / len(lines), 6) if lines else 0.0
    return metrics, lines


def _judge_one(row: dict[str, Any], texts: Sequence[str], nuggets: Sequence[Nugget]) -> dict[str, Any]:
    gold, cited = json.loads(row["gold"]), json.loads(row["citations"])
    supported = [bool(c["supported"]) for c in cited]
    line = {key: row[key] for key in ("query_id", "question", "answer", "short", "found")}
    is_known, has_answer = bool(gold), any(text.strip() for text in gold)
    said = without_citations(row["answer"]) if row["found"] else ""
    return {
        **line,
        "gold": gold,
        "f1": token_f1(row["short"], gold) if is_known else None,
        "em": float(exact_match(row["short"], gold)) if is_known else None,
        "f1_sentence": token_f1(row["answer"], gold) if is_known else None,
        "citation_precision": sum(supported) / len(supported) if supported else None,
        "citation_recall": citation_recall(row["answer"], supported) if row["found"] else None,
        # a gold answer of "" says that there is none
        "unanswerable_refused": float(not row["found"]) if is_known and not has_answer else None,
        "answerable_answered": float(row["found"]) if has_answer else None,
        **{name: strings.nearness(name, row["short"] if row["found"] else "", gold) for name in texts if has_answer},
        **nugget_scores(nuggets, [support(nugget, said) for nugget in nuggets]),
    }


def judge_index(approximate: list[dict[str, Any]], exact: list[dict[str, Any]], k: int) -> dict[str, float]:
    """Return the recall against exact search with its interval, over the questions that have exact hits.

    Of none there is no recall.
    """
    shares = shares_found(approximate, exact, k)
    if not shares:
        return {}
    found = of_queries(f"recall@{k}_vs_exact", np.array(shares))
    return {**found.figures(), f"{found.name}.judged": found.num}


def shares_found(approximate: list[dict[str, Any]], exact: list[dict[str, Any]], k: int) -> list[float]:
    """Return of each question with exact hits the share of its k best ordinals among the approximate k best."""

    def tops(rows: list[dict[str, Any]]) -> dict[str, set[int]]:
        top: dict[str, set[int]] = {}
        for row in rows:
            if row["rank"] <= k:
                top.setdefault(row["query_id"], set()).add(row["ordinal"])
        return top

    wanted, got = tops(exact), tops(approximate)
    return [len(ids & got.get(query_id, set())) / len(ids) for query_id, ids in wanted.items()]


def trec_lines(run: dict[str, list[tuple[str, float]]], tag: str) -> str:
    """Return the six columns of a TREC run: query Q0 document rank score tag; blanks in ids become underscores."""
    lines = [
        f"{'_'.join(q.split())} Q0 {'_'.join(doc.split())} {rank} {score:.6f} rag_hpc.{tag}\n"
        for q, ranking in run.items()
        for rank, (doc, score) in enumerate(ranking, 1)
    ]
    return "".join(lines)
