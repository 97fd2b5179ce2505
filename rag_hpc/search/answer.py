"""The one place that answers: a question's passages go to the generator, and each citation that comes back is checked.

The generate stage, `rag-hpc ask` and whatever serves later differ in where the ranking comes from, and in nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from rag_hpc.algo.answer.cite import CitationCheck, check_quotes, uncited_sentences, verify_citations
from rag_hpc.algo.answer.prompt import Passage, Turn
from rag_hpc.algo.types import Array
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.generators import registry
from rag_hpc.generators.base import Answer, Encode, Generator
from rag_hpc.generators.compress import (
    Compressed,
    Write,
    best_sentences,
    replaced_quotes,
    restored,
    summarised,
    without_near,
)
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.prompt import CHARS_PER_TOKEN, Packer, PromptConfig
from rag_hpc.generators.registry import Given
from rag_hpc.models.device import Precision
from rag_hpc.models.encoders import EncoderConfig, get_encoder
from rag_hpc.search import rerank
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.hits import RERANKED, Method
from rag_hpc.stores.passages import read_passages
from rag_hpc.stores.shards import effort_of
from rag_hpc.stores.vectors import VectorStore

if TYPE_CHECKING:
    from rag_hpc.algo.rank.topk import Hits
    from rag_hpc.models.encoder import Encoder
    from rag_hpc.search.searcher import Found, SearchSettings

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

    def counts(self) -> dict[str, int]:
        """Return how its citations came off: `citations`, those of them by a flaw, and sentences that name no passage.

        An answer that quotes names a passage for every sentence by its making.
        """
        flaws = Counter(f"citations_{check.reason}" for check in self.checks if not check.supported)
        uncited = uncited_sentences(self.answer.text) if self.answer.found and not self.answer.quotes else []
        return {"citations": len(self.checks), **flaws, "sentences_uncited": len(uncited)}


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
        given: Given,
    ) -> None:
        """given: what the generator may use."""
        self._chunks = ChunkStore(chunks)
        self._packer = Packer(given.prompt, generator) if generator.name is not GeneratorName.extractive else None
        self._compress = generator.compress
        if self._compress.needs_encoder:
            self._encode = given.load()
            given = replace(given, load=lambda: self._encode)
        self._generator = registry.get_generator(generator, given)

    def answer(self, question: str, ordinals: Sequence[int]) -> Answered:
        """Return the answer from the chunks with these ordinals, best first."""
        passages, _ = self.fit(question, *self.read(question, ordinals), self.generate)
        return checked(self.generate(question, passages), passages)

    def read(self, question: str, ordinals: Sequence[int]) -> Compressed:
        """Return the chunks with these ordinals, best first, as passages; and what compression left out of them.

        On one thread at a time.
        """
        passages = read_passages(self._chunks, ordinals)
        if not self._compress.needs_encoder:
            return passages, {}
        passages, near = without_near(passages, self._compress.near, self._encode)
        passages, left_out = best_sentences(question, passages, self._compress.sentences, self._encode)
        return passages, near | left_out

    def fit(
        self,
        question: str,
        passages: list[Passage],
        counts: dict[str, int],
        write: Write,
        before: Sequence[Turn] = (),
    ) -> Compressed:
        """Return the passages to answer from, in the prompt's order, and what was left out, `counts` included.

        A generator without a language model has no budget: it reads all of them, in their order. write: asks the
        generator, where passages are to be summarised. before: what was said until then, which needs room too. From
        any number of threads.
        """
        if self._packer is None:
            return passages, counts
        limit = self._compress.summarise_above
        if limit and sum(self._packer.count(passage.text) for passage in passages) > limit:
            passages, summaries = summarised(question, passages, write)
            counts = counts | summaries
        passages, left_out = self._packer.select(question, passages, before)
        return passages, counts | left_out

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the generator's answer; of those with an endpoint, from any number of threads."""
        return self._generator.generate(question, passages)

    def num_tokens(self, text: str) -> int:
        """Return the text's tokens, as the prompt's budget counts them."""
        return self._packer.count(text) if self._packer else -(-len(text) // CHARS_PER_TOKEN)

    def close(self) -> None:
        """Free what the generator holds."""
        self._generator.close()


def checked(answer: Answer, passages: list[Passage]) -> Answered:
    """Return the answer with a verdict on each of its citations, which are of the passages before any compression."""
    answer, passages = replaced_quotes(answer, passages), restored(passages)
    checks = check_quotes(answer.text, answer.quotes, passages) or verify_citations(answer.text, passages)
    return Answered(answer=answer, passages=passages, checks=checks)


def as_the_run(
    inputs: Mapping[str, Manifest], retrieve: Mapping[str, Any]
) -> tuple[SearchSettings, Method, Manifest | None]:
    """Return how a run searches, the ranking that it hands on, and its vector index where its hits are read.

    retrieve: the settings of retrieve.search.
    """
    from rag_hpc.schema import from_plain
    from rag_hpc.search.exact import Exact, resolved
    from rag_hpc.search.searcher import SearchSettings, as_checked

    given = {"exact": Exact.always.name} | dict(retrieve)  # runs of before have no other way
    search = from_plain(SearchSettings, {f.name: given[f.name] for f in fields(SearchSettings) if f.name in given})
    method, index = Method(given.get("method", "fused")), inputs.get("vectors.build")
    if index is not None and effort_of(index) is None:
        index = None  # of before 0.2: it does not say how it is searched
    num = len(VectorStore(inputs["encode"]))
    search.exact = resolved(search.exact, num, indexed=index is not None, method=method)
    if search.exact is Exact.always and method is not Method.ann:
        index = None  # its hits would not be read
    return as_checked(search, inputs), method, index


class Asker:
    """A run's indexes with the encoder and a generator, loaded once for any number of questions."""

    def __init__(
        self,
        inputs: Mapping[str, Manifest],
        settings: Mapping[str, dict[str, Any]],
        generator: GeneratorConfig,
        scratch: Path,
        via: Callable[[Callable[[], Searching]], Searching] = lambda own: own(),
        remote: EncoderConfig | None = None,
    ) -> None:
        """inputs: manifests of chunk, lexical, encode and, where they are there, retrieve.queries, vectors.build and
        vectors.check. settings: those of the run's stages, which are used again, but for the generator: that of whoever
        asks. scratch: a folder for the unpacked index. via: gives what searches, and may do without the searcher of
        this process, which it can make. remote: the endpoint of the queries' vectors, for a run whose
        passages went to one."""
        from rag_hpc.models.encoder import Encoder
        from rag_hpc.schema import from_plain
        from rag_hpc.search.filters import allowed
        from rag_hpc.search.searcher import Searcher, knowledge

        asked, retrieve = settings["retrieve.queries"], settings["retrieve.search"]
        self._k, self._prefix = settings["generate"]["k"], asked["prefix"]
        dims, remote = asked.get("dims", 0), remote or EncoderConfig()
        precision = Precision[asked.get("precision", Precision.float32.name)]  # of the run's own questions
        self._encoder = get_encoder(remote, asked["model"], precision, dims=dims)
        encoder = self._encoder

        @cache
        def load() -> Encode:
            if isinstance(encoder, Encoder) and encoder.facts()["precision"] == Precision.float32.value:
                return reading(encoder, self._prefix)
            return reading(Encoder(settings["generate"]["model"], threads=1), self._prefix)  # as generate reads them

        search, method, index = as_the_run(inputs, retrieve)
        self._method = "dense" if method is Method.ann and index is None else method.value
        parts = inputs["lexical"], inputs["encode"], index

        def own() -> Searcher:
            searcher = Searcher(*parts, search, SerialComm(), scratch, knowledge(inputs))
            if search.filter:
                searcher.restrict(allowed(ChunkStore(inputs["chunk"]), search.filter))
            return searcher

        self._searcher = via(own)
        prompt = from_plain(PromptConfig, settings["generate"].get("prompt", {}))
        self._told = Given(load=load, prompt=prompt, scratch=scratch)
        self._chunks = ChunkStore(inputs["chunk"])
        self._answerer = Answerer(inputs["chunk"], generator, self._told)
        self._quoting: Generator | None = None
        head = rerank.as_the_run(settings)
        self._reranking = rerank.Reranking(head, self._chunks) if head else None
        self.depth = search.depth  # hits of a ranking
        self.candidates = head.depth if head else 0  # of them, as many as the run's cross-encoder scores

    def close(self) -> None:
        """Free what the generator holds."""
        self._answerer.close()

    def answer(self, question: str) -> Answered:
        """Return the answer to one question."""
        hits = self._searcher.search([question], self.embed(question)).hits
        ordinals, ranks = self.ranked(hits, k=self.candidates)
        if self.candidates:
            ordinals, ranks = self.reranked(question, ordinals, ranks)
        passages, ranks = self.passages(question, ordinals, ranks)
        return replace(checked(self._answerer.generate(question, passages), passages), ranks=ranks)

    def embed(self, question: str) -> Array:
        """Return the question's vector as one row; by itself, so that it depends on no other."""
        return self._encoder.encode([self._prefix + question], out=np.float16, allow_truncate=True)

    def vectors(self, texts: Sequence[str]) -> Array:
        """Return vectors_ND of passages or other texts, as they stand."""
        return self._encoder.encode(texts, allow_truncate=True)

    def ranked(self, hits: Mapping[str, Hits], row: int = 0, k: int = 0) -> tuple[list[int], list[dict[str, Place]]]:
        """Return the ordinals of a query's k best hits (0: as many as the run reads), and their places in each ranking.

        row: the query's among those that were searched.
        """
        places = {
            method: {int(one): Place(n, float(score)) for n, (score, one) in enumerate(zip(*pair, strict=True), 1)}
            for method, pair in ((method, (scores[row], ids[row])) for method, (scores, ids) in hits.items())
        }
        chosen = [one for one in places[self._method] if one >= 0][: k or self._k]
        return chosen, [{method: found[one] for method, found in places.items() if one in found} for one in chosen]

    def reranked(
        self, question: str, ordinals: Sequence[int], ranks: Sequence[dict[str, Place]], k: int = 0
    ) -> tuple[list[int], list[dict[str, Place]]]:
        """Return the k best (0: as many as the run reads) of what `ranked` returned, by the run's cross-encoder, with
        their places in its ranking too."""
        assert self._reranking is not None
        places = dict(zip(ordinals, ranks, strict=True))
        found = self._reranking.order(question, ordinals)[: k or self._k]
        told = [{**places[one], RERANKED: Place(n, score)} for n, (one, score) in enumerate(found, 1)]
        return [one for one, _ in found], told

    def passages(
        self,
        question: str,
        ordinals: Sequence[int],
        ranks: Sequence[dict[str, Place]],
        before: Sequence[Turn] = (),
    ) -> tuple[list[Passage], list[dict[str, Place]]]:
        """Return the passages that the generator reads, of the chunks with these ordinals, and the ranks of each.
        before: what was said in a chat until then."""
        ids = [passage.chunk_id for passage in self.whole(ordinals)]
        places = dict(zip(ids, ranks, strict=True))
        found = self._answerer.read(question, ordinals)
        read, _ = self._answerer.fit(question, *found, self._answerer.generate, before)
        return read, [places[passage.chunk_id] for passage in read]

    def whole(self, ordinals: Sequence[int]) -> list[Passage]:
        """Return the chunks with these ordinals, in their order."""
        return read_passages(self._chunks, ordinals)

    def messages(self, question: str, passages: Sequence[Passage], before: Sequence[Turn] = ()) -> list[dict[str, str]]:
        """Return what a language model is told."""
        return self._told.prompt.messages(question, passages, before)

    def num_tokens(self, text: str) -> int:
        """Return the text's tokens, as the prompt's budget counts them."""
        return self._answerer.num_tokens(text)

    def quoted(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the answer of the generator that needs no model, whichever the run's is."""
        if self._quoting is None:
            self._quoting = registry.get_generator(GeneratorConfig(), self._told)
        return self._quoting.generate(question, passages)


def reading(encoder: Encoder, prefix: str) -> Encode:
    """Return what gives generators the vectors of a question (behind its prefix) and of the sentences after it."""

    def encode(question: str, sentences: Sequence[str]) -> Array:
        return encoder.encode([prefix + question, *sentences], tokens_per_batch=BATCH, allow_truncate=True)

    return encode
