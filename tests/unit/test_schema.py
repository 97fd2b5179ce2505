"""Plain values to checked dataclasses and back."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rag_hpc.errors import ConfigError
from rag_hpc.generators.config import GeneratorName
from rag_hpc.schema import explain, from_plain, to_plain
from rag_hpc.sources.base import CorpusConfig, SourceName
from rag_hpc.stages.chunk import ChunkConfig
from rag_hpc.stages.clean import CleanConfig
from rag_hpc.stages.generate import GenerateConfig
from rag_hpc.stages.registry import STAGES, stage_class


@pytest.mark.parametrize("stage", STAGES)
def test_defaults_survive_json_and_back(stage: str) -> None:
    schema = stage_class(stage).Config
    plain = to_plain(schema())
    assert from_plain(schema, json.loads(json.dumps(plain))) == schema()
    assert to_plain(from_plain(schema, plain)) == plain


def test_enums_and_nested_settings_are_names_and_dicts() -> None:
    plain = to_plain(from_plain(GenerateConfig, {"k": 2, "generator": {"name": "extractive"}}))
    assert plain["k"] == 2 and plain["generator"]["name"] == "extractive"
    assert from_plain(GenerateConfig, plain).generator.name is GeneratorName.extractive
    assert from_plain(CorpusConfig, {"source": "beir"}).source is SourceName.beir


def test_values_are_converted_to_their_type_or_refused() -> None:
    assert from_plain(ChunkConfig, {"max_tokens": "64"}).max_tokens == 64
    with pytest.raises(ConfigError, match=r"(?s)ChunkConfig: Value 'many'.*See all keys: rag-hpc run --cfg job"):
        from_plain(ChunkConfig, {"max_tokens": "many"})


def test_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)ChunkConfig: .*max_token.*See all keys"):
        from_plain(ChunkConfig, {"max_token": 64})


def test_unknown_choice_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"(?s)ftp.*site.*warc.*files.*beir.*pydoc"):
        from_plain(CorpusConfig, {"source": "ftp"})


def test_a_single_value_for_a_list_is_told_how_lists_are_written() -> None:
    with pytest.raises(ConfigError, match=r"(?s)quality.*A list is written in brackets: KEY=\[VALUE,VALUE\]"):
        from_plain(CleanConfig, {"quality": "gopher"})


def test_rule_across_fields_keeps_its_own_message() -> None:
    with pytest.raises(ConfigError, match=r"^stage.chunk.max_tokens=3: at least 16; try 254$"):
        from_plain(ChunkConfig, {"max_tokens": 3})


def test_explanation_adds_the_cause_once() -> None:
    with pytest.raises(OmegaConfBaseException) as error:
        OmegaConf.merge(OmegaConf.structured(ChunkConfig), {"model": [1]})
    assert explain(error.value).endswith("See all keys: rag-hpc run --cfg job")
    told = ValueError("outer")
    told.__cause__ = ValueError("inner")
    assert explain(told).splitlines()[:2] == ["outer", "inner"]
    told.__cause__ = ValueError("oute")
    assert explain(told).splitlines()[0] == "outer" and len(explain(told).splitlines()) == 2
