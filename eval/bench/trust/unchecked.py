"""The other side of bench `checks`: this process and its children read a run's files without checking them.

Imported at the start of Python, from a folder of its own, as `sitecustomize`: modules are changed as they are loaded.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

REPLACED: dict[str, dict[str, Any]] = {
    "rag_hpc.core.trust": {"check_run": lambda run_dir, **how: None},
    "rag_hpc.core.manifest": {"_hash_once": lambda path, found: None},
    "rag_hpc.core.stored": {"_unsealed": json.loads},
}


class Finder(importlib.abc.MetaPathFinder):
    """Finds a module as ever, and has its functions replaced once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module that is to be changed, None for all others."""
        if name not in REPLACED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            raise ImportError(f"{name}: not to be found as a file of its own")
        load = spec.loader.exec_module

        def load_changed(module: ModuleType) -> None:
            load(module)
            for function, other in REPLACED[name].items():
                if not hasattr(module, function):
                    raise AttributeError(f"{name} has no {function}, so bench checks would compare like with like")
                setattr(module, function, other)

        spec.loader.exec_module = load_changed  # type: ignore[method-assign]
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, Finder())
