"""Shared schemas, and the only way from Hydra's YAML and overrides to checked dataclasses.

Each stage's dataclass lives beside the stage; here they are put together, registered and composed.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc import questions
from rag_hpc.dedupstore import DedupConfig, older_generations
from rag_hpc.errors import ConfigError
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.schema import explain, to_plain
from rag_hpc.sources.base import CorpusConfig, SourceName
from rag_hpc.sources.paths import corpus_root
from rag_hpc.stages.chunk import ChunkConfig, check_limit
from rag_hpc.stages.clean import CleanConfig
from rag_hpc.stages.encode import EncodeConfig
from rag_hpc.stages.evaluate import EvaluateConfig, check_measures
from rag_hpc.stages.generate import GenerateConfig
from rag_hpc.stages.lexical import LexicalConfig
from rag_hpc.stages.queries import QueriesConfig
from rag_hpc.stages.rerank import RerankConfig
from rag_hpc.stages.retrieve import RetrieveConfig
from rag_hpc.stages.vectors import VectorsConfig


class Launcher(enum.Enum):
    """How a cluster starts jobs."""

    local = "local"
    slurm = "slurm"


@dataclass(kw_only=True)
class ClusterConfig:
    """One site: where runs live and how jobs are asked for. The only group that a new site writes.

    A resource that is null sends no flag to Slurm.
    """

    name: str = "local"
    launcher: Launcher = Launcher.local
    root: str | None = None  # folder of the runs, on a filesystem that all nodes see; null = results/runs here
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gres: str | None = None  # for encode and rerank, in the site's spelling, e.g. gpu:a100:1
    exclude: str | None = None
    time_min: int | None = None  # walltime of a job, minutes
    walltime_margin_s: int = 120  # workers stop this long before the walltime
    mem_gib: float | None = None
    cpus_per_task: int | None = None
    max_array_size: int = 1000
    array_parallelism: int = 256
    mpi: str = "pmix"  # srun --mpi=...; "mpirun" to start ranks with the MPI library's own mpirun
    interface: str | None = None  # network interface for torchrun's gloo or NCCL
    prologue: list[str] = field(default_factory=list)  # shell lines before the work: module load ..., source ...
    env: dict[str, str] = field(default_factory=dict)
    secrets_file: str | None = None  # 0600 file of NAME=value lines, read by jobs, never copied
    scratch: str | None = None  # node-local folder
    max_resubmits: int = 2  # how often a gate resubmits a stage before it stops the chain
    slurm_conf: str | None = None

    def __post_init__(self) -> None:
        texts = [v for v in vars(self).values() if isinstance(v, str)] + [str(v) for v in self.env.values()]
        if any("\n" in text or "\r" in text for text in texts):
            raise ConfigError("cluster: a value holds a line break, which could smuggle in an #SBATCH line; remove it")
        if self.max_array_size < 1 or self.array_parallelism < 1:
            raise ConfigError("cluster: max_array_size >= 1 and array_parallelism >= 1 are needed")


@dataclass(kw_only=True)
class StageConfigs:
    """Settings of each stage."""

    clean: CleanConfig = field(default_factory=CleanConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    chunk: ChunkConfig = field(default_factory=ChunkConfig)
    lexical: LexicalConfig = field(default_factory=LexicalConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    vectors: VectorsConfig = field(default_factory=VectorsConfig)
    queries: QueriesConfig = field(default_factory=QueriesConfig)
    retrieve: RetrieveConfig = field(default_factory=RetrieveConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


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
    min_answer_f1: float | None = None
    min_duplicates: int | None = None
    min_efficiency_crawl: float | None = None
    min_efficiency_encode: float | None = None


@dataclass(kw_only=True)
class RunConfig:
    """All of a run."""

    run: str | None = None  # the run's name; null = made from corpus, pipeline and settings
    workers: int | None = None
    max_attempts: int = 3
    allow_failed_units: int = 0
    backup_after_s: float = 60.0
    dry_run: bool = False
    watch: bool = False
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    stage: StageConfigs = field(default_factory=StageConfigs)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    milestones: MilestoneConfig = field(default_factory=MilestoneConfig)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers={self.workers}: at least 1")
        if self.max_attempts < 1 or self.allow_failed_units < 0:
            raise ConfigError("max_attempts >= 1 and allow_failed_units >= 0 are needed")
        if self.run is not None and not _plain_name(self.run):
            raise ConfigError(f"run={self.run!r}: use letters, digits, '.', '_' and '-' only")

    @property
    def num_workers(self) -> int:
        """The number of workers asked for."""
        return self.workers or self.pipeline.workers

    @property
    def stages(self) -> list[str]:
        """The pipeline's stages, the rounds of its crawl in full."""
        rounds = self.corpus.rounds if self.corpus.source is SourceName.site else 1
        more = [f"crawl.{number}" for number in range(2, rounds + 1)]
        return [name for stage in self.pipeline.stages for name in ([stage, *more] if stage == "crawl" else [stage])]

    def stage_config(self, stage: str) -> Any:
        """Return the config of a stage by its full name; steps of a stage share one."""
        if stage.split(".")[0] == "crawl":
            return self.corpus
        if stage == "retrieve.queries":
            return self.stage.queries
        if stage == "generate":
            return dataclasses.replace(self.stage.generate, generator=self.generator)
        return getattr(self.stage, stage.split(".")[0])


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> RunConfig:
    """Return the checked config for Hydra overrides. Raises ConfigError that lists the known keys or choices.

    `config_dir` adds a folder to search, for a site's own cluster/NAME.yaml.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    composed = compose_plain(overrides, config_dir)
    anchor(composed)
    try:
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

    ConfigStore.instance().store(name="rag_hpc_schema", node=RunConfig)
    GlobalHydra.instance().clear()
    extra = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    try:
        with initialize_config_module("rag_hpc.conf", version_base="1.3", job_name="rag-hpc"):
            return hydra_compose("config", overrides=[*overrides, *extra])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(unknown_key(overrides) or explain(error)) from error


def anchor(composed: Any) -> None:
    """Make the paths of a composed config absolute: jobs run in another folder, and so may a retry."""
    corpus, stage = composed.corpus, composed.stage
    if corpus.path is not None:
        corpus.path = os.path.abspath(Path(corpus.path).expanduser())  # noqa: PTH100  a glob is no path to resolve
    if corpus.questions is not None and Path(corpus.questions).is_file():
        corpus.questions = str(Path(corpus.questions).resolve())
    if stage.dedup.against or corpus.previous:
        from rag_hpc.launchers.ledger import find_run, runs_root

        root = runs_root(composed.cluster.root)
        corpus.previous = str(find_run(root, corpus.previous).run_dir) if corpus.previous else None
        stage.dedup.against = [str(find_run(root, name).run_dir) for name in stage.dedup.against]
    for part in (stage.encode, stage.rerank):
        if part.model and Path(part.model).expanduser().is_dir():
            part.model = str(Path(part.model).expanduser().resolve())


def unknown_key(overrides: Sequence[str]) -> str | None:
    """Return what to say of the first override whose key does not exist (Hydra lists none), None when all do."""
    for override in overrides:
        name = override.split("=", 1)[0]
        here: Any = to_plain(RunConfig())
        path: list[str] = []
        for part in [] if name.startswith(("+", "~", "hydra")) else name.split("@")[0].split("."):
            if not isinstance(here, dict) or not here:  # a list's item, or a mapping with keys of the user's own
                break
            if part not in here:
                close = difflib.get_close_matches(part, here, n=1)
                meant = f"; did you mean {'.'.join([*path, *close])}?" if close else "."
                where = f"in {'.'.join(path)}" if path else "at the top"
                return f"no setting {name!r}{meant} Known {where}: {', '.join(here)}. All: rag-hpc run --cfg job"
            path, here = [*path, part], here[part]
    return None


def check(config: RunConfig) -> None:
    """Raise ConfigError or InputError, before anything is made or queued, for what would fail in a job."""
    stages = config.stages
    check_stages(stages)
    if "crawl" in stages:
        check_corpus(config.corpus)
    if "dedup.sign" in stages:
        older_generations(config.stage.dedup)
    if "chunk" in stages:
        check_limit(config.stage.chunk)
    if "lexical" in stages:
        from rag_hpc.lucene import require_java

        require_java()
    if "retrieve.queries" in stages:
        asked = config.stage.queries
        questions.load(asked.source, asked.path, asked.questions, asked.num_hosts)
    if "evaluate" in stages:
        check_measures(config.stage.evaluate.measures)
    if "rerank" in stages and not config.stage.rerank.model:
        raise ConfigError("pipeline=rerank: set stage.rerank.model to the folder of a cross-encoder")


def check_stages(stages: Sequence[str]) -> None:
    """Raise ConfigError for a pipeline without stages, or with one before those that it needs."""
    from rag_hpc.stages.registry import stage_class

    seen: set[str] = set()
    for stage in stages:
        missing = [need for need in stage_class(stage).needs if need not in seen]
        if missing:
            raise ConfigError(f"pipeline.stages: {stage} needs {', '.join(missing)} before it")
        if stage in seen:
            raise ConfigError(f"pipeline.stages: {stage} stands there twice")
        seen.add(stage)
    if not seen:
        raise ConfigError("pipeline.stages is empty; try pipeline=cluster or pipeline=baseline")


def check_corpus(corpus: CorpusConfig) -> None:
    """Raise ConfigError for a corpus whose path is not set or not there; what it holds shows when it is planned."""
    if corpus.source in (SourceName.site, SourceName.pydoc, SourceName.wikiapi):
        return
    corpus_root(corpus.path)
    path = str(corpus.path)
    if not Path(path).expanduser().exists() and not glob.has_magic(path):
        raise ConfigError(f"corpus.path={path}: nothing is there; name an existing file, folder or glob")


def _plain_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and all(c.isalnum() or c in "._-" for c in name)
