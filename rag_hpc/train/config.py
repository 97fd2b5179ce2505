"""Settings of training; they are `train.*`, and `conf/train/` holds a choice for each way to share the work."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from rag_hpc.core.settings import bounded, check_bounds, path_field
from rag_hpc.errors import ConfigError
from rag_hpc.models.device import Device, Precision


class Strategy(enum.Enum):
    """How ranks share the work of a step."""

    ddp = "ddp"  # each holds the whole model, gradients are averaged
    deepspeed = "deepspeed"  # optimizer state, gradients and weights are divided among them: ZeRO 1, 2, 3


class Labels(enum.Enum):
    """Where positives come from when they are a run's: its judged questions, or titles and headings with their text."""

    judged = "judged"
    mined = "mined"


class RerankLoss(enum.Enum):
    """What a reranker learns from: one passage at a time, or all those of a question against each other."""

    binary = "binary"
    listwise = "listwise"


@dataclass(kw_only=True)
class TrainConfig:
    """Settings of `rag-hpc train`."""

    strategy: Strategy = Strategy.ddp
    zero_stage: int = bounded(1, 1, 3)  # deepspeed: 1 divides optimizer state, 2 gradients too, 3 weights too
    offload: bool = False  # deepspeed: keep optimizer state in the host's memory
    data: str = path_field("")  # a BEIR folder, or SQuAD's JSON: a file, or a folder of them
    split: str = "train"  # of the BEIR folder: qrels/SPLIT.tsv
    # a finished run: its hits give hard negatives, and without `data` it gives the pairs too
    run: str = field(default="", metadata={"run": True})
    labels: Labels = Labels.mined
    negatives: int = bounded(0, 0, 64)  # passages per question that do not answer it: the run's hits, else drawn
    model: str = path_field("minilm", only="folder")  # or a hub id; what training starts from
    query_prefix: str = ""
    passage_prefix: str = ""
    max_tokens: int = bounded(0, 0)  # of a text, the rest is cut; 0 = as many as the model takes
    loss: RerankLoss = RerankLoss.binary  # of a reranker
    scale: float = bounded(20.0, 0.01)  # of an encoder's cosines before the softmax: 1 / temperature
    matryoshka: list[int] = field(default_factory=list)  # dimensions that a vector may be cut to, e.g. [128,64]
    batch_size: int = bounded(64, 1)  # questions in a step, of all ranks together
    mini_batch: int = bounded(0, 0)  # an encoder's texts in a forward pass (GradCache); 0 = a rank's whole share
    epochs: int = bounded(1, 1)
    max_steps: int = bounded(0, 0)  # 0 = all of the epochs
    learning_rate: float = bounded(2e-5, 0.0)
    warmup: float = bounded(0.1, 0.0, 1.0)  # share of the steps in which the learning rate rises, to fall linearly then
    weight_decay: float = bounded(0.01, 0.0)
    dropout: float | None = None  # null = the model's own; 0 = none: steps are then the same for any number of ranks
    max_grad_norm: float = bounded(1.0, 0.0)  # longer gradients are shortened to it; 0 = never
    seed: int = 0
    checkpoint_steps: int = bounded(200, 1, output=False)
    timeout_s: float = bounded(600.0, 1.0, output=False)  # of an exchange between ranks
    device: Device = Device.auto
    precision: Precision = Precision.auto  # of the forward pass: bfloat16 on a GPU, else float32, as all else is
    threads: int = bounded(1, 0)  # per rank; 0 = those granted, divided by the node's ranks

    def __post_init__(self) -> None:
        check_bounds(self, "train")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"train.dropout={self.dropout}: at least 0 and below 1 is needed; null takes the model's")
        if self.precision is Precision.int8:
            raise ConfigError("train.precision=int8: gradients need a float type; set float32, bfloat16 or auto")
        if self.strategy is Strategy.deepspeed and self.mini_batch:
            raise ConfigError(
                "train.mini_batch goes backward several times a step, which ZeRO does not; set train.mini_batch=0, or "
                "train=ddp"
            )
        if any(dims < 1 for dims in self.matryoshka):
            raise ConfigError(f"train.matryoshka={self.matryoshka}: dimensions are 1 or more; try [128,64]")


def check_batch(config: TrainConfig, num_ranks: int) -> None:
    """Raise ConfigError for a batch that ranks cannot share evenly."""
    if config.batch_size % num_ranks:
        raise ConfigError(
            f"train.batch_size={config.batch_size}: {num_ranks} ranks cannot share it evenly; set "
            f"train.batch_size={num_ranks * max(1, config.batch_size // num_ranks)}, or other workers"
        )
