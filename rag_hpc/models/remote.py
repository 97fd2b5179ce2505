"""An encoder behind any endpoint that speaks OpenAI's protocol of embeddings (vLLM, a hosted service)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.errors import ClusterError, ConfigError
from rag_hpc.models.encoders import EncoderConfig
from rag_hpc.models.endpoint import Endpoint, How
from rag_hpc.models.recipe import Recipe

PROBE = "1"  # a text that tells how many dimensions the vectors have
TOO_LONG = "a text may be longer than the model takes; lower stage.chunk.max_tokens, or encoder.batch"


class RemoteEncoder:
    """Gives vectors of length 1, whatever the endpoint does about that; asks nothing before it is asked itself."""

    num_retries = 0  # of batches that did not fit a GPU's memory: the endpoint's own affair
    recipe = Recipe()
    device_kind = "endpoint"

    def __init__(
        self,
        config: EncoderConfig,
        *,
        dims: int = 0,
        check_stop: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """dims: of the vectors' first dimensions, 0 = all. Raises InputError when the key cannot be read."""
        self._config, self._wanted, self._full = config, dims, 0
        how = How(too_long=TOO_LONG, max_reply_bytes=256 << 20, sleep=sleep)
        self._endpoint = Endpoint(config, "embeddings", "encoder", check_stop, how)

    @property
    def dims(self) -> int:
        """The dimensions of the vectors that are given; the endpoint is asked for one where none was seen."""
        if not self._full:
            self.encode([PROBE])
        return self._wanted or self._full

    def facts(self) -> dict[str, Any]:
        """As of the local encoder. Which weights the endpoint has under the name of its model, nobody can tell."""
        named = {"weights": f"endpoint:{self._config.model}", "pooling": "endpoint", "device": "endpoint"}
        return {**named, "normalize": True, "dims": self.dims, "tier": "exact"}

    def encode(
        self,
        texts: Sequence[str],
        tokens_per_batch: int = 0,
        *,
        out: type = np.float32,
        allow_truncate: bool = False,
    ) -> Array:
        """Return vectors_ND of dtype `out`, in the order of the texts.

        Requests hold `encoder.batch` texts, so tokens_per_batch is not read; nor allow_truncate: what is too long is
        the endpoint's to cut or to refuse. Raises InputError, ClusterError, and whatever check_stop raises.
        """
        size = self._config.batch
        parts = [texts[at : at + size] for at in range(0, len(texts), size)]
        with ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="embed") as pool:
            made = list(pool.map(self._batch, parts))
        return np.concatenate(made).astype(out) if made else np.zeros((0, self.dims), dtype=out)

    def _batch(self, texts: Sequence[str]) -> Array:
        asked = {"model": self._config.model, "input": [text or " " for text in texts], "encoding_format": "float"}
        vectors_ND = self._read(self._endpoint.post(asked), len(texts))
        if self._wanted > vectors_ND.shape[1]:
            raise ConfigError(
                f"encode: dims={self._wanted}, but the vectors of {self._config.model} have {vectors_ND.shape[1]}; "
                "lower stage.encode.dims"
            )
        vectors_ND = vectors_ND[:, : self._wanted or None]
        lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        if not np.isfinite(lengths_N1).all() or not lengths_N1.all():
            at = int(np.flatnonzero(~(np.isfinite(lengths_N1) & (lengths_N1 > 0)))[0])
            raise ClusterError(
                f"encoder: {self._endpoint.url}: the vector of text {at} of a request is not finite or has no length; "
                "check the server's log"
            )
        unit_ND: Array = vectors_ND / lengths_N1
        return unit_ND

    def _read(self, body: bytes, num: int) -> Array:
        """Return the reply's vectors by their index. Raises ClusterError for too few, or of another width."""
        try:
            rows = {row["index"]: row["embedding"] for row in json.loads(body)["data"]}
            vectors_ND: Array = np.array([rows[index] for index in range(num)], dtype=np.float64)
            if vectors_ND.ndim != 2 or len(rows) != num:
                raise ValueError(f"{len(rows)} vectors for {num} texts")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            said = self._endpoint.masked(body[:200].decode("utf-8", "replace"))
            raise ClusterError(
                f"encoder: {self._endpoint.url} gave no vector for each of {num} texts ({type(error).__name__}): "
                f"{said!r}; check encoder.base_url and encoder.model"
            ) from None
        width = vectors_ND.shape[1]
        self._full = self._full or width
        if width != self._full:
            raise ClusterError(
                f"encoder: {self._endpoint.url} gives vectors of {width} dimensions and gave {self._full}; is "
                "one model behind it?"
            )
        return vectors_ND
