"""What faster arithmetic does to retrieval: nDCG@10 of each precision beside float32's, over the same texts."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rag_hpc.algo.rank.topk import exact_topk
from rag_hpc.algo.types import Array
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.chunk.quality import json_lines
from rag_hpc.eval.bench.rows import Row
from rag_hpc.models.device import Precision, cpu_class, resolve_precision
from rag_hpc.models.encoder import Encoder

DEPTH, RESAMPLES = 10, 2000
LOSS_BAR = -0.005  # of nDCG@10, relative


@dataclass(kw_only=True)
class Judged:
    """Texts, queries, and by query the grades of texts by their place."""

    texts: list[str]
    queries: list[str]
    grades: list[dict[int, float]]


def loss_rows(folder: Path, model: str) -> Iterator[Row]:
    """Yield, by collection and precision, the relative change of nDCG@10 with its interval over queries."""
    names = [Precision.int8]
    if resolve_precision(Precision.auto, "cpu") is Precision.bfloat16:
        names.append(Precision.bfloat16)
    encoders = {name: Encoder(model, name, threads=1) for name in (Precision.float32, *names)}
    for collection, judged in collections(folder).items():
        gains = {}
        for name, encoder in encoders.items():
            texts, queries = (
                encoder.encode(part, 4096, allow_truncate=True) for part in (judged.texts, judged.queries)
            )
            gains[name] = list(_ndcg(queries, texts, judged))
        for name in names:
            change, interval = relative_change(gains[name], gains[Precision.float32])
            yield Row(
                name=f"encode.loss: {collection}, {name.value}",
                ours=statistics.fmean(gains[name]),
                unit="nDCG@10",
                peers={"float32": statistics.fmean(gains[Precision.float32])},
                ratio=change,
                interval=interval,
                bar=LOSS_BAR,
                note=f"{cpu_class()}; relative change, {len(judged.queries)} queries, {len(judged.texts)} texts",
            )


def collections(folder: Path) -> dict[str, Judged]:
    """Return the judged collections of the shared corpora."""
    if not (folder / "ir_cranfield").is_dir():
        raise InputError(f"bench encode: {folder}/ir_cranfield does not exist; give data=FOLDER of the shared corpora")
    found = {}
    for name in ("cranfield", "cisi"):
        place = folder / f"ir_{name}"
        docs = json_lines(place / "docs.jsonl.zst")
        at = {str(doc["id"]): number for number, doc in enumerate(docs)}
        grades: dict[str, dict[int, float]] = {}
        for line in (place / "qrels.txt").read_text(encoding="utf-8").splitlines():
            query, _, doc, grade = line.split()
            if doc in at and float(grade) > 0:
                grades.setdefault(query, {})[at[doc]] = float(grade)
        rows = [json.loads(line) for line in (place / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
        asked = [row for row in rows if str(row["id"]) in grades]
        found[name] = Judged(
            texts=[doc["text"] for doc in docs],
            queries=[row["text"] for row in asked],
            grades=[grades[str(row["id"])] for row in asked],
        )
    passages = json_lines(folder / "qa_squad2" / "passages.jsonl.zst")
    at = {row["id"]: number for number, row in enumerate(passages)}
    asked = [row for row in json_lines(folder / "qa_squad2" / "questions.jsonl.zst") if row["answers"]][::6]
    found["squad"] = Judged(
        texts=[row["text"] for row in passages],
        queries=[row["question"] for row in asked],
        grades=[{at[row["passage_id"]]: 1.0} for row in asked],
    )
    return found


def relative_change(ours: list[float], base: list[float], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return mean(ours) / mean(base) - 1 and its 95 percent interval by resampling queries."""
    rng, found = random.Random(seed), []
    for _ in range(RESAMPLES):
        picked = [rng.randrange(len(ours)) for _ in ours]
        found.append(sum(ours[i] for i in picked) / sum(base[i] for i in picked) - 1)
    found.sort()
    return sum(ours) / sum(base) - 1, (found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES) - 1])


def _ndcg(queries_QD: Array, texts_ND: Array, judged: Judged) -> Iterator[float]:
    _, ids_QK = exact_topk(queries_QD, texts_ND, DEPTH)
    for ids_K, grades in zip(ids_QK.tolist(), judged.grades, strict=True):
        gain = sum(grades.get(at, 0.0) / math.log2(rank + 2) for rank, at in enumerate(ids_K))
        best = sorted(grades.values(), reverse=True)[:DEPTH]
        yield gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(best))
