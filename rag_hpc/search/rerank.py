"""A cross-encoder's order of the head of a ranking, one question at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_hpc.core.settings import path_field
from rag_hpc.errors import ConfigError
from rag_hpc.models.device import Device, Precision
from rag_hpc.stores.chunks import ChunkStore

if TYPE_CHECKING:
    from rag_hpc.models.encoder import Reranker

STAGE = "rerank"


@dataclass(kw_only=True)
class RerankSettings:
    """How a ranking's head is put in a new order."""

    model: str = path_field("", only="folder")  # or hub id, of a cross-encoder with one output; needed when it runs
    depth: int = 20  # hits of the ranking handed on that are scored
    device: Device = Device.auto
    precision: Precision = Precision.float32  # bfloat16 moves scores by some 1e-2: near neighbours change places
    tokens_per_batch: int = 4096  # in a forward pass; raise it on a GPU (65536)
    threads: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1 or self.threads < 0 or self.tokens_per_batch < 512:
            raise ConfigError(
                "stage.rerank: depth >= 1, threads >= 0 and tokens_per_batch >= 512 are needed; try depth=20 threads=1"
            )


def as_the_run(settings: Mapping[str, Mapping[str, Any]]) -> RerankSettings | None:
    """Return how a run reranks, by the settings of its stages; None where it does not."""
    from rag_hpc.schema import from_plain

    given = dict(settings.get(STAGE, {}))
    return from_plain(RerankSettings, given) if given.get("model") else None


def ordered(scores: Sequence[float], ordinals: Sequence[int]) -> list[int]:
    """Return the positions of passages by score, the best first; ties by ordinal."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], ordinals[i]))


class Reranking:
    """A run's cross-encoder over its chunks, loaded by the first question. For any number of threads, one at a time."""

    def __init__(self, settings: RerankSettings, chunks: ChunkStore) -> None:
        self._settings, self._chunks, self._lock = settings, chunks, threading.Lock()
        self._model: Reranker | None = None

    def order(self, question: str, ordinals: Sequence[int]) -> list[tuple[int, float]]:
        """Return the chunks with these ordinals, the best first, each with its score."""
        from rag_hpc.models.encoder import Reranker

        settings = self._settings
        pairs = [(question, str(row["text"])) for row in self._chunks.rows(ordinals, ["text"])]
        with self._lock:
            if self._model is None:
                model, threads, device = settings.model, settings.threads, settings.device
                self._model = Reranker(model, settings.precision, threads=threads, device=device)
            scores = self._model.score(pairs, settings.tokens_per_batch, allow_truncate=True).tolist() if pairs else []
        return [(ordinals[i], scores[i]) for i in ordered(scores, ordinals)]
