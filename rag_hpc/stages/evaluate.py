"""evaluate: one unit a ranking method, and one for the answers; measures under ir_measures' names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.algo.answers import exact_match, token_f1
from rag_hpc.core.fs import canonical_json
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import read_table
from rag_hpc.errors import ConfigError
from rag_hpc.hits import ANN, HITS

METRICS, RUN, PER_QUESTION = "metrics.json", "run.trec", "answers.jsonl"


@dataclass(kw_only=True)
class EvaluateConfig:
    """Settings of evaluation."""

    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "R@10", "R@100", "AP"])
    k: int = 10  # of the recall of the vector index against exact search

    def __post_init__(self) -> None:
        if not self.measures or self.k < 1:
            raise ConfigError("stage.evaluate: at least one measure, e.g. measures=[nDCG@10], and k >= 1 are needed")


class Evaluate(Stage):
    """Judges rankings by documents (a document counts where its first passage stands) and answers by tokens."""

    Config: ClassVar[type] = EvaluateConfig
    name = "evaluate"
    version = 1
    needs = ("retrieve.queries", "retrieve.search", "generate")
    wants = ("rerank",)
    identity = (METRICS,)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the units; what only some layouts have comes last, so that the others keep their index."""
        check_measures(self.config.measures)
        parts = ["answers", "bm25", "dense", "fused"]
        parts += ["reranked"] if "rerank" in inputs else []
        parts += ["ann"] if inputs["retrieve.search"].files(ANN) else []
        return [Unit(i, {"part": part}) for i, part in enumerate(parts)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write metrics.json and, by part, run.trec or answers.jsonl."""
        part = unit.inputs["part"]
        queries = read_table(ctx.inputs["retrieve.queries"].files("queries.parquet")[0]).to_pylist()
        if part == "answers":
            rows = _rows(ctx.inputs["generate"].files("answers.parquet"))
            metrics, lines = judge_answers(rows)
            (out / PER_QUESTION).write_bytes(b"".join(canonical_json(line) for line in lines))
        else:
            hits = ctx.inputs["rerank" if part == "reranked" else "retrieve.search"]
            rows = [row for row in _rows(hits.files(ANN if part == "ann" else HITS)) if row["method"] == part]
            run = by_document(rows)
            (out / RUN).write_text(trec_lines(run, part), encoding="utf-8")
            metrics = judge_ranking(run, queries, self.config.measures)
            if part == "ann":
                exact = [row for row in _rows(hits.files(HITS)) if row["method"] == "dense"]
                metrics[f"recall@{self.config.k}_vs_exact"] = recall_against(rows, exact, self.config.k)
        (out / METRICS).write_bytes(canonical_json({"part": part, "num_queries": len(queries), "metrics": metrics}))
        return Counts(items_in=1, items_out=1)


def check_measures(names: Iterable[str]) -> list[Any]:
    """Return the parsed measures; raises ConfigError naming the one that ir_measures cannot compute."""
    import ir_measures

    found = []
    for name in names:
        try:
            measure: Any = ir_measures.parse_measure(name)
            measure.validate_params()
            found.append(measure)
        except (NameError, ValueError, AssertionError) as error:  # the last: a measure that needs a cutoff, as P and R
            raise ConfigError(f"stage.evaluate.measures: {name!r} is no whole measure of ir_measures ({error}); "
                              "try nDCG@10, RR@10, R@100 or AP") from error
    return found


def by_document(rows: Iterable[dict[str, Any]]) -> dict[str, list[tuple[str, float]]]:
    """Return query id -> (doc id, score), best first; a document stands where its best passage does."""
    run: dict[str, list[tuple[str, float]]] = {}
    for row in sorted(rows, key=lambda r: (r["query_id"], r["rank"])):
        ranking = run.setdefault(row["query_id"], [])
        if row["doc_id"] not in {doc_id for doc_id, _ in ranking}:
            ranking.append((row["doc_id"], row["score"]))
    return run


def judge_ranking(run: dict[str, list[tuple[str, float]]], queries: list[dict[str, Any]],
                  measures: list[str]) -> dict[str, float]:
    """Return the mean of each measure over the judged queries; ranks decide, so equal scores keep their order."""
    import ir_measures

    qrels = {q["query_id"]: {d: int(g) for d, g in json.loads(q["relevant"]).items()} for q in queries}
    judged = {query_id: grades for query_id, grades in qrels.items() if grades}
    if not judged:
        return {}
    ranked = {q: {doc_id: float(-rank) for rank, (doc_id, _) in enumerate(run.get(q, []))} for q in judged}
    means = ir_measures.calc_aggregate(check_measures(measures), judged, ranked)
    return {str(measure): round(float(value), 6) for measure, value in sorted(means.items(), key=lambda p: str(p[0]))}


def judge_answers(rows: list[dict[str, Any]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return mean F1 and exact match (over questions with a gold answer) and citation precision, and a line each."""
    lines = [_judge_one(row) for row in rows]
    metrics: dict[str, float] = {}
    for key in ("f1", "em", "f1_sentence", "citation_precision"):
        values = [line[key] for line in lines if line[key] is not None]
        if values:
            metrics[key] = round(sum(values) / len(values), 6)
    metrics["answered"] = round(sum(line["found"] for line in lines) / len(lines), 6) if lines else 0.0
    return metrics, lines


def _judge_one(row: dict[str, Any]) -> dict[str, Any]:
    gold, cited = json.loads(row["gold"]), json.loads(row["citations"])
    precision = sum(c["supported"] for c in cited) / len(cited) if cited else None
    line = {key: row[key] for key in ("query_id", "question", "answer", "short", "found")}
    return {**line, "gold": gold, "f1": token_f1(row["short"], gold) if gold else None,
            "em": float(exact_match(row["short"], gold)) if gold else None,
            "f1_sentence": token_f1(row["answer"], gold) if gold else None, "citation_precision": precision}


def recall_against(found: list[dict[str, Any]], exact: list[dict[str, Any]], k: int) -> float:
    """Return the mean share of the exact k best ordinals that are among the found k best."""
    def tops(rows: list[dict[str, Any]]) -> dict[str, set[int]]:
        top: dict[str, set[int]] = {}
        for row in rows:
            if row["rank"] <= k:
                top.setdefault(row["query_id"], set()).add(row["ordinal"])
        return top

    wanted, got = tops(exact), tops(found)
    shares = [len(ids & got.get(query_id, set())) / len(ids) for query_id, ids in wanted.items()]
    return round(sum(shares) / len(shares), 6) if shares else 1.0


def trec_lines(run: dict[str, list[tuple[str, float]]], tag: str) -> str:
    """Return the six columns of a TREC run: query Q0 document rank score tag; blanks in ids become underscores."""
    lines = [f"{'_'.join(q.split())} Q0 {'_'.join(doc.split())} {rank} {score:.6f} rag_hpc.{tag}\n"
             for q, ranking in run.items() for rank, (doc, score) in enumerate(ranking, 1)]
    return "".join(lines)


def _rows(paths: list[Path]) -> list[dict[str, Any]]:
    return [row for path in paths for row in read_table(path).to_pylist()]
