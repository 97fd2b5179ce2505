"""The one place that answers: a question's passages go to the generator, and each citation that comes back is checked.

The generate stage, `rag-hpc ask` and whatever serves later differ in where the ranking comes from, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from rag_hpc.stores.hits import Method
from rag_hpc.stores.passages import read_passages
from rag_hpc.stores.shards import effort_of
from rag_hpc.stores.vectors import VectorStore

if TYPE_CHECKING:
    from rag_hpc.models.encoder import Encoder

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
    ) -> None:
        """inputs: manifests of chunk, lexical, encode and, where they are there, retrieve.queries and vectors.build.
        settings: those of the run's stages, which are used again, but for the generator: that of whoever asks. scratch:
        a folder for the unpacked index."""
        from rag_hpc.models.encoder import Encoder
        from rag_hpc.schema import from_plain
        from rag_hpc.search.exact import Exact, resolved
        from rag_hpc.search.filters import allowed
        from rag_hpc.search.searcher import Searcher, SearchSettings, knowledge

        asked, retrieve = settings["retrieve.queries"], settings["retrieve.search"]
        given = {"exact": Exact.always.name} | retrieve  # runs of before have no other way
        search = from_plain(SearchSettings, {f.name: given[f.name] for f in fields(SearchSettings) if f.name in given})
        self._k, self._prefix = settings["generate"]["k"], asked["prefix"]
        self._encoder = encoder = Encoder(asked["model"], threads=1, dims=asked.get("dims", 0))
        method, index = Method(retrieve.get("method", "fused")), inputs.get("vectors.build")
        if index is not None and effort_of(index) is None:
            index = None  # of before 0.2: it does not say how it is searched
        num = len(VectorStore(inputs["encode"]))
        search.exact = resolved(search.exact, num, indexed=index is not None, method=method)
        if search.exact is Exact.always and method is not Method.ann:
            index = None  # its hits would not be read
        self._method = "dense" if method is Method.ann and index is None else method.value
        parts = inputs["lexical"], inputs["encode"], index
        self._searcher = Searcher(*parts, search, SerialComm(), scratch, knowledge(inputs))
        if search.filter:
            self._searcher.restrict(allowed(ChunkStore(inputs["chunk"]), search.filter))
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
