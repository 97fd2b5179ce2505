"""Pairs of a finished run: judged questions, or titles and headings with their text; hits as hard negatives."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rag_hpc.algo.text.words import num_words
from rag_hpc.core import manifest
from rag_hpc.core.hashing import seed_of
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.manifest import MANIFEST, Manifest
from rag_hpc.core.plan import read_plans
from rag_hpc.errors import ConfigError
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.passages import ranked
from rag_hpc.stores.questions import read_questions
from rag_hpc.stores.trained import Pair

_ALL = 1 << 20  # hits of a question: as many as the run has
_USED = ("chunk", "retrieve.queries", "retrieve.search", "rerank")


def run_outputs(run_dir: Path) -> dict[str, Manifest]:
    """Return the outputs of a run's latest submission that training can use. Raises ConfigError without chunks."""
    request = Ledger(run_dir).request()
    plans = read_plans(run_dir, request.number, request.stages, request.settings)
    folders = {stage: run_dir / plans[stage].folder for stage in _USED if stage in plans}
    found = {stage: manifest.load(folder) for stage, folder in folders.items() if (folder / MANIFEST).exists()}
    if "chunk" not in found:
        raise ConfigError(f"train.run={run_dir.name}: it has no passages yet; finish it: rag-hpc retry run={run_dir}")
    return found


def mined_pairs(chunks: ChunkStore) -> Iterator[Pair]:
    """Yield, for each title and heading that one document alone has, (its words, the passage that begins below it).

    Words that the passage begins with, as Markdown's does, are left out of it: to find them again teaches nothing.
    """
    first: dict[str, Pair] = {}
    owners: dict[str, set[str]] = {}
    columns = ("chunk_id", "doc_id", "title", "heading", "text")
    for chunk_id, doc_id, title, heading, text in zip(*map(chunks.column, columns), strict=True):
        for asked in dict.fromkeys((title, heading)):
            words = " ".join((asked or "").replace(" > ", " ").split())
            below = _below(text, (title, words, (heading or "").rsplit(" > ", 1)[-1]))
            if num_words(words) >= 2 and below:
                owners.setdefault(words, set()).add(doc_id)
                first.setdefault(words, Pair(f"mined:{chunk_id}:{len(first)}", words, chunk_id, below))
    yield from (pair for words, pair in first.items() if len(owners[words]) == 1)


def _below(text: str, names: Iterable[str | None]) -> str:
    """Return the text without the lines at its top that only repeat one of the names."""
    told = {_plain(name) for name in names if name}
    while text and _plain(text.partition("\n")[0]) in told | {""}:
        text = text.partition("\n")[2]
    return text.strip()


def _plain(line: str) -> str:
    return " ".join(line.strip(" \t#*_=").casefold().split())


def judged_pairs(outputs: dict[str, Manifest], hits: dict[str, list[int]]) -> Iterator[Pair | tuple[str, str]]:
    """Yield the pairs of a run's judged questions, of each relevant document the passage that ranks first, or else
    stands first; and (question, reason) for those that give none."""
    if "retrieve.queries" not in outputs:
        raise ConfigError("train.labels=judged: the run has no questions; set train.labels=mined, or finish the run")
    chunks = ChunkStore(outputs["chunk"])
    own: dict[str, list[int]] = {}
    for ordinal, doc_id in enumerate(doc_ids := chunks.column("doc_id")):
        own.setdefault(doc_id, []).append(ordinal)
    for question in read_questions(outputs["retrieve.queries"]):
        relevant = sorted(d for d, grade in json.loads(question["relevant"]).items() if grade > 0 and d in own)
        if question["held_out"] or question["stand_in"] or not relevant:
            yield question["query_id"], "held-out" if question["held_out"] else "no-positive"
            continue
        for doc_id in relevant:
            ranks = [ordinal for ordinal in hits.get(question["query_id"], []) if doc_ids[ordinal] == doc_id]
            best = (ranks or own[doc_id])[0]
            (text,) = chunks.indexed_texts(best, best + 1)
            yield Pair(question["query_id"], question["text"], doc_id, text)


def hits_of(outputs: dict[str, Manifest]) -> dict[str, list[int]]:
    """Return the ordinals of each question's hits, best first; empty where the run has not searched."""
    if not {"retrieve.queries", "retrieve.search"} <= outputs.keys():
        return {}
    asked = (one for at in range(len(outputs["retrieve.search"].units)) for one in ranked(outputs, at, _ALL))
    return {one.query_id: one.ordinals for one in asked}


def with_negatives(
    pairs: Sequence[Pair], num: int, seed: int, hard: dict[str, list[str]]
) -> tuple[list[Pair], Counter[str]]:
    """Return the pairs with `num` negatives each, and how many were mined and drawn.

    hard: passages by question that do not answer it, best ranked first. Where they are too few, positives of other
    questions are drawn by a seed of the question's id.
    """
    own: dict[str, set[str]] = {}
    for pair in pairs:
        own.setdefault(pair.query_id, set()).add(pair.positive_id)
    texts = sorted({(pair.positive_id, pair.positive) for pair in pairs})
    per_id, made, counts = Counter(name for name, _ in texts), [], Counter[str]()
    for pair in pairs:
        relevant = own[pair.query_id]
        mined = hard.get(pair.query_id, [])[:num]
        draw = random.Random(seed_of(str(seed), pair.query_id, pair.positive_id))
        enough = 2 * num + sum(per_id[name] for name in relevant)
        others = draw.sample(texts, min(len(texts), enough)) if len(mined) < num else []
        drawn = [text for name, text in others if name not in relevant and text not in mined][: num - len(mined)]
        if len(mined) + len(drawn) < num:
            raise ConfigError(
                f"train.negatives={num}: question {pair.query_id} has {len(mined) + len(drawn)}, since the set has "
                f"{len(texts)} passages; lower it"
            )
        counts.update(mined=len(mined), drawn=len(drawn))
        made.append(dataclasses.replace(pair, negatives=mined + drawn))
    return made, counts


def hard_negatives(
    outputs: dict[str, Manifest], hits: dict[str, list[int]], relevant: dict[str, set[str]], answers: dict[str, Any]
) -> dict[str, list[str]]:
    """Return, by question, the texts of its hits in documents that are not relevant and hold none of its answers."""
    chunks = ChunkStore(outputs["chunk"])
    doc_ids = chunks.column("doc_id")
    texts = chunks.indexed_texts(0, len(chunks))
    found: dict[str, list[str]] = {}
    for query_id, known in relevant.items():
        spared = [answer.casefold() for answer in answers.get(query_id, ())]
        candidates = (o for o in hits.get(query_id, ()) if doc_ids[o] not in known)
        found[query_id] = [texts[o] for o in candidates if not _holds(texts[o], spared)]
    return found


def _holds(text: str, answers: Iterable[str]) -> bool:
    folded = text.casefold()
    return any(answer in folded for answer in answers)
