"""Texts to vectors, and (question, passage) pairs to scores, from a model's local folder.

Networks like BERT are run by models.forward, others by transformers. Weights are read as safetensors only, never as
pickle. N texts, T tokens of a batch, B texts of a batch, D dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rag_hpc.algo.rank.pooling import Pooling
from rag_hpc.algo.types import F32, I32, I64, Array
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.models.device import Device, Precision, cpu_class, num_threads, resolve_device, resolve_precision
from rag_hpc.models.folder import MINILM, model_folder, model_limit, weights_hash
from rag_hpc.models.forward import Forward
from rag_hpc.models.packed import Packed
from rag_hpc.models.recipe import Finish, read_recipe
from rag_hpc.models.shape import read_shape
from rag_hpc.models.tokens import Tokenizer

log = logging.getLogger(__name__)


class Encoder:
    """A text encoder with the pooling, Dense layers, normalisation and length limit that its folder asks for.

    With the same folder, texts, batch size, precision, thread count and class of processor, the bytes are the same.
    """

    def __init__(
        self,
        model: str = MINILM,
        precision: Precision = Precision.float32,
        *,
        threads: int = 0,
        max_tokens: int = 0,
        dims: int = 0,
        device: Device = Device.cpu,
    ) -> None:
        """threads: 0 takes the CPUs that were granted. max_tokens: 0 takes the model's own limit, which it may lower.
        dims: of the vectors' first dimensions, 0 = all."""
        folder = model_folder(model)
        self.recipe = read_recipe(folder)
        self._is_first = self.recipe.pooling is Pooling.cls
        self._network = _Network(model, precision, threads, device, firsts=self._is_first)
        if max_tokens > self._network.max_tokens:
            raise ConfigError(f"encoder: max_tokens={max_tokens}, but {model} takes {self._network.max_tokens}")
        self.max_tokens = max_tokens or self._network.max_tokens
        self._finish = Finish(self.recipe, self._network.device, self._network.width, dims)
        self.dims = self._finish.dims
        self._frame = self._network.tokenizer.frame()
        self._folder = folder

    @property
    def device_kind(self) -> str:
        """cpu or cuda."""
        return self._network.device.partition(":")[0]

    @property
    def num_retries(self) -> int:
        """How often a batch did not fit the GPU's memory and was halved."""
        return self._network.num_retries

    def facts(self) -> dict[str, Any]:
        """Return what the vectors depend on besides the texts: two runs with equal facts can be searched together."""
        network = self._network
        return {
            "weights": weights_hash(self._folder),
            "pooling": self.recipe.pooling.value,
            "normalize": self.recipe.normalize,
            "dims": self.dims,
            "max_tokens": self.max_tokens,
            "precision": network.precision.value,
            "tier": "int8" if network.precision is Precision.int8 else "exact",
            "device": network.device_name,
            "threads": network.threads,
        }

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return each text's tokens, the model's special ones included."""
        return [len(ids) + self._frame.num_special for ids in self._network.tokenizer.ids(texts)]

    def encode(
        self,
        texts: Sequence[str],
        tokens_per_batch: int = 8192,
        *,
        out: type = np.float32,
        allow_truncate: bool = False,
    ) -> Array:
        """Return vectors_ND of dtype `out`, in the order of the texts.

        Raises ConfigError naming the first text beyond max_tokens unless allow_truncate cuts it there.
        """
        bare = self._network.ids(texts)
        if allow_truncate:
            bare = [ids[: self.max_tokens - self._frame.num_special] for ids in bare]
        framed = [self._frame.around(ids) for ids in bare]
        _refuse_long(list(map(len, framed)), self.max_tokens)
        vectors_ND: Array = np.zeros((len(framed), self.dims), dtype=out)
        for rows, vectors_BD in self._network.batches(framed, None, tokens_per_batch, self._vectors):
            vectors_ND[rows] = vectors_BD
        return vectors_ND

    def _vectors(self, texts: Packed) -> Any:
        network = self._network
        if self._is_first:  # as if each text were its first token
            return self._finish(network.firsts(texts), network.put(np.ones_like(texts.lengths_B)))
        return self._finish(network.hidden(texts), network.put(texts.lengths_B))


class Reranker:
    """A cross-encoder that scores how well a passage answers a question."""

    def __init__(
        self,
        model: str,
        precision: Precision = Precision.float32,
        *,
        threads: int = 0,
        device: Device = Device.cpu,
    ) -> None:
        """threads: 0 takes the CPUs that were granted."""
        self._network = _Network(model, precision, threads, device, head=True)
        self.max_tokens = self._network.max_tokens
        self._num_labels = self._network.num_labels
        if self._num_labels not in (1, 2):
            raise ConfigError(f"rerank: {model} has {self._num_labels} labels; a reranker has 1 (score) or 2 (no, yes)")
        self._frame = self._network.tokenizer.frame(paired=True)

    def score(
        self, pairs: Sequence[tuple[str, str]], tokens_per_batch: int = 8192, *, allow_truncate: bool = False
    ) -> F32:
        """Return one score a (question, passage) pair, larger is better: the logit, or yes minus no.

        A question that many pairs share is tokenized once. Raises ConfigError naming the first pair beyond max_tokens
        unless allow_truncate cuts its passage, and a question that leaves it no room.
        """
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        ids = dict(zip(texts, self._network.ids(texts), strict=True))
        room = self.max_tokens - self._frame.num_special
        framed, segments = [], []
        for question, passage in pairs:
            both = ids[question], ids[passage]
            if allow_truncate:
                both = both[0][:room], both[1][: max(0, room - len(both[0]))]
            framed.append(self._frame.around(*both))
            segments.append(self._frame.segments(*both))
        _refuse_long(list(map(len, framed)), self.max_tokens)
        scores_N = np.zeros(len(framed), dtype=np.float32)
        for rows, logits_BL in self._network.batches(framed, segments, tokens_per_batch, self._network.logits):
            scores_N[rows] = logits_BL[:, 0] if self._num_labels == 1 else logits_BL[:, 1] - logits_BL[:, 0]
        return scores_N


def token_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[I64]:
    """Return the positions of each batch: longest first, tokens within the budget, at least one text each.

    Texts without tokens are in none.
    """
    lengths_N = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths_N, kind="stable")
    order = order[: np.count_nonzero(lengths_N)]
    ends = np.cumsum(lengths_N[order])
    batches, at, used = [], 0, 0
    while at < len(order):
        stop = max(at + 1, int(np.searchsorted(ends, used + tokens_per_batch, side="right")))
        batches.append(order[at:stop])
        at, used = stop, int(ends[stop - 1])
    return batches


class _Network:
    """A network with its tokenizer on a device: what Encoder and Reranker share."""

    def __init__(
        self,
        model: str,
        precision: Precision,
        threads: int,
        device: Device,
        *,
        head: bool = False,
        firsts: bool = False,
    ) -> None:
        folder = model_folder(model)
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.threads = num_threads(threads)
        self.tokenizer = Tokenizer(model)
        self.max_tokens = model_limit(model)
        self.num_retries = 0
        import torch

        self._torch = torch
        torch.set_num_threads(self.threads)
        shape = read_shape(folder)
        self._forward: Any
        if shape is not None:
            self._forward = Forward(shape, folder, self.precision.value, self.device, head=head, firsts=firsts)
        else:
            if self.precision is Precision.int8:
                raise ConfigError(f"encoder: {model} has no int8 here, since it is run by transformers; take float32")
            from rag_hpc.models.library import LibraryForward

            self._forward = LibraryForward(folder, self.precision.value, self.device, head=head)
        self.width, self.num_labels = self._forward.shape.width, self._forward.shape.num_labels
        if self.tokenizer.vocab_size > self._forward.shape.vocab_size:
            raise InputError(
                f"encoder: the tokenizer of {folder} has {self.tokenizer.vocab_size} tokens, its network takes "
                f"{self._forward.shape.vocab_size}: they are not of one model; get it again"
            )
        self.hidden, self.firsts, self.logits = self._forward.hidden, self._forward.firsts, self._forward.logits
        self.put = self._forward.put

    @property
    def device_name(self) -> str:
        """What computes: the GPU's name, or the CPU's class."""
        return cpu_class() if self.device == "cpu" else str(self._torch.cuda.get_device_name(self.device))

    def ids(self, texts: Sequence[str]) -> list[I32]:
        """Return the texts' tokens; ahead of a GPU they are made by several threads."""
        if self.device == "cpu" or self.threads == 1:
            return self.tokenizer.ids(texts)
        with ThreadPoolExecutor(self.threads) as pool:
            return self.tokenizer.ids(texts, pool.map)

    def batches(
        self,
        texts: Sequence[I32],
        types: Sequence[I32] | None,
        tokens_per_batch: int,
        apply: Callable[[Packed], Any],
    ) -> Iterator[tuple[I64, Any]]:
        """Yield (positions, what `apply` makes of them as a numpy array) of each batch.

        On a GPU all batches are begun before the first result is waited for. One that does not fit its memory is done
        in two halves; RuntimeError when a half does not fit either.
        """
        begun = []
        for rows in token_batches([len(ids) for ids in texts], tokens_per_batch):
            for part, made in self._applied(rows, texts, types, apply):
                if self.device == "cpu":
                    yield part, made.numpy()
                else:
                    begun.append((part, made))
        for part, made in begun:
            yield part, made.cpu().numpy()

    def _applied(
        self, rows: I64, texts: Sequence[I32], types: Sequence[I32] | None, apply: Callable[[Packed], Any]
    ) -> list[tuple[I64, Any]]:
        def run(part: I64) -> tuple[I64, Any]:
            picked = [types[at] for at in part] if types else None
            return part, apply(Packed.of([texts[at] for at in part], picked))

        try:
            return [run(rows)]
        except self._torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        log.warning("a batch of %d texts does not fit the GPU's memory; it is done in two halves", len(rows))
        self.num_retries += 1
        self._torch.cuda.empty_cache()
        return [run(part) for part in np.array_split(rows, 2)]


def _refuse_long(lengths: Sequence[int], limit: int) -> None:
    for at, length in enumerate(lengths):
        if length > limit:
            raise ConfigError(
                f"encoder: text {at} has {length} tokens, the limit is {limit}; cut chunks smaller (chunk.max_tokens) "
                "or pass allow_truncate=True"
            )
