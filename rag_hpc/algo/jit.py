"""Functions compiled by numba, whose machine code is kept on disk where some folder can be written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba  # type: ignore[import-untyped]

_F = TypeVar("_F", bound=Callable[..., Any])


def jit(function: _F) -> _F:
    """Return the function, compiled on first use, without the GIL."""
    return _compiled(function)


def jit_inlined(function: _F) -> _F:
    """Return the function like `jit`, made one with those that call it; without checks for division by zero."""
    return _compiled(function, error_model="numpy", forceinline=True)


def _compiled(function: _F, **options: Any) -> _F:
    try:
        found: _F = numba.njit(function, cache=True, nogil=True, **options)
    except RuntimeError:  # neither the package's folder nor the home folder can be written: every process compiles
        return numba.njit(function, nogil=True, **options)  # type: ignore[no-any-return]
    # numba looks at the function's own file only, and would miss a change to a constant or callee of another one
    kept: Any = getattr(getattr(found, "_cache", None), "_cache_file", None)
    if hasattr(kept, "_source_stamp"):
        kept._source_stamp = _stamp()
    return found


@cache
def _stamp() -> str:
    """Return a hash of the sources of all kernels and of what they are made of."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
