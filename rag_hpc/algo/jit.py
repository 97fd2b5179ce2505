"""Functions compiled by numba, whose machine code is kept on disk where some folder can be written."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba  # type: ignore[import-untyped]
from numba.core.compiler_lock import global_compiler_lock  # type: ignore[import-untyped]

log = logging.getLogger(__name__)
LOCK = "rag_hpc.lock"  # beside the compiled code
_PATIENCE_S = 120.0  # some compiling of one kernel on a busy machine
_PAUSE_S = 0.05

_F = TypeVar("_F", bound=Callable[..., Any])


def jit(function: _F) -> _F:
    """Return the function, compiled on first use, without the GIL."""
    return _compiled(function)


def jit_inlined(function: _F) -> _F:
    """Return the function like `jit`, made one with those that call it; without checks for division by zero."""
    return _compiled(function, error_model="numpy", forceinline=True)


def jit_math(function: _F) -> _F:
    """Return the function like `jit_inlined`, with sums in any order and products contracted; NaN stays NaN."""
    return _compiled(function, error_model="numpy", forceinline=True, fastmath={"reassoc", "contract", "arcp", "nsz"})


def jit_inner(function: _F) -> _F:
    """Return the function like `jit`, for kernels that only kernels call, with arrays that those own: it makes none.

    So it need not count references: a kernel of a microsecond that takes ten arrays spends a tenth of it on that.
    """
    return _compiled(function, error_model="numpy", no_cpython_wrapper=True, _nrt=False)


def _compiled(function: _F, **options: Any) -> _F:
    try:
        found: _F = numba.njit(function, cache=True, nogil=True, **options)
    except RuntimeError:  # neither the package's folder nor the home folder can be written: every process compiles
        return numba.njit(function, nogil=True, **options)  # type: ignore[no-any-return]
    # numba looks at the function's own file only, and would miss a change to a constant or callee of another one
    kept: Any = getattr(getattr(found, "_cache", None), "_cache_file", None)
    if hasattr(kept, "_source_stamp"):
        kept._source_stamp = _stamp()
        _turns.give(found)
    return found


@cache
def _stamp() -> str:
    """Return a hash of the sources of all kernels and of what they are made of."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Turns:
    """Lets one process at a time compile what it does not find on disk; the others wait, then load it.

    This saves work and nothing else: where locks cannot be had, lie, or are held for too long, each process compiles
    for itself. The kernel drops the lock of a process that dies. State is guarded by numba's own lock of compilers.
    """

    def __init__(self) -> None:
        self._depth = 0  # of compilations: a function compiles those that it calls
        self._held = -1
        self._alone = False

    def give(self, function: Any) -> None:
        """Make the compilations of a function wait for their turn."""
        compile_now, load = function.compile, function._cache.load_overload

        def load_or_wait(signature: Any, context: Any) -> Any:
            found = load(signature, context)
            if found is None and self._held < 0 and not self._alone:
                self._wait(Path(function._cache.cache_path) / LOCK)
                found = load(signature, context)
            return found

        def compile_in_turn(signature: Any) -> Any:
            with global_compiler_lock:
                self._depth += 1
                try:
                    return compile_now(signature)
                finally:
                    self._depth -= 1
                    if self._depth == 0:
                        self._pass_on()

        function.compile, function._cache.load_overload = compile_in_turn, load_or_wait

    def _wait(self, path: Path) -> None:
        """Take the lock, or note that this process goes on without."""
        give_up = time.monotonic() + _PATIENCE_S
        try:
            self._held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            while True:
                try:
                    return fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise
                    time.sleep(_PAUSE_S)
        except OSError as error:  # a read-only folder, a filesystem without locks, a holder that hangs
            log.info("%s: no turn to compile (%s); this process compiles for itself", path, error)
            self._alone = True
            self._pass_on()

    def _pass_on(self) -> None:
        if self._held >= 0:
            with suppress(OSError):  # where there are no locks
                fcntl.flock(self._held, fcntl.LOCK_UN)  # closing is not enough if another thread has forked meanwhile
            os.close(self._held)
            self._held = -1


_turns = _Turns()
