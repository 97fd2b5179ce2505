"""What made a run: the machine that a worker ran on, and the code that was asked."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

from rag_hpc import __version__

CPUINFO = Path("/proc/cpuinfo")
GPUINFO = Path("/proc/driver/nvidia/gpus")  # Nvidia's driver: no library has to be loaded to read it
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
BOOT = Path("/proc/sys/kernel/random/boot_id")
CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def hardware() -> dict[str, Any]:
    """Return this machine as a whole: cpu (its name), cores, memory_bytes, gpus (a name each), cache_bytes (the
    largest that a core uses, 0 where it is not told) and machine.

    machine is one for hosts that share a kernel, as containers and a development cluster's nodes do: they share cores.
    """
    return {
        "cpu": _first(CPUINFO, r"model name\s*:\s*(.+)") or platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [_first(path, r"Model:\s*(.+)") or "GPU" for path in sorted(GPUINFO.glob("*/information"))],
        "cache_bytes": max((_cache(path) for path in CACHES.glob("index*/size")), default=0),
        "machine": hashlib.sha256((_first(BOOT, r"(\S+)") or platform.node()).encode()).hexdigest()[:12],
    }


def made_by() -> dict[str, str | None]:
    """Return the package's version and, for a checkout, the git commit that it stands at."""
    return {"version": __version__, "git": git_commit(CHECKOUT)}


def git_commit(checkout: Path) -> str | None:
    """Return the commit that a checkout stands at, None where there is no telling; git itself is not needed."""
    try:
        git = checkout / ".git"
        if git.is_file():  # a further working tree
            git = checkout / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head or None
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        name = head.removeprefix("ref: ")
        loose = common / name
        return loose.read_text().strip() if loose.is_file() else _packed(common / "packed-refs", name)
    except OSError:
        return None


def _cache(path: Path) -> int:
    found = _first(path, r"^(\d+K)$")
    return int(found[:-1]) * 1024 if found else 0


def _packed(path: Path, name: str) -> str | None:
    return _first(path, rf"^([0-9a-f]{{40,64}}) {re.escape(name)}$")


def _first(path: Path, pattern: str) -> str | None:
    try:
        matched = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return matched[1].strip() if matched else None
