"""Training judged on what it has not seen: an encoder fine-tuned on half of SQuAD's articles, asked about the others.

The halves share no article. All passages are searched, by exact scores, with the model as it was and as it is then.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag_hpc.algo.types import F32
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.pairs import difference_of_means
from rag_hpc.eval.bench.rank.collections import READERS, Record, write_beir
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.models.encoder import Encoder
from rag_hpc.models.folder import MINILM

DEFAULTS = {"data": "", "epochs": "1", "batch_size": "64", "max_tokens": "128", "workers": "2", "keep": ""}
SEED = 0  # of the halves
MEASURES = ("nDCG@10", "R@1", "R@10")


def run(options: Options) -> list[Row]:
    """Return rows of the lift, one a measure. Options: data, the folder that holds qa_squad2 (RAG_HPC_DATA); epochs,
    batch_size, max_tokens and workers of the training; keep=FOLDER leaves it there, and the next call goes on."""
    given = known(options, DEFAULTS)
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError("the train benchmark needs SQuAD; set RAG_HPC_DATA or data=FOLDER to what holds qa_squad2")
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as made:
        folder = Path(given["keep"] or made).absolute()
        documents, queries, grades = READERS["squad"](Path(place).absolute(), "")
        seen, unseen = halves(documents, queries, grades)
        if not (folder / "beir").is_dir():
            write_beir(folder / "beir", documents, *seen)
        before = pressure_cpu() or 0.0
        model, figures = _trained(folder, given)
        contention = max(before, pressure_cpu() or 0.0)
        found = {name: measured(Encoder(name, threads=1), documents, *unseen) for name in (MINILM, model)}
    rows = []
    for measure in MEASURES:
        ours, theirs = found[model][measure], found[MINILM][measure]
        difference, (low, high) = difference_of_means(ours, theirs)
        said = "a lift" if low > 0 else "none, since the interval holds 0" if high >= 0 else "a loss"
        rows.append(
            Row(
                name=f"train.squad.{measure}",
                ours=float(np.mean(ours)),
                unit=measure,
                peers={"before": float(np.mean(theirs))},
                ratio=difference,
                interval=(low, high),
                bar=0.0 if measure == "nDCG@10" else None,
                contention=contention,
                note=f"ratio: trained less before; {said}; {len(ours)} questions of other articles; {figures}",
            )
        )
    return rows


def halves(
    documents: Sequence[Record], queries: Sequence[Record], grades: Sequence[Record]
) -> tuple[tuple[list[Record], list[Record]], tuple[list[Record], list[Record]]]:
    """Return (questions, judgements) of one half of the articles, and of the other."""
    article = {row["_id"]: row["title"] for row in documents}
    titles = sorted(set(article.values()))
    chosen = set(random.Random(SEED).sample(titles, len(titles) // 2))
    parts = []
    for wanted in (True, False):
        judged = [row for row in grades if (article[row["document"]] in chosen) is wanted]
        ids = {row["query"] for row in judged}
        parts.append(([row for row in queries if row["_id"] in ids], judged))
    return parts[0], parts[1]


def measured(
    encoder: Encoder, documents: Sequence[Record], queries: Sequence[Record], grades: Sequence[Record]
) -> dict[str, list[float]]:
    """Return each question's measures; a question has one passage that answers it."""
    position = {row["_id"]: at for at, row in enumerate(documents)}
    right = {row["query"]: position[row["document"]] for row in grades}
    texts = [f"{row['title']}\n{row['text']}" for row in documents]
    passages_ND: F32 = encoder.encode(texts, allow_truncate=True)
    questions_QD: F32 = encoder.encode([row["text"] for row in queries], allow_truncate=True)
    scores_QN = questions_QD @ passages_ND.T
    right_Q = np.array([right[row["_id"]] for row in queries])
    own_Q = scores_QN[np.arange(len(right_Q)), right_Q]
    rank_Q = (scores_QN > own_Q[:, None]).sum(axis=1) + 1
    gain_Q = np.where(rank_Q <= 10, 1 / np.log2(rank_Q + 1), 0.0)
    return dict(zip(MEASURES, (gain_Q.tolist(), *((rank_Q <= k).astype(float).tolist() for k in (1, 10))), strict=True))


def _trained(folder: Path, given: Options) -> tuple[str, str]:
    """Return the folder of the model that the command of a user trains, and what its record says."""
    words = ["train", "encoder", "run=squad", f"workers={given['workers']}", f"train.data={folder / 'beir'}"]
    words += ["train.split=test", *(f"train.{name}={given[name]}" for name in ("epochs", "batch_size", "max_tokens"))]
    done = subprocess.run(
        [sys.executable, "-m", "rag_hpc.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"bench train: the training ended with {done.returncode}: {done.stderr[-2000:]}")
    record = next((folder / "results/runs/squad").glob("train.encoder-*/units/unit-00000/record.json"))
    values = json.loads(record.read_text())
    figures = values["timings"]
    said = f"{values['extra']['steps']:.0f} steps, {values['work_s']:.0f} s, {figures['tokens_per_s']:.0f} tokens/s"
    return done.stdout.rsplit("=", 1)[1].strip(), f"{said}, busy {figures['busy_share']:.2f}, p={values['p']}"
