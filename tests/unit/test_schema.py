"""Plain values to checked dataclasses and back."""

from __future__ import annotations

import json
import re

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rag_hpc import schema
from rag_hpc.config import compose
from rag_hpc.errors import ConfigError
from rag_hpc.generators.config import GeneratorName
from rag_hpc.schema import explain, from_plain, to_plain
from rag_hpc.sources.base import SourceName
from rag_hpc.sources.crawl.config import SiteConfig
from rag_hpc.sources.registry import config_class
from rag_hpc.stages.chunk import ChunkConfig
from rag_hpc.stages.clean import CleanConfig
from rag_hpc.stages.generate import GenerateConfig
from rag_hpc.stages.registry import STAGES, make_stage, stage_class

CONFIGS = [
    *(config_class(name) for name in SourceName.__members__),
    *(stage_class(name).Config for name in STAGES if name != "crawl"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_survive_json_and_back(config: type) -> None:
    plain = to_plain(config())
    assert from_plain(config, json.loads(json.dumps(plain))) == config()
    assert to_plain(from_plain(config, plain)) == plain


def test_enums_and_nested_settings_are_names_and_dicts() -> None:
    plain = to_plain(from_plain(GenerateConfig, {"k": 2, "generator": {"name": "extractive"}}))
    assert plain["k"] == 2 and plain["generator"]["name"] == "extractive"
    assert from_plain(GenerateConfig, plain).generator.name is GeneratorName.extractive
    assert make_stage("crawl", {"source": "beir"}).config.source is SourceName.beir


def test_values_are_converted_to_their_type_or_refused() -> None:
    assert from_plain(ChunkConfig, {"max_tokens": "64"}).max_tokens == 64
    with pytest.raises(ConfigError, match=r"(?s)ChunkConfig: Value 'many'.*See all keys: rag-hpc run --cfg job"):
        from_plain(ChunkConfig, {"max_tokens": "many"})


def test_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)ChunkConfig: .*max_token.*See all keys"):
        from_plain(ChunkConfig, {"max_token": 64})


def test_unknown_choice_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"(?s)ftp.*site.*warc.*files.*beir.*pydoc"):
        make_stage("crawl", {"source": "ftp"})


def test_a_single_value_for_a_list_is_told_how_lists_are_written() -> None:
    with pytest.raises(ConfigError, match=r"(?s)quality.*A list is written in brackets: KEY=\[VALUE,VALUE\]"):
        from_plain(CleanConfig, {"quality": "gopher"})


def test_rule_across_fields_keeps_its_own_message() -> None:
    with pytest.raises(ConfigError, match=r"^stage.chunk.max_tokens=3: at least 16; try 254$"):
        from_plain(ChunkConfig, {"max_tokens": 3})


def test_a_value_that_needs_quotes_is_told_how_they_are_written() -> None:
    with pytest.raises(ConfigError, match="quotes of its own, inside") as error:
        compose(["corpus=site", "corpus.allow=[^https?://h/(a|b)]"])
    (hint,) = re.findall("'(corpus.*)'", str(error.value))
    assert compose(["corpus=site", hint]).corpus.allow == ["^https?://h/(a|b)"]
    config = compose(["corpus=site", "+corpus.resolve={*.web.test: 127.0.0.1:8080}"])
    assert config.corpus.resolve == {"*.web.test": "127.0.0.1:8080"}


@pytest.mark.parametrize("config", CONFIGS)
def test_what_a_plan_holds_is_taken_as_it_stands_with_the_same_outcome_as_by_omegaconf(config: type) -> None:
    plain = json.loads(json.dumps(to_plain(config())))
    assert plain == OmegaConf.to_container(OmegaConf.structured(config()), resolve=True, enum_to_str=True)
    found = schema._exact(config, plain)
    assert found == schema._converted(config, plain)
    for name, value in vars(found).items():
        assert type(value) is type(getattr(config(), name))


def test_what_is_not_a_plain_value_of_its_type_goes_through_omegaconf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_HPC_TEST_NAME", "web")
    for values, name in (
        ({"name": "${oc.env:RAG_HPC_TEST_NAME}"}, "web"),
        ({"delay_s": 2}, "corpus"),
        ({"max_pages": "7"}, "corpus"),
        ({"allow": ("a",)}, "corpus"),
    ):
        with pytest.raises(schema._NotExact):
            schema._exact(SiteConfig, values)
        found = from_plain(SiteConfig, values)
        assert found.name == name and isinstance(found.delay_s, float) and isinstance(found.max_pages, int)


def test_explanation_adds_the_cause_once() -> None:
    with pytest.raises(OmegaConfBaseException) as error:
        OmegaConf.merge(OmegaConf.structured(ChunkConfig), {"model": [1]})
    assert explain(error.value).endswith("See all keys: rag-hpc run --cfg job")
    told = ValueError("outer")
    told.__cause__ = ValueError("inner")
    assert explain(told).splitlines()[:2] == ["outer", "inner"]
    told.__cause__ = ValueError("oute")
    assert explain(told).splitlines()[0] == "outer" and len(explain(told).splitlines()) == 2
