"""RAGAS as a judge: its prompts and arithmetic, our client to the model that judges.

Each request of RAGAS is noted down, so that no attempt asks again what an earlier one was told. A score that could not
be had is undetermined, with a reason; it is no number. Source: Es 2024 (RAGAS).
"""

from __future__ import annotations

import importlib.util
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_hpc.core.hashing import hash_value
from rag_hpc.core.settings import DAY_S, bounded, check_address, check_bounds, path_field
from rag_hpc.errors import ClusterError, ConfigError, MissingDependency
from rag_hpc.generators.chat import Chat
from rag_hpc.generators.replay import Journal
from rag_hpc.models.endpoint import How, Refused, Unreachable
from rag_hpc.stores.judged import NO_CONTEXT, NO_REFERENCE, UNANSWERED

GROUP = "stage.judge"
FAITHFULNESS, RELEVANCY = "faithfulness", "answer_relevancy"
PRECISION, RECALL = "context_precision", "context_recall"
METRICS = (FAITHFULNESS, RELEVANCY, PRECISION, RECALL)
OF_ANSWERS = (FAITHFULNESS, RELEVANCY)  # they need an answer, the others a reference
REFUSED, NO_TEXT, NOT_THE_FORM, NO_NUMBER = "refused", "no-text", "not-the-form", "no-number"
Embed = Callable[[Sequence[str]], Any]  # N texts to vectors_ND


@dataclass(kw_only=True)
class JudgeConfig:
    """Settings of the judge: a model behind an endpoint."""

    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    base_url: str = ""  # e.g. http://127.0.0.1:8000/v1
    model: str = ""  # its name there
    api_key_env: str = ""  # name of the variable that holds the key
    api_key_file: str = path_field("")  # a file that only its owner can read
    encoder: str = path_field("minilm", only="folder")  # of answer_relevancy, which compares questions by vectors
    labels: str = path_field("")  # JSONL of samples that people have judged: is the judge of their mind?
    max_tokens: int = bounded(1024, 16)  # of a reply
    temperature: float = bounded(0.0, 0.0, 2.0)
    seed: int = bounded(0, 0, (1 << 31) - 1)
    schema: bool = True  # ask the server to hold the model to RAGAS's JSON schema (response_format)
    concurrency: int = bounded(8, 1, 1024, output=False)  # samples at a time, of a worker
    timeout_s: float = bounded(120.0, 0.001, DAY_S, output=False)

    def __post_init__(self) -> None:
        check_bounds(self, GROUP)
        check_address(self.base_url, GROUP)
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(f"{GROUP}.metrics={self.metrics}: some of {', '.join(METRICS)}, each once")

    def require(self) -> None:
        """Raise ConfigError, before anything is queued, where no judge is named or RAGAS is not installed."""
        if not (self.base_url and self.model):
            raise ConfigError(f"judge: set {GROUP}.base_url (e.g. http://127.0.0.1:8000/v1) and {GROUP}.model")
        if importlib.util.find_spec("ragas") is None:
            raise MissingDependency("judge: RAGAS is not installed; run: pip install 'rag-hpc[eval]'")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is judged. answer: without its citations, "" where none was found; reference: "" where none is known."""

    sample_id: str
    question: str
    answer: str
    contexts: list[str]
    reference: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Scores of a sample by metric, 0 to 1; those that are None have a reason."""

    sample_id: str
    scores: dict[str, float | None]
    reasons: dict[str, str]
    counts: dict[str, int]  # of tokens


class RagasJudge:
    """Scores samples, from any number of threads."""

    def __init__(self, config: JudgeConfig, journal: Journal, embed: Embed, check_stop: Callable[[], None]) -> None:
        """embed: texts to vectors, one thread at a time."""
        self._config, self._journal, self._embed = config, journal, embed
        how = How(
            too_long=f"the prompt may be longer than the judge takes; lower stage.generate.k or {GROUP}.max_tokens"
        )
        self._chat = Chat(config, GROUP, check_stop, how)
        self._encoding = threading.Lock()
        self._ragas = load_ragas()

    def judge(self, sample: Sample) -> Judged:
        """Return the scores of a sample. Raises Unreachable, and InputError where the judge refuses all requests."""
        scores: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for name in self._config.metrics:
            scores[name], reason = None, _not_asked(name, sample)
            if not reason:
                scores[name], reason = self._score(name, sample, counts)
            if reason:
                reasons[name] = reason
        return Judged(sample_id=sample.sample_id, scores=scores, reasons=reasons, counts=dict(counts))

    def _score(self, name: str, sample: Sample, counts: Counter[str]) -> tuple[float | None, str]:
        import pydantic

        asks = self._ragas.llm(_Asks(self._chat, self._journal, self._config, counts).fill)
        try:
            value = self._ragas.score(
                name, sample, asks, self._vectors, strictness=3 if self._config.temperature else 1
            )
        except Refused:
            return None, REFUSED
        except Unreachable:
            raise
        except ClusterError:
            return None, NO_TEXT
        except pydantic.ValidationError:
            return None, NOT_THE_FORM
        # average precision is divided by a sum plus 1e-10: a little below 1 where it is 1
        value = round(value, 6)
        return (value, "") if math.isfinite(value) and 0 <= value <= 1 else (None, NO_NUMBER)

    def _vectors(self, texts: Sequence[str]) -> Any:
        with self._encoding:
            return self._embed(texts)


class _Asks:
    """The requests of one score. A prompt that comes again is asked with another seed."""

    def __init__(self, chat: Chat, journal: Journal, config: JudgeConfig, counts: Counter[str]) -> None:
        self._chat, self._journal, self._config, self._counts = chat, journal, config, counts
        self._times: Counter[str] = Counter()

    def fill(self, prompt: str, form: Any) -> Any:
        """Return RAGAS's form as the judge fills it. Raises ValidationError for what does not fit it."""
        schema = form.model_json_schema()
        seed = self._config.seed + self._times[prompt]
        self._times[prompt] += 1
        asked: dict[str, Any] = {"seed": seed}
        if self._config.schema:
            named = {"name": form.__name__, "schema": schema}
            asked["response_format"] = {"type": "json_schema", "json_schema": named}
        config = self._config
        key = hash_value([config.base_url, config.model, config.temperature, config.max_tokens, prompt, asked])
        told = self._journal.find(key)
        if told is None:
            text, counts = self._chat.say([{"role": "user", "content": prompt}], config.max_tokens, **asked)
            told = {"text": text, "counts": counts}
            self._journal.note(key, told)
        self._counts.update(told["counts"])
        return form.model_validate_json(_json_in(told["text"]))


def _not_asked(name: str, sample: Sample) -> str:
    if name in OF_ANSWERS and not sample.answer:
        return UNANSWERED
    if name not in OF_ANSWERS and not sample.reference:
        return NO_REFERENCE
    return NO_CONTEXT if name != RELEVANCY and not sample.contexts else ""


def _json_in(text: str) -> str:
    """Return what stands between the first brace and the last: some models put a fence around it, or words before."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


class _Ragas:
    """The part of RAGAS that is used."""

    def __init__(self) -> None:
        import asyncio  # which planning a run does without

        names = ("ragas.llms.base", "ragas.embeddings.base", "ragas.metrics.collections")
        llms, embeddings, self._metrics = map(importlib.import_module, names)  # untyped, and not always there
        base_llm: Any = llms.InstructorBaseRagasLLM
        base_embedding: Any = embeddings.BaseRagasEmbedding

        class Llm(base_llm):  # type: ignore[misc]
            def __init__(self, fill: Callable[[str, Any], Any]) -> None:
                self._fill = fill

            def generate(self, prompt: str, response_model: Any) -> Any:
                return self._fill(prompt, response_model)

            async def agenerate(self, prompt: str, response_model: Any) -> Any:
                return await asyncio.to_thread(self._fill, prompt, response_model)

        class Embeddings(base_embedding):  # type: ignore[misc]
            def __init__(self, embed: Embed) -> None:
                super().__init__()
                self._embed = embed

            def embed_text(self, text: str, **_: Any) -> list[float]:
                vector: list[float] = self._embed([text])[0].tolist()
                return vector

            async def aembed_text(self, text: str, **more: Any) -> list[float]:
                return await asyncio.to_thread(self.embed_text, text, **more)

        self.llm, self._embeddings = Llm, Embeddings

    def score(self, name: str, sample: Sample, llm: Any, embed: Embed, strictness: int) -> float:
        """Return a metric of a sample, NaN where RAGAS says so."""
        import asyncio

        asked: dict[str, Any] = {"user_input": sample.question}
        metric: Any
        if name == RELEVANCY:
            metric = self._metrics.AnswerRelevancy(llm, self._embeddings(embed), strictness=strictness)
            asked |= {"response": sample.answer}
        elif name == FAITHFULNESS:
            metric = self._metrics.Faithfulness(llm)
            asked |= {"response": sample.answer, "retrieved_contexts": sample.contexts}
        else:
            kinds = {PRECISION: self._metrics.ContextPrecisionWithReference, RECALL: self._metrics.ContextRecall}
            metric = kinds[name](llm)
            asked |= {"reference": sample.reference, "retrieved_contexts": sample.contexts}
        return float(asyncio.run(metric.ascore(**asked)).value)


def load_ragas() -> Any:
    """Return what is used of RAGAS, which tells nobody that it is used. Raises MissingDependency."""
    os.environ["RAGAS_DO_NOT_TRACK"] = "true"  # read when it is imported
    try:
        return _Ragas()
    except ImportError as error:
        raise MissingDependency(
            f"judge: RAGAS is not installed, or not whole ({error}); run: pip install 'rag-hpc[eval]'"
        ) from error
