"""The pages of docs/, line by line: every command is parsed, and run here, on copies of finished runs, where that is
possible; what would be submitted, or computed anew, is planned.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from rag_hpc import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NOT_HERE = ("bench", "devcluster", "train")  # they take minutes, or change the machine; their own tests run them
VERDICTS = ("milestones",)  # whose exit code 1 says that a prediction was missed
SCREEN = 40  # lines


def blocks(page: Path, kind: str) -> list[str]:
    """Return the page's blocks of a kind."""
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Return the words of each line of the page's commands, without its remark."""
    lines = "".join(blocks(page, "sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def place(baseline: Path, cluster: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages take it for granted: documents, two finished runs here and below a site's root."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "results" / "runs"
    shutil.copytree(baseline, runs / "base")
    shutil.copytree(cluster, runs / "cluster")
    shutil.copytree(cluster, tmp_path / "scratch" / "big")
    shutil.copytree(corpus, tmp_path / "BEIR")
    (tmp_path / "TEXTS").mkdir()
    for number in range(4):
        text = f"A deque has two ends, and number {number} of them keeps its last items only. Older ones fall off."
        (tmp_path / "TEXTS" / f"{number}.txt").write_text(f"{text}\n\nThe function copytree copies a whole folder.\n")
    (tmp_path / "site" / "cluster").mkdir(parents=True)
    site = yaml.safe_load(blocks(ROOT / "docs" / "admin.md", "yaml")[0])
    (tmp_path / "site" / "cost").mkdir()
    shutil.copy(ROOT / "conf/cost/example.yaml", tmp_path / "site" / "cost" / "mine.yaml")
    mine = yaml.safe_dump({**site, "root": str(tmp_path / "scratch")})
    (tmp_path / "site" / "cluster" / "mine.yaml").write_text(mine)
    monkeypatch.setenv("RAG_HPC_CONFIG_DIR", "site")
    return tmp_path


def as_tried(words: list[str]) -> list[str]:
    """Return a command of the pages as it is run here: most runs are planned."""
    if words[1] == "run" and "pipeline=corpus" not in words and "--cfg" not in words:
        words = ["rag-hpc", "plan", *words[2:]]
    if words[1] == "sweep":
        return [*words, "--dry-run"]
    if words[1] == "plan" and any(word.startswith("cluster=") for word in words):
        return [*words, "cluster.root=/scratch/rag-hpc"]  # nothing is written; tmp_path is one that nodes may not see
    return words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_works(page: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(page)
    assert len(found) >= 8
    tried: list[list[str]] = []
    for words in found:
        if words[0] == "export":
            assert words[1] == "RAG_HPC_CONFIG_DIR=site"
        elif words[0] == "eval":
            assert cli.main(words[1].removeprefix("$(rag-hpc ").removesuffix(")").split()) == 0
        elif words[1] in NOT_HERE or "tracking.mode=online" in words:
            cli.parse(words[1:])
        elif as_tried(words) not in tried:
            tried.append(as_tried(words))
            code = cli.main(tried[-1][1:])
            said = capsys.readouterr()
            assert code in ((0, 1) if words[1] in VERDICTS else (0,)), f"{shlex.join(words)}: {said.out}{said.err}"
            assert said.out, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_under_two_screens_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 2 * SCREEN and max(map(len, text.splitlines())) <= 130
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`(conf/[^`]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_number_of_jobs_is_that_of_the_plan(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = re.search(
        r"The (\d+) stages of .* are (\d+) jobs\.", (ROOT / "docs" / "admin.md").read_text(encoding="utf-8")
    )
    assert said and cli.main(as_tried(commands(ROOT / "docs" / "admin.md")[0])[1:]) == 0
    assert f"# totals: {said[2]} jobs ({said[1]} of workers, {said[1]} gates)" in capsys.readouterr().out


def test_there_is_a_page_for_each_kind_of_reader() -> None:
    assert [page.stem for page in PAGES] == ["admin", "researcher", "student"]
