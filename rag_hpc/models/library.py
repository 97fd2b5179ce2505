"""The forward pass of networks that models.forward does not know, by transformers; its import takes seconds.

Shapes as in models.forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.errors import InputError
from rag_hpc.models.packed import Packed


@dataclass(frozen=True)
class LibraryShape:
    """What the others need to know of the network."""

    width: int
    vocab_size: int
    num_labels: int


class LibraryForward:
    """Stands where models.forward.Forward would; texts are padded to the longest of their batch."""

    def __init__(self, folder: Path, precision: str, device: str, *, head: bool = False) -> None:
        """Raises InputError for a folder that transformers cannot load from safetensors without code of its own."""
        import torch
        import transformers.utils

        # for speculative decoding it would import scikit-learn, SciPy and pandas: a quarter of a rank's start
        utils: Any = transformers.utils
        utils.is_sklearn_available = lambda: False
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        kind = transformers.AutoModelForSequenceClassification if head else transformers.AutoModel
        try:
            loaded: Any = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=getattr(torch, precision)
            )
        except (OSError, ValueError) as error:
            need = "it needs config.json and safetensors"
            raise InputError(f"encoder: {folder} cannot be loaded ({error}); {need}") from error
        self._torch, self.device, self._model = torch, device, loaded.to(device).eval()
        config = self._model.config
        self.shape = LibraryShape(int(config.hidden_size), int(config.vocab_size), int(config.num_labels))
        self._has_segments = getattr(config, "type_vocab_size", 0) > 1

    def hidden(self, texts: Packed) -> Any:
        """Return the last layer's vectors of all tokens, [T, D]."""
        given = self._padded(texts)
        with self._torch.inference_mode():
            return self._model(**given).last_hidden_state[given["attention_mask"].bool()]

    def firsts(self, texts: Packed) -> Any:
        """Return the last layer's vector of each text's first token, [B, D]."""
        return self.hidden(texts)[self.put(texts.first_B)]

    def logits(self, texts: Packed) -> Any:
        """Return the classifier's logits of each text, [B, L] float32."""
        with self._torch.inference_mode():
            return self._model(**self._padded(texts)).logits.float()

    def put(self, array: Any) -> Any:
        """Return the array on the device."""
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _padded(self, texts: Packed) -> dict[str, Any]:
        lengths_B = texts.lengths_B
        is_text_BT = np.arange(lengths_B.max())[None, :] < lengths_B[:, None]
        ids_BT = np.full(is_text_BT.shape, self._model.config.pad_token_id or 0, dtype=np.int64)
        ids_BT[is_text_BT] = texts.ids_T
        given = {"input_ids": ids_BT, "attention_mask": is_text_BT.astype(np.int64)}
        if self._has_segments and texts.types_T is not None:
            types_BT = np.zeros_like(ids_BT)
            types_BT[is_text_BT] = texts.types_T
            given["token_type_ids"] = types_BT
        return {name: self.put(array) for name, array in given.items()}
