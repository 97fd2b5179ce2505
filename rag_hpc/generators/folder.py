"""The folder of a language model: what has to be in it, whether it knows chats, and what tells it from others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rag_hpc.core.hashing import hash_file, hash_value
from rag_hpc.errors import InputError

# for models that were never taught one: the same text for every generator that loads them
PLAIN_CHAT = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}Answer:"
WEIGHTS = "*.safetensors"


def require_model(model: str) -> Path:
    """Return the folder of a model. Raises InputError for one that lacks config, tokenizer or safetensors."""
    folder = Path(model).expanduser()
    wanted = {"config.json": "config.json", "tokenizer.json": "a tokenizer.json", WEIGHTS: "weights as safetensors"}
    missing = [what for pattern, what in wanted.items() if not any(folder.glob(pattern))]
    if missing:
        state = f"has no {missing[0].removeprefix('a ')}" if folder.is_dir() else "does not exist"
        raise InputError(
            f"generator: the model's folder {folder} {state}; it needs {', '.join(wanted.values())} (pickled weights "
            "are not read). Get a model where there is a network: hf download OWNER/NAME --local-dir FOLDER"
        )
    return folder


def has_chat_template(folder: Path) -> bool:
    """Return whether the model brings a chat template."""
    said = read_json(folder / "tokenizer_config.json")
    return (folder / "chat_template.jinja").is_file() or bool(said.get("chat_template"))


def max_positions(folder: Path) -> int | None:
    """Return how many tokens the model can hold, prompt and answer together; None where its config does not say."""
    config = read_json(folder / "config.json")
    found = config.get("max_position_embeddings") or (config.get("text_config") or {}).get("max_position_embeddings")
    return int(found) if found else None


def model_identity(folder: Path) -> str:
    """Return a hash of the model's JSON and template files and of the sizes of its weights, which may be 100 GB."""
    small = sorted(path for pattern in ("*.json", "*.jinja") for path in folder.glob(pattern))
    weights = sorted(folder.glob(WEIGHTS))
    return hash_value([[p.name, hash_file(p)] for p in small] + [[p.name, p.stat().st_size] for p in weights])


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} where there is none. Raises InputError for what is no JSON."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"generator: {path} is no JSON ({error}); get the model again") from error
    return found if isinstance(found, dict) else {}
