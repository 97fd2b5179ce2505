"""The one place that answers: a question's passages go to the generator, and each citation that comes back is checked.

The generate stage, `rag-hpc ask` and whatever serves later differ in where the ranking comes from, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from rag_hpc.algo.answer.cite import CitationCheck, check_quotes, verify_citations
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.types import Array
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.generators import registry
from rag_hpc.generators.base import Answer, Encode
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.passages import read_passages

if TYPE_CHECKING:
    from rag_hpc.models.encoder import Encoder
    from rag_hpc.search.searcher import Found

BATCH = 512  # tokens; of all sizes tried the fastest for sentences on a core


class Place(NamedTuple):
    """Where a ranking has a passage: from 1, and by which score."""

    rank: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An answer, the passages it was made from (numbered from 1), and a verdict on each of its citations."""

    answer: Answer
    passages: list[Passage]
    checks: list[CitationCheck]
    ranks: list[dict[str, Place]] = field(default_factory=list)  # of each passage, by the rankings that have it


class Searching(Protocol):
    """What searches: a Searcher, or what asks others."""

    def search(self, texts: Sequence[str], vectors_QD: Array) -> Found:
        """Return the hits of all methods for the queries."""


class Answerer:
    """A generator with the chunks that its passages are read from."""

    def __init__(
        self,
        chunks: Manifest,
        generator: GeneratorConfig,
        load: Callable[[], Encode],
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """load: gives the encoder, if the generator wants it. `check_stop` raises when the process is to end; a
        generator that waits calls it now and then."""
        self._chunks, self._generator = ChunkStore(chunks), registry.get_generator(generator, load, check_stop)

    def answer(self, question: str, ordinals: Sequence[int]) -> Answered:
        """Return the answer from the chunks with these ordinals, best first."""
        passages = read_passages(self._chunks, ordinals)
        answer = self._generator.generate(question, passages)
        checked = check_quotes(answer.text, answer.quotes, passages) or verify_citations(answer.text, passages)
        return Answered(answer=answer, passages=passages, checks=checked)


class Asker:
    """A run's indexes with the encoder and a generator, loaded once for any number of questions."""

    def __init__(
        self,
        inputs: Mapping[str, Manifest],
        settings: Mapping[str, dict[str, Any]],
        generator: GeneratorConfig,
        scratch: Path,
        via: Callable[[Callable[[], Searching]], Searching] = lambda own: own(),
    ) -> None:
        """inputs: manifests of chunk, lexical, encode and, where it is there, retrieve.queries. settings: those of the
        run's stages, which are used again, but for the generator: that of whoever asks. scratch: a folder for the
        unpacked index. via: gives what searches, and may do without the searcher of this process, which it can make."""
        from rag_hpc.models.encoder import Encoder
        from rag_hpc.schema import from_plain
        from rag_hpc.search.searcher import Searcher, SearchSettings, knowledge

        asked, retrieve = settings["retrieve.queries"], settings["retrieve.search"]
        search = from_plain(
            SearchSettings, {f.name: retrieve[f.name] for f in fields(SearchSettings) if f.name in retrieve}
        )
        self._k, self._prefix = settings["generate"]["k"], asked["prefix"]
        self._encoder = encoder = Encoder(asked["model"], threads=1, dims=asked.get("dims", 0))
        self._method = retrieve.get("method", "fused").replace("ann", "dense")  # one question is searched exactly
        parts = inputs["lexical"], inputs["encode"], None
        self._searcher = via(lambda: Searcher(*parts, search, SerialComm(), scratch, knowledge(inputs)))
        self._answerer = Answerer(inputs["chunk"], generator, lambda: reading(encoder, self._prefix))

    def answer(self, question: str) -> Answered:
        """Return the answer to one question."""
        searcher = self._searcher
        vector = self._encoder.encode([self._prefix + question], out=np.float16, allow_truncate=True)
        hits = searcher.search([question], vector).hits
        places = {
            method: {int(one): Place(n, float(score)) for n, (score, one) in enumerate(zip(*row, strict=True), 1)}
            for method, row in ((method, (scores[0], ids[0])) for method, (scores, ids) in hits.items())
        }
        chosen = [one for one in places[self._method] if one >= 0][: self._k]
        ranks = [{method: found[one] for method, found in places.items() if one in found} for one in chosen]
        return replace(self._answerer.answer(question, chosen), ranks=ranks)


def reading(encoder: Encoder, prefix: str) -> Encode:
    """Return what gives generators the vectors of a question (behind its prefix) and of the sentences after it."""

    def encode(question: str, sentences: Sequence[str]) -> Array:
        return encoder.encode([prefix + question, *sentences], tokens_per_batch=BATCH, allow_truncate=True)

    return encode
