"""Faults at the n-th file-system call of a process: counted, killed just before or in the middle of it, or an error.

The calls are those of `os`; pathlib, shutil and tempfile make theirs through it.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CALLS = ("open", "write", "fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir")
NEEDS_SPACE = ("write", "rename", "replace", "link", "mkdir")  # and open, when it creates
KILLED = 137


@dataclass
class Fault:
    """What happens at call `at`: "count" nothing, "kill", "kill-half" amid a write, "error", "error-half", "full".

    "full" is an error at this call and at all later ones that need space.
    """

    kind: str = "count"
    at: int = -1
    number: int = errno.ENOSPC
    seen: list[str] = field(default_factory=list)  # the calls so far: "write /path"
    hit: str = ""

    def install(self) -> Callable[[], None]:
        """Put the fault into this process; return the function that takes it out again."""
        real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self._wrap(name, real[name]))

        def remove() -> None:
            for name, function in real.items():
                setattr(os, name, function)

        return remove

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            number = len(self.seen)
            self.seen.append(f"{name} {_where(name, args)}")
            later = self.kind == "full" and number >= self.at and _needs_space(name, args)
            if number == self.at or later:
                self.hit = self.hit or self.seen[-1]
                self._strike(name, real, args)
            return real(*args, **kwargs)

        return call

    def _strike(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self.kind.endswith("-half") and name == "write":
            real(args[0], bytes(args[1])[: len(args[1]) // 2])
        if self.kind.startswith("kill"):
            os._exit(KILLED)
        if self.kind.startswith("error") or (self.kind == "full" and _needs_space(name, args)):
            path = () if name in ("write", "fsync") else (str(args[0]),)
            raise OSError(self.number, os.strerror(self.number), *path)

    def points(self) -> list[tuple[int, str]]:
        """Return (number, kind) of every point at which this process could have been killed."""
        whole = [(number, "kill") for number in range(len(self.seen))]
        return whole + [(n, "kill-half") for n, seen in enumerate(self.seen) if seen.startswith("write ")]

    def again(self, kind: str, at: int, number: int = errno.ENOSPC) -> Fault:
        """Return a fresh fault."""
        return dataclasses.replace(self, kind=kind, at=at, number=number, seen=[], hit="")


def _needs_space(name: str, args: tuple[Any, ...]) -> bool:
    return name in NEEDS_SPACE or (name == "open" and bool(args[1] & os.O_CREAT))


def _where(name: str, args: tuple[Any, ...]) -> str:
    if name not in ("write", "fsync"):
        return str(args[0])
    try:
        return os.readlink(f"/proc/self/fd/{args[0]}")
    except OSError:
        return f"descriptor {args[0]}"
