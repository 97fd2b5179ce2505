"""The table of a sweep over workers."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import fake_run
import pyarrow.parquet as pq
import pytest

from rag_hpc import cli
from rag_hpc.eval import scaling
from rag_hpc.eval.results import Results

WORKERS = (1, 2, 4)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs that differ in workers alone."""
    root = tmp_path_factory.mktemp("sweep")
    for p in WORKERS:
        fake_run.build(
            root, fake_run.Shape(name=f"c-w{p}", p=p, queue_s=1.5, overhead=0.1, stages=["crawl", "clean", "chunk"])
        )
    return root


def call(root: Path, *words: str) -> int:
    return cli.main(["scaling", *words, f"cluster.root={root}"])


def test_each_stage_has_a_point_for_each_run_with_s_and_e_against_the_first(swept: Path) -> None:
    points = scaling.compare([Results(swept / f"c-w{p}") for p in WORKERS])
    assert [(point.stage, point.p) for point in points] == [
        (stage, p) for stage in ("crawl", "clean", "chunk") for p in WORKERS
    ]
    one, two, four = points[:3]
    assert (one.speedup, one.efficiency) == (1, 1)
    assert two.speedup == pytest.approx(one.wall_s / two.wall_s) and two.efficiency == pytest.approx(two.speedup / 2)
    assert four.efficiency == pytest.approx(one.wall_s / four.wall_s / 4)
    assert all(point.same_output for point in points)
    assert [point.num_hosts for point in points[:3]] == [1, 2, 4]
    assert one.queue_s == 1.5


def test_the_table_names_a_stage_once(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(swept, "c-w4", "c-w1", "c-w2") == 0  # the order of the words does not matter
    shown = capsys.readouterr().out
    assert shown.startswith("baseline  c-w1\n\nstage  p  T ")
    assert [shown.count(stage) for stage in ("\ncrawl ", "\nclean ", "\nchunk ", "same")] == [1, 1, 1, 9]


def test_a_script_reads_the_same(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(swept, "c-w1", "c-w2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["baseline"] == "c-w1" and found["unfinished"] == {}
    assert found["points"][1]["efficiency"] == pytest.approx(found["points"][1]["speedup"] / 2)


def test_the_picture_has_a_line_for_each_stage_and_is_a_file_of_its_own(swept: Path, tmp_path: Path) -> None:
    assert call(swept, "c-w1", "c-w2", "c-w4", f"--out={tmp_path / 's.svg'}") == 0
    root = ElementTree.fromstring((tmp_path / "s.svg").read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    shown = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"crawl", "clean", "chunk", "S = p"} <= set(shown)


def test_every_stage_that_took_time_is_drawn(tmp_path: Path) -> None:
    for p in (1, 2):
        fake_run.build(tmp_path, fake_run.Shape(name=f"c-w{p}", p=p, pressure=30.0 * (p - 1)))
    assert call(tmp_path, "c-w1", "c-w2", f"--out={tmp_path / 's.svg'}") == 0
    picture = (tmp_path / "s.svg").read_text()
    shown = [element.text for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    stages = list(dict.fromkeys(stage.split(".")[0] for stage in fake_run.STAGES))
    assert [text for text in shown if text in (*stages, "S = p")] == [*stages, "S = p"]
    assert all(f".line{number} {{ stroke: #" in picture for number in range(len(stages) + 1))
    assert "not judged, the machine was shared: p = 2 (10 stages)" in shown


@pytest.mark.parametrize(("name", "begins"), [("s.png", b"\x89PNG\r\n"), ("s.pdf", b"%PDF-1."), ("s.svg", b"<svg ")])
def test_pictures_are_written_in_the_kind_that_the_name_says(
    swept: Path, tmp_path: Path, name: str, begins: bytes
) -> None:
    if not name.endswith("svg"):
        pytest.importorskip("matplotlib")
    contents = []
    for _ in range(2):
        assert call(swept, "c-w1", "c-w2", "c-w4", f"--out={tmp_path / name}") == 0
        contents.append((tmp_path / name).read_bytes())
    assert contents[0].startswith(begins) and contents[0] == contents[1]


def test_a_law_that_was_fitted_is_drawn_with_its_band(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = pytest.importorskip("matplotlib.axes").Axes
    drawn: list[tuple[list[float], list[float], list[float]]] = []
    monkeypatch.setattr(axes, "fill_between", lambda self, xs, low, high, **_: drawn.append((xs, low, high)))
    ps, noise = (1, 2, 4, 8, 16), (1.01, 0.99, 1.01, 0.99, 1.0)
    times = {p: 100 * (0.1 + 0.9 / p) * flaw for p, flaw in zip(ps, noise, strict=True)}
    common = {"run": "r", "items": 1, "same_output": True, "num_hosts": 1, "queue_s": None, "setup_s": 0.0}
    common |= {"cpu_s": 1.0, "pressure_cpu": 1.0, "judged": True, "karp_flatt": None, "stage": "encode"}
    points = [
        scaling.Point(p=p, wall_s=t, speedup=times[1] / t, efficiency=times[1] / t / p, **common)
        for p, t in times.items()
    ]
    scaling.plotted(points, "png")
    ((xs, low, high),) = drawn
    assert tuple(xs) == ps and all(a < point.speedup < b for a, point, b in zip(low, points, high, strict=True))
    assert high[-1] - low[-1] > high[0] - low[0] > 0
    drawn.clear()
    scaling.plotted(points[:3], "png")  # three p are too few for a law
    assert drawn == []


def test_without_matplotlib_the_way_out_is_said(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert call(swept, "c-w1", "c-w2", f"--out={tmp_path / 's.png'}") == 2
    assert "pip install 'rag-hpc[plots]', or write FILE.svg" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_points_are_written_for_other_programs(swept: Path, tmp_path: Path) -> None:
    points = [dataclasses.asdict(p) for p in scaling.compare([Results(swept / f"c-w{p}") for p in WORKERS])]
    for name in ("p.csv", "p.parquet"):
        assert call(swept, "c-w1", "c-w2", "c-w4", f"--out={tmp_path / name}") == 0
    assert pq.read_table(tmp_path / "p.parquet").to_pylist() == points
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [(row["stage"], int(row["p"]), float(row["speedup"])) for row in rows] == [
        (point["stage"], point["p"], point["speedup"]) for point in points
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("c-w1", "c-w2", "c-w1"), "c-w1 is named twice; name each run once"),
        (("c-w1", "c-w2", "--out=s.jpeg"), "ends in one of .svg, .png, .pdf, .csv, .parquet"),
    ],
)
def test_a_run_named_twice_and_an_unknown_kind_of_file_are_refused(
    swept: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert call(swept, *words) == 2
    assert said in capsys.readouterr().err


def test_a_machine_that_was_shared_gives_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for p, pressure in ((1, 5.0), (2, 25.0)):
        fake_run.build(tmp_path, fake_run.Shape(name=f"c-w{p}", p=p, pressure=pressure, stages=["crawl", "clean"]))
    assert call(tmp_path, "c-w1", "c-w2") == 0
    note = "not judged, the machine was shared (CPU pressure above 20 %), p = 2: crawl, clean\n"
    assert note in capsys.readouterr().out
    assert call(tmp_path, "c-w1", "c-w2", "--json") == 0
    assert [point["judged"] for point in json.loads(capsys.readouterr().out)["points"]] == [True, False] * 2


def test_other_output_is_said_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for p, lost in ((1, 0), (2, 3)):
        fake_run.build(
            tmp_path, fake_run.Shape(name=f"c-w{p}", p=p, dropped_in_silence=lost, stages=["crawl", "clean", "chunk"])
        )
    assert call(tmp_path, "c-w1", "c-w2", f"--out={tmp_path / 's.svg'}") == 1
    drawn = (tmp_path / "s.svg").read_text()
    assert drawn.count("<title>clean") + 1 == drawn.count("<title>crawl")  # other output in less time is no speed-up
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "DIFFERS" in line}
    assert rows


def test_an_unfinished_run_is_named_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for p, finish in ((1, 9), (2, 2)):
        fake_run.build(tmp_path, fake_run.Shape(name=f"c-w{p}", p=p, finish=finish, stages=["crawl", "clean", "chunk"]))
    assert call(tmp_path, "c-w1", "c-w2") == 3
    assert f"unfinished: chunk; go on: rag-hpc retry run={tmp_path / 'c-w2'}" in capsys.readouterr().out


def test_one_run_is_no_sweep(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(swept, "c-w1") == 2
    assert "rag-hpc scaling RUN-w1 RUN-w2" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["absent/curve.svg", "."])
def test_a_place_where_nothing_can_be_written_is_named(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    assert call(swept, "c-w1", "c-w2", "--out", str(tmp_path / place)) == 1
    assert f"scaling: --out {tmp_path / place}: " in capsys.readouterr().err
