"""Bench `answers`: what the extractive generator quotes, cites and refuses, and how fast.

Two corpora are made by `rag-hpc run pipeline=baseline`: the demo's with its 270 questions, and SQuAD 2.0's development
articles. Weights and threshold (algo/answer/score.py) were chosen by one half of the questions, half=chosen_by; figures
are of the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
import json
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.answers.corpora import Asked, Corpus, halves, make, written
from rag_hpc.eval.bench.chunk.quality import json_lines
from rag_hpc.eval.bench.pairs import RESAMPLES
from rag_hpc.eval.bench.registry import known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.generators.base import Encode
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.generators.registry import Given
from rag_hpc.models.encoder import Encoder
from rag_hpc.search.answer import Answered, Answerer, Asker, reading

DEFAULTS = {"data": "", "work": "", "questions": "400", "languages": "", "half": "judged"}
K = 12  # passages that an answer is made from, as in conf/stage
USEFUL_BAR, WRONG_BAR = 0.80, 0.18
PAGE_BAR, GOLD_BAR, REFUSED_BAR, LOST_BAR, RATE_BAR, ASK_BAR = 1.4, 0.75, 0.7, 0.1, 2.0, 1.0
# Share of first citations that were a right page with the scorer of words alone, from the 5 best of the fused ranking:
# commit 65d3f56, `rag-hpc run pipeline=baseline corpus.max_pages=1000`, citations of generate against relevant pages.
BEFORE = {"judged": 0.1556, "chosen_by": 0.1704}


def run(options: dict[str, str]) -> list[Row]:
    """Return rows of the demo's questions, of SQuAD's, of other languages where asked for, and of speed.

    Options: data (folder of the shared corpora), work (folder that keeps the runs for the next time), questions (most
    of a kind that are judged), languages (of XQuAD, as de,zh), half (judged, or chosen_by).
    """
    given = known(options, DEFAULTS)
    if given["half"] not in BEFORE:
        raise ConfigError(f"half={given['half']}: known: {', '.join(BEFORE)}")
    folder, most = Path(given["data"] or os.environ.get("RAG_HPC_DATA") or "../shared/data"), int(given["questions"])
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(given["work"] or temporary).absolute()
        work.mkdir(parents=True, exist_ok=True)
        encoder = Encoder(threads=1)
        bench = Bench(remembering(reading(encoder, "")), most, given["half"])
        pydoc = make(work, "pydoc", "corpus.max_pages=1000")
        squad = make(work, "squad", *written(work, folder, "qa_squad2", most))
        with open_asker(pydoc, work) as asker:
            rows = [*bench.pydoc_rows(pydoc), *ordinary_rows(asker, given["half"]), *speed_rows(pydoc, encoder, asker)]
        rows += bench.squad_rows(squad, articles_of(folder))
        for lang in filter(None, given["languages"].split(",")):
            settings = written(work, folder, "qa_xquad", most, lang)
            rows += bench.language_rows(lang, make(work, f"xquad-{lang}", *settings, method="bm25"))
        return rows


class Bench:
    """Answers questions of the judged half; sentences are encoded once, whatever number of questions reads them."""

    def __init__(self, encode: Encode, most: int, half: str) -> None:
        self._encode, self._most, self._half = encode, most, half

    def pydoc_rows(self, pydoc: Corpus) -> list[Row]:
        """Return rows of the demo's corpus: is the first citation a right page?"""
        judged = halves([asked.query_id for asked in pydoc.asked])[self._half]
        asked = [one for one in pydoc.asked if one.query_id in judged]
        found = self.answers(pydoc, asked)
        right = [first_document(answered) in one.relevant for one, answered in zip(asked, found, strict=True)]
        rate, (low, high) = share(right)
        before = BEFORE[self._half]
        return [
            Row(
                name="pydoc.first_citation",
                ours=rate,
                unit="share of questions whose first citation is a right page",
                peers={"words alone": before},
                ratio=rate / before,
                interval=(low / before, high / before),
                bar=PAGE_BAR,
                note=f"{len(asked)} questions, ranked by {pydoc.method}",
            ),
            _share_row("pydoc.refused", [not a.answer.found for a in found], "share of these questions refused"),
        ]

    def squad_rows(self, squad: Corpus, articles: dict[str, str]) -> list[Row]:
        """Return rows of SQuAD: gold answers quoted, and refusals with the article in the corpus and without."""
        judged = halves(list(articles.values()))[self._half]
        asked = [one for one in squad.asked if articles[one.relevant[0]] in judged]
        answerable = self.sample([one for one in asked if one.answers])
        impossible = self.sample([one for one in asked if not one.answers])
        present = self.answers(squad, answerable)
        pairs = zip(answerable, present, strict=True)
        first = [(one, a) for one, a in pairs if squad.doc_ids[one.ordinals[0]] == one.relevant[0]]
        absent = self.answers(squad, [without_article(one, squad, articles) for one in answerable])
        tricky = self.answers(squad, impossible)
        return [
            _share_row("squad.gold_quoted", [quotes_gold(*pair) for pair in first], "share", bar=GOLD_BAR),
            _share_row("squad.left_out_refused", [not a.answer.found for a in absent], "share", bar=REFUSED_BAR),
            _share_row("squad.others_refused", [not a.answer.found for a in present], "share", bar=LOST_BAR, less=True),
            _share_row("squad.adversarial_refused", [not a.answer.found for a in tricky], "share"),
        ]

    def language_rows(self, lang: str, corpus: Corpus) -> list[Row]:
        """Return what becomes of questions in a language that the encoder may not know, ranked by their words."""
        asked = self.sample(corpus.asked)
        found = self.answers(corpus, asked)
        gold = [quotes_gold(*pair) for pair in zip(asked, found, strict=True)]
        return [
            _share_row(f"xquad.{lang}.gold_quoted", gold, "share of all questions"),
            _share_row(f"xquad.{lang}.refused", [not a.answer.found for a in found], "share"),
        ]

    def answers(self, corpus: Corpus, asked: Sequence[Asked]) -> list[Answered]:
        """Return the answers from each question's K best passages."""
        answerer = Answerer(corpus.results.manifests["chunk"], GeneratorConfig(), Given(load=lambda: self._encode))
        return [answerer.answer(one.text, one.ordinals[:K]) for one in asked]

    def sample(self, asked: Sequence[Asked]) -> list[Asked]:
        """Return at most as many questions as are to be judged, drawn with a seed."""
        return random.Random(0).sample(list(asked), min(self._most, len(asked)))


def remembering(encode: Encode) -> Encode:
    """Return an encoder that reads no text twice."""
    known_texts: dict[str, Array] = {}

    def look_up(question: str, sentences: Sequence[str]) -> Array:
        fresh = [text for text in dict.fromkeys(sentences) if text not in known_texts]
        vectors = encode(question, fresh)
        known_texts.update(zip(fresh, vectors[1:], strict=True))
        return np.stack([vectors[0], *(known_texts[text] for text in sentences)])

    return look_up


def first_document(answered: Answered) -> str:
    """Return the document of the first citation, "" where there is none."""
    cited = answered.answer.citations
    return answered.passages[cited[0] - 1].doc_id if cited else ""


def quotes_gold(asked: Asked, answered: Answered) -> bool:
    """Return whether a quote from a relevant document holds a gold answer."""
    for quote in answered.answer.quotes:
        passage = answered.passages[quote.number - 1]
        words = passage.text[quote.start : quote.end]
        if passage.doc_id in asked.relevant and any(gold in words for gold in asked.answers):
            return True
    return False


def articles_of(folder: Path) -> dict[str, str]:
    """Return passage id -> article of SQuAD."""
    return {row["id"]: row["title"] for row in json_lines(folder / "qa_squad2/passages.jsonl.zst")}


def without_article(asked: Asked, corpus: Corpus, articles: dict[str, str]) -> Asked:
    """Return the question with the passages of its article left out of its ranking."""
    article = articles[asked.relevant[0]]
    left = [ordinal for ordinal in asked.ordinals if articles[corpus.doc_ids[ordinal]] != article]
    return dataclasses.replace(asked, ordinals=left)


def share(values: Sequence[bool]) -> tuple[float, tuple[float, float]]:
    """Return the share that is true and its 95 percent interval by bootstrap over the questions."""
    draws = np.random.default_rng(0).binomial(len(values), sum(values) / len(values), RESAMPLES) / len(values)
    low, high = np.quantile(draws, [0.025, 0.975])
    return sum(values) / len(values), (float(low), float(high))


@contextlib.contextmanager
def open_asker(corpus: Corpus, work: Path) -> Iterator[Asker]:
    """Give what `rag-hpc ask` answers with."""
    settings = corpus.results.submission["settings"] | {"generate": {"k": K}}
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        yield Asker(corpus.results.manifests, settings, GeneratorConfig(), Path(scratch))


def ordinary_rows(asker: Asker, half: str) -> list[Row]:
    """Return rows of a newcomer's questions about the demo's corpus: does an answer name what does it?

    ordinary.jsonl has the questions, each with a pattern of right names, or "" where the corpus has no answer. A name
    before a colon (`posixpath.join: Join two ...`) is that of a call, as the patterns have it: `join(`.
    """
    lines = importlib.resources.files(__package__).joinpath("ordinary.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [one for one in map(json.loads, lines) if one["half"] == half]
    answers = [(one["names"], asker.answer(one["text"]).answer) for one in asked]
    named = [(answer.found, bool(re.search(names, _as_calls(answer.text)))) for names, answer in answers if names]
    return [
        _share_row("ordinary.useful", [found and right for found, right in named], "share", bar=USEFUL_BAR),
        _share_row("ordinary.wrong", [found and not right for found, right in named], "share", WRONG_BAR, less=True),
        _share_row("absent.refused", [not answer.found for names, answer in answers if not names], "share"),
    ]


def speed_rows(corpus: Corpus, encoder: Encoder, asker: Asker) -> list[Row]:
    """Return answers a CPU second from ready rankings, and the wall time of a question to a loaded `ask`."""
    asked = random.Random(0).sample(corpus.asked, 60)
    answerer = Answerer(corpus.results.manifests["chunk"], GeneratorConfig(), Given(load=lambda: reading(encoder, "")))
    answerer.answer(asked[0].text, asked[0].ordinals[:K])
    rates = [1.0 / _cpu_s(partial(answerer.answer, one.text, one.ordinals[:K])) for one in asked]
    asker.answer(asked[0].text)
    waits = []
    for one in asked:
        begun = time.monotonic()
        asker.answer(one.text)
        waits.append(time.monotonic() - begun)
    rate = len(rates) / sum(1.0 / value for value in rates)
    return [
        Row(name="speed.answers", ours=rate, unit="answers/CPU second", bar=RATE_BAR, contention=pressure_cpu()),
        Row(
            name="speed.ask_warm",
            ours=float(np.quantile(waits, 0.95)),
            unit="s, the 95th percentile",
            bar=ASK_BAR,
            less_is_better=True,
            contention=pressure_cpu(),
            note=f"median {statistics.median(waits):.2f} s, {len(waits)} questions",
        ),
    ]


def _as_calls(text: str) -> str:
    return re.sub(r"(?<=\w): ", "(): ", text)


def _cpu_s(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _share_row(name: str, values: Iterable[bool], unit: str, bar: float | None = None, less: bool = False) -> Row:
    judged = list(values)
    rate, interval = share(judged)
    return Row(
        name=name,
        ours=rate,
        unit=unit,
        ratio=rate,
        interval=interval,
        bar=bar,
        less_is_better=less,
        note=f"{len(judged)} questions",
    )
