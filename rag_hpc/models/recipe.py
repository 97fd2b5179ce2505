"""From token vectors to a text's vector: the modules of a sentence-transformers folder that stand behind its network.

Shapes: T tokens of packed texts, B texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.algo.rank.pooling import Pooling, from_sentence_transformers
from rag_hpc.errors import ConfigError
from rag_hpc.models.folder import _json
from rag_hpc.models.shape import Weights

_ACTIVATIONS = {"Identity": "", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}  # of torch.nn
_PARTS = ("Transformer", "Pooling", "Dense", "Normalize")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a folder asks for; one without modules.json is pooled by the mean and normalized."""

    pooling: Pooling = Pooling.mean
    dense: tuple[Path, ...] = ()  # folders of the layers between pooling and normalization
    normalize: bool = True
    lower: bool = False  # put texts in lower case before the tokenizer sees them
    prompts: tuple[tuple[str, str], ...] = ()  # (kind of text, what the model was trained to see before it)

    def missing_prefix(self, kinds: tuple[str, ...], prefix: str) -> str | None:
        """Return the prompt that the model's folder has for one of these kinds, where another prefix is used."""
        wanted = next((text for kind, text in self.prompts if kind in kinds and text), None)
        return None if wanted is None or prefix == wanted else wanted


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe of a folder. Raises ConfigError that names a module which is not applied here."""
    modules = _json(folder / "modules.json", None)
    if modules is None:
        return Recipe()
    prompts = _json(folder / "config_sentence_transformers.json", {}).get("prompts") or {}
    steps = [(str(m["type"]).rsplit(".", 1)[-1], str(m["path"])) for m in modules]
    kinds = [kind for kind, _ in steps]
    unknown = sorted(set(kinds) - set(_PARTS))
    if unknown or sorted(kinds, key=_PARTS.index) != kinds or kinds[:2] != ["Transformer", "Pooling"]:
        raise ConfigError(
            f"encoder: {folder} needs the modules {unknown or kinds}; known: {', '.join(_PARTS)}, in that order"
        )
    lower = bool(_json(folder / "sentence_bert_config.json", {}).get("do_lower_case", False))
    return Recipe(
        pooling=from_sentence_transformers(_json(folder / steps[1][1] / "config.json", {})),
        dense=tuple(folder / path for kind, path in steps if kind == "Dense"),
        normalize=kinds[-1] == "Normalize",
        lower=lower,
        prompts=tuple((str(kind), str(text)) for kind, text in prompts.items()),
    )


class Finish:
    """A recipe with its weights on a device; works in float32."""

    def __init__(self, recipe: Recipe, device: str, width: int, dims: int) -> None:
        """width: of the token vectors. dims: keep so many of the result's dimensions, 0 = all (Kusupati et al. 2022).

        Raises ConfigError for more than there are.
        """
        import torch

        self._torch, self._recipe = torch, recipe
        self._dense = [_dense(torch, folder, device) for folder in recipe.dense]
        full = self._dense[-1][1] if self._dense else width
        if dims > full:
            raise ConfigError(f"encoder: dims={dims}, but the model's vectors have {full}; lower stage.encode.dims")
        self.dims = dims or full

    def __call__(self, hidden_TD: Any, lengths_B: Any) -> Any:
        """Return one vector a text, [B, dims] float32. lengths_B: a tensor beside hidden_TD, none 0."""
        torch = self._torch
        with torch.inference_mode():
            vectors_BD = self._pooled(hidden_TD, lengths_B)
            for apply, _ in self._dense:
                vectors_BD = apply(vectors_BD)
            vectors_BD = vectors_BD[:, : self.dims]
            if self._recipe.normalize:
                vectors_BD = torch.nn.functional.normalize(vectors_BD)
            return vectors_BD

    def _pooled(self, hidden_TD: Any, lengths_B: Any) -> Any:
        ends_B = lengths_B.cumsum(0)
        if self._recipe.pooling is Pooling.last:
            return hidden_TD[ends_B - 1].float()
        if self._recipe.pooling is Pooling.cls:
            return hidden_TD[ends_B - lengths_B].float()
        return self._torch.segment_reduce(hidden_TD.float(), "mean", lengths=lengths_B, axis=0)


def _dense(torch: Any, folder: Path, device: str) -> tuple[Callable[[Any], Any], int]:
    config = _json(folder / "config.json", {})
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    between = {config.get(key, "sentence_embedding") for key in ("module_input_name", "module_output_name")}
    if name not in _ACTIVATIONS or config.get("use_residual") or not between <= {"sentence_embedding", None}:
        raise ConfigError(
            f"encoder: {folder} is a Dense module with activation {name} between {between}; known: "
            f"{', '.join(_ACTIVATIONS)} on the sentence's vector, without residual"
        )
    weights = Weights(folder)
    weight = weights("linear.weight").to(device)
    bias = weights("linear.bias").to(device) if config.get("bias", True) else None
    functional = torch.nn.functional
    apply = {"": lambda x: x, "tanh": torch.tanh, "relu": functional.relu, "gelu": functional.gelu}[_ACTIVATIONS[name]]
    return (lambda x: apply(functional.linear(x, weight, bias))), len(weight)
