"""Answers by their questions: of the same words, or of other words that ask the same.

A semantic hit passes two gates: the questions have one signature (`algo.text.alike`), and the cosine of their vectors
is at least `cache.min_cosine`. So the question to compare with is looked up by its signature, in any level, and not
searched for. A trial (`trial.py`) says whether such hits are served at all. D dimensions.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rag_hpc.algo.text.alike import signature
from rag_hpc.algo.types import Array
from rag_hpc.serve.cache.cache import Cache, Got
from rag_hpc.serve.cache.entry import Key, Kind, Scope

Vector = Callable[[], Array]  # of the question, made when it is needed


@dataclass(frozen=True)
class Looked:
    """What the cache says to a question: `got` is to be served; else it is answered, and given to `keep` with this."""

    key: Key
    got: Got | None = None
    unsure: Got | None = None  # a semantic hit that is to be checked: its answer is compared with the one made
    vector_D: Array | None = None


class Answers:
    """The answers in a cache."""

    def __init__(self, cache: Cache, same: Callable[[Any, Any], bool]) -> None:
        """same: whether two answers say the same; it judges the semantic hits that are checked."""
        self._cache, self._same = cache, same

    def look(self, scope: Scope, question: str, vector: Vector) -> Looked:
        """Return what is there for a question."""
        looked = self.exact(scope, question)
        return looked if looked.got or not self._cache.config.semantic else self.alike(looked.key, vector())

    def exact(self, scope: Scope, question: str) -> Looked:
        """Return what is there for a question of the same words."""
        key = Key(kind=Kind.answer, scope=scope, text=question)
        return Looked(key, self._cache.get(key))

    def keep(self, looked: Looked, got: Got) -> Got:
        """Keep an answer that was made, and return it; one that is not for others is not kept, nor does it judge."""
        if not got.keep:
            return got
        if looked.unsure is not None:
            self._cache.trial.record(same=self._same(looked.unsure.value, got.value))
        self._cache.put(looked.key, got.value)
        if looked.vector_D is not None:
            self._cache.put(_alike(looked.key), _record(looked.key.text, looked.vector_D))
        return got

    def answer(self, scope: Scope, question: str, vector: Vector, make: Callable[[], Got]) -> Got:
        """Return the answer that is there, else the one that `make` returns, kept; equal requests at once make one."""
        looked = self.look(scope, question, vector)
        if looked.got is not None:
            return looked.got
        return self._cache.once(looked.key, lambda: replace(self.keep(looked, make()), keep=False))

    async def answer_async(
        self, scope: Scope, question: str, vector: Vector, make: Callable[[], Awaitable[Got]]
    ) -> Got:
        """Return as `answer` does, for tasks of one event loop; the vector is made in a thread."""
        looked = await asyncio.to_thread(self.look, scope, question, vector)
        if looked.got is not None:
            return looked.got

        async def kept() -> Got:
            return replace(self.keep(looked, await make()), keep=False)

        return await self._cache.once_async(looked.key, kept, looked=True)

    def alike(self, key: Key, vector_D: Array) -> Looked:
        """Return what is there for a question in other words, once `exact` found nothing."""
        counts, by = self._cache.counts, _alike(key)
        vector_D = np.asarray(vector_D, dtype=np.float32).ravel()
        found = self._cache.get(by) if by.text else None
        before = _read(found.value) if found else None
        if before is None:
            return Looked(key, vector_D=vector_D if by.text else None)
        question, theirs_D = before
        cosine = _cosine(vector_D, theirs_D)
        if cosine < self._cache.config.min_cosine:
            counts["semantic_far"] += 1
            return Looked(key)  # the one that is there keeps its place
        answered = self._cache.get(replace(key, text=question))
        if answered is None:
            return Looked(key, vector_D=vector_D)
        got = Got(answered.value, "alike", question=question, cosine=cosine)
        if self._cache.trial.serves():
            counts["semantic_hit"] += 1
            return Looked(key, got)
        counts["semantic_checked"] += 1
        return Looked(key, unsure=got)


def same_answer(one: Any, other: Any) -> bool:
    """Return whether two answers, as `rag-hpc ask --json` gives them, say the same: in full, in short, or nothing."""
    if bool(one.get("found", True)) != bool(other.get("found", True)):
        return False
    short, short2 = (" ".join(str(answer.get("short", "")).casefold().split()) for answer in (one, other))
    return not one.get("found", True) or one.get("answer") == other.get("answer") or short == short2 != ""


def _alike(key: Key) -> Key:
    return replace(key, kind=Kind.alike, text=signature(key.text))


def _record(question: str, vector_D: Array) -> dict[str, str]:
    return {"question": question, "vector": base64.b64encode(vector_D.astype("<f2").tobytes()).decode()}


def _read(value: Any) -> tuple[str, Array] | None:
    """Return the question and its vector, None for a record of another version."""
    try:
        vector_D = np.frombuffer(base64.b64decode(value["vector"]), dtype="<f2").astype(np.float32)
        return str(value["question"]), vector_D
    except (ValueError, TypeError, LookupError):
        return None


def _cosine(one_D: Array, other_D: Array) -> float:
    """Return the cosine; -1 where the vectors are not of one encoder, or one is null."""
    if one_D.shape != other_D.shape:
        return -1.0
    length = float(np.linalg.norm(one_D) * np.linalg.norm(other_D))
    return float(one_D @ other_D) / length if length else -1.0
