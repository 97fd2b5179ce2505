"""What is trained: a model with sentence-transformers' loss, from pairs to a loss value.

Encoders learn by MultipleNegativesRankingLoss (in-batch negatives, gathered over ranks), with GradCache where
`mini_batch` is set, for several lengths of vectors where `matryoshka` is; rerankers by BinaryCrossEntropyLoss or
ListNetLoss. Every loss is a mean over the questions of a rank, so that the mean over ranks is that of the whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.models.device import Precision
from rag_hpc.models.folder import model_folder, model_limit, weight_files
from rag_hpc.models.recipe import read_recipe
from rag_hpc.stores.trained import Pair
from rag_hpc.train.config import RerankLoss, TrainConfig

_OUTPUTS = ("sentence_embedding", "scores")
_CERTAIN = 10.0  # ListNet aims at the softmax of the grades, which of 1 and 0 would leave the others a fair share


class Learner:
    """A model with its loss. `network` is the module to train; `loss(*inputs(pairs))` its loss, a scalar tensor."""

    loss: Any
    network: Any

    def __init__(self, config: TrainConfig, device: str, precision: Precision) -> None:
        self.config, self.device = config, device
        self.num_tokens = 0  # read with gradients so far
        self.dropout = 0.0  # the largest share that is dropped anywhere in the network
        folder = model_folder(config.model)
        weight_files(folder)  # safetensors, or InputError
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        limit = model_limit(config.model)
        if config.max_tokens > limit:
            raise ConfigError(f"train.max_tokens={config.max_tokens}: {config.model} takes {limit}; lower it")
        try:
            self._load(folder)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"train: {folder} cannot be loaded ({error}); save it again, or take another") from error
        self.network.forward = self._counting(self.network.forward, precision)
        self._limit, self.network.max_seq_length = limit, config.max_tokens or limit
        self.loss.train()

    def inputs(self, pairs: Sequence[Pair]) -> tuple[Any, Any]:
        """Return what the loss takes."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the model's folder: safetensors, configuration, tokenizer."""
        self.network.max_seq_length = self._limit  # what training cut is no limit of the model's
        self.network.save_pretrained(str(folder), create_model_card=False)

    def _load(self, folder: Path) -> None:
        raise NotImplementedError

    def _dropouts(self, folder: Path) -> dict[str, float]:
        """Return the model's settings of dropout by name, those asked for in place of its own."""
        from transformers import AutoConfig

        own = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
        found = {key: float(p) for key, p in own.items() if "dropout" in key and isinstance(p, int | float)}
        if self.config.dropout is not None:
            found = dict.fromkeys(found, self.config.dropout)
        self.dropout = max(found.values(), default=0.0)
        return found

    def _counting(self, forward: Any, precision: Precision) -> Any:
        """Return the network's forward pass in its precision; what it gives to the loss is float32."""
        import torch

        kind, enabled = self.device.partition(":")[0], precision is Precision.bfloat16

        def wrapped(features: dict[str, Any], **more: Any) -> dict[str, Any]:
            if torch.is_grad_enabled():  # GradCache reads all texts once more, without
                self.num_tokens += int(features["attention_mask"].sum())
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled):
                made: dict[str, Any] = forward(features, **more)
            return {**made, **{name: made[name].float() for name in _OUTPUTS if name in made}}

        return wrapped


class EncoderLearner(Learner):
    """Questions near their own passages, and far from all other passages of the step."""

    def __init__(self, config: TrainConfig, device: str, precision: Precision, world_size: int) -> None:
        self._world_size = world_size
        super().__init__(config, device, precision)

    def _load(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import losses

        read_recipe(folder)  # what encoding would refuse afterwards is refused now, before the library imports it
        self.network = SentenceTransformer(
            str(folder),
            device=self.device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
            config_kwargs=self._dropouts(folder),
        )
        config = self.config
        shared: dict[str, Any] = {"scale": config.scale, "gather_across_devices": self._world_size > 1}
        if config.mini_batch:
            cached = losses.CachedMultipleNegativesRankingLoss
            self.loss = cached(self.network, mini_batch_size=config.mini_batch, **shared)
        else:
            self.loss = losses.MultipleNegativesRankingLoss(self.network, **shared)
        if config.matryoshka:
            width = int(self.network.get_embedding_dimension())
            if max(config.matryoshka) > width:
                raise ConfigError(f"train.matryoshka={config.matryoshka}: {config.model} has {width} dimensions")
            dims = sorted({width, *config.matryoshka}, reverse=True)
            self.loss = losses.MatryoshkaLoss(self.network, self.loss, dims)

    def inputs(self, pairs: Sequence[Pair]) -> tuple[Any, Any]:
        """Return the features of each column: questions, passages, first negatives, ...; and no labels."""
        passages = zip(*([pair.positive, *pair.negatives] for pair in pairs), strict=True)
        columns = [[self.config.query_prefix + pair.query for pair in pairs]]
        columns += [[self.config.passage_prefix + text for text in column] for column in passages]
        features = [self.network.preprocess(column) for column in columns]
        return [{key: on_device(value, self.device) for key, value in each.items()} for each in features], None


class RerankerLearner(Learner):
    """The passage that answers above those that do not."""

    def _load(self, folder: Path) -> None:
        from sentence_transformers.cross_encoder import CrossEncoder, losses

        self.network = CrossEncoder(
            str(folder),
            device=self.device,
            num_labels=1,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
            config_kwargs=self._dropouts(folder),
        )
        kind = losses.BinaryCrossEntropyLoss if self.config.loss is RerankLoss.binary else losses.ListNetLoss
        self.loss = kind(self.network)

    def inputs(self, pairs: Sequence[Pair]) -> tuple[Any, Any]:
        """Return questions with passages, and their grades: 0 for those that do not answer."""
        import torch

        queries = [self.config.query_prefix + pair.query for pair in pairs]
        passages = [[self.config.passage_prefix + text for text in (p.positive, *p.negatives)] for p in pairs]
        listwise = self.config.loss is RerankLoss.listwise
        grade = _CERTAIN if listwise else 1.0
        labels = [torch.tensor([grade] + [0.0] * len(pair.negatives)) for pair in pairs]
        if listwise:
            return [queries, passages], labels
        flat = [(query, text) for query, texts in zip(queries, passages, strict=True) for text in texts]
        return [list(column) for column in zip(*flat, strict=True)], torch.cat(labels).to(self.device)


def on_device(value: Any, device: str) -> Any:
    """Return a tensor on the device; what is none, as it is."""
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value
