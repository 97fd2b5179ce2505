"""How ranks share a step: every rank the whole model (ddp), or the model divided among them (DeepSpeed's ZeRO).

`ddp` averages gradients itself, once a step, in buckets. torch's DistributedDataParallel reduces them in hooks of one
backward pass; GradCache goes backward once for each mini-batch, and an encoder's network is called once a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib import import_module
from typing import Any, Protocol

from rag_hpc.core.comm import StoreComm
from rag_hpc.core.stage import Context
from rag_hpc.errors import ConfigError
from rag_hpc.train.config import Strategy, TrainConfig
from rag_hpc.train.learner import Learner

BUCKET_BYTES = 64 << 20
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, for each weight


class Sharing(Protocol):
    """What the loop asks of a strategy. Tensors by name: weight:NAME, exp_avg:NAME, exp_avg_sq:NAME; whole ones."""

    def backward(self, inputs: tuple[Any, Any]) -> float:
        """Return the loss of this rank's share, its gradients being held."""

    def update(self, learning_rate: float) -> float:
        """Change the weights by the mean gradient over ranks; return its length, which is not finite where it failed
        (and the weights are then spoilt)."""

    def tensors(self) -> dict[str, Any]:
        """Return all tensors on the CPU; every rank has to call it."""

    def load(self, tensors: dict[str, Any], step: int) -> None:
        """Go on from the tensors of a checkpoint after `step` steps."""

    def whole(self) -> AbstractContextManager[Any]:
        """Return a context in which rank 0 has the whole weights; every rank has to enter it."""


class Group:
    """The process group of the ranks: gloo on CPUs, NCCL on GPUs; one rank needs none."""

    def __init__(self, ctx: Context, device: str, timeout_s: float) -> None:
        self.rank, self.world_size, self.device = ctx.rank, ctx.world_size, device
        if self.world_size == 1:
            return
        if not isinstance(ctx.comm, StoreComm):
            raise ConfigError("train: ranks have to be started by the torchrun launcher; give: rag-hpc train")
        import torch

        self._dist: Any = import_module("torch.distributed")
        if device != "cpu":
            torch.cuda.set_device(device)
        self._dist.init_process_group(
            "gloo" if device == "cpu" else "nccl",
            store=self._dist.PrefixStore("train", ctx.comm.store),
            rank=self.rank,
            world_size=self.world_size,
            timeout=timedelta(seconds=timeout_s),
        )

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over ranks."""
        import torch

        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            self._dist.all_reduce(total)
        return [float(number) for number in total.tolist()]

    def average(self, tensors: Sequence[Any]) -> None:
        """Replace the tensors by their means over ranks, in buckets."""
        import torch

        for bucket in _buckets(tensors) if self.world_size > 1 else ():
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self._dist.all_reduce(flat)
            flat /= self.world_size
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def spread(self, tensors: Sequence[Any]) -> None:
        """Replace the tensors by those of rank 0."""
        for tensor in tensors if self.world_size > 1 else ():
            self._dist.broadcast(tensor, src=0)

    def lost(self, error: RuntimeError) -> bool:
        """Return whether an error says that another rank is gone, and not that this one went wrong."""
        told = str(error).casefold()
        return self.world_size > 1 and (isinstance(error, self._dist.DistError) or "gloo" in told or "peer" in told)

    def close(self) -> None:
        """Leave the group."""
        if self.world_size > 1:
            self._dist.destroy_process_group()


def share_work(learner: Learner, config: TrainConfig, group: Group) -> Sharing:
    """Return the strategy that the settings name."""
    if config.strategy is Strategy.ddp:
        return DataParallel(learner, config, group)
    if group.world_size == 1:
        raise ConfigError(
            "train.strategy=deepspeed divides a model among ranks, and there is one; set workers=2 or more"
        )
    return ZeRO(learner, config, group)


class DataParallel:
    """Every rank holds weights and optimizer, and all do the same update."""

    def __init__(self, learner: Learner, config: TrainConfig, group: Group) -> None:
        import torch

        self._torch, self._learner, self._group = torch, learner, group
        self._max_norm = config.max_grad_norm or float("inf")
        self._weights = trained_weights(learner)
        with torch.no_grad():
            group.spread(list(self._weights.values()))
        self._optimizer = torch.optim.AdamW(decayed(self._weights, config.weight_decay), lr=config.learning_rate)

    def backward(self, inputs: tuple[Any, Any]) -> float:
        """Return the loss; gradients are this rank's own."""
        loss = self._learner.loss(*inputs)
        loss.backward()
        return float(loss.detach())

    def update(self, learning_rate: float) -> float:
        """Average the gradients, shorten them, and step; not where their length is not finite."""
        with_gradient = [weight for weight in self._weights.values() if weight.grad is not None]
        self._group.average([weight.grad for weight in with_gradient])
        norm = float(self._torch.nn.utils.clip_grad_norm_(with_gradient, self._max_norm))
        if self._torch.isfinite(self._torch.tensor(norm)):
            for part in self._optimizer.param_groups:
                part["lr"] = learning_rate
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def tensors(self) -> dict[str, Any]:
        """Return weights and moments."""
        found = {f"weight:{name}": weight.detach().cpu() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            state = self._optimizer.state.get(weight, {})
            found |= {f"{moment}:{name}": state[moment].cpu() for moment in MOMENTS if moment in state}
        return found

    def load(self, tensors: dict[str, Any], step: int) -> None:
        """Take weights and moments over."""
        for name, weight in self._weights.items():
            weight.data.copy_(tensors[f"weight:{name}"])
            moments = {moment: tensors.get(f"{moment}:{name}") for moment in MOMENTS}
            if all(value is not None for value in moments.values()):
                on_device = {moment: value.to(weight.device) for moment, value in moments.items() if value is not None}
                self._optimizer.state[weight] = {"step": self._torch.tensor(float(step)), **on_device}

    def whole(self) -> AbstractContextManager[Any]:
        """Nothing is divided."""
        return nullcontext()


class ZeRO:
    """DeepSpeed divides optimizer state, gradients and weights among the ranks."""

    def __init__(self, learner: Learner, config: TrainConfig, group: Group) -> None:
        import torch

        self._learner, self._config, self._group = learner, config, group
        self._weights = trained_weights(learner)
        with torch.no_grad():
            group.spread(list(self._weights.values()))
        self._engine: Any = None  # made with the first step, or from a checkpoint's weights

    def _start(self) -> None:
        """Begin from the weights as they are, no step being done."""
        import torch

        config = self._config
        zero: dict[str, Any] = {"stage": config.zero_stage}
        if config.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        settings = {
            "train_batch_size": config.batch_size,
            "train_micro_batch_size_per_gpu": config.batch_size // self._group.world_size,
            "gradient_clipping": config.max_grad_norm,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # a torch optimizer, for which nothing is compiled
        }
        optimizer = torch.optim.AdamW(decayed(self._weights, config.weight_decay), lr=config.learning_rate)
        self._deepspeed: Any = import_module("deepspeed")  # without types
        # an exchange through shared memory that training has no use for, and that takes a compiler to build
        self._deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._engine = self._deepspeed.initialize(model=self._learner.loss, optimizer=optimizer, config=settings)[0]

    def backward(self, inputs: tuple[Any, Any]) -> float:
        """Return the loss; gradients are reduced on the way."""
        if self._engine is None:
            self._start()
        loss = self._engine(*inputs)
        self._engine.backward(loss)
        return float(loss.detach())

    def update(self, learning_rate: float) -> float:
        """Step; DeepSpeed shortens the gradient."""
        for part in self._engine.optimizer.param_groups:
            part["lr"] = learning_rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm)

    def tensors(self) -> dict[str, Any]:
        """Return weights and moments, gathered."""
        self._link()
        utils = self._deepspeed.utils
        found = {}
        for name, weight in self._weights.items():
            found[f"weight:{name}"] = utils.safe_get_full_fp32_param(weight).detach().cpu().clone()
            for moment in MOMENTS:
                value = utils.safe_get_full_optimizer_state(weight, moment)
                if value is not None:
                    found[f"{moment}:{name}"] = value.cpu().clone()
        return found

    def load(self, tensors: dict[str, Any], step: int) -> None:
        """Start from the weights, and give this rank its part of the moments."""
        import torch

        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"weight:{name}"])
        self._start()
        optimizer, all_of = self._engine.optimizer, self._config.zero_stage == 3
        flats = optimizer.fp32_partitioned_groups_flat if all_of else optimizer.single_partition_of_fp32_groups
        for flat in flats:  # what Adam makes in its first step
            moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            optimizer.optimizer.state[flat] = {"step": torch.tensor(float(step)), **moments}
        self._link()
        utils = self._deepspeed.utils
        for name, weight in self._weights.items():
            for moment in MOMENTS:
                value = tensors.get(f"{moment}:{name}")
                if value is None:  # ddp keeps none of a weight that no loss reaches
                    continue
                value = value.to(self._group.device)
                if all_of:
                    each = weight.partition_numel()
                    padded = torch.nn.functional.pad(
                        value.flatten(), (0, each * self._group.world_size - value.numel())
                    )
                    own = padded.narrow(0, each * self._group.rank, each)
                    utils.safe_set_local_optimizer_state(weight, own, moment)
                else:
                    utils.safe_set_full_optimizer_state(weight, value, moment)

    def whole(self) -> AbstractContextManager[Any]:
        """Gather what ZeRO 3 has divided."""
        if self._engine is None or self._config.zero_stage < 3:
            return nullcontext()
        gathered: AbstractContextManager[Any] = self._deepspeed.zero.GatheredParameters(list(self._weights.values()))
        return gathered

    def _link(self) -> None:
        """Let ZeRO 1 and 2 know where each weight's moments lie: DeepSpeed 0.19 looks once, after the step of its first
        group of weights, when the second has none yet.
        """
        if self._config.zero_stage < 3:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()


def trained_weights(learner: Learner) -> dict[str, Any]:
    """Return the weights that are trained, by name."""
    return {name: weight for name, weight in learner.network.named_parameters() if weight.requires_grad}


def decayed(weights: dict[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: matrices with weight decay; biases and norms without."""
    matrices = [weight for weight in weights.values() if weight.ndim > 1]
    others = [weight for weight in weights.values() if weight.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _buckets(tensors: Sequence[Any]) -> Iterator[list[Any]]:
    bucket: list[Any] = []
    num_bytes = 0
    for tensor in tensors:
        bucket.append(tensor)
        num_bytes += tensor.numel() * tensor.element_size()
        if num_bytes >= BUCKET_BYTES:
            yield bucket
            bucket, num_bytes = [], 0
    if bucket:
        yield bucket
