"""The third level: read-only files named by what they hold, which an HTTP cache before the gateways may keep for good.

FOLDER/objects/ab/abcd...ef.json   a value; the name is the SHA-256 of its bytes, and its ETag
FOLDER/names.json                  digest of a key -> [name, expiry, tenant]; replaced at once by each filling
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json, publish_file
from rag_hpc.core.trust import WRITABLE, private_files
from rag_hpc.errors import InputError

NAMES, OBJECTS = "names.json", "objects"
LOOK_S = 1.0  # how often the names are looked at for a newer filling
FOREVER_S = 365 * 86400


def headers(name: str, *, public: bool) -> dict[str, str]:
    """Return the HTTP headers of an object. public: caches that several people share may keep it, too."""
    who = "public" if public else "private"
    return {
        "ETag": f'"{name}"',
        "Cache-Control": f"{who}, max-age={FOREVER_S}, immutable",
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
    }


def is_current(name: str, if_none_match: str | None) -> bool:
    """Return whether who asks has the object already, by the header If-None-Match (RFC 9110, section 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return f'"{name}"' in tags or "*" in tags


class Files:
    """A folder of objects, read. What is absent, damaged, or not of this fleet's secret is a miss, and counted."""

    def __init__(
        self, folder: Path, secret: bytes, counts: Counter[str], clock: Callable[[], float] = time.time
    ) -> None:
        """counts: takes `files_foreign`."""
        self._folder, self._secret, self._counts, self._clock = folder, secret, counts, clock
        self._lock = threading.Lock()
        self._names: dict[str, Any] = {}
        self._seen: tuple[int, int] | None = None  # of names.json: its inode and time
        self._look_at = 0.0
        self._indexed: dict[str, Any] = {}  # the names that _tenants are of
        self._tenants: dict[str, dict[str | None, float]] = {}  # of an object, with when its answer to each expires

    def get(self, digest: bytes) -> tuple[bytes, float] | None:
        """Return (body, expiry), None where there is none."""
        entry = self._current().get(digest.hex())
        if not entry or float(entry[1]) <= self._clock():
            return None
        body = self.object(str(entry[0]))
        return (b"J" + body, float(entry[1])) if body is not None else None

    def is_of(self, name: str, tenant: str | None) -> bool:
        """Return whether an object is there for a tenant; None: for anyone. One without a tenant is the owner's."""
        now, current = self._clock(), self._current()
        if self._indexed is not current:
            tenants: dict[str, dict[str | None, float]] = {}
            for one, expires, *of in current.values():
                tenants.setdefault(str(one), {})[str(of[0]) if of else None] = float(expires)
            self._tenants, self._indexed = tenants, current
        found = self._tenants.get(name, {})
        return any(expires > now for of, expires in found.items() if tenant is None or of == tenant)

    def object(self, name: str) -> bytes | None:
        """Return the bytes of an object, which are those that its name says."""
        if not re.fullmatch("[0-9a-f]{64}", name):
            return None
        try:
            data = _path(self._folder, name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() == name:
            return data
        self._counts["files_foreign"] += 1
        return None

    def _current(self) -> dict[str, Any]:
        now = self._clock()
        with self._lock:
            if now < self._look_at:
                return self._names
            self._look_at = now + LOOK_S
            try:
                found = (self._folder / NAMES).stat()
                if self._seen != (seen := (found.st_ino, found.st_mtime_ns)):
                    self._names, self._seen = _read(self._folder, self._secret), seen
            except FileNotFoundError:
                self._names, self._seen = {}, None
            except (OSError, ValueError, TypeError, LookupError, RecursionError):
                self._counts["files_foreign"] += 1
                self._names, self._seen = {}, None
            return self._names


def name_of(value: Any) -> str:
    """Return the name of a value's object."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fill(
    folder: Path, secret: bytes, values: Mapping[bytes, tuple[Any, float]], now: float, tenant: str = ""
) -> dict[str, int]:
    """Write values (JSON-able, with their expiry) by the digest of their keys; what is there and current stays. tenant:
    whose answers they are.

    Returns how many objects are new, and how many names and bytes there are. An object that no name leads to any more
    is removed. Raises InputError for a folder that others may write to.
    """
    with private_files():
        (folder / OBJECTS).mkdir(parents=True, exist_ok=True)
        _check(folder)
        try:
            names = {key: entry for key, entry in _read(folder, secret).items() if float(entry[1]) > now}
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            names = {}
        new = 0
        for digest, (value, expires) in values.items():
            data, name = canonical_json(value), name_of(value)
            path = _path(folder, name)
            path.parent.mkdir(exist_ok=True)
            if not path.exists() or path.read_bytes() != data:
                publish_file(path, data, overwrite=True)
                path.chmod(0o400)
                new += 1
            names[digest.hex()] = [name, expires, tenant]
        publish_file(folder / NAMES, canonical_json({"names": names, "seal": _seal(secret, names)}), overwrite=True)
    kept = {str(entry[0]) for entry in names.values()}
    for path in (folder / OBJECTS).glob("*/*.json"):
        if path.stem not in kept:
            path.unlink(missing_ok=True)
    return {"new": new, "names": len(names), "bytes": sum(_path(folder, name).stat().st_size for name in kept)}


def _path(folder: Path, name: str) -> Path:
    return folder / OBJECTS / name[:2] / f"{name}.json"


def _read(folder: Path, secret: bytes) -> dict[str, Any]:
    value = json.loads((folder / NAMES).read_bytes())
    names: dict[str, Any] = value["names"]
    if not hmac.compare_digest(str(value["seal"]), _seal(secret, names)):
        raise ValueError("not of this fleet")
    return names


def _seal(secret: bytes, names: dict[str, Any]) -> str:
    return hmac.digest(secret, b"names" + canonical_json(names), hashlib.sha256).hex()


def _check(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & WRITABLE:
        raise InputError(f"{folder}: of another account, or others may write to it; name a folder of your own")
