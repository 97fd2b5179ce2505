"""The generator without a language model: it quotes the sentences that most likely answer, and names their passages.

Sentences are read by the encoder that the run has anyway, under the headings and the signature that they stand under.
Same input, same answer: a question's sentences are encoded by themselves, in batches that depend on nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_hpc.algo.answer import score
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.answer.sentences import LONGEST, Sentence, sentences_of, words_of
from rag_hpc.algo.text.words import word_ends
from rag_hpc.generators.base import Answer, Encode, Quote, not_found

NUM_READ = 24  # sentences that the encoder reads for a question, chosen by their words and their place
NUM_QUOTED = 2
SECOND = 0.85  # share of the best one's likelihood that the second needs

_CODE_TERM = re.compile(r"--?[a-z][\w-]+|[A-Za-z_]\w*(?:\.\w+)+|\w+_\w+|[A-Za-z_]\w*(?=\()|[A-Z]+[a-z]+[A-Z]\w*")
_ASKS_PART = re.compile(r"\b(argument|parameter|option|flag|keyword|attribute|setting|variable)\b", re.IGNORECASE)
_ASKS_NUMBER = re.compile(
    r"\b(how (?:many|much|long|old|large|big|far|tall|high)|what (?:year|number|port|size))\b|^when\b", re.IGNORECASE
)
_NUMBER = re.compile(r"\d[\d,.]*\d|\d")


class ExtractiveGenerator:
    """Quotes one or two sentences word for word, or says that none answers."""

    def __init__(self, encode: Encode, min_score: float) -> None:
        self._encode, self._min_score = encode, min_score

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the best sentences with their citations, or "not found" when none is likely enough to answer."""
        sentences = sentences_of(passages)
        if not words_of(question) or not sentences:
            return not_found()
        evidence = score.by_words(question, passages, sentences)
        read = score.shortlist(evidence, NUM_READ).tolist()
        texts = [_in_context(sentences[at], passages[sentences[at].number - 1]) for at in read]
        vectors_RD = self._encode(question, texts)
        likely = score.likelihoods(evidence[read], vectors_RD[1:], vectors_RD[0]).tolist()
        best = sorted(zip(likely, read, strict=True), key=lambda pair: (-pair[0], pair[1]))
        if best[0][0] < self._min_score:
            return not_found(best[0][0])
        chosen = _chosen([(sentences[at], likelihood) for likelihood, at in best])
        quotes = [_quote(sentence, passages[sentence.number - 1], likelihood) for sentence, likelihood in chosen]
        text = " ".join(_said(sentence, quote, passages) for (sentence, _), quote in zip(chosen, quotes, strict=True))
        citations = list(dict.fromkeys(quote.number for quote in quotes))
        short = _short(question, chosen[0][0])
        return Answer(text=text, citations=citations, found=True, short=short, quotes=quotes, score=best[0][0])

    def close(self) -> None:
        """Do nothing: the encoder is the caller's."""


def _chosen(best: Sequence[tuple[Sentence, float]]) -> list[tuple[Sentence, float]]:
    """Return the best sentence and the next one that says something else, if it is not much less likely to answer."""
    first, likelihood = best[0]
    said = words_of(first.text)
    others = [pair for pair in best[1:] if pair[1] >= SECOND * likelihood and not words_of(pair[0].text) <= said]
    return [best[0], *others[: NUM_QUOTED - 1]]


def _in_context(sentence: Sentence, passage: Passage) -> str:
    """Return what the encoder reads of a sentence: its headings, its signature, and itself."""
    heading = passage.heading or passage.title
    return f"{heading}\n{sentence.name + ': ' if sentence.name else ''}{sentence.text}"[:LONGEST]


def _quote(sentence: Sentence, passage: Passage, likelihood: float) -> Quote:
    """Return the sentence as a quote; a long one ends with a word."""
    text = passage.text[sentence.start : sentence.end]
    if len(text) > LONGEST:
        text = text[: max((end for end in word_ends(text) if 0 < end <= LONGEST), default=LONGEST)].rstrip()
    return Quote(number=sentence.number, start=sentence.start, end=sentence.start + len(text), score=likelihood)


def _said(sentence: Sentence, quote: Quote, passages: Sequence[Passage]) -> str:
    """Return the quoted words behind the name of their entry, where they lack it, and before their citation."""
    words = " ".join(passages[quote.number - 1].text[quote.start : quote.end].split())
    named = f"{sentence.name}: " if sentence.name and sentence.name not in words else ""
    return f"{named}{words}{'' if quote.end == sentence.end else ' …'} [{quote.number}]"


def _short(question: str, sentence: Sentence) -> str:
    """Return the few words that answer, where a rule is sure, else the sentence.

    Sure are: the only number, where one is asked for; the only term of code, where an argument or the like is; and the
    name of the entry otherwise.
    """
    asked = question.lower()
    for pattern, kind in ((_ASKS_NUMBER, _NUMBER), (_ASKS_PART, _CODE_TERM)):
        if pattern.search(question):
            terms = {match.group() for match in kind.finditer(sentence.text) if match.group().lower() not in asked}
            if len(terms) == 1:
                return terms.pop()
    return sentence.name.rpartition(".")[2] or sentence.text
