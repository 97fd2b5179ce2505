"""Prompts by name, measured in the model's own tokens, and what has no room in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chatserver import model_like
from generators import FISH, SLURM, passage

from rag_hpc.algo.answer.answers import NOT_FOUND
from rag_hpc.algo.answer.prompt import build_prompt
from rag_hpc.config import compose
from rag_hpc.core.summary import in_and_out
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.generators.prompt import CHARS_PER_TOKEN, CHAT_TOKENS, Packer, PromptConfig
from rag_hpc.models.folder import model_folder
from rag_hpc.schema import from_plain

ENDPOINT = from_plain(GeneratorConfig, {"name": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"})

FOLDER = model_folder("minilm")  # of an encoder: its tokenizer counts as well as any


def prompt(**settings: Any) -> PromptConfig:
    return from_plain(PromptConfig, settings)


@pytest.mark.parametrize("name", ["cited", "short", "quoted"])
def test_prompts_are_chosen_by_name_and_keep_the_rules_first(name: str) -> None:
    asked = compose([f"prompt={name}"]).stage_config("generate").prompt
    first, second = asked.messages("Why {not_found}?", [FISH]), asked.messages("How?", [FISH, SLURM])
    assert asked.name == name and first[0] == second[0] and first[0]["content"].count(NOT_FOUND) == 1
    assert "never follow" in first[0]["content"] and "{" not in first[0]["content"]
    assert first[1]["content"].startswith('<passage n="1" title="fish">')
    assert first[1]["content"].endswith("Question: Why {not_found}?")


def test_the_default_is_what_is_built_without_settings() -> None:
    assert compose([]).prompt == PromptConfig()
    assert PromptConfig().messages("Why?", [FISH]) == build_prompt("Why?", [FISH])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"system": "Answer."}, "could not say that the passages hold"),
        ({"question": "Q:"}, r"\{question\} has to stand in it once"),
        ({"max_tokens": -1}, "prompt.max_tokens=-1: at least 0"),
        ({"order": "random"}, "document"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prompt(**settings)


def test_tokens_are_the_model_s_own_and_its_room_is_not_exceeded() -> None:
    from tokenizers import Tokenizer

    model = from_plain(GeneratorConfig, {"name": "transformers", "model": str(FOLDER), "max_tokens": 100})
    packer = Packer(prompt(max_tokens=0), model)
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    assert packer.count("Fish live " * 400) == count("Fish live " * 400) == 800
    many = [passage(f"{n} is a number among others of its kind. " * 4, chunk_id=f"{n}") for n in range(100)]
    kept, counts = packer.select("Which?", many)
    whole = sum(count(message["content"]) for message in PromptConfig().messages("Which?", kept))
    room = 512 - 100 - CHAT_TOKENS
    assert room - 70 < whole <= room  # another passage would take 60
    assert counts == {"passages_repeated": 0, "passages_over_budget": 100 - len(kept), "passages_cut": 0}
    assert kept == many[: len(kept)]


def test_without_a_tokenizer_characters_are_counted_and_it_is_said() -> None:
    packer = Packer(prompt(), ENDPOINT)
    assert packer.count("a" * CHARS_PER_TOKEN * 7) == 7
    assert packer.select("Why?", [FISH])[1]["prompts_counted_by_characters"] == 1
    exact = Packer(prompt(tokenizer=str(FOLDER)), ENDPOINT)
    assert "prompts_counted_by_characters" not in exact.select("Why?", [FISH])[1]


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, model_like(tmp_path / "m")):
        with pytest.raises(InputError, match=r"is no tokenizer .*set prompt\.tokenizer"):
            Packer(prompt(tokenizer=str(folder)), ENDPOINT)


def test_passages_of_a_document_can_stand_as_they_do_in_it() -> None:
    chosen = [passage("late", doc_id="b"), passage("early", doc_id="a"), passage("late", doc_id="a")]
    kept, counts = Packer(prompt(order="document"), ENDPOINT).select("Why?", chosen)
    assert [(one.doc_id, one.text) for one in kept] == [("a", "early"), ("b", "late")]
    assert counts["passages_repeated"] == 1


def test_what_is_wrong_with_answers_is_said_in_a_run_s_summary() -> None:
    class Found:
        def __init__(self, **extra: float) -> None:
            self._extra = extra

        def total(self, key: str) -> int:
            return 3

        def dropped(self) -> dict[str, int]:
            return {}

        def extra(self) -> dict[str, float]:
            return self._extra

    said = in_and_out(
        {
            "chunk": Found(),  # type: ignore[dict-item]
            "generate": Found(  # type: ignore[dict-item]
                citations=9, citations_misquoted=1, citations_weak=2, sentences_uncited=1, passages_over_budget=2
            ),
        },
        {},
    )
    assert said == (
        "3 documents kept, 0 rejected, 3 of 9 citations not borne out (weak 2, misquoted 1), "
        "1 answered sentence without a citation, 2 passages without room in a prompt"
    )
