"""What every generator owes: swapped by one word, the same answer again, threads, a stop that is heard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chatserver import ChatServer, fake_vllm
from generators import FISH, NO_VLLM, SLURM, VLLM_PYTHON, by_words, passage, tiny_llama

from rag_hpc.algo.answer.answers import NOT_FOUND
from rag_hpc.algo.answer.cite import parse_citations
from rag_hpc.errors import Interrupted
from rag_hpc.generators.base import Generator
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.registry import GENERATORS, Given, get_generator
from rag_hpc.schema import from_plain

Made = Callable[..., contextlib.AbstractContextManager[Generator]]
KINDS = ("extractive", "openai", "vllm", "real-vllm", "transformers")
ASKED = (
    ("What is the default time limit?", [FISH, SLURM]),
    ("Where do fish live? 鱼", [FISH, passage("鱼生活在水里。")]),
)


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "real-vllm" and not VLLM_PYTHON:
        pytest.skip(NO_VLLM)
    return str(request.param)


@pytest.fixture(scope="module")
def made(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """What makes a generator of the kind; of real servers, which take a minute to start, one serves all tests."""
    folder = tmp_path_factory.mktemp("g")

    @contextlib.contextmanager
    def make(check_stop: Callable[[], None] = lambda: None, delay_s: float = 0.0) -> Iterator[Generator]:
        with contextlib.ExitStack() as stack:
            settings: dict[str, Any] = {"name": kind.removeprefix("real-"), "max_tokens": 24}
            if kind == "openai":
                settings |= {"base_url": stack.enter_context(ChatServer(delay_s=delay_s)).url, "model": "m"}
            elif kind != "extractive":
                settings |= {"model": str(tiny_llama())}
            if kind == "vllm":
                settings["vllm"] = {"python": fake_vllm(folder, delay_s=delay_s)}
            if kind == "real-vllm":
                settings["vllm"] = {"python": VLLM_PYTHON, "enforce_eager": True, "kv_cache_gib": 1}
            if delay_s:
                settings["max_tokens"] = 4000  # of a model that says nonsense for as long as it may
            config = from_plain(GeneratorConfig, settings)
            given = Given(load=lambda: by_words, check_stop=check_stop, scratch=folder)
            yield stack.enter_context(contextlib.closing(get_generator(config, given)))

    if kind != "real-vllm":
        yield make
        return
    with make() as server:
        yield lambda *given, **more: contextlib.nullcontext(server)


def test_answers_are_the_same_again_and_cite_passages_that_there_are(made: Made) -> None:
    with made() as generator:
        for question, passages in ASKED:
            first, again = (generator.generate(question, passages) for _ in range(2))
            assert first == again
            assert first.found is (first.text != NOT_FOUND) and first.text
            known = {n for n in parse_citations(first.text) if n <= len(passages)}
            assert set(first.citations) == known if first.found else not first.citations


def test_without_passages_nothing_is_found(made: Made) -> None:
    with made() as generator:
        answer = generator.generate("Where do fish live?", [])
    assert (answer.text, answer.found, answer.counts) == (NOT_FOUND, False, {})


def test_many_threads_get_the_answers_of_one(made: Made) -> None:
    with made() as generator:
        asked = [(f"{question} {n}", passages) for n in range(4) for question, passages in ASKED]
        alone = [generator.generate(*one) for one in asked]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda one: generator.generate(*one), asked)) == alone


def test_tokens_are_counted_by_those_that_have_any(made: Made, kind: str) -> None:
    with made() as generator:
        counts = generator.generate(*ASKED[0]).counts
    if kind != "extractive":
        assert counts["prompt_tokens"] > 20 and 0 < counts["answer_tokens"] <= 24 and counts["answers_cut"] in (0, 1)


def test_a_stop_is_heard_while_the_answer_is_made(made: Made, kind: str) -> None:
    if kind in ("extractive", "real-vllm"):
        pytest.skip("never waits" if kind == "extractive" else "one server serves all tests, and stops for none")
    end = [float("inf")]

    def check_stop() -> None:
        if time.monotonic() > end[0]:
            raise Interrupted("stopped")

    with made(check_stop, delay_s=3.0) as generator:
        end[0] = begun = time.monotonic()
        with pytest.raises(Interrupted, match="stopped"):
            generator.generate(*ASKED[0])
        assert time.monotonic() - begun < 2.8


def test_closing_twice_is_closing_once(made: Made, kind: str, tmp_path: Path) -> None:
    if kind == "real-vllm":
        pytest.skip("one server serves all tests")
    with made() as generator:
        generator.close()


def test_every_known_name_has_a_generator() -> None:
    assert set(GENERATORS) == set(GeneratorName) and {name.value for name in GeneratorName} <= set(KINDS)
