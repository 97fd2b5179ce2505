"""Training judged on what it has not seen: by questions of other articles, and of pages that it was not given.

encoder: fine-tuned on half of SQuAD's articles, asked about the others. The halves share no article; all passages are
searched, by exact scores, with the model as it was and as it is then. reranker and adapted: in files of their own.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rag_hpc.algo.types import F32, Array
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.rank.collections import READERS, Record, write_beir
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.bench.train.runs import lift_row, trained
from rag_hpc.models.encoder import Encoder
from rag_hpc.models.folder import MINILM

DEFAULTS = {
    "data": "",
    "parts": "encoder",
    "epochs": "1",
    "batch_size": "64",
    "max_tokens": "128",
    "workers": "2",
    "questions": "160",
    "searched": "20",
    "learnt": "4",
    "keep": "",
}
SEED = 0  # of the halves
MEASURES = ("nDCG@10", "R@1", "R@10")
Halves = tuple[tuple[list[Record], list[Record]], tuple[list[Record], list[Record]]]


def run(options: Options) -> list[Row]:
    """Return rows of the lift, one a measure.

    Options: data, the folder that holds the shared corpora (RAG_HPC_DATA); parts, of encoder,reranker,adapted; epochs,
    batch_size, max_tokens and workers of the training (of a reranker workers alone); questions, how many the reranker
    is asked; searched and learnt, of how many C++ pages one is; keep=FOLDER leaves all there, for the next call.
    """
    given = known(options, DEFAULTS)
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError("the train benchmark needs SQuAD; set RAG_HPC_DATA or data=FOLDER to what holds qa_squad2")
    parts = given["parts"].split(",")
    if unknown := sorted(set(parts) - set(_parts())):
        raise ConfigError(f"parts={unknown[0]}: known are {', '.join(_parts())}")
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as made:
        folder = Path(given["keep"] or made).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return [row for part in parts for row in _parts()[part](Path(place).absolute(), folder, given)]


def encoder_rows(data: Path, folder: Path, given: Options) -> Iterator[Row]:
    """Yield the lift of an encoder on the articles of SQuAD that it was not trained on."""
    documents, queries, grades = READERS["squad"](data, "")
    seen, unseen = halves(documents, queries, grades)
    if not (folder / "beir").is_dir():
        write_beir(folder / "beir", documents, *seen)
    before = pressure_cpu() or 0.0
    found = trained(
        folder, "encoder", "squad", f"train.data={folder / 'beir'}", "train.split=test", *settings_of(given)
    )
    contention = max(before, pressure_cpu() or 0.0)
    ours, theirs = (measured(Encoder(model, threads=1), documents, *unseen) for model in (found.model, MINILM))
    for measure in MEASURES:
        note = f"{len(unseen[0])} questions of other articles; {found.said}"
        is_judged = measure == "nDCG@10"
        yield lift_row("train.squad", measure, ours[measure], theirs[measure], note, contention, bar=is_judged)


def settings_of(given: Options) -> list[str]:
    """Return the words of an encoder's training."""
    return [
        f"workers={given['workers']}",
        *(f"train.{key}={given[key]}" for key in ("epochs", "batch_size", "max_tokens")),
    ]


def halves(documents: Sequence[Record], queries: Sequence[Record], grades: Sequence[Record]) -> Halves:
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
    texts = [f"{row['title']}\n{row['text']}" if row["title"] else row["text"] for row in documents]
    passages_ND: F32 = encoder.encode(texts, allow_truncate=True)
    questions_QD: F32 = encoder.encode([row["text"] for row in queries], allow_truncate=True)
    scores_QN = questions_QD @ passages_ND.T
    right_Q = np.array([right[row["_id"]] for row in queries])
    own_Q = scores_QN[np.arange(len(right_Q)), right_Q]
    return measures_of((scores_QN > own_Q[:, None]).sum(axis=1) + 1)


def measures_of(ranks: Sequence[float] | Array) -> dict[str, list[float]]:
    """Return the measures of each question by the rank of its only right passage, from 1; inf: not found."""
    rank_Q = np.asarray(ranks, dtype=np.float64)
    gain_Q = np.where(rank_Q <= 10, 1 / np.log2(rank_Q + 1), 0.0)
    return dict(zip(MEASURES, (gain_Q.tolist(), *((rank_Q <= k).astype(float).tolist() for k in (1, 10))), strict=True))


def _parts() -> dict[str, Callable[[Path, Path, Options], Iterator[Row]]]:
    from rag_hpc.eval.bench.train.adapted import adapted_rows
    from rag_hpc.eval.bench.train.reranked import reranker_rows

    return {"encoder": encoder_rows, "reranker": reranker_rows, "adapted": adapted_rows}
