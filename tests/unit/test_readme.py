"""The README holds the tree, one line a folder, and names only verbs that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rag_hpc.cli import VERBS

ROOT = Path(__file__).parents[2]
FOLDERS = ("rag_hpc", "launchers", "slurm", "eval")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def folders() -> set[str]:
    """Return the folders that hold modules, as the tree writes them."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"]
    return {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in found}


def tree_entries() -> dict[str, str]:
    """Return path -> text of the README's tree."""
    block = re.search(r"## The tree\n```\n(.*?)```", README, re.DOTALL)
    assert block, "README.md lacks the section '## The tree' with a fenced block"
    lines = (line.partition(" ") for line in block.group(1).splitlines())
    return {name: text.strip() for name, _, text in lines}


def test_every_folder_of_modules_has_its_line_in_the_tree() -> None:
    assert folders() <= set(tree_entries())


def test_what_the_tree_names_exists() -> None:
    assert [name for name in tree_entries() if not (ROOT / name).is_dir()] == []


def test_every_line_of_the_tree_says_something() -> None:
    assert [path for path, text in tree_entries().items() if len(text) < 8] == []


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"rag-hpc(?: --config-dir \w+)? ([a-z]+)", README))))
def test_the_readme_names_only_verbs_that_exist(verb: str) -> None:
    assert verb in VERBS


def test_the_picture_is_there() -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture
