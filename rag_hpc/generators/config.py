"""Which generator answers, and how it is reached."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc.core.settings import DAY_S, bounded, check_address, check_bounds, path_field
from rag_hpc.errors import ConfigError


class GeneratorName(enum.Enum):
    """Known generators."""

    extractive = "extractive"
    openai = "openai"
    vllm = "vllm"
    transformers = "transformers"

    @property
    def loads_model(self) -> bool:
        """Whether it loads the model of a local folder itself."""
        return self in (GeneratorName.vllm, GeneratorName.transformers)


class Listen(enum.Enum):
    """What a server of this job listens on."""

    uds = "uds"  # a Unix socket in a folder that only its owner can enter
    loopback = "loopback"  # a free port of 127.0.0.1, with a key made for the job


_OWN_FLAGS = ("model", "served-model-name", "host", "port", "uds", "api-key", "chat-template", "shutdown-timeout")
_SETTING_OF = {
    "tensor-parallel-size": "tensor_parallel_size",
    "tp": "tensor_parallel_size",
    "dtype": "dtype",
    "seed": "seed",
    "max-model-len": "max_model_len",
    "gpu-memory-utilization": "gpu_memory_utilization",
    "enforce-eager": "enforce_eager",
}  # flags of vLLM that a setting gives


@dataclass(kw_only=True)
class CompressConfig:
    """What is left out of the passages that an answer is made from; by default nothing."""

    near: float = bounded(1.0, 0.0, 1.0)  # cosine to a better passage above which one is left out, e.g. 0.95; 1 = none
    sentences: int = bounded(0, 0, 1000)  # of all passages that are kept, those that likeliest answer; 0 = all
    # tokens of all passages above which each is put in what it alone says to the question, e.g. 4000; 0 = never
    summarise_above: int = bounded(0, 0)

    def __post_init__(self) -> None:
        check_bounds(self, "generator.compress")

    @property
    def is_on(self) -> bool:
        """Whether anything may be left out."""
        return self != CompressConfig()

    @property
    def needs_encoder(self) -> bool:
        """Whether texts are compared by their vectors."""
        return self.near < 1 or self.sentences > 0


@dataclass(kw_only=True)
class VllmConfig:
    """The server that each worker starts for itself, in its own job."""

    python: str = field(default="", metadata={"path": "any", "output": False})  # one that has vLLM; "" = this one
    tensor_parallel_size: int = bounded(0, 0, 64, output=False)  # 0: the job's accelerators on a node, 1 on a CPU
    dtype: str = "auto"  # auto, float32, bfloat16 or float16
    max_model_len: int = bounded(0, 0)  # tokens of prompt and answer; 0 = what the model takes
    gpu_memory_utilization: float = bounded(0.9, 0.05, 0.99, output=False)
    kv_cache_gib: int = bounded(4, 1, 4096, output=False)  # on a CPU
    cpu_threads_bind: str = field(default="", metadata={"output": False})  # "" = a core a rank where ranks are several
    enforce_eager: bool = field(default=False, metadata={"output": False})  # no compilation: starts sooner, runs slower
    listen: Listen = field(default=Listen.uds, metadata={"output": False})
    start_timeout_s: float = bounded(1200.0, 1.0, DAY_S, output=False)  # until the first token
    args: list[str] = field(default_factory=list)  # further flags, e.g. ["--max-num-seqs=64"]

    def __post_init__(self) -> None:
        check_bounds(self, "generator.vllm")
        if self.dtype not in (known := ("auto", "float32", "bfloat16", "float16")):
            raise ConfigError(f"generator.vllm.dtype={self.dtype}: known: {', '.join(known)}")
        for flag in self.args:
            name = flag.partition("=")[0].removeprefix("--").replace("_", "-")
            if not flag.startswith("--") or not name:
                raise ConfigError(f"generator.vllm.args: {flag!r} is no flag of the form --NAME or --NAME=VALUE")
            if name in _SETTING_OF:
                raise ConfigError(f"generator.vllm.args: set generator.vllm.{_SETTING_OF[name]} instead of {flag}")
            if name in _OWN_FLAGS:
                raise ConfigError(f"generator.vllm.args: --{name} is given by the job itself; leave it out")


@dataclass(kw_only=True)
class GeneratorConfig:
    """Settings of the generator. `extractive` reads min_score alone; base_url and the key are `openai`'s."""

    name: GeneratorName = GeneratorName.extractive
    min_score: float = 0.5  # 0 to 1, how likely the best sentence must answer; calibrated for the encoder minilm
    base_url: str = ""  # e.g. http://127.0.0.1:8000/v1
    model: str = ""  # its name at the endpoint; for vllm and transformers its local folder
    api_key_env: str = ""  # name of the variable that holds the key
    api_key_file: str = path_field("")  # a file that only its owner can read
    max_tokens: int = bounded(256, 1)
    temperature: float = bounded(0.0, 0.0, 2.0)
    seed: int = bounded(0, 0, (1 << 31) - 1)
    threads: int = bounded(1, 0)  # of transformers, whose last bits depend on it; 0 = as many as were granted
    concurrency: int = bounded(8, 1, 1024, output=False)  # requests at a time, of a worker with an endpoint
    timeout_s: float = bounded(60.0, 0.001, DAY_S, output=False)
    drain_s: float = bounded(10.0, 0.0, 3600.0, output=False)  # how long requests may still take once the job is to end
    vllm: VllmConfig = field(default_factory=VllmConfig)
    # in the fingerprint through the units, so that runs without it keep their name
    compress: CompressConfig = field(default_factory=CompressConfig, metadata={"output": False})

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"generator.min_score={self.min_score}: between 0 (always answer) and 1; try 0.5")
        check_bounds(self, "generator")
        if self.name is GeneratorName.openai and not (self.base_url and self.model):
            raise ConfigError(
                "generator=openai: set generator.base_url (e.g. http://127.0.0.1:8000/v1) and generator.model"
            )
        check_address(self.base_url, "generator")
        if self.name.loads_model:
            self._check_folder()
        if self.name is GeneratorName.extractive and self.compress.summarise_above:
            raise ConfigError(
                f"generator.compress.summarise_above={self.compress.summarise_above}: the extractive generator writes "
                "no summaries; set it to 0, or take another generator"
            )
        if self.name is GeneratorName.transformers and self.temperature:
            raise ConfigError(
                f"generator.temperature={self.temperature:g}: transformers takes the likeliest token at every step; "
                "set generator.temperature=0, or sample with generator=vllm"
            )

    def _check_folder(self) -> None:
        """Hold on to the folder of the model where it is one: jobs run in another folder."""
        if not self.model:
            raise ConfigError(f"generator={self.name.value}: set generator.model to the folder of a language model")
        folder = Path(self.model).expanduser()
        if folder.is_dir():
            self.model = str(folder.resolve())

    @property
    def at_once(self) -> int:
        """How many questions a worker asks at a time."""
        return self.concurrency if self.name in (GeneratorName.openai, GeneratorName.vllm) else 1

    def num_tensor_parallel(self, num_accelerators: int) -> int:
        """Return over how many ranks vLLM splits the model."""
        return self.vllm.tensor_parallel_size or max(1, num_accelerators)
