"""`rag-hpc bench cache`: false and right hits of the semantic level beside a bare cosine, times, tokens saved."""

from __future__ import annotations

import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.cache import changed, reworded, speed, traffic
from rag_hpc.eval.bench.chunk.quality import json_lines
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.models.encoder import Encoder
from rag_hpc.serve.cache.answers import Answers
from rag_hpc.serve.cache.cache import Cache, Got
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Scope
from rag_hpc.serve.cache.trial import Trial

DEFAULTS = {
    "data": "",
    "pairs": "900",
    "half": "judge",
    "part": "all",
    "requests": "10000",
    "exponent": "1.0",
    "share": "0.3",
    "full_s": "1.0",
    "rounds": "300",
    "price_in": "1.0",
    "price_out": "4.0",
}
PARTS = ("false", "hits", "speed", "traffic")
HALVES = ("tune", "judge")  # articles take turns, by name
BARE = (0.8, 0.98)  # GPTCache's default threshold, and ours without the other gate
BAR_FALSE, ENCODE = 0.01, 512


@dataclass(frozen=True)
class Half:
    """The questions of one half of SQuAD's articles."""

    rows: list[dict[str, Any]]
    entities: dict[str, list[str]]  # names in the questions, by article
    passages: dict[str, list[str]]  # texts, by article

    @property
    def questions(self) -> list[tuple[str, str]]:
        """Each question once, with its article."""
        return list({row["question"]: (row["question"], row["title"]) for row in self.rows}.values())


class Vectors:
    """The vectors of texts by an encoder, each made once."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._known: dict[str, Array] = {}

    def add(self, texts: Sequence[str]) -> None:
        """Make those that are not there yet."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), ENCODE):
            part = new[start : start + ENCODE]
            self._known.update(zip(part, self.encoder.encode(part, allow_truncate=True), strict=True))

    def of(self, text: str) -> Array:
        """Return a text's vector."""
        return self._known[text]

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """Return the cosine of each pair; the vectors are of length 1."""
        self.add([text for pair in pairs for text in pair])
        return np.asarray([float(self._known[one] @ self._known[other]) for one, other in pairs], dtype=np.float64)


def run(options: Options) -> list[Row]:
    """Return rows of false hits by what was changed, of hits by how it was reworded, of times and of tokens saved.

    Options: data (RAG_HPC_DATA); pairs, drawn of each kind; half=judge or tune; part=all, or some of false,
    hits, speed and traffic with commas between; requests, exponent and share (reworded) of the traffic; full_s, how
    long an answer takes that is not there; rounds, of the times; price_in and price_out, of a million tokens.
    """
    given = known(options, DEFAULTS)
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError("the cache benchmark needs SQuAD's questions; set RAG_HPC_DATA or data=FOLDER")
    parts = PARTS if given["part"] == "all" else tuple(given["part"].split(","))
    if unknown := sorted({*parts} - {*PARTS}) or sorted({given["half"]} - {*HALVES}):
        raise ConfigError(f"{unknown[0]}: part= takes {', '.join(PARTS)}; half= takes {', '.join(HALVES)}")
    half, vectors = read_half(Path(place), given["half"]), Vectors(Encoder(threads=1))
    rows: list[Row] = []
    if "false" in parts:
        rows += [_false(kind, half, vectors, int(given["pairs"]), given["half"]) for kind in changed.KINDS]
        rows.append(_neighbours(half, vectors, given["half"]))
    if "hits" in parts:
        rows += [_hits(kind, pairs, vectors, given["half"]) for kind, pairs in _paraphrases(half, int(given["pairs"]))]
    if "speed" in parts:
        with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as folder:
            asked = [question for question, _ in half.questions]
            rows += speed.rows(asked, vectors.encoder, int(given["rounds"]), float(given["full_s"]), Path(folder))
    if "traffic" in parts:
        prices = float(given["price_in"]), float(given["price_out"])
        asked_s = traffic.Asked(int(given["requests"]), float(given["exponent"]), float(given["share"]))
        rows += traffic.rows(half.questions, half.passages, vectors, asked_s, prices)
    return rows


def read_half(data: Path, name: str) -> Half:
    """Return the questions on every other article: those on which nothing was tuned (judge), or the others."""
    rows = json_lines(data / "qa_squad2" / "questions.jsonl.zst")
    titles = sorted({row["title"] for row in rows})[HALVES.index(name) :: 2]
    kept = [row for row in rows if row["title"] in set(titles)]
    by_title: dict[str, list[str]] = defaultdict(list)
    for row in kept:
        by_title[row["title"]].append(row["question"])
    passages: dict[str, list[str]] = defaultdict(list)
    for row in json_lines(data / "qa_squad2" / "passages.jsonl.zst"):
        passages[row["title"]].append(row["text"])
    return Half(kept, changed.entities_of(by_title), passages)


def served(pairs: Sequence[tuple[str, str]], vectors: Vectors) -> Array:
    """Return whether the second question of each pair gets the answer of the first, by a cache whose trial is over."""
    cache = Cache(CacheConfig(memory_mib=1024), b"bench")
    cache.trial = Trial(1.0, 0.0, lambda: 0.5)
    answers, found = Answers(cache, lambda one, other: one == other), []
    for number, (one, other) in enumerate(pairs):
        scope = Scope(tenant=str(number), generation="bench")
        for question in (one, other):
            got = answers.answer(scope, question, _vector(vectors, question), lambda: Got({"of": "own"}, "computed"))
        found.append(got.hit)
    return np.asarray(found, dtype=bool)


def upper(false: int, num: int) -> float:
    """Return the upper 95 percent bound of a share, one-sided (Clopper, Pearson 1934)."""
    from scipy.stats import beta  # type: ignore[import-untyped]

    return 1.0 if false >= num else float(beta.ppf(0.95, false + 1, num - false))


def _vector(vectors: Vectors, question: str) -> Callable[[], Array]:
    return lambda: vectors.of(question)


def _false(kind: str, half: Half, vectors: Vectors, num: int, name: str) -> Row:
    pairs = [
        (question, new)
        for question, title in half.questions
        for new in changed.changed(kind, question, half.entities[title])
    ]
    if len(pairs) < num:
        raise InputError(f"bench cache: {len(pairs)} pairs of {kind}; {num} are asked for")
    drawn = random.Random(kind).sample(pairs, num)
    return _judged(f"cache.false.{kind}", drawn, vectors, f"{name} half, {num} of {len(pairs)} pairs")


def _neighbours(half: Half, vectors: Vectors, name: str) -> Row:
    """Return the row of questions that people wrote on one passage, near in meaning, with different answers."""
    by_passage: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in half.rows:
        by_passage[row["passage_id"]].append(row)
    vectors.add([row["question"] for row in half.rows])
    pairs = []
    for rows in by_passage.values():
        for at, one in enumerate(rows):
            for other in rows[at + 1 :]:
                answers = [{answer.lower() for answer in row["answers"]} for row in (one, other)]
                near = float(vectors.of(one["question"]) @ vectors.of(other["question"])) >= BARE[0]
                if near and not answers[0] & answers[1] and any(answers):
                    pairs.append((one["question"], other["question"]))
    note = f"{name} half, {len(pairs)} pairs of SQuAD's own on one passage, cosine >= {BARE[0]}, no answer in common"
    judged = _judged("cache.false.written", pairs, vectors, note)
    judged.bar = None  # too few for the bound, and some are the same question that SQuAD answers for one alone
    return judged


def _judged(name: str, pairs: Sequence[tuple[str, str]], vectors: Vectors, note: str) -> Row:
    cosines = vectors.cosines(pairs)
    false = served(pairs, vectors)
    return Row(
        name=name,
        ours=upper(int(false.sum()), len(pairs)),
        unit="upper 95% bound of false hits",
        peers={f"cosine >= {bare} alone": upper(int((cosines >= bare).sum()), len(pairs)) for bare in BARE},
        bar=BAR_FALSE,
        less_is_better=True,
        contention=pressure_cpu(),
        note=f"{note}; {int(false.sum())} let through",
    )


def _paraphrases(half: Half, num: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for kind in reworded.KINDS:
        pairs = [(question, new) for question, _ in half.questions if (new := reworded.reworded(kind, question))]
        yield kind, random.Random(kind).sample(pairs, min(num, len(pairs)))
    yield "written", list(reworded.written_pairs(half.rows))


def _hits(kind: str, pairs: Sequence[tuple[str, str]], vectors: Vectors, name: str) -> Row:
    cosines = vectors.cosines(pairs)
    return Row(
        name=f"cache.hits.{kind}",
        ours=float(served(pairs, vectors).mean()),
        unit="of paraphrases",
        peers={f"cosine >= {bare} alone": float((cosines >= bare).mean()) for bare in BARE},
        contention=pressure_cpu(),
        note=f"{name} half, {len(pairs)} pairs, median cosine {np.median(cosines):.3f}",
    )
