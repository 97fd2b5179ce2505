"""`rag-hpc bench rank`: the ranking that runs hand on by default, beside those that it is made of.

Each collection goes through a run's own pipeline, up to the hits. The fusion's weights were chosen on one half of each
collection's questions, drawn with a seed; they are judged on the other.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.rank.fusion import rrf, weighted
from rag_hpc.errors import InputError
from rag_hpc.eval import quality
from rag_hpc.eval.bench.pairs import difference_of_means
from rag_hpc.eval.bench.rank import feedback, lift
from rag_hpc.eval.bench.rank.collections import overrides_of
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.results import Results
from rag_hpc.stages.evaluate import by_document, check_measures, grades_of
from rag_hpc.stages.retrieve import RetrieveConfig
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.hits import HITS
from rag_hpc.stores.questions import FOUND_AGAIN

DEFAULTS = {
    "data": "",
    "collections": "pydoc,squad,cranfield,cisi",
    "languages": "",
    "feedback": "cranfield,cisi",
    "keep": "",
    "out": "",
}
STAGES = (
    "crawl,clean,dedup.sign,dedup.group,dedup.verify,dedup.link,dedup.drop,chunk,lexical,encode,"
    "retrieve.queries,retrieve.search"
)
MEASURE = "nDCG@10"
SEED = 0  # of the halves
HALVES = ("rrf", "halves")  # of both lists: by ranks, and by standard scores of equal weight
Scores = dict[str, dict[str, float]]  # ranking -> question -> nDCG


def run(options: Options) -> list[Row]:
    """Return rows of nDCG@10. Options: data, the folder of the collections (RAG_HPC_DATA); collections, and languages
    of XQuAD beside them, with commas between; feedback, collections whose queries RM3 widens; keep=FOLDER leaves runs
    there, and the next call takes them; out=FILE draws where fused and dense differ."""
    given = known(options, DEFAULTS)
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError(
            "the rank benchmark needs collections with judgements; set RAG_HPC_DATA or data=FOLDER to the folder that "
            "holds ir_cranfield, ir_cisi, qa_squad2 and qa_xquad"
        )
    judged = [name for name in given["collections"].split(",") if name]
    beside = [f"xquad-{language}" for language in given["languages"].split(",") if language]
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as made:
        folder = Path(given["keep"] or made).absolute()
        runs = {name: _run(name, Path(place).absolute(), folder) for name in judged + beside}
        rows, gained = [], {}
        for name, found in runs.items():
            scores = scores_of(found)
            used = halves([*scores["fused"]])[1] if name in judged else sorted(scores["fused"])
            rows += [_row(name, found, scores, judged=name in judged)]
            rows += lift.rows(name, scores, used, judged=name in judged)
            gained[name] = lift.gains(scores, used)
        if given["out"]:
            lift.drawn(Path(given["out"]), gained)
        for name in [name for name in given["feedback"].split(",") if name]:
            place_of = Path(tempfile.mkdtemp(dir=made))
            rows.append(feedback.row(name, Path(place), place_of, measured))
        return rows


def halves(query_ids: list[str]) -> tuple[list[str], list[str]]:
    """Return the questions that weights are chosen on, and those that they are judged on."""
    shuffled = random.Random(SEED).sample(sorted(query_ids), len(query_ids))
    return sorted(shuffled[::2]), sorted(shuffled[1::2])


def scores_of(found: Results) -> Scores:
    """Return the measure of every judged question under each ranking of a run, and two others of the same lists."""
    hits: dict[str, list[dict[str, Any]]] = {}
    for row in found.rows("retrieve.search", HITS):
        hits.setdefault(row["method"], []).append(row)
    listed = {method: _by_query(rows) for method, rows in hits.items()}
    depth = RetrieveConfig().depth
    documents = ChunkStore(found.manifests["chunk"]).column("doc_id")
    grades = grades_of(quality.questions(found))
    runs = {method: by_document(rows) for method, rows in hits.items()}
    for name in HALVES:
        runs[name] = {}
        for query_id in grades:
            pair = [listed[method].get(query_id, _NOTHING) for method in ("bm25", "dense")]
            ids = rrf([ids for ids, _ in pair], depth)[0] if name == "rrf" else weighted(pair, (0.5, 0.5), depth)[0]
            best = dict.fromkeys(documents[ordinal] for ordinal in ids.tolist())
            runs[name][query_id] = [(document, 0.0) for document in best]
    return {name: measured(ranking, grades) for name, ranking in runs.items()}


def _run(name: str, data: Path, folder: Path) -> Results:
    """Return the run of a collection, made by the command that a user gives."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    words = ["run", f"run={name}", "pipeline=baseline", f"pipeline.stages=[{STAGES}]"]
    words += overrides_of(name, data, folder / name / "beir")
    done = subprocess.run(
        [sys.executable, "-m", "rag_hpc.cli", *words], cwd=folder / name, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"bench rank: the run of {name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Results(folder / name / "results/runs" / name)


def _row(name: str, found: Results, scores: Scores, *, judged: bool) -> Row:
    default = RetrieveConfig().method.value
    chosen_on, judged_on = halves(list(scores[default]))
    used = judged_on if judged else sorted(scores[default])
    means = {method: statistics.fmean(values[q] for q in used) for method, values in scores.items()}
    better = max(("bm25", "dense"), key=lambda method: means[method])
    ours, theirs = ([scores[method][q] for q in used] for method in (default, better))
    difference, (low, high) = difference_of_means(ours, theirs)
    knows = found.manifests["retrieve.queries"].extra()[FOUND_AGAIN]
    kept = found.manifests["dedup.drop"].total("items_out"), found.manifests["crawl"].total("items_out")
    return Row(
        name=f"rank.{name}",
        ours=means.pop(default),
        unit=MEASURE,
        peers=means,
        ratio=difference,
        bar=0.0 if judged else None,
        note=f"ratio: {default} less {better}, 95% of it in [{low:+.4f}, {high:+.4f}]; {len(used)} questions"
        + (f", the {len(chosen_on)} others chose the weights" if judged else "")
        + f"; {kept[0]} of {kept[1]} documents; the encoder finds passages again at {knows}; {cpu_class()}",
    )


_NOTHING = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


def _by_query(rows: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return each question's ordinals and scores, best first."""
    lists: dict[str, tuple[list[int], list[float]]] = {}
    for row in sorted(rows, key=lambda row: int(row["rank"])):
        ids, scores = lists.setdefault(row["query_id"], ([], []))
        ids.append(row["ordinal"])
        scores.append(row["score"])
    return {query_id: (np.array(ids), np.array(scores)) for query_id, (ids, scores) in lists.items()}


def measured(run: dict[str, list[tuple[str, float]]], grades: dict[str, dict[str, int]]) -> dict[str, float]:
    """Return the measure of every judged question under a ranking."""
    import ir_measures

    ranked = {q: {document: float(-at) for at, (document, _) in enumerate(run.get(q, []))} for q in grades}
    found = {m.query_id: float(m.value) for m in ir_measures.iter_calc(check_measures([MEASURE]), grades, ranked)}
    return {query_id: found.get(query_id, 0.0) for query_id in grades}
