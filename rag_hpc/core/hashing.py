"""Hashes that name content: files, values and whole stages."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json

BLOCK_BYTES = 1 << 20


def hash_file(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_value(value: Any) -> str:
    """Return the SHA-256 of a JSON-able value's canonical text, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fingerprint(stage: str, version: int, config: dict[str, Any], inputs: dict[str, str]) -> str:
    """Return the name of a stage's work: same settings, same inputs and same code version give the same name."""
    return hash_value({"stage": stage, "version": version, "config": config, "inputs": inputs})


def seed_of(*parts: str) -> int:
    """Return a 63-bit seed that depends on the given names only."""
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:8], "big") >> 1
