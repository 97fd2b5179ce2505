"""The loop: steps in a fixed order, checkpoints between them, and figures for the record.

A loop of our own with sentence-transformers' losses. Its trainer needs accelerate, keeps random states and the order of
batches in pickles of its own, and says nothing of the ids in a batch; order, resume and record are what we are for.
"""

from __future__ import annotations

import importlib.util
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc.core.hashing import seed_of
from rag_hpc.core.record import peak_rss_bytes
from rag_hpc.core.stage import Context
from rag_hpc.errors import InputError, Interrupted, MissingDependency
from rag_hpc.models.device import Precision, num_threads, resolve_device, resolve_precision
from rag_hpc.stores.trained import Pair, Step
from rag_hpc.train.checkpoint import newest_checkpoint, write_checkpoint
from rag_hpc.train.config import Strategy, TrainConfig, check_batch
from rag_hpc.train.learner import EncoderLearner, RerankerLearner
from rag_hpc.train.order import batches_of, order_hash, share_of
from rag_hpc.train.strategy import Group, share_work

SHOWN_IDS = 20
LOG_STEPS = 50


@dataclass
class Outcome:
    """What a training came to. timings: figures for the record."""

    steps: list[Step] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


class Training:
    """A model in training on one rank."""

    def __init__(self, kind: str, config: TrainConfig, ctx: Context) -> None:
        """Open the process group and load the model. Raises ConfigError for a batch that ranks cannot share."""
        import torch

        check_batch(config, ctx.world_size)
        self.config = config
        self._torch = torch
        device = resolve_device(config.device)
        torch.set_num_threads(num_threads(config.threads))
        torch.manual_seed(config.seed)  # a head that the model lacks begins with random weights
        self.group = Group(ctx, device, config.timeout_s)
        cpu = config.precision is Precision.auto and device == "cpu"
        precision = Precision.float32 if cpu else resolve_precision(config.precision, device)
        self.learner: EncoderLearner | RerankerLearner
        if kind == "encoder":
            self.learner = EncoderLearner(config, device, precision, ctx.world_size)
        else:
            self.learner = RerankerLearner(config, device, precision)
        self.sharing = share_work(self.learner, config, self.group)

    def run(self, pairs: Sequence[Pair], ctx: Context) -> Outcome:
        """Train from the newest checkpoint that is whole, or from the start.

        Raises Interrupted, after a checkpoint, when a rank has to stop or is gone, and InputError, naming the pairs,
        when a loss or a gradient is not finite.
        """
        try:
            return self._run(pairs, ctx)
        except RuntimeError as error:
            if self.group.lost(error):
                raise Interrupted(f"train: another rank is gone ({error}); the last checkpoint stays") from error
            raise

    def save(self, folder: Path) -> None:
        """Write the model's folder on rank 0; every rank has to call it."""
        with self.sharing.whole():
            if self.group.rank == 0:
                self.learner.save(folder)

    def close(self) -> None:
        """Leave the process group."""
        self.group.close()

    def _run(self, pairs: Sequence[Pair], ctx: Context) -> Outcome:
        config, group = self.config, self.group
        batches = batches_of(pairs, config.batch_size, config.epochs, config.seed)
        batches = batches[: config.max_steps or len(batches)]
        order = order_hash(pairs, batches)
        outcome = Outcome(self._resume(ctx, order))
        first, meter = len(outcome.steps), _Meter()
        for step in range(first, len(batches)):
            meter.begin()
            inputs = self.learner.inputs([pairs[at] for at in share_of(batches[step], group.rank, group.world_size)])
            meter.lap("data_s")
            self._seed(step)
            before = self.learner.num_tokens
            loss = self.sharing.backward(inputs)
            meter.lap("compute_s")
            bad = [float(rank == group.rank and not math.isfinite(loss)) for rank in range(group.world_size)]
            mine = [loss, float(self.learner.num_tokens - before), float(ctx.stop_requested()), *bad]
            total, tokens, stops, *bad = group.sum(mine)
            for rank in (rank for rank, flag in enumerate(bad) if flag):
                self._refuse("loss", step, [pairs[at] for at in share_of(batches[step], rank, group.world_size)])
            rate = learning_rate(config, step, len(batches))
            norm = self.sharing.update(rate)
            if not math.isfinite(norm):
                self._refuse("gradient", step, [pairs[at] for at in batches[step]])
            meter.lap("exchange_s")
            outcome.steps.append((total / group.world_size, norm, rate, int(tokens)))
            done, last = step + 1, step + 1 == len(batches)
            if not last and (stops or done % config.checkpoint_steps == 0):
                self._checkpoint(ctx, order, outcome.steps)
                meter.lap("checkpoint_s")
            if stops and not last:
                raise Interrupted(f"train: stopped after step {done} of {len(batches)}, which is its checkpoint")
            if last or done % LOG_STEPS == 0:
                ctx.log.info("train: step %d of %d, loss %.4f", done, len(batches), outcome.steps[-1][0])
        outcome.timings = self._figures(meter, sum(step[-1] for step in outcome.steps[first:]))
        return outcome

    def _resume(self, ctx: Context, order: str) -> list[Step]:
        """Return the steps done before, taken over by every rank: rank 0 says from which checkpoint."""
        found = newest_checkpoint(ctx.carry, order) if ctx.carry and self.group.rank == 0 else None
        (step,) = self.group.sum([float(found.step) if found else 0.0])
        if ctx.carry is None or step == 0:
            return []
        if self.group.rank != 0:
            found = newest_checkpoint(ctx.carry, order)
        if found is None or found.step != int(step):
            raise Interrupted(
                f"train: rank {self.group.rank} does not see the checkpoint of step {step:.0f} as rank 0 does"
            )
        self.sharing.load(found.tensors(), found.step)
        ctx.log.info("train: goes on after step %d", found.step)
        return found.steps

    def _checkpoint(self, ctx: Context, order: str, steps: list[Step]) -> None:
        if ctx.carry is not None:
            tensors = self.sharing.tensors()
            if self.group.rank == 0:
                write_checkpoint(ctx.carry, order, steps, tensors)
            self.group.sum([0.0])  # others may have to leave, and rank 0 has to write before they do

    def _seed(self, step: int) -> None:
        """Dropout's draws depend on step and rank alone: what resumes draws the same, and no random state is kept."""
        seed = seed_of("train", str(self.config.seed), str(step), str(self.group.rank))
        random.seed(seed)
        self._torch.manual_seed(seed)

    def _refuse(self, what: str, step: int, pairs: Sequence[Pair]) -> None:
        ids = ", ".join(pair.query_id for pair in pairs[:SHOWN_IDS])
        more = f" and {len(pairs) - SHOWN_IDS} more" if len(pairs) > SHOWN_IDS else ""
        said = (
            f"train: the {what} of step {step + 1} is not finite; its questions: {ids}{more}; look at them, lower "
            "train.learning_rate, or set train.precision=float32"
        )
        if self.group.rank == 0:
            raise InputError(said)
        raise Interrupted(said)  # one failure is one, whatever the number of ranks

    def _figures(self, meter: _Meter, tokens: int) -> dict[str, float]:
        """Return figures of all ranks, for the record: seconds, tokens/s, share of time at work, peak memory in MiB."""
        group, cuda = self.group, self.learner.device != "cpu"
        peak = self._torch.cuda.max_memory_allocated() if cuda else peak_rss_bytes()
        own = [peak / 2**20 if rank == group.rank else 0.0 for rank in range(group.world_size)]
        busy, *peaks = group.sum([meter.share("compute_s"), *own])
        wall_s = sum(meter.seconds.values())
        figures = {**meter.seconds, "busy_share": busy / group.world_size}
        figures |= {"tokens_per_s": tokens / wall_s if wall_s else 0.0}
        return figures | {f"peak_mib.rank{rank}": mib for rank, mib in enumerate(peaks)}


class _Meter:
    """Seconds by what they went to."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("data_s", "compute_s", "exchange_s", "checkpoint_s"), 0.0)
        self._at = time.monotonic()

    def begin(self) -> None:
        self._at = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] += now - self._at
        self._at = now

    def share(self, name: str) -> float:
        total = sum(self.seconds.values())
        return self.seconds[name] / total if total else 0.0


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Return the rate of a step, from 0: it rises over the warm-up's share of the steps, and falls to 0 linearly."""
    warmup = math.ceil(config.warmup * num_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * (num_steps - step) / max(1, num_steps - warmup)


def check_libraries(config: TrainConfig) -> None:
    """Raise MissingDependency where a library that the training needs is not installed."""
    needed = ["sentence_transformers", *(["deepspeed"] if config.strategy is Strategy.deepspeed else [])]
    for name in needed:
        if importlib.util.find_spec(name) is None:
            raise MissingDependency(f"train: {name} is not installed; run: pip install 'rag-hpc[train]'")
