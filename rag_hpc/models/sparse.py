"""Learned sparse vectors of texts by any masked language model in a folder; see algo/rank/impacts.py."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from rag_hpc.algo.rank.impacts import pooled, quantized
from rag_hpc.errors import InputError
from rag_hpc.models.folder import model_folder, model_limit, weights_hash
from rag_hpc.models.tokens import Tokenizer


class SparseEncoder:
    """The model on one thread, a text at a time: an impact depends on its text alone, whoever makes it."""

    def __init__(self, model: str) -> None:
        """Raises InputError for a folder without a masked language model in safetensors."""
        import torch
        import transformers

        folder = model_folder(model)
        self.weights = weights_hash(folder)
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        try:
            loaded, told = transformers.AutoModelForMaskedLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise InputError(f"impacts: {folder} is no masked language model ({error})") from error
        if missing := sorted(told["missing_keys"]):
            raise InputError(
                f"impacts: {folder} lacks {', '.join(missing[:3])}, which makes words of vectors; a SPLADE model, or "
                "another masked language model with its head, is needed"
            )
        self._torch, self._model = torch, loaded.eval()
        self._tokenizer, self._limit = Tokenizer(model), model_limit(model)
        self._frame = self._tokenizer.frame()

    def impacts(self, text: str) -> dict[str, int]:
        """Return the impacts of a text's terms, those above 0; of what is too long, of its beginning."""
        (ids,) = self._tokenizer.ids([text])
        if not len(ids):
            return {}
        ids_L = self._frame.around(ids[: self._limit - self._frame.num_special]).astype(np.int64)
        threads = self._torch.get_num_threads()
        self._torch.set_num_threads(1)
        try:
            with self._torch.inference_mode():
                logits_LV = self._model(input_ids=self._torch.from_numpy(ids_L)[None]).logits[0].numpy()
        finally:
            self._torch.set_num_threads(threads)
        impacts_V = quantized(pooled(logits_LV))
        return {self._terms[term]: int(impacts_V[term]) for term in np.flatnonzero(impacts_V).tolist()}

    @cached_property
    def _terms(self) -> list[str]:
        """The vocabulary; a term that an index could not hold as a word has its number instead."""
        names: list[Any] = self._tokenizer.terms(int(self._model.config.vocab_size))
        return [name if name and name.isprintable() and " " not in name else f"#{at}" for at, name in enumerate(names)]
