"""CONTRIBUTING.md adds a stage by three files and two lines: here that is done, to a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import hashes

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(python|diff)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)


def copy_of_the_package(folder: Path) -> Path:
    """Return a folder with all source folders, under the one name of their imports, and with tests/."""
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rag_hpc", folder / "rag_hpc", ignore=skipped)
    for part in ("launchers", "eval", "slurm", "conf"):
        shutil.copytree(ROOT / part, folder / "rag_hpc" / part, ignore=skipped)
    (folder / "tests/unit/stages").mkdir(parents=True)
    return folder


def change_line(path: Path, before: str, *after: str) -> None:
    """Put other lines in the place of one that stands in the file once."""
    text = path.read_text()
    assert text.count(f"{before}\n") == 1, (path, before)
    path.write_text(text.replace(f"{before}\n", "".join(f"{line}\n" for line in after)))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with CONTRIBUTING.md's stage."""
    folder = copy_of_the_package(tmp_path_factory.mktemp("contributing"))
    files = [re.match(r"# (\S+)\n", text)[1] for kind, text in BLOCKS if kind == "python"]  # type: ignore[index]
    (diff,) = (text.splitlines() for kind, text in BLOCKS if kind == "diff")
    assert len(files) == 3 and sum(line.startswith("+") for line in diff) == 2
    for name, (_, text) in zip(files, BLOCKS, strict=False):
        assert not (folder / name).exists()
        (folder / name).write_text(text.split("\n", 1)[1], encoding="utf-8")
    registry, row, new_row, pipeline, stages, new_stages = diff
    change_line(folder / registry[2:], row[1:], row[1:], new_row[1:])
    change_line(folder / pipeline.replace("# conf", "rag_hpc/conf"), stages[1:], new_stages[1:])
    return folder


def run(changed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(changed)}
    return subprocess.run([sys.executable, "-m", *words], cwd=changed, env=env, capture_output=True, text=True)


def test_its_test_passes(changed: Path) -> None:
    done = run(changed, "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "tests/unit/stages/test_vocabulary.py")
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr


def test_it_runs_through_the_command_line_with_equal_hashes_for_any_p(changed: Path, corpus: Path) -> None:
    asked = ("pipeline=corpus", "corpus=beir", f"corpus.path={corpus}", "corpus.pages_per_unit=9")
    done = run(changed, "rag_hpc.cli", "run", "run=p1", "workers=1", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = changed / "results/runs"
    assert [name.split("-")[0] for name in hashes(runs / "p1")] == ["crawl", "vocabulary"]
    assert len(list(runs.glob("p1/vocabulary-*/units/unit-*"))) == 8
    for p in (2, 7):
        shutil.copytree(runs / "p1", runs / f"p{p}", ignore=shutil.ignore_patterns("vocabulary-*"))
        done = run(changed, "rag_hpc.cli", "retry", f"run=p{p}", f"workers={p}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert hashes(runs / f"p{p}") == hashes(runs / "p1")


def test_its_settings_are_known_and_checked(changed: Path) -> None:
    done = run(changed, "rag_hpc.cli", "run", "pipeline=corpus", "stage.vocabulary.num_words=0", "dry_run=true")
    assert done.returncode == 2 and "num_words=0: at least 1; try 10" in done.stderr
    done = run(changed, "rag_hpc.cli", "run", "stage.vocabulary.num=0")
    assert done.returncode == 2 and "known in stage.vocabulary: num_words, min_words" in done.stderr
