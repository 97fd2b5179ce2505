"""What names an entry, and the seal without which its bytes are not believed."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import struct
from dataclasses import astuple, dataclass
from enum import Enum
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.fs import canonical_json

MAGIC = b"RHC1"
_HEAD = struct.Struct(">4sd32s32s")  # magic, expiry in seconds since 1970, digest of the key, seal


class Kind(Enum):
    """What an entry holds."""

    embedding = "embedding"  # a question's vector
    retrieval = "retrieval"  # hits
    answer = "answer"
    alike = "alike"  # by a question's signature: the question that was answered, and its vector


@dataclass(frozen=True, kw_only=True)
class Scope:
    """All that an answer depends on beside its question: another value of any of it is another entry."""

    tenant: str
    generation: str  # of the index: equal for equal hits, such as Group.fingerprint
    k: int = 0  # passages
    candidates: int = 0  # hits that a cross-encoder scored; 0: none did
    model: str = ""  # the encoder's, and for answers the generator's with its settings
    prompt: str = ""  # its version
    filter: str = ""  # of passages
    before: str = ""  # of what was said in a chat until then, with the question's own words


@dataclass(frozen=True, kw_only=True)
class Key:
    """The name of an entry."""

    kind: Kind
    scope: Scope
    text: str  # a question, but for blanks as it was asked; of Kind.alike its signature

    def digest(self, secret: bytes) -> bytes:
        """Return 32 bytes that name the entry; without the secret nobody can say which question they are of."""
        named = [self.kind.value, *astuple(self.scope), " ".join(self.text.split())]
        return hmac.digest(secret, b"key" + canonical_json(named), hashlib.sha256)


def sealed(secret: bytes, digest: bytes, body: bytes, expires: float) -> bytes:
    """Return an entry as a store keeps it."""
    return _HEAD.pack(MAGIC, expires, digest, _seal(secret, digest, body, expires)) + body


def unsealed(secret: bytes, digest: bytes, data: bytes) -> tuple[bytes, float] | None:
    """Return (body, expiry) of an entry; None for one that is cut, garbled, of another key or of another fleet."""
    if len(data) < _HEAD.size:
        return None
    magic, expires, named, seal = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    right = magic == MAGIC and named == digest and math.isfinite(expires)
    return (body, expires) if right and hmac.compare_digest(seal, _seal(secret, digest, body, expires)) else None


def _seal(secret: bytes, digest: bytes, body: bytes, expires: float) -> bytes:
    return hmac.digest(secret, b"body" + digest + struct.pack(">d", expires) + body, hashlib.sha256)


def to_bytes(value: Any) -> bytes:
    """Return a JSON-able value, or a float32 vector, as bytes."""
    if isinstance(value, np.ndarray):
        return b"V" + np.ascontiguousarray(value, dtype="<f4").tobytes()
    return b"J" + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def from_bytes(body: bytes) -> Any:
    """Return the value again; a vector is float32 with one axis, and read-only. Raises ValueError for other bytes."""
    if body[:1] == b"V":
        vector_D: Array = np.frombuffer(body, dtype="<f4", offset=1)
        return vector_D
    if body[:1] != b"J":
        raise ValueError("of another version")
    return json.loads(body[1:].decode("utf-8", "surrogatepass"))
