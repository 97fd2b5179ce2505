"""From a question to its answer: embed, search, read. Time limits and batches are all that it adds to `search.answer`.

Whatever does not come in time is left out and said: shards in `coverage`, the model's answer by `fallback`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.quality.language import language
from rag_hpc.algo.rank.topk import Hits
from rag_hpc.algo.types import Array
from rag_hpc.generators.base import Answer, answer_of, not_found
from rag_hpc.search.answer import Asker, Place, checked
from rag_hpc.serve.ask import PageOf, plain
from rag_hpc.serve.client import Unanswered
from rag_hpc.serve.gateway.batches import Batches
from rag_hpc.serve.gateway.metrics import Metrics
from rag_hpc.serve.gateway.objects import PATH as OBJECTS
from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.steps import Cache, Emit, NoCache, Question, Retrieved, Said
from rag_hpc.serve.gateway.upstream import Prompt, Upstream, UpstreamFailed

T = TypeVar("T")
Ranked = tuple[list[int], list[dict[str, Place]]]  # ordinals, and their places in each ranking
SAME_CHARS = 512  # of a prompt, by which questions of the same passages go to the same replica
RETRY_S = {"down": 5.0, "starting": 5.0, "draining": 5.0}  # when to come back, by why nothing was searched


class Flow:
    """Answers questions, any number at a time."""

    def __init__(
        self,
        run: str,
        asker: Asker,
        batches: Batches,
        upstream: Upstream | None,
        *,
        metrics: Metrics,
        page_of: PageOf,
        cache: Cache | None = None,
    ) -> None:
        """upstream: None where the run's own sentences are quoted."""
        self.run, self._asker, self._batches, self._upstream = run, asker, batches, upstream
        self._metrics, self._page_of = metrics, page_of
        self._cache = cache or NoCache()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encoder")  # one network, one core
        self._second = ThreadPoolExecutor(1, thread_name_prefix="reranker")  # questions are embedded meanwhile

    async def embed(self, question: Question) -> Array:
        """Return the question's vector as one row."""

        async def make() -> Array:
            return await self._worked(question, "embed", lambda: self._asker.embed(question.text))

        return await self._cache.vector(question, make)

    async def vectors(self, texts: list[str], *, of_questions: bool) -> list[list[float]]:
        """Return a vector a text, of questions or of passages."""
        made: list[list[float]] = []
        for text in texts:  # one at a time: others' questions are not kept waiting for all
            work = partial(self._asker.embed, text) if of_questions else partial(self._asker.vectors, [text])
            made.append((await self._in_thread(work))[0].astype(float).tolist())
        return made

    async def retrieve(self, question: Question) -> Retrieved:
        """Return what is found. Raises Problem where nothing could be searched."""

        async def make() -> Retrieved:
            vector_1D = await self.embed(question)
            begun, queued = time.monotonic(), 0.0
            try:
                reply = await self._batches.search(question.text, vector_1D, question.only, question.reserved())
                queued = reply.found.seconds.get("queue", 0.0)
            except Unanswered as error:
                raise _problem(error) from error
            finally:
                searched = time.monotonic() - begun - queued
                self._took(question, "queue", queued, ago_s=searched)
                self._took(question, "search", searched)
            (ordinals, ranks), late = await self._ranked(question, reply.found.hits)
            return Retrieved(ordinals=ordinals, ranks=ranks, answered=reply.answered, shards=reply.shards, late=late)

        found = await self._cache.retrieved(question, make)
        if found.partial:
            self._metrics.partial.inc()
        return found

    async def _ranked(self, question: Question, hits: Mapping[str, Hits]) -> tuple[Ranked, str]:
        """Return the hits that are read, and why they are not in the cross-encoder's order where they should be."""
        if question.candidates:
            first = self._asker.ranked(hits, k=question.candidates)
            work = partial(self._asker.reranked, question.text, *first, k=question.k)
            try:
                return await self._worked(question, "rerank", work, until=question.reserved()), ""
            except Problem:
                self._metrics.fallbacks.inc()
        late = "there was no time to rerank what was found" if question.candidates else ""
        return self._asker.ranked(hits, k=question.k), late

    async def passages(self, question: Question, found: Retrieved) -> tuple[list[Passage], list[dict[str, Place]]]:
        """Return the passages that were found, as the generator reads them, and their places in each ranking."""
        return await self._worked(
            question,
            "read",
            lambda: self._asker.passages(question.text, found.ordinals, found.ranks, question.before),
        )

    async def whole(self, question: Question, found: Retrieved) -> list[Passage]:
        """Return all passages that were found."""
        return await self._worked(question, "read", lambda: self._asker.whole(found.ordinals))

    async def answer(self, question: Question, emit: Emit | None = None) -> Said:
        """Return the answer, whose text `emit` gets piece by piece as it comes. Raises Problem."""
        emitted = False

        def tell(piece: str) -> None:
            nonlocal emitted
            emitted = True
            if emit:
                emit(piece)

        async def make() -> Said:
            found = await self.retrieve(question)
            passages, ranks = await self.passages(question, found)
            begun = time.monotonic()
            answer, finish_reason, fallback = await self._generate(question, passages, tell, whole=emit is None)
            self._took(question, "generate", time.monotonic() - begun)
            fallback = "; ".join(part for part in (found.late, fallback) if part)
            return Said(
                answered=replace(checked(answer, passages), ranks=ranks),
                coverage=found.coverage,
                partial=found.partial or bool(fallback),
                finish_reason=finish_reason,
                fallback=fallback,
            )

        outcome = await self._cache.answer(question, partial(self.embed, question), make)
        if emit and not emitted:
            emit(outcome.answered.answer.text)
        return outcome

    def as_plain(self, question: Question, said: Said) -> dict[str, Any]:
        """Return an answer as `ask --json` has it, with coverage, what is missing, the milliseconds of each step,
        which of them a cache knew, what was searched for, and the question's language (ISO 639-1, or unknown).

        For a thread where it `has_pages`: they are looked up in files.
        """
        return {
            **plain(self.run, question.words, said.answered, self._page_of),
            "searched_for": question.text,
            "language": language(question.words).code,
            "coverage": said.coverage,
            "partial": said.partial,
            "fallback": said.fallback,
            "timings_ms": question.timings_ms(),
            "cache": question.sources,
            **({"kept_as": f"{OBJECTS}/{question.kept_as}"} if question.kept_as else {}),
        }

    def has_pages(self, said: Said) -> bool:
        """Return whether passages of an answer may be of documents with pages."""
        return any(".pdf" in passage.doc_id.lower() for passage in said.answered.passages)

    async def _generate(
        self, question: Question, passages: list[Passage], emit: Emit, *, whole: bool
    ) -> tuple[Answer, str, str]:
        """Return the answer, why it ended, and why it is not the model's or cut, where it is so.

        whole: nobody sees the pieces. Raises Problem where a fleet that should answer has no replica.
        """
        if self._upstream is None or not passages:
            answer, late = await self._quoted(question, passages, emit)
            return answer, "stop", late
        messages = self._asker.messages(question.words, passages, question.before)
        prompt = Prompt(
            messages,
            max_tokens=question.max_tokens,
            until=question.reserved(),
            session=question.session or messages[-1]["content"][:SAME_CHARS],
            temperature=question.temperature,
            whole=whole,
        )
        pieces: list[str] = []
        try:
            async for piece in self._upstream.stream(prompt):
                pieces.append(piece)
                emit(piece)
        except UpstreamFailed as error:
            if error.absent:
                raise Problem(503, "no_replica", str(error), error.retry_after_s) from error
            self._metrics.fallbacks.inc()
            question.retry_after_s = error.retry_after_s
            if not pieces:
                answer, late = await self._quoted(question, passages, emit)
                return answer, "stop", f"quoted without a model: {error}{'; ' * bool(late)}{late}"
            prompt.finish_reason, fallback = "length", f"the answer is cut: {error}"
        else:
            fallback = ""
        return answer_of("".join(pieces).strip(), len(passages), prompt.counts), prompt.finish_reason, fallback

    async def _quoted(self, question: Question, passages: list[Passage], emit: Emit) -> tuple[Answer, str]:
        """Return what the passages say, and why that is nothing where there was no time to read them."""
        try:
            work = self._in_thread(lambda: self._asker.quoted(question.text, passages))
            answer, late = await asyncio.wait_for(work, question.until - time.monotonic()), ""
        except TimeoutError:
            answer, late = not_found(), "there was no time to read the passages that were found"
            self._metrics.fallbacks.inc()
        emit(answer.text)
        return answer, late

    async def _worked(self, question: Question, step: str, work: Callable[[], T], until: float = 0.0) -> T:
        asked, begun = time.monotonic(), list[float]()

        def timed() -> T:
            begun.append(time.monotonic())
            return work()

        pool = self._second if step == "rerank" else self._pool
        try:
            return await asyncio.wait_for(self._in_thread(timed, pool), (until or question.until) - asked)
        except TimeoutError as error:
            said = f"{step}: not done within the deadline; others' questions go before"
            raise Problem(503, "deadline_exceeded", said, 1.0) from error
        finally:
            ended = time.monotonic()
            first = begun[0] if begun else ended
            self._took(question, "queue", first - asked, ago_s=ended - first)
            self._took(question, step, ended - first)

    async def _in_thread(self, work: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool or self._pool, work)

    def _took(self, question: Question, step: str, seconds: float, ago_s: float = 0.0) -> None:
        """Count a step that ended so long ago."""
        question.seconds[step] = question.seconds.get(step, 0.0) + seconds
        self._metrics.steps.labels(step).observe(seconds)
        if question.trace and seconds:
            question.trace.step(step, seconds, ago_s)

    async def close(self) -> None:
        """Free what is held."""
        await self._batches.close()
        if self._upstream is not None:
            await self._upstream.close()
        for pool in (self._pool, self._second):
            pool.shutdown(wait=False, cancel_futures=True)


def _problem(error: Unanswered) -> Problem:
    """Return what a client is told when nothing could be searched."""
    if error.kind in ("wrong", "failed"):
        return Problem(500, "search_failed", f"the search failed: {error}")
    return Problem(503, f"search_{error.kind}", f"nothing could be searched: {error}", RETRY_S.get(error.kind, 1.0))
