"""What the cache saves on traffic with Zipf's law: how often each question is asked, and in whose words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.answer.prompt import Passage, build_prompt
from rag_hpc.core.record import pressure_cpu
from rag_hpc.eval.bench.cache import reworded
from rag_hpc.eval.bench.rows import Row
from rag_hpc.serve.cache.answers import Answers
from rag_hpc.serve.cache.cache import Cache, Got
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Scope
from rag_hpc.serve.cache.trial import Trial

if TYPE_CHECKING:
    from rag_hpc.eval.bench.cache.cache import Vectors

SCOPE = Scope(tenant="bench", generation="bench", k=5)
TRUSTED = 1000  # checks that held, of the time before
K, ANSWER_TOKENS = 5, 64  # passages of a prompt; tokens of an answer, for all alike


@dataclass(frozen=True)
class Asked:
    """The traffic: how many requests, Zipf's exponent, and the share that is asked in other words."""

    requests: int
    exponent: float
    share: float


def rows(
    questions: Sequence[tuple[str, str]],
    passages: Mapping[str, Sequence[str]],
    vectors: Vectors,
    asked: Asked,
    prices: tuple[float, float],
) -> list[Row]:
    """Return the rows: tokens saved by exact hits alone, with semantic ones on trial, and after it."""
    requests = stream([question for question, _ in questions], asked)
    vectors.add([text for _, text in requests])
    titles = dict(questions)
    used = sorted({of for of, _ in requests})
    prompts = {of: _prompt(of, passages[titles[of]][:K]) for of in used}
    tokens = dict(zip(used, vectors.encoder.num_tokens([prompts[of] for of in used]), strict=True))
    price_in, price_out = prices
    found = []
    for name in ("exact", "semantic", "semantic_trusted"):
        draw, config = np.random.default_rng(0).random, CacheConfig(semantic=name != "exact")
        cache = Cache(config, b"bench", draw=draw)
        if name == "semantic_trusted":
            cache.trial = Trial(config.max_error, config.verify_share, draw, checked=TRUSTED)
        answers = Answers(cache, lambda one, other: bool(one == other))
        hits, wrong, saved, all_tokens = 0, 0, 0, 0
        for of, text in requests:
            got = answers.answer(SCOPE, text, _vector(vectors, text), _made(of))
            cost = tokens[of] + ANSWER_TOKENS
            all_tokens += cost
            hits, saved, wrong = hits + got.hit, saved + got.hit * cost, wrong + (got.value["of"] != of)
        paid = sum(tokens[of] * price_in + ANSWER_TOKENS * price_out for of, _ in requests) / (1000 * len(requests))
        state, share = cache.trial.state, saved / all_tokens
        checked = state.checked - (TRUSTED if name == "semantic_trusted" else 0)
        notes = [
            f"{len(requests):,} requests from a cold start, {len(used):,} questions, Zipf {asked.exponent:g}",
            f"{asked.share:.0%} in other words; {hits / len(requests):.1%} hits",
            f"{wrong} with the answer of another question; {paid * share:.3f} of {paid:.3f} saved of 1,000 requests",
            f"at {price_in:g} and {price_out:g} a million tokens in and out",
            *([f"{checked} checked, serving {'on' if state.serving else 'off'}"] if name != "exact" else []),
        ]
        row = Row(name=f"cache.traffic.{name}", ours=share, unit="of the tokens saved", contention=pressure_cpu())
        row.note = ", ".join(notes)
        found.append(row)
    return found


def stream(questions: Sequence[str], asked: Asked, seed: int = 0) -> list[tuple[str, str]]:
    """Return (question, words it is asked in) of each request: the question of rank r comes with weight r^-exponent."""
    rng = np.random.default_rng(seed)
    ranked = [questions[at] for at in rng.permutation(len(questions))]
    weights = np.arange(1, len(ranked) + 1, dtype=np.float64) ** -asked.exponent
    drawn = rng.choice(len(ranked), size=asked.requests, p=weights / weights.sum())
    requests = []
    for at in drawn:
        question, text = ranked[at], None
        if rng.random() < asked.share:
            text = reworded.reworded(reworded.KINDS[rng.integers(len(reworded.KINDS))], question)
        requests.append((question, text or question))
    return requests


def _prompt(question: str, texts: Sequence[str]) -> str:
    passages = [Passage(chunk_id=str(n), doc_id=str(n), title="", text=text) for n, text in enumerate(texts)]
    return "\n".join(message["content"] for message in build_prompt(question, passages))


def _made(of: str) -> Any:
    return lambda: Got({"of": of}, "computed")


def _vector(vectors: Vectors, text: str) -> Any:
    return lambda: vectors.of(text)
