"""Fewer tokens for the same question: passages that say the same again, sentences that do not answer, summaries.

What a compressed passage was stands beside it (`whole`), and citations are held against that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rag_hpc.algo.answer import score
from rag_hpc.algo.answer.cite import without_citations
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.answer.sentences import Sentence, sentences_of
from rag_hpc.generators.base import Answer, Encode

READ_PER_KEPT = 4  # sentences that the encoder reads for each that is kept
Write = Callable[[str, Sequence[Passage]], Answer]
Compressed = tuple[list[Passage], dict[str, int]]


def without_near(passages: Sequence[Passage], near: float, encode: Encode) -> Compressed:
    """Return the passages, best first, without those whose cosine to a better one kept is above `near`."""
    if near >= 1 or len(passages) < 2:
        return list(passages), {}
    vectors_ND = encode("", [passage.text for passage in passages])[1:].astype(np.float64)
    cosines_NN = np.round(vectors_ND @ vectors_ND.T, score.DIGITS)
    kept: list[int] = []
    for at in range(len(passages)):
        if not any(cosines_NN[at, other] > near for other in kept):
            kept.append(at)
    return [passages[at] for at in kept], {"passages_near_others": len(passages) - len(kept)}


def best_sentences(question: str, passages: Sequence[Passage], num: int, encode: Encode) -> Compressed:
    """Return the passages with the `num` sentences that likeliest answer, each below its entry's signature.

    A passage without any is left out. Sentences keep their order.
    """
    sentences = sentences_of(passages)
    if not num or len(sentences) <= num:
        return list(passages), {}
    evidence = score.by_words(question, passages, sentences)
    read = score.shortlist(evidence, READ_PER_KEPT * num).tolist()
    headed = [f"{passages[sentences[at].number - 1].heading}\n{sentences[at].text}" for at in read]
    vectors = encode(question, headed)
    likely = score.likelihoods(evidence[read], vectors[1:], vectors[0]).tolist()
    best = sorted(zip(likely, read, strict=True), key=lambda pair: (-pair[0], pair[1]))[:num]
    by_passage: dict[int, list[Sentence]] = {}
    for at in sorted(at for _, at in best):
        by_passage.setdefault(sentences[at].number, []).append(sentences[at])
    kept = [_cut(passages[number - 1], own) for number, own in sorted(by_passage.items())]
    left_out = {"passages_without_best": len(passages) - len(kept), "sentences_left_out": len(sentences) - len(best)}
    return kept, left_out


def summarised(question: str, passages: Sequence[Passage], write: Write) -> Compressed:
    """Return each passage as what the generator says to the question from it alone; those that say nothing are left
    out, unless all would be."""
    kept, counts = [], {"passages_summarised": 0, "passages_beside_the_point": 0}
    for passage in passages:
        said = write(question, [passage])
        if said.found:
            kept.append(replace(passage, text=without_citations(said.text), whole=passage.whole or passage.text))
        counts["passages_summarised" if said.found else "passages_beside_the_point"] += 1
    return (kept, counts) if kept else (list(passages), counts)


def restored(passages: Sequence[Passage]) -> list[Passage]:
    """Return the passages as their chunks hold them."""
    return [replace(passage, text=passage.whole, whole="") if passage.whole else passage for passage in passages]


def replaced_quotes(answer: Answer, passages: Sequence[Passage]) -> Answer:
    """Return the answer with its quotes where their words stand in the whole passages."""
    quotes = []
    for quote in answer.quotes:
        passage = passages[quote.number - 1]
        at = passage.whole.find(passage.text[quote.start : quote.end]) if passage.whole else quote.start
        quotes.append(replace(quote, start=at, end=at + quote.end - quote.start) if at >= 0 else quote)
    return replace(answer, quotes=quotes)


def _cut(passage: Passage, sentences: Sequence[Sentence]) -> Passage:
    lines: list[str] = []
    signature = ""
    for sentence in sentences:
        if sentence.signature and sentence.signature != signature and sentence.signature in passage.text:
            lines.append(sentence.signature)
        signature = sentence.signature
        lines.append(passage.text[sentence.start : sentence.end])
    return replace(passage, text="\n\n".join(lines), whole=passage.whole or passage.text)
