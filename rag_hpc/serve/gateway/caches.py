"""The caches around the steps of an answer: what is kept of each, under which key, and for whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from rag_hpc.algo.answer.cite import CitationCheck
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.types import Array
from rag_hpc.core.hashing import hash_value
from rag_hpc.generators.base import Answer, Quote
from rag_hpc.search.answer import Answered, Place
from rag_hpc.serve.ask import plain
from rag_hpc.serve.cache.answers import Answers, Looked, same_answer
from rag_hpc.serve.cache.cache import Cache, Got
from rag_hpc.serve.cache.entry import Key, Kind, Scope
from rag_hpc.serve.cache.files import name_of
from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.steps import Question, Retrieved, Said

_NAMES: dict[type, list[str]] = {kind: [field.name for field in fields(kind)] for kind in (CitationCheck, Passage)}


class Scopes:
    """What the outcomes of a question's steps depend on beside it."""

    def __init__(self, of: Callable[[int], Scope], max_tokens: int, identity: Callable[[], str]) -> None:
        """of: the scope of the owner's answers of so many tokens. max_tokens: of an answer whose request does not say.
        identity: of what answers beside the generator's settings, now."""
        self._of, self._max_tokens, self._identity = of, max_tokens, identity
        self._made: dict[int, Scope] = {}

    def of_search(self, question: Question) -> Scope:
        """Return the scope of what is found."""
        made = self._by_tokens(self._max_tokens)
        made = replace(made, k=question.k or made.k, candidates=question.candidates)
        return replace(made, tenant=question.tenant, filter=question.only)

    def of_answer(self, question: Question) -> Scope:
        """Return the scope of an answer."""
        model, identity = self._by_tokens(question.max_tokens).model, self._identity()
        said = [question.words, *([turn.role, turn.text] for turn in question.before)]
        before = hash_value(said) if question.before else ""
        model = hash_value([model, identity]) if identity else model
        return replace(self.of_search(question), model=model, before=before)

    def _by_tokens(self, num: int) -> Scope:
        if num not in self._made:
            self._made[num] = self._of(num)
        return self._made[num]


@dataclass
class _Flight:
    """A computation that some requests wait for."""

    waiting: int = 0
    task: asyncio.Task[Any] | None = None


class Caches:
    """Knows what was found and answered before, as `steps.Cache` has it. For tasks of one event loop."""

    def __init__(self, run: str, cache: Cache, scopes: Scopes) -> None:
        self._run, self._cache, self._scopes = run, cache, scopes
        self._answers = Answers(cache, same_answer)
        self._flights: dict[Key, _Flight] = {}

    async def vector(self, question: Question, make: Callable[[], Awaitable[Array]]) -> Array:
        """Return the question's vector as one row."""

        async def made() -> Got:
            return Got(await make(), "computed")

        scope = replace(self._scopes.of_search(question), k=0, candidates=0, filter="")
        got = await self._once(question, "embed", Key(kind=Kind.embedding, scope=scope, text=question.text), made)
        return np.atleast_2d(got.value)

    async def retrieved(self, question: Question, make: Callable[[], Awaitable[Retrieved]]) -> Retrieved:
        """Return what is found."""

        async def made() -> Got:
            found = await make()
            value = {"ordinals": found.ordinals, "ranks": _ranks_plain(found.ranks), "partial": found.partial}
            value["late"] = found.late
            return Got({**value, "answered": found.answered, "shards": found.shards}, "computed", not found.partial)

        key = Key(kind=Kind.retrieval, scope=self._scopes.of_search(question), text=question.text)
        value = (await self._once(question, "retrieve", key, made)).value
        return Retrieved(
            ordinals=[int(one) for one in value["ordinals"]],
            ranks=_ranks_of(value["ranks"]),
            answered=value["answered"],
            shards=value["shards"],
            late=value.get("late", ""),
        )

    async def answer(
        self, question: Question, vector: Callable[[], Awaitable[Array]], make: Callable[[], Awaitable[Said]]
    ) -> Said:
        """Return the answer; one that was drawn by chance is nobody else's."""
        if question.temperature:
            return await make()
        looked = self._answers.exact(self._scopes.of_answer(question), question.text)
        if looked.got is None and self._cache.config.semantic:
            looked = self._answers.alike(looked.key, (await vector())[0])
        if looked.got is not None and (said := said_of(looked.got.value)):
            question.sources["answer"] = looked.got.source
            if looked.got.source == "files":
                question.kept_as = name_of(looked.got.value)
            return said
        return await self._made(question, looked, make)

    async def _made(self, question: Question, looked: Looked, make: Callable[[], Awaitable[Said]]) -> Said:
        own: list[Said] = []  # with the tokens that a model counted, which are nobody else's

        async def made() -> Got:
            own.append(await make())
            value = value_of(self._run, question.words, own[0])
            same = self._scopes.of_answer(question) == looked.key.scope  # a fleet may have another model by now
            kept = self._answers.keep(replace(looked, got=None), Got(value, "computed", same and not own[0].partial))
            return replace(kept, keep=False)

        got = await self._once(question, "answer", looked.key, made, looked=True)
        said = own[0] if own else said_of(got.value)
        return said or await make()

    async def _once(
        self, question: Question, step: str, key: Key, make: Callable[[], Awaitable[Got]], *, looked: bool = False
    ) -> Got:
        """Return what is there, or was made for another just now, or `make` returns. Raises Problem."""
        mine, flight = False, self._flights.setdefault(key, _Flight())
        flight.waiting += 1

        async def first() -> Got:
            nonlocal mine
            mine, flight.task = True, asyncio.current_task()
            return await make()

        waiting = asyncio.ensure_future(self._cache.once_async(key, first, looked=looked))
        try:
            await asyncio.wait({waiting}, timeout=max(0.0, question.until - time.monotonic()))
            if not waiting.done() and not mine:
                raise Problem(503, "deadline_exceeded", f"{step}: another's, which was waited for, is not done", 1.0)
            got = await waiting
        finally:
            waiting.cancel()
            flight.waiting -= 1
            if not flight.waiting:
                self._flights.pop(key, None)
                if flight.task:  # whoever asked went away: a model has others to answer
                    flight.task.cancel()
        if mine:
            return got
        if isinstance(got.value, dict) and got.value.get("partial"):  # of another's deadline, or of its cut stream
            return await make()
        question.sources[step] = got.source if got.hit else "joined"
        return got


def value_of(run: str, question: str, said: Said) -> dict[str, Any]:
    """Return an answer as it is kept: as `ask --json` and `serve warm` have it, and what a gateway says beside."""
    beside = {"coverage": said.coverage, "partial": said.partial, "finish_reason": said.finish_reason}
    return {**plain(run, question, said.answered), **beside, "fallback": said.fallback}


def said_of(value: Mapping[str, Any]) -> Said | None:
    """Return the answer again, whole but for the tokens it took; None for one of another version."""
    try:
        checks = [CitationCheck(**_named(CitationCheck, row)) for row in value["citations"]]
        quotes = [
            Quote(number=row["citation"], start=row["start"], end=row["end"], score=row["score"])
            for row in value["citations"]
            if row["score"] is not None
        ]
        answer = Answer(
            text=value["answer"],
            citations=list(dict.fromkeys(check.citation for check in checks)),
            found=value["found"],
            short=value["short"],
            quotes=quotes,
            score=value["score"],
        )
        passages = [Passage(**_named(Passage, row)) for row in value["passages"]]
        ranks = [
            {method: Place(place["rank"], place["score"]) for method, place in row["ranks"].items()}
            for row in value["passages"]
        ]
        return Said(
            answered=Answered(answer=answer, passages=passages, checks=checks, ranks=ranks),
            coverage=value["coverage"],
            partial=value.get("partial", False),
            finish_reason=value.get("finish_reason", "stop"),
            fallback=value.get("fallback", ""),
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _named(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _NAMES[kind]}


def _ranks_plain(ranks: list[dict[str, Place]]) -> list[dict[str, list[float]]]:
    return [{method: [place.rank, place.score] for method, place in one.items()} for one in ranks]


def _ranks_of(ranks: list[dict[str, list[float]]]) -> list[dict[str, Place]]:
    return [{method: Place(int(rank), score) for method, (rank, score) in one.items()} for one in ranks]
