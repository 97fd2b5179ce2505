"""Private names of other libraries: each stands in one file, and whoever breaks one is named with its version."""

from __future__ import annotations

import ast
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba  # type: ignore[import-untyped]
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("rag_hpc", "launchers", "eval", "slurm")
PUBLIC = {"_replace", "_exit"}  # of named tuples and of os, documented
LIBRARY = {
    "rag_hpc/algo/jit.py": "numba",
    "launchers/request.py": "hydra-core",
    "launchers/array.py": "submitit",
    "rag_hpc/algo/text/charset.py": "Python",
    "rag_hpc/models/forward.py": "torch",
    "rag_hpc/train/strategy.py": "deepspeed",
}


def _moments_of_zero_can_be_linked_again() -> None:
    import importlib.util

    spec = importlib.util.find_spec("deepspeed")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("deepspeed is not installed")
    source = Path(spec.submodule_search_locations[0], "runtime/zero/stage_1_and_2.py").read_text()
    assert "if not self._hp_optimizer_states_linked:" in source
    assert "def _lazy_init_hp_params_optimizer_state(self):" in source
    places = Path(spec.submodule_search_locations[0])
    assert "deepspeed.ops.__compatible_ops__.get(builder.NAME" in (places / "comm/torch.py").read_text()
    assert 'NAME = "deepspeed_shm_comm"' in (places / "ops/op_builder/cpu/comm.py").read_text()


def _kernels_are_stamped_and_count_no_references() -> None:
    from rag_hpc.algo import jit

    def total(values_N: Any) -> Any:
        return values_N.sum()

    kernel: Any = jit.jit(total)
    assert kernel._cache._cache_file._source_stamp == jit._stamp()
    assert kernel._cache.load_overload.__name__ == "load_or_wait"
    assert Path(kernel._cache.cache_path).parts
    texts = []
    for options in ({}, {"_nrt": False}):
        function = numba.njit(total, **options)
        function(np.ones(3))
        texts += function.inspect_llvm().values()
    assert ["NRT_" in text for text in texts] == [True, False]


def _sweeps_are_split() -> None:
    from rag_hpc.launchers.request import sweep_points

    assert sweep_points(["workers=1,2"]) == [["workers=1"], ["workers=2"]]


def _scripts_run_submitit_s_own_module() -> None:
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2

    executor = Executor(folder="/folder", python="/a/python")
    text = executor._make_submission_file_text(executor._submitit_command_str, "")
    assert " /a/python -u -m submitit.core._submit /folder" in text


def _codecs_say_whether_they_are_of_text() -> None:
    from rag_hpc.algo.text.charset import known_charset

    assert (known_charset("latin-1"), known_charset("rot13")) == ("cp1252", None)


def _onednn_takes_an_activation_or_a_sum_behind_its_product() -> None:
    torch = pytest.importorskip("torch")
    from rag_hpc.models.forward import _Linear, _PackedLinear

    torch.manual_seed(0)
    x, weight, bias, added = torch.randn(5, 8), torch.randn(6, 8), torch.randn(6), torch.randn(5, 6)
    with torch.inference_mode():
        for function in (("", ""), ("gelu", "none"), ("gelu", "tanh"), ("relu", "")):
            plain, packed = (kind(torch, weight, bias, function) for kind in (_Linear, _PackedLinear))
            assert torch.allclose(packed(x), plain(x), atol=1e-5)
        assert torch.allclose(packed(x, added), torch.nn.functional.linear(x, weight, bias) + added, atol=1e-5)
        # as large as the levels of both sides allow: 63 of weights where no CPU may overflow
        left, right = torch.full((40, 96), 127, dtype=torch.int8), torch.full((96, 48), -63, dtype=torch.int8)
        assert (torch._int_mm(left, right) == -127 * 63 * 96).all()


@pytest.mark.parametrize(
    ("file", "use"),
    [
        ("rag_hpc/algo/jit.py", _kernels_are_stamped_and_count_no_references),
        ("launchers/request.py", _sweeps_are_split),
        ("launchers/array.py", _scripts_run_submitit_s_own_module),
        ("rag_hpc/algo/text/charset.py", _codecs_say_whether_they_are_of_text),
        ("rag_hpc/models/forward.py", _onednn_takes_an_activation_or_a_sum_behind_its_product),
        ("rag_hpc/train/strategy.py", _moments_of_zero_can_be_linked_again),
    ],
)
def test_the_private_names_still_do_what_they_did(file: str, use: Callable[[], None]) -> None:
    library = LIBRARY[file]
    try:
        use()
    except Exception as error:  # noqa: BLE001  whatever the library throws
        installed = platform.python_version() if library == "Python" else version(library)
        pytest.fail(f"{library} {installed} broke a private name that {file} leans on: {error!r}")


def test_no_other_file_leans_on_private_names() -> None:
    trees = {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    ours = PUBLIC.union(*map(_defined, trees.values()))
    assert {file for file, tree in trees.items() if _private(tree) - ours} == set(LIBRARY)


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that a module gives to functions, classes, variables and attributes."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            names |= {node.attr} if isinstance(node.ctx, ast.Store) else set()
    return names


def _private(tree: ast.Module) -> set[str]:
    """Return the names with one underscore before them that a module imports, looks up, or passes as keywords."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        elif isinstance(node, ast.ImportFrom):
            names += [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.keyword):
            names.append(node.arg or "")
    return {name for name in names if name.startswith("_") and not name.startswith("__")}
