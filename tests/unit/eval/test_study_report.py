"""A study's report: runs laid over each other, pictures with their data, and a page that runs no script but its own."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import fake_run
import pytest

from rag_hpc import cli
from rag_hpc.eval import study
from rag_hpc.eval.checks import foretold
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.report import measured, pictures
from rag_hpc.eval.report.figures import Dot, Panel, best_of, speed_up, styled
from rag_hpc.eval.report.study import Told, render
from rag_hpc.eval.results import Results

PRICES = Prices(name="test", source="a test", core_hour=3600.0)
VOID = ("meta", "img", "br", "input")


class Nested(HTMLParser):
    """Checks that elements nest outside of pictures, and collects the tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    for p in (1, 2, 4):
        fake_run.build(root, fake_run.Shape(name=f"c-w{p}", p=p, overhead=0.1, stages=["crawl", "clean"]))
    for name, seed, flaws in (("q-one", 7, 0), ("q-two", 8, 2)):
        fake_run.build(root, fake_run.Shape(name=name, seed=seed, ann_flaws=flaws))
    return root


@pytest.fixture(scope="module")
def told(root: Path) -> Told:
    parts = {"c": ["c-w1", "c-w2", "c-w4"], "q": ["q-one", "q-two"]}
    studies = [
        study.parse(study.gather([Results(root / run) for run in runs], name), f"{name}.jsonl")
        for name, runs in parts.items()
    ]
    rows = foretold("c", [Results(root / run) for run in parts["c"]])
    return Told(name="both", studies=studies, checks={"forecast": rows})


@pytest.fixture(scope="module")
def page(told: Told) -> str:
    return render(told, pictures.all_of(told.studies, PRICES), PRICES)


def test_curves_are_against_the_mean_of_the_smallest_p(told: Told) -> None:
    crawl, clean = measured.curves(told.studies[0])
    assert (crawl.stage, clean.stage, crawl.ps) == ("crawl", "clean", [1, 2, 4])
    assert crawl.speedup(4) == pytest.approx(4 / 1.3, rel=0.01) and crawl.speedup(1) == 1.0
    assert measured.curves(told.studies[1]) == []  # one p


def test_hosts_that_are_one_machine_bound_the_speed_up_and_are_named(told: Told, page: str) -> None:
    crawl = measured.curves(told.studies[0])[0]
    assert crawl.hosts == 4 and crawl.bound is not None
    value, why = crawl.bound
    assert why == f"{crawl.cores} cores" and value == pytest.approx(crawl.cores / crawl.busy, rel=0.01)
    assert crawl.claimed == max((p for p in (2, 4) if p * crawl.busy <= crawl.cores), default=None)
    assert f"4 hosts of this study are one machine of {crawl.cores} cores" in page


def test_every_measurement_is_told_and_drawn_with_its_data(told: Told, page: str) -> None:
    drawn = {one.name: one for one in pictures.all_of(told.studies, PRICES)}
    assert set(drawn) == {
        "speed-up", "efficiency", "units-c", "waterfall-q", "quality", "frontier-q", "cost",
    }  # fmt: skip
    assert len(drawn["speed-up"].rows) == 6 and {row["run"] for row in drawn["speed-up"].rows} == {
        "c-w1", "c-w2", "c-w4",
    }  # fmt: skip
    assert len(drawn["units-c"].rows) == 8
    assert [row["run"] for row in drawn["frontier-q"].rows] == ["q-one", "q-two"]
    for one in drawn.values():
        assert one.png().startswith(b"\x89PNG") and one.svg() == one.svg()
        assert one.inline() in page and "#1b1f24" not in one.inline()
    assert page.count('<svg class="drawn"') == len(drawn)


def test_a_forecast_stands_beside_what_was_measured(told: Told, page: str) -> None:
    by_stage = {row["stage"]: row for row in told.checks["forecast"]}
    assert set(by_stage) == {"crawl", "clean"} and by_stage["crawl"]["pilots"] == [1, 2]
    row = by_stage["crawl"]
    assert row["error"] == pytest.approx(row["seconds"] / row["measured_s"] - 1) and row["p"] == 4
    assert row["held"] == (row["low"] <= row["measured_s"] <= row["high"])
    assert not row["judged"] and row["cores"] == measured.curves(told.studies[0])[0].cores  # four workers, each busy
    assert f"not judged: {row['cores']} cores" in page


def test_the_page_nests_loads_nothing_and_allows_its_own_script_alone(page: str) -> None:
    parsed = Nested(page)
    assert parsed.open == []
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    assert not {"link", "iframe", "img", "object", "base", "form"} & {tag for tag, _ in parsed.tags}
    for _, values in parsed.tags:
        assert not any(name.startswith("on") or name in ("src", "srcset") for name in values)
        assert not (values.get("href") or "#").startswith(("http", "javascript"))


def test_what_differs_between_runs_stands_beside_what_came_of_it(root: Path) -> None:
    for number in (6, 12):
        corpus = {"max_pages": 24, "pages_per_unit": number}
        fake_run.build(root / "varied", fake_run.Shape(name=f"v-{number}", seed=number, corpus=corpus))
    runs = [Results(root / "varied" / f"v-{number}") for number in (6, 12)]
    found = study.parse(study.gather(runs, "v"), "v.jsonl")
    assert measured.settings_that_differ(found) == {"corpus.pages_per_unit": {"v-6": 6, "v-12": 12}}
    first = found.runs[0]
    asked = sum(fake_run.SERIAL_S[stage] for stage in ("retrieve.search", "generate"))
    assert measured.latency_s(first) == pytest.approx(asked * 1.04 / first.counts["queries"], rel=0.01)
    [part] = measured.tables_of([found], None)["varied"]
    assert part["settings"] == ["corpus.pages_per_unit"]
    mean = part["rows"][0]["means"]["nDCG@10"]
    assert mean["low"] <= mean["mean"] <= mean["high"]


def test_a_dot_that_another_beats_at_less_is_no_frontier() -> None:
    dots = [Dot(label=str(n), value=v, x=x) for n, (x, v) in enumerate([(1, 0.5), (2, 0.4), (3, 0.9), (3, 0.8)])]
    assert [dot.label for dot in best_of(dots)] == ["0", "2"]


def test_the_verb_lays_a_sweep_and_runs_over_each_other(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "made"
    assert cli.main(["report", "c", "q-one", "q-two", f"cluster.root={root}", "--out", str(out), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {Path(name).name for name in files} >= {"report.html", "speed-up.svg", "speed-up.png", "speed-up.csv"}
    rows = list(csv.DictReader(io.StringIO((out / "speed-up.csv").read_text())))
    assert [row["p"] for row in rows] == ["1", "2", "4"] * 2 and float(rows[2]["S"]) > 3
    page = tmp_path / "alone.html"
    assert cli.main(["report", "c-w1", "c-w4", f"cluster.root={root}", "--out", str(page)]) == 0
    assert "c-w4" in page.read_text() and "q-one" not in page.read_text()
    assert cli.main(["report", "c-w1", "c-w1", f"cluster.root={root}"]) == 2
    assert "named twice" in capsys.readouterr().err


def test_lines_that_are_damaged_are_named_in_the_page_and_the_exit_says_so(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = study.gather([Results(root / f"c-w{p}") for p in (1, 2, 4)], "c").splitlines(keepends=True)
    (tmp_path / "c.jsonl").write_bytes(b"".join([*lines[:5], lines[5][:-20] + b"\n", *lines[6:]]))
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 3
    assert "c.jsonl:6: damaged" in capsys.readouterr().out
    assert "skipped: c.jsonl:6: damaged" in (tmp_path / "r.html").read_text()
    (tmp_path / "c.jsonl").unlink()
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "no PART.jsonl in it" in capsys.readouterr().err


def test_what_a_sweep_s_measurement_took_over_is_not_told_again(root: Path) -> None:
    run = Results(fake_run.build(root / "base", fake_run.Shape(name="s-p2-r1", stages=["crawl", "clean"])))
    real = run.records

    def records(step: str) -> list[dict[str, object]]:
        return [{**record, "run": "s-base"} if step == "crawl" else record for record in real(step)]

    run.records = records  # type: ignore[method-assign]
    found = study.parse(study.gather([run], "s"), "s.jsonl")
    assert list(found.runs[0].times()) == ["clean"] and found.unfinished == []


def test_what_is_ideal_is_drawn_at_every_p() -> None:
    panel = Panel(title="a", points=[(2, 1.0, True), (4, 1.9, True), (16, 5.0, True)], bound=(4.0, "4 cores"))
    for efficiency in (False, True):
        with styled():
            ideal, *_, bound, _, _ = speed_up([panel], efficiency=efficiency).axes[0].lines
        for line, at in ((ideal, lambda p: p / 2), (bound, lambda p: 4.0)):
            ps, ys = line.get_xdata(), line.get_ydata()
            expected = [at(p) * (2 / p if efficiency else 1) for p in ps]
            assert len(ps) > 20 and list(ys) == pytest.approx(expected)
