"""Composition: defaults, overrides, what is refused and with which words."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from rag_hpc.config import check, compose
from rag_hpc.core.stage import output_config
from rag_hpc.errors import ConfigError, MissingDependency
from rag_hpc.launchers.request import default_name, make_request, sweep_points, sweep_requests
from rag_hpc.schema import from_plain, to_plain
from rag_hpc.slurm.cluster import ClusterConfig
from rag_hpc.sources.base import SourceName
from rag_hpc.sources.files.beir import BeirConfig
from rag_hpc.sources.registry import SOURCES, config_class
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


def test_the_served_pipeline_reads_the_best_of_both_lists_and_says_what_it_needs() -> None:
    config = compose(["pipeline=served", "stage.rerank.model=/m", "stage.rerank.depth=30"])
    stage = config.stage
    assert (stage.retrieve.depth, stage.rerank.depth, stage.generate.k) == (100, 30, 10)
    assert compose(["pipeline=served"]).stage.rerank.depth == 50
    with pytest.raises(ConfigError, match=r"pipeline=served: set stage\.rerank\.model"):
        check(compose(["pipeline=served"]))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stage.dedup.treshold=0.5", "treshold"),
        ("corpus=nosuch", "nosuch"),
        ("stage.encode.precision=int3", "int3"),
        ("stage.retrieve.method=dence", "did you mean dense\\?"),
        ("stage.lexical.fields=[titel]", "did you mean title\\?"),
        ("workers=many", "many"),
        ("workers=0", "at least 1"),
        ("stage.encode.tokens_per_batch=3", "at least 512"),
        ("stage.chunk.overlap_tokens=200", "half of max_tokens"),
        ("stage.dedup.threshold=1.5", "between 0"),
        ("generator=openai", "base_url"),
        ("+cluster.env.PYTHONPATH=/x", r"put `export PYTHONPATH=...` into cluster.prologue"),
        ("+cluster.env.HF_TOKEN=hf_1", r"into cluster.secrets_file"),
        ("cluster.share=everybody", "group"),
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


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("corpus=fils", "corpus=files"),
        ("pipeline=basline", "pipeline=baseline"),
        ("cluster=devclustr", "cluster=devcluster"),
        ("generator=openia", "generator=openai"),
        ("corpus.pth=/d", "corpus.path"),
    ],
)
def test_a_misspelt_choice_or_key_names_the_one_that_was_meant(given: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"; did you mean {meant}?")):
        compose([given])


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
    config = EncodeConfig(precision=Precision.bfloat16, tokens_per_unit=10)
    assert from_plain(EncodeConfig, to_plain(config)) == config


def test_plain_values_with_an_unknown_key_are_refused() -> None:
    with pytest.raises(ConfigError, match="BeirConfig"):
        from_plain(BeirConfig, {"nope": 1})


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


def test_an_extractor_that_is_not_installed_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(MissingDependency, match=r"pip install 'rag-hpc\[trafilatura\]'"):
        check(compose(["stage.clean.extractor=trafilatura"]))


def test_a_heap_above_the_job_s_memory_is_refused_before_the_run() -> None:
    heap = ["cluster=slurm", "stage.lexical.heap_mib=4097"]
    with pytest.raises(ConfigError, match=r"heap_mib=4097.*cluster\.mem_gib=4;.*heap_mib=0"):
        check(compose([*heap, "cluster.mem_gib=8", "cluster.stages.lexical.mem_gib=4"]))
    check(compose([*heap, "cluster.mem_gib=8"]))


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
    assert compose(["corpus=files", "corpus.path=/d", "pipeline.stages=[crawl]"]).stages == ["crawl"]


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("corpus.rounds=9", "between 1 and 8"),
        ("corpus.allow=['(']", "no regular expression"),
        ("+corpus.resolve={a: localhost}", "no address:port"),
        ("corpus.hosts_per_unit=0", "hosts_per_unit=0: at least 1"),
    ],
)
def test_wrong_settings_of_a_crawl_are_told_with_a_remedy(override: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        compose(["corpus=site", override])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["corpus=beir", "corpus.delay_s=2"], "corpus=beir has no setting delay_s; it is one of: site, pydoc, wikiapi"),
        (["corpus=site", "corpus.path=/d"], "corpus=site has no setting path; it is one of: warc, files, beir,"),
        (["corpus=beir", "+corpus.num_hosts=2"], "corpus=beir has no setting num_hosts; it is one of: pydoc"),
        (["corpus=site", "corpus.delays_s=2"], "did you mean corpus.delay_s"),
        (["corpus=beir", "corpus.source=site"], "corpus.source=site: set corpus=site"),
    ],
)
def test_a_setting_of_another_source_is_refused_by_name(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose(overrides)


def test_the_settings_of_a_corpus_are_those_of_its_source() -> None:
    for name in SOURCES:
        corpus = compose([f"corpus={name.value}"]).corpus
        assert type(corpus) is config_class(name.value) and corpus.source is name
        assert output_config(corpus).keys() <= {f.name for f in dataclasses.fields(config_class(name.value))}
    assert "delay_s" not in output_config(compose(["corpus=beir"]).corpus)


def test_a_corpus_file_of_ones_own_goes_by_that_of_its_source(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    mine = tmp_path / "corpus" / "mine.yaml"
    mine.write_text("defaults: [site]\nname: mine\nseeds: [https://docs.example.org/]\n")
    assert compose(["corpus=mine", "corpus.delay_s=3"], tmp_path).corpus.seeds == ["https://docs.example.org/"]
    with pytest.raises(ConfigError, match="corpus=site has no setting latency_s; it is one of: pydoc"):
        compose(["corpus=mine", "corpus.latency_s=3"], tmp_path)
    mine.write_text("source: files\n")
    with pytest.raises(ConfigError, match=r"begin your own file with defaults: \[files\]"):
        compose(["corpus=mine"], tmp_path)


def test_a_round_without_the_one_before_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"crawl.3 needs crawl.2 before it"):
        check(compose(["corpus=site", "pipeline.stages=[crawl,crawl.3]"]))


def test_every_path_is_made_absolute_and_what_only_jobs_know_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "ranker").mkdir()
    config = compose(
        [
            "corpus=site",
            "generator.api_key_file=key",
            "cluster.secrets_file='~/secrets'",
            "cluster.scratch=fast/me",
            "cluster.slurm_conf=etc/slurm.conf",
            "cluster.root=runs",
            "stage.rerank.model=ranker",
            "stage.chunk.model=org/model",
            "corpus.questions=absent.jsonl",
        ]
    )
    assert config.stage_config("generate").generator.api_key_file == str(tmp_path / "key")
    cluster = config.cluster
    assert cluster.secrets_file == str(tmp_path / "home" / "secrets")
    paths = [str(tmp_path / name) for name in ("fast/me", "etc/slurm.conf", "runs", "ranker")]
    assert [cluster.scratch, cluster.slurm_conf, cluster.root, config.stage.rerank.model] == paths
    assert (config.stage.chunk.model, config.corpus.questions) == ("org/model", "absent.jsonl")
    assert compose(["cluster.scratch=${oc.env:SHELL_VARIABLE,$TMPDIR}"]).cluster.scratch == "$TMPDIR"


def test_runs_are_named_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("old", "older"):
        (tmp_path / "results" / "runs" / name).mkdir(parents=True)
        (tmp_path / "results" / "runs" / name / "run.json").write_text("{}")
    config = compose(["corpus=site", "corpus.previous=old", "stage.dedup.against=[older,old]"])
    runs = tmp_path / "results" / "runs"
    assert config.stage.dedup.against == [str(runs / "older"), str(runs / "old")]
    assert config.corpus.previous == str(runs / "old")
    with pytest.raises(ConfigError, match="no run 'absent'"):
        compose(["corpus=site", "corpus.previous=absent"])
