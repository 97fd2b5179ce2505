"""The README holds the tree, one line a module, and names only verbs that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rag_hpc.cli import VERBS

ROOT = Path(__file__).parents[2]
FOLDERS = ("rag_hpc", "launchers", "slurm", "eval")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def modules() -> list[str]:
    """Return the paths of all modules that are more than a package's docstring."""
    found = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not path.endswith("__init__.py") and "__pycache__" not in path]


def tree_entries() -> dict[str, str]:
    """Return path -> text of the README's tree: indented names under their folder."""
    block = re.search(r"## The tree\n```\n(.*?)```", README, re.DOTALL)
    assert block, "README.md lacks the section '## The tree' with a fenced block"
    entries, folder = {}, ""
    for line in block.group(1).splitlines():
        name, _, text = line.strip().partition("  ")
        if name.endswith("/"):
            folder = name
        elif name.endswith(".py"):
            entries[folder + name] = text.strip()
    return entries


def test_every_module_has_its_line_in_the_tree() -> None:
    assert sorted(tree_entries()) == sorted(modules())


def test_every_line_of_the_tree_says_something() -> None:
    assert [path for path, text in tree_entries().items() if len(text) < 8] == []


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"rag-hpc(?: --config-dir \w+)? ([a-z]+)", README))))
def test_the_readme_names_only_verbs_that_exist(verb: str) -> None:
    assert verb in VERBS


def test_the_picture_is_there() -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture
