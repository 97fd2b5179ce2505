"""Composition: defaults, overrides, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_hpc.config import ClusterConfig, check, compose
from rag_hpc.errors import ConfigError
from rag_hpc.launchers.verbs import default_name, make_request, sweep_points, sweep_requests
from rag_hpc.schema import from_plain, to_plain
from rag_hpc.sources.base import CorpusConfig, SourceName
from rag_hpc.stages.encode import EncodeConfig, Precision


def test_the_default_is_the_embedded_corpus_on_this_machine() -> None:
    config = compose([])
    assert config.corpus.source is SourceName.pydoc
    assert config.cluster.launcher.value == "local"
    assert config.pipeline.name == "cluster"


def test_overrides_reach_the_dataclasses() -> None:
    config = compose(["corpus=files", "corpus.path=/d", "stage.encode.precision=bfloat16", "workers=7"])
    assert config.corpus.path == "/d"
    assert config.stage.encode.precision is Precision.bfloat16
    assert config.num_workers == 7


def test_stages_share_the_encoder_and_the_corpus_by_interpolation() -> None:
    config = compose(["corpus=beir", "corpus.path=/d", "stage.encode.model=/m"])
    assert config.stage.chunk.model == "/m"
    assert config.stage.queries.model == "/m"
    assert config.stage.queries.path == "/d"
    assert config.stage.queries.source is SourceName.beir


def test_the_baseline_has_one_shard_and_one_worker() -> None:
    config = compose(["pipeline=baseline"])
    assert config.num_workers == 1
    assert config.stage.lexical.num_shards == 1
    assert "vectors.build" not in config.pipeline.stages


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stage.dedup.treshold=0.5", "treshold"),
        ("corpus=nosuch", "nosuch"),
        ("stage.encode.precision=int3", "int3"),
        ("workers=many", "many"),
        ("workers=0", "at least 1"),
        ("stage.encode.tokens_per_batch=3", "at least 512"),
        ("stage.chunk.overlap_tokens=200", "half of max_tokens"),
        ("stage.dedup.threshold=1.5", "between 0"),
        ("generator=openai", "base_url"),
    ],
)
def test_bad_overrides_are_refused_by_name(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose([override])


def test_an_unknown_choice_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as error:
        compose(["corpus=nosuch"])
    assert "pydoc" in str(error.value)
    assert "beir" in str(error.value)


def test_a_line_break_cannot_reach_a_job_script() -> None:
    with pytest.raises(ConfigError, match="line break"):
        ClusterConfig(account="a\n#SBATCH --uid=0")


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", "", "a;b"])
def test_a_run_name_is_a_plain_folder_name(name: str) -> None:
    with pytest.raises(ConfigError, match="letters"):
        compose([f"run='{name}'"])


def test_a_site_adds_its_own_cluster_file(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mysite.yaml").write_text("name: mysite\nlauncher: slurm\naccount: proj1\n")
    config = compose(["cluster=mysite"], tmp_path)
    assert (config.cluster.name, config.cluster.account, config.cluster.qos) == ("mysite", "proj1", None)


def test_a_conf_folder_here_does_not_shadow_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("workers: 99\n")
    monkeypatch.chdir(tmp_path)
    assert compose([]).workers is None


def test_plain_values_come_back_as_the_same_config() -> None:
    config = EncodeConfig(precision=Precision.bfloat16, rows_per_unit=10)
    assert from_plain(EncodeConfig, to_plain(config)) == config


def test_plain_values_with_an_unknown_key_are_refused() -> None:
    with pytest.raises(ConfigError, match="CorpusConfig"):
        from_plain(CorpusConfig, {"nope": 1})


def test_the_same_request_has_the_same_name_and_another_has_another() -> None:
    def name(*overrides: str) -> str:
        config = compose(list(overrides))
        return default_name(config, make_request(config).settings)

    assert name() == name()
    assert name("workers=9") == name()
    assert name("stage.dedup.threshold=0.7") != name()


def test_a_pipeline_whose_stage_lacks_its_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="clean needs crawl"):
        check(compose(["pipeline.stages=[clean]"]))


def test_a_pipeline_with_a_stage_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="crawl stands there twice"):
        check(compose(["pipeline.stages=[crawl,crawl]"]))


@pytest.mark.parametrize("setting", ["delay_s=nan", "delay_s=inf", "timeout_s=nan", "latency_s=-1", "max_ratio=nan"])
def test_a_wait_that_is_no_number_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0]):
        compose([f"corpus.{setting}"])


def test_passages_longer_than_the_encoder_reads_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_tokens=254"):
        check(compose(["stage.chunk.max_tokens=510"]))


def test_an_unknown_measure_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match="nDGC"):
        check(compose(["stage.evaluate.measures=[nDGC@10]"]))


def test_a_sweep_is_the_product_of_its_lists() -> None:
    points = sweep_points(["workers=1,2", "corpus=files,pydoc", "max_attempts=3"])
    assert len(points) == 4
    assert ["workers=2", "corpus=files", "max_attempts=3"] in points


def test_lists_and_broken_overrides_are_no_sweep() -> None:
    for overrides in (["corpus.seeds=[a,b]", "workers=2"], ["corpus.path=[a"], []):
        assert sweep_points(overrides) == [overrides]


def test_points_that_differ_in_workers_alone_get_names_of_their_own() -> None:
    def names(*overrides: str) -> list[str]:
        return [request.run for request in sweep_requests([compose(point) for point in sweep_points(list(overrides))])]

    (alone,) = names("workers=2")
    assert names("workers=1,2,4") == [f"{alone}-w{p}" for p in (1, 2, 4)]
    assert names("run=a,b", "workers=1,2") == ["a-w1", "a-w2", "b-w1", "b-w2"]
    assert names("run=a,b") == ["a", "b"]
    with pytest.raises(ConfigError, match="several points of run=mine-w2"):
        names("run=mine", "corpus.max_pages=1,2")


def test_paths_are_made_absolute_since_jobs_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "q.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    config = compose(["corpus=files", "corpus.path=docs/*.md", "corpus.questions=q.jsonl", "stage.encode.model=model"])
    assert config.corpus.path == str(tmp_path / "docs/*.md")
    assert config.stage.queries.path == config.corpus.path
    assert config.stage.queries.questions == str(tmp_path / "q.jsonl")
    assert config.stage.chunk.model == str(tmp_path / "model")


def test_rounds_of_a_site_are_stages_of_their_own() -> None:
    config = compose(["corpus=site", "corpus.rounds=3", "pipeline.stages=[crawl,clean]"])
    assert config.stages == ["crawl", "crawl.2", "crawl.3", "clean"]
    assert config.stage_config("crawl.3") is config.corpus
    assert compose(["corpus=files", "corpus.rounds=3", "pipeline.stages=[crawl]"]).stages == ["crawl"]


@pytest.mark.parametrize(("override", "remedy"), [
    ("corpus.rounds=9", "between 1 and 8"), ("corpus.allow=['(']", "no regular expression"),
    ("+corpus.resolve={a: localhost}", "no address:port"), ("corpus.hosts_per_unit=0", "hosts_per_unit >= 1")])
def test_wrong_settings_of_a_crawl_are_told_with_a_remedy(override: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        compose(["corpus=site", override])
