"""The report in a real browser: nothing overflows, nothing runs, and the picture is not blank."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import fake_run
import pytest

from rag_hpc.eval.cost import Prices
from rag_hpc.eval.report import study
from rag_hpc.eval.report.pictures import all_of
from rag_hpc.eval.report.report import render
from rag_hpc.eval.results import Results
from rag_hpc.eval.study import gather, parse

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; install it: apt-get install chromium"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    base = Results(fake_run.build(root, fake_run.baseline()))
    run = Results(fake_run.build(root, fake_run.Shape(queue_s=12.0, milestones={"min_duplicates": 3})))
    path = root / "report.html"
    path.write_text(render(run, base), encoding="utf-8")
    return path


def browse(page: Path, *flags: str, folder: Path) -> str:
    """Return what the browser printed."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        *flags,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=folder)
    return done.stdout + done.stderr


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (500, False)])
def test_the_page_is_drawn_in_light_dark_and_narrow(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is needed to look at the picture")
    shot = tmp_path / "shot.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    browse(page, f"--screenshot={shot}", f"--window-size={width},2400", *scheme, folder=tmp_path)
    with image_module.open(shot) as image:
        assert image.size == (width, 2400)
        colours = image.convert("RGB").resize((width // 4, 600)).getcolors(maxcolors=1 << 20)
        paper = max(colours)[1]
        assert (sum(paper) < 120) == dark
        assert len(colours) > 50  # text, marks and bars, not a blank page
        right_edge = image.convert("RGB").crop((width - 8, 0, width, 2400)).getcolors(maxcolors=1 << 16)
        assert len(right_edge) == 1  # nothing sticks out of the page


def test_hostile_passages_do_not_run(page: Path, tmp_path: Path) -> None:
    seen = browse(page, "--dump-dom", folder=tmp_path)
    title = re.search(r"<title>(.*?)</title>", seen)
    assert title is not None
    assert "owned" not in title.group(1)
    assert "demo-cluster" in title.group(1)


def test_the_browser_has_nothing_to_complain_about(page: Path, tmp_path: Path) -> None:
    seen = browse(page, "--enable-logging=stderr", "--v=0", f"--screenshot={tmp_path / 'shot.png'}", folder=tmp_path)
    assert not [line for line in seen.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib", reason="matplotlib is needed for pictures")
    root = tmp_path_factory.mktemp("study")
    shapes = [fake_run.Shape(name=f"s-w{p}", p=p, overhead=0.1, stages=["crawl", "clean"]) for p in (1, 2, 4)]
    names = [fake_run.build(root, shape).name for shape in shapes]
    studies = [parse(gather([Results(root / name) for name in names], "s"), "s.jsonl")]
    prices = Prices(source="a test", core_hour=0.01)
    page = root / "study.html"
    page.write_text(study.render(study.Told(name="s", studies=studies), all_of(studies, prices), prices), "utf-8")
    return page


@pytest.mark.parametrize(("width", "dark"), [(1200, True), (500, False)])
def test_a_study_is_drawn_in_light_dark_and_narrow(study_page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is needed to look at the picture")
    shot = tmp_path / "shot.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    browse(study_page, f"--screenshot={shot}", f"--window-size={width},2400", *scheme, folder=tmp_path)
    with image_module.open(shot) as image:
        colours = image.convert("RGB").resize((width // 4, 600)).getcolors(maxcolors=1 << 20)
        assert (sum(max(colours)[1]) < 120) == dark and len(colours) > 100
        right_edge = image.convert("RGB").crop((width - 8, 0, width, 2400)).getcolors(maxcolors=1 << 16)
        assert len(right_edge) == 1


def test_a_study_s_own_script_runs_and_nothing_complains(study_page: Path, tmp_path: Path) -> None:
    seen = browse(study_page, "--dump-dom", "--enable-logging=stderr", "--v=0", folder=tmp_path)
    assert not [line for line in seen.splitlines() if "CONSOLE" in line]
    assert '<button type="button">stage</button>' in seen and seen.count('<input type="search"') == 1
