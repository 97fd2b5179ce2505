"""What the answers of a run depend on, as the keys of its caches have it: the same for whoever serves the run."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import publish_file
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.ledger import Request
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.trust import private_files
from rag_hpc.errors import InputError
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.schema import to_plain
from rag_hpc.search.rerank import as_the_run
from rag_hpc.serve.cache.entry import Scope
from rag_hpc.serve.places import FOLDER, check_own
from rag_hpc.serve.rank import fingerprint

SECRET = ".cache-key"  # beside the groups of the run
VERSION = 1  # of what an answer holds: another one finds no entry of before
_REACH = ("base_url", "api_key_env", "api_key_file")  # of a generator: where it is, and not what it says


def scope_of(
    inputs: Mapping[str, Manifest], request: Request, generator: GeneratorConfig, tenant: str, only: str = ""
) -> Scope:
    """Return the scope of a run's answers to a tenant. only: a filter of passages, in place of the run's."""
    settings = request.settings
    head = as_the_run(settings)
    ranked = [head.model, head.precision.value] if head else []
    changes = {f.name for f in dataclasses.fields(generator) if f.metadata.get("output", True)} - {*_REACH}
    changes.add("compress")  # what the generator reads of the passages
    told = {name: value for name, value in to_plain(generator).items() if name in changes}
    return Scope(
        tenant=tenant,
        generation=hash_value([VERSION, fingerprint(inputs, request), inputs["chunk"].output_hash, *ranked]),
        k=int(settings["generate"]["k"]),
        candidates=head.depth if head else 0,
        model=hash_value([settings["retrieve.queries"], told]),
        prompt=hash_value(settings["generate"].get("prompt", {})),
        filter=only,
    )


def secret_of(run_dir: Path) -> bytes:
    """Return the secret of the run's caches, 32 bytes, made when it is first asked for.

    Raises ConfigError where it is not ours alone, and InputError where it is damaged.
    """
    path = run_dir / FOLDER / SECRET
    with private_files():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        check_own(path.parent)
        if not path.exists():
            publish_file(path, secrets.token_hex(32).encode())
    check_own(path)
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); remove it, and all that was cached is a miss") from error
    if len(secret) != 32:
        raise InputError(f"{path}: damaged (32 bytes in hex are needed); remove it, and all that was cached is a miss")
    return secret


def settings_of(overrides: list[str]) -> dict[str, Any]:
    """Return the settings given as `cache.KEY=VALUE`, to be checked by `schema.from_plain(CacheConfig, ...)`."""
    return dict(o.removeprefix("cache.").split("=", 1) for o in overrides if o.startswith("cache."))
