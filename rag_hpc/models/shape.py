"""What a BERT-like network is made of, read from config.json, and where its weights lie in safetensors files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.errors import InputError
from rag_hpc.models.folder import _json, weight_files

OWN = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "distilbert")
ACTIVATIONS = {  # transformers' name -> (kind, approximation)
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "gelu_fast": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
_BERT = {  # of a layer: our name -> theirs
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
_MPNET = _BERT | {
    **{name: f"attention.attn.{name}" for name in "qkv"},
    "out": "attention.attn.o",
    "norm1": "attention.LayerNorm",
}
_DISTILBERT = {
    "q": "attention.q_lin",
    "k": "attention.k_lin",
    "v": "attention.v_lin",
    "out": "attention.out_lin",
    "norm1": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm2": "output_layer_norm",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the network and the names of its weights."""

    kind: str
    num_layers: int
    num_heads: int
    width: int
    vocab_size: int
    activation: tuple[str, str]
    epsilon: float
    has_segments: bool
    pad_id: int
    shifted: bool  # positions begin behind the padding token's number, which stays at its own
    num_buckets: int  # of distances between tokens, of which attention knows (MPNet); 0 = none
    num_labels: int
    layers: str  # where the layers lie
    names: dict[str, str]  # of a layer's weights
    head: tuple[tuple[str, str], ...]  # (weights, activation behind them) of a classifier over the first token


def read_shape(folder: Path) -> Shape | None:
    """Return the shape of the folder's network; None for one that is not BERT-like, or has a part that we lack."""
    config = _json(folder / "config.json", None)
    if config is None:
        raise InputError(f"encoder: {folder} has no config.json; give the folder of a transformers model")
    kind = str(config.get("model_type", ""))
    distil = kind == "distilbert"
    activation = str(config.get("activation" if distil else "hidden_act", "gelu"))
    plain = config.get("position_embedding_type", "absolute") == "absolute" and not config.get("is_decoder")
    if kind not in OWN or activation not in ACTIVATIONS or not plain:
        return None
    shifted = kind not in ("bert", "distilbert")
    return Shape(
        kind=kind,
        num_layers=int(config["n_layers" if distil else "num_hidden_layers"]),
        num_heads=int(config["n_heads" if distil else "num_attention_heads"]),
        width=int(config["dim" if distil else "hidden_size"]),
        vocab_size=int(config["vocab_size"]),
        activation=ACTIVATIONS[activation],
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        has_segments=kind not in ("mpnet", "distilbert"),
        pad_id=1 if kind == "mpnet" else int(config.get("pad_token_id") or 0),
        shifted=shifted,
        num_buckets=int(config.get("relative_attention_num_buckets", 32)) if kind == "mpnet" else 0,
        num_labels=_num_labels(config),
        layers="transformer.layer" if distil else "encoder.layer",
        names={"distilbert": _DISTILBERT, "mpnet": _MPNET}.get(kind, _BERT),
        head=_head(kind),
    )


def _num_labels(config: dict[str, Any]) -> int:
    return len(config["id2label"]) if config.get("id2label") else int(config.get("num_labels", 2))


def _head(kind: str) -> tuple[tuple[str, str], ...]:
    if kind == "bert":
        return ("pooler.dense", "tanh"), ("classifier", "")
    if kind == "distilbert":
        return ("pre_classifier", "relu"), ("classifier", "")
    return ("classifier.dense", "tanh"), ("classifier.out_proj", "")


class Weights:
    """The tensors of a folder's safetensors files, read when asked for; nothing is ever unpickled."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where the folder holds none."""
        from safetensors import SafetensorError, safe_open

        self._folder = folder
        self._where: dict[str, Any] = {}
        try:
            for path in weight_files(folder):
                file: Any = safe_open(str(path), framework="pt")
                self._where |= dict.fromkeys(file.keys(), file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"encoder: {folder} cannot be loaded ({error}); get the model again") from error
        # a classifier's folder names its body after the kind
        bodies = {name.split(".embeddings.")[0] + "." for name in self._where if ".embeddings." in name}
        self._body = bodies.pop() if len(bodies) == 1 else ""

    def __call__(self, name: str) -> Any:
        """Return a tensor as float32. Raises InputError that names one that is not there."""
        import torch

        found = next((full for full in (self._body + name, name) if full in self._where), None)
        if found is None:
            raise InputError(f"encoder: {self._folder} cannot be loaded: its safetensors lack {name}; get it again")
        return self._where[found].get_tensor(found).to(torch.float32)

    def has(self, name: str) -> bool:
        """Return whether there is a tensor of that name."""
        return name in self._where or self._body + name in self._where
