"""Shared schemas, and the only way from Hydra's YAML and overrides to checked dataclasses.

Each stage's dataclass lives beside the stage; here they are put together, registered and composed.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.algo.extract.extract import Extractor
from rag_hpc.arguments import own_site
from rag_hpc.core.ledger import find_run, runs_root
from rag_hpc.core.policy import Policy
from rag_hpc.errors import ConfigError, did_you_mean
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.generators.prompt import PromptConfig
from rag_hpc.generators.registry import check_generator
from rag_hpc.models.encoders import EncoderConfig
from rag_hpc.schema import explain, to_plain
from rag_hpc.search import given, prebuilt
from rag_hpc.search.filters import check_filter
from rag_hpc.search.questions import check_feedback, weights_of
from rag_hpc.slurm.cluster import ClusterConfig, StageResources
from rag_hpc.sources.base import ROUNDS, CorpusConfig, PathConfig, SourceName
from rag_hpc.sources.crawl.config import SiteConfig
from rag_hpc.sources.files.paths import corpus_root
from rag_hpc.sources.registry import config_class
from rag_hpc.stages.chunk import check_limit
from rag_hpc.stages.dedup.signed import older_generations
from rag_hpc.stages.evaluate import check_measures
from rag_hpc.stages.queries import load_questions
from rag_hpc.stages.registry import STAGES, stage_class
from rag_hpc.stages.retrieve import check_method
from rag_hpc.stores.chunks import columns_with
from rag_hpc.stores.partitions import check_column
from rag_hpc.train.config import TrainConfig


def section(stage: str) -> str:
    """Return where below `stage` the settings of a stage stand; steps of one stage share them."""
    return "queries" if stage == "retrieve.queries" else stage.split(".")[0]


def stage_configs() -> type:
    """Return the dataclass of the settings of all stages: a new row of the registry brings its own."""
    apart = ("crawl", "train")  # their settings are `corpus` and `train`
    configs = {section(name): stage_class(name).Config for name in STAGES if section(name) not in apart}
    fields = [(name, config, field(default_factory=config)) for name, config in configs.items()]
    return dataclasses.make_dataclass("StageConfigs", fields, kw_only=True)


StageConfigs: Any = stage_configs()


@dataclass(kw_only=True)
class PipelineConfig:
    """Which stages run, and what `workers` means when nobody sets it."""

    name: str = "cluster"
    stages: list[str] = field(default_factory=list)
    workers: int = 2


@dataclass(kw_only=True)
class MilestoneConfig:
    """Predictions written before the run; `rag-hpc milestones` holds the results against them. null = not judged."""

    min_recall_at_10: float | None = 0.99  # of the vector index against exact search
    min_ndcg_at_10: float | None = None  # of the ranking that is handed on
    min_answer_f1: float | None = None
    min_duplicates: int | None = None
    min_efficiency_crawl: float | None = None
    min_efficiency_encode: float | None = None
    min_memory_ratio: float | None = None  # of the vectors to what a node has (cluster.mem_gib): above 1 none holds all
    max_recall_loss: float | None = None  # of R@10 of the ranking that is handed on, against the baseline
    max_f1_loss: float | None = None  # of the answers, against the baseline
    min_speedup: float | None = None  # of all stages together, at the baseline's answers
    max_cost_per_1000_documents: float | None = None  # at the prices of rag-hpc milestones cost=NAME
    max_cost_per_query: float | None = None
    max_cost_per_correct_answer: float | None = None
    max_cost_ratio: float | None = None  # of all stages, to the baseline's
    max_p99_ms: float | None = None  # of requests to the served run, as `rag-hpc bench serve` measures them
    min_qps: float | None = None  # requests a second at which that holds
    strict: bool = False  # what comes after a missed one is not judged


@dataclass(kw_only=True)
class RunConfig(Policy):
    """All of a run, its policy's settings beside the others."""

    run: str | None = None  # the run's name; null = made from corpus, pipeline and settings
    workers: int | None = None
    dry_run: bool = False
    watch: bool = False
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    stage: StageConfigs = field(default_factory=StageConfigs)  # a name that mypy cannot see through
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    milestones: MilestoneConfig = field(default_factory=MilestoneConfig)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers={self.workers}: at least 1")
        super().__post_init__()
        check_own_resources(self.cluster)
        if self.run is not None and not _plain_name(self.run):
            raise ConfigError(f"run={self.run!r}: use letters, digits, '.', '_' and '-' only")

    @property
    def policy(self) -> Policy:
        """The policy alone."""
        return Policy(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Policy)})

    @property
    def num_workers(self) -> int:
        """The number of workers asked for."""
        return self.workers or self.pipeline.workers

    @property
    def stages(self) -> list[str]:
        """The pipeline's stages, the rounds of its crawl in full."""
        crawls = ROUNDS[: self.corpus.rounds] if isinstance(self.corpus, SiteConfig) else ROUNDS[:1]
        return [name for stage in self.pipeline.stages for name in (crawls if stage == "crawl" else [stage])]

    def stage_config(self, stage: str) -> Any:
        """Return the config of a stage by its full name; steps of a stage share one."""
        if stage.split(".")[0] == "crawl":
            return self.corpus
        if stage.split(".")[0] == "train":
            return self.train
        if stage == "generate":
            return dataclasses.replace(self.stage.generate, generator=self.generator, prompt=self.prompt)
        own = getattr(self.stage, section(stage))
        return dataclasses.replace(own, encoder=self.encoder) if stage in ("encode", "retrieve.queries") else own


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> RunConfig:
    """Return the checked config for Hydra overrides. Raises ConfigError that lists the known keys or choices.

    `config_dir` adds a folder to search, for a site's own cluster/NAME.yaml.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    composed = compose_plain(overrides, config_dir)
    try:
        anchor(composed, composed.cluster.root)
        config: RunConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    return config


def compose_plain(overrides: Sequence[str], config_dir: Path | None = None) -> Any:
    """Return Hydra's composed DictConfig, typed by RunConfig, for `--cfg job` and `compose`."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    store = ConfigStore.instance()
    store.store(name="rag_hpc_schema", node=RunConfig)
    for source in SourceName.__members__:
        store.store(group="source", name=source, node=config_class(source))
    GlobalHydra.instance().clear()
    extra = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    try:
        with initialize_config_module("rag_hpc.conf", version_base="1.3", job_name="rag-hpc"):
            composed = hydra_compose("config", overrides=[*map(_with_new_keys, overrides), *extra])
    except (HydraException, OmegaConfBaseException) as error:
        said = unknown_key(overrides, config_dir) or explain(error) + _meant_choice(error, config_dir)
        if f"not in '{StageResources.__name__}'" in said:
            said += f"\nA stage's own resources are: {', '.join(f.name for f in dataclasses.fields(StageResources))}"
        raise ConfigError(said) from error
    appended = [override for override in overrides if override.startswith("+")]  # Hydra takes any key after a plus
    if appended and (refused := unknown_key(overrides, config_dir)):
        raise ConfigError(refused)
    return composed


def anchor(node: Any, root: str | None) -> None:
    """Make the paths of a composed config absolute, by the metadata of its dataclasses, and runs by name folders."""
    from omegaconf import OmegaConf

    kind: Any = OmegaConf.get_type(node)
    for each in dataclasses.fields(kind):
        value = None if OmegaConf.is_missing(node, each.name) else node[each.name]
        if dataclasses.is_dataclass(OmegaConf.get_type(value)):
            anchor(value, root)
        elif value and "path" in each.metadata:
            node[each.name] = absolute(value, each.metadata["path"])
        elif value and "run" in each.metadata:
            names = [value] if isinstance(value, str) else value
            runs = [str(find_run(runs_root(root), name).run_dir) for name in names]
            node[each.name] = runs[0] if isinstance(value, str) else runs


def absolute(value: str, only: str) -> str:
    """Return a path as jobs find it: "~" replaced, the pattern of a glob as it is, a leading variable left to them."""
    path = Path(value).expanduser()
    if value.startswith("$") or (only == "file" and not path.is_file()) or (only == "folder" and not path.is_dir()):
        return value
    return os.path.abspath(path) if only == "any" else str(path.resolve())  # noqa: PTH100  a glob cannot be resolved


def known_settings(*corpora: type) -> dict[str, Any]:
    """Return all settings with their defaults, nested; of the corpus those of some sources, or of every one."""
    every = corpora or map(config_class, SourceName.__members__)
    return {**to_plain(RunConfig()), "corpus": {key: value for one in every for key, value in to_plain(one()).items()}}


def unknown_key(overrides: Sequence[str], config_dir: Path | None) -> str | None:
    """Return what to say of the first override whose key does not exist (Hydra lists none), None when all do."""
    from omegaconf import OmegaConf

    choices = [override for override in overrides if override.startswith("corpus=")]
    if list(overrides) == choices:
        return None
    corpus: Any = OmegaConf.get_type(compose_plain(choices, config_dir), "corpus")
    for override in overrides:
        name = override.split("=", 1)[0]
        here: Any = known_settings(corpus)
        path: list[str] = []
        for part in [] if name.startswith(("~", "hydra")) else name.lstrip("+").split("@")[0].split("."):
            if not isinstance(here, dict) or not here:  # a list's item, or a mapping with keys of the user's own
                break
            if part not in here:
                owners = [s for s in SourceName.__members__ if hasattr(config_class(s)(), part)]
                if path == ["corpus"] and owners:
                    return f"corpus={here['source']} has no setting {part}; it is one of: {', '.join(owners)}"
                names = known_settings()["corpus"] if path == ["corpus"] else here  # maybe of another source
                meant = did_you_mean(part, names, before="".join(f"{part}." for part in path))
                where = f"in {'.'.join(path)}" if path else "at the top"
                return f"no setting {name!r}; {meant}known {where}: {', '.join(here)}. All: rag-hpc run --cfg job"
            path, here = [*path, part], here[part]
    return None


def _with_new_keys(override: str) -> str:
    """Return the override as Hydra takes it that adds a key to a mapping whose keys are the user's own.

    Hydra asks for plus signs, and cannot make the settings of a stage from below.
    """
    mappings = [f.name for f in dataclasses.fields(ClusterConfig) if f.default_factory is dict]
    matched = re.match(rf"cluster\.({'|'.join(mappings)})(?:\.([^=]*))?=(.*)", override, re.DOTALL)
    if not matched:
        return override
    mapping, key, value = matched.groups()
    if mapping == "stages" and key:
        named = [name for name in stage_names() if key == name or key.startswith(f"{name}.")]
        stage = max(named, key=len, default=key.split(".")[0])
        field_name = key[len(stage) + 1 :]
        return f"++cluster.stages={{{stage}: {f'{{{field_name}: {value}}}' if field_name else value}}}"
    return f"++{override}"


def _meant_choice(error: Exception, config_dir: Path | None) -> str:
    """Return the choice that was meant where Hydra found no file for one (its message lists all), and how to add it."""
    group, _, name = (getattr(error, "missing_cfg_file", None) or "").rpartition("/")
    meant = did_you_mean(name, getattr(error, "options", None) or [], before=f"{group}=")
    return (f"; {meant.strip()}" if meant else "") + (f"\n{own_site(name, config_dir)}" if group == "cluster" else "")


def check(config: RunConfig) -> None:
    """Raise ConfigError or InputError, before anything is made or queued, for what would fail in a job."""
    stages = config.stages
    check_stages(stages)
    if "crawl" in stages:
        check_corpus(config.corpus)
    if "clean" in stages and config.stage.clean.extractor is Extractor.trafilatura:
        from rag_hpc.algo.extract.peers import load_trafilatura

        load_trafilatura()
    if "dedup.sign" in stages:
        older_generations(config.stage.dedup)
    if "chunk" in stages:
        check_limit(config.stage.chunk)
    check_made_elsewhere(config.stage, stages)
    if "lexical" in stages:
        from rag_hpc.search.jvm import require_java

        require_java()
        check_heap(config.stage.lexical.heap_mib, config.cluster.of("lexical").mem_gib)
    if "vectors.train" in stages:
        from rag_hpc.search.indexes import require_faiss

        require_faiss()
    if "retrieve.queries" in stages:
        asked = config.stage.queries
        load_questions(asked.source, asked.path, asked.questions, asked.num_hosts)
    if "retrieve.search" in stages:
        check_retrieval(config.stage, stages)
    check_answers(config, stages)
    if "rerank" in stages and not config.stage.rerank.model:
        raise ConfigError(f"pipeline={config.pipeline.name}: set stage.rerank.model to the folder of a cross-encoder")


def check_answers(config: RunConfig, stages: Sequence[str]) -> None:
    """Raise ConfigError for measures, a judge or a generator that there is not."""
    if "evaluate" in stages:
        check_measures(config.stage.evaluate.measures)
    if "judge" in stages:
        config.stage.judge.require()
    if "generate" in stages:
        check_generator(config.generator, config.prompt)


def check_retrieval(stage: Any, stages: Sequence[str]) -> None:
    """Raise ConfigError for a search that the indexes of this pipeline would not serve."""

    check_method(stage.retrieve.method, stages, stage.retrieve.exact)
    if "chunk" in stages:
        columns = columns_with(stage.chunk.fields)
        check_filter(stage.retrieve.filter, columns)
        for name in ("lexical", "vectors"):
            check_column(getattr(stage, name).partition_by, columns, f"stage.{name}.partition_by")
    if "lexical" in stages:
        check_feedback(stage.retrieve.rm3, stage.lexical.term_vectors)
        weights_of([extra.value for extra in stage.lexical.fields], stage.retrieve.fields)


def check_made_elsewhere(stage: Any, stages: Sequence[str]) -> None:
    """Raise ConfigError where an index that is to be taken in is not there."""
    if "lexical" in stages and stage.lexical.prebuilt:
        prebuilt.files_of(stage.lexical.prebuilt)
    if "vectors.train" in stages and stage.vectors.prebuilt:
        given.files_of(stage.vectors.prebuilt)


def check_heap(heap_mib: int, mem_gib: float | None) -> None:
    """Raise ConfigError for a Java heap that a job of that memory could not hold; None and 0 tell no limit."""
    if mem_gib and heap_mib > mem_gib * 1024:
        raise ConfigError(
            f"stage.lexical.heap_mib={heap_mib} is more than its job's cluster.mem_gib={mem_gib:g}; "
            "raise cluster.mem_gib, or try stage.lexical.heap_mib=0, which takes a quarter of the memory"
        )


def stage_names() -> list[str]:
    """Return what names one stage or a group of them."""
    return [*STAGES, *sorted({name.split(".")[0] for name in STAGES} - STAGES.keys()), *ROUNDS[1:]]


def check_own_resources(cluster: ClusterConfig) -> None:
    """Raise ConfigError for resources of a stage, or of a group of stages, that there is not."""
    known = stage_names()
    for name in cluster.stages:
        if name not in known:
            raise ConfigError(
                f"cluster.stages.{name}: no such stage; {did_you_mean(name, known, before='cluster.stages.')}"
                f"known: {', '.join(known[: len(STAGES)])}, and their groups"
            )


def check_stages(stages: Sequence[str]) -> None:
    """Raise ConfigError for a pipeline without stages, or with one before those that it needs."""
    seen: set[str] = set()
    for stage in stages:
        needs = ROUNDS[: ROUNDS.index(stage)] if stage in ROUNDS else stage_class(stage).needs
        missing = [need for need in needs if need not in seen]
        if missing:
            raise ConfigError(f"pipeline.stages: {stage} needs {', '.join(missing)} before it")
        if stage in seen:
            raise ConfigError(f"pipeline.stages: {stage} stands there twice")
        seen.add(stage)
    if not seen:
        raise ConfigError("pipeline.stages is empty; try pipeline=cluster or pipeline=baseline")


def check_corpus(corpus: CorpusConfig) -> None:
    """Raise ConfigError for a corpus whose path is not set or not there; what it holds shows when it is planned."""
    if not isinstance(corpus, PathConfig):
        return
    corpus_root(corpus.path)
    path = str(corpus.path)
    if not Path(path).expanduser().exists() and not glob.has_magic(path):
        raise ConfigError(f"corpus.path={path}: nothing is there; name an existing file, folder or glob")


def _plain_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and all(c.isalnum() or c in "._-" for c in name)
