"""Bench `compress`: what leaving passages and sentences out saves in tokens, and what it costs in answers.

The corpora of `bench answers` with the extractive generator, the same questions with and without; tokens are the
encoder's, of all passages that the generator is shown.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_hpc.core.record import pressure_cpu
from rag_hpc.eval.bench.answers.answers import K, articles_of, first_document, quotes_gold, remembering
from rag_hpc.eval.bench.answers.corpora import Asked, Corpus, halves, make, written
from rag_hpc.eval.bench.registry import known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.paired import difference
from rag_hpc.generators.base import Encode
from rag_hpc.generators.config import CompressConfig, GeneratorConfig
from rag_hpc.generators.registry import Given
from rag_hpc.models.encoder import Encoder
from rag_hpc.models.tokens import TokenCounter
from rag_hpc.search.answer import Answered, Answerer, checked, reading

DEFAULTS = {"data": "", "work": "", "questions": "40"}
WAYS = {
    "near=0.95": CompressConfig(near=0.95),
    "sentences=24": CompressConfig(sentences=24),
    "sentences=8": CompressConfig(sentences=8),
    "near=0.95 sentences=8": CompressConfig(near=0.95, sentences=8),
}
Right = Callable[[Asked, Answered], bool]


@dataclass(frozen=True)
class Outcome:
    """Of one question: whether its answer is right, and the tokens that it was made from."""

    right: bool
    tokens: int


def run(options: dict[str, str]) -> list[Row]:
    """Return two rows a corpus and way: tokens to those of all passages, and the share of right answers.

    Options: data (folder of the shared corpora), work (folder that keeps the runs for the next time), questions (most
    of a corpus).
    """
    given = known(options, DEFAULTS)
    folder, most = Path(given["data"] or os.environ.get("RAG_HPC_DATA") or "../shared/data"), int(given["questions"])
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(given["work"] or temporary).absolute()
        work.mkdir(parents=True, exist_ok=True)
        encode = remembering(reading(Encoder(threads=1), ""))
        pydoc = make(work, "pydoc", "corpus.max_pages=1000")
        judged = halves([one.query_id for one in pydoc.asked])["judged"]
        asked = [one for one in pydoc.asked if one.query_id in judged]
        rows = _rows("pydoc", pydoc, _some(asked, most), encode, lambda one, a: first_document(a) in one.relevant)
        squad = make(work, "squad", *written(work, folder, "qa_squad2", 400))
        articles = articles_of(folder)
        judged = halves(list(articles.values()))["judged"]
        asked = [one for one in squad.asked if one.answers and articles[one.relevant[0]] in judged]
        return rows + _rows("squad", squad, _some(asked, most), encode, quotes_gold)


def _rows(name: str, corpus: Corpus, asked: Sequence[Asked], encode: Encode, right: Right) -> list[Row]:
    whole = _outcomes(corpus, asked, CompressConfig(), encode, right)
    rows = []
    for way, config in WAYS.items():
        found = _outcomes(corpus, asked, config, encode, right)
        share = sum(one.tokens for one in found) / sum(one.tokens for one in whole)
        apart = difference([one.right for one in found], [one.right for one in whole])
        note = f"{len(asked)} questions, {sum(one.tokens for one in whole) / len(whole):.0f} tokens each without"
        rows.append(Row(name=f"{name}.{way}.tokens", ours=share, unit="of the tokens without", note=note))
        rows.append(
            Row(
                name=f"{name}.{way}.right",
                ours=sum(one.right for one in found) / len(found),
                unit="share of right answers",
                peers={"without": sum(one.right for one in whole) / len(whole)},
                note=f"difference {apart.mean:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}], p {apart.p:.3f}",
                contention=pressure_cpu(),
            )
        )
    return rows


def _outcomes(
    corpus: Corpus, asked: Sequence[Asked], config: CompressConfig, encode: Encode, right: Right
) -> list[Outcome]:
    given = Given(load=lambda: encode)
    answerer = Answerer(corpus.results.manifests["chunk"], GeneratorConfig(compress=config), given)
    counter, found = TokenCounter("minilm"), []
    for one in asked:
        passages, _ = answerer.read(one.text, one.ordinals[:K])
        tokens = sum(counter.num_tokens(passage.text) for passage in passages)
        answered = checked(answerer.generate(one.text, passages), passages)
        found.append(Outcome(right(one, answered), tokens))
    return found


def _some(asked: Sequence[Asked], most: int) -> list[Asked]:
    return random.Random(0).sample(list(asked), min(most, len(asked)))
