"""The keys that tokens are signed with: two at a time, so that a new one ends no token of before."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import publish_file
from rag_hpc.core.stored import read_object, sealed_json, typed
from rag_hpc.core.trust import private_files
from rag_hpc.serve.places import check_own

FILE, LIVE = "keys.json", 2
LOOK_S = 1.0  # how often the file is looked at


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A key of HMAC-SHA256, and the name that tokens say they were signed by."""

    kid: str
    secret: str  # 32 bytes in hex
    made: float  # unix time


class KeyRing:
    """The live keys of a fleet, in a file of its own folder; newest first."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Make the first key where there is none. Raises ConfigError for a file that is not ours alone."""
        self._path, self._clock = folder / FILE, clock
        self._keys: list[SigningKey] = []
        self._looked, self._stamp = -LOOK_S, (0, 0)
        if not self._path.exists():
            with private_files():
                publish_file(self._path, _as_file([_new_key()]), overwrite=False)

    def live(self) -> list[SigningKey]:
        """Return the keys that tokens may be signed by; the first signs."""
        if self._clock() - self._looked >= LOOK_S:
            self._load()
        return self._keys

    def rotate(self) -> SigningKey:
        """Put a new key first, and drop the oldest of three: tokens that it signed end."""
        self._load()
        key = _new_key()
        with private_files():
            publish_file(self._path, _as_file([key, *self._keys][:LIVE]), overwrite=True)
        self._load()
        return key

    def _load(self) -> None:
        self._looked = self._clock()
        found = self._path.stat()
        if (stamp := (found.st_mtime_ns, found.st_ino)) != self._stamp:
            check_own(self._path)
            self._keys = read_object(self._path, "run: rag-hpc serve rotate", _from_file)
            self._stamp = stamp


def _new_key() -> SigningKey:
    return SigningKey(kid=secrets.token_hex(6), secret=secrets.token_hex(32), made=time.time())


def _as_file(keys: list[SigningKey]) -> bytes:
    return sealed_json({"keys": [asdict(key) for key in keys]})


def _from_file(value: dict[str, Any]) -> list[SigningKey]:
    keys = [typed(SigningKey, key) for key in value["keys"]]
    if not 1 <= len(keys) <= LIVE or any(len(bytes.fromhex(key.secret)) < 32 for key in keys):
        raise ValueError("one or two keys of 32 bytes are needed")
    return keys
