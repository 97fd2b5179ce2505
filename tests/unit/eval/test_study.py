"""A study as lines of JSON, and as tables for other programs."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_run
import pyarrow.parquet as pq
import pytest

from rag_hpc import cli
from rag_hpc.core.stored import sealed_json
from rag_hpc.errors import ConfigError
from rag_hpc.eval import scaling, study
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.entries import entries, tables
from rag_hpc.eval.results import Results

PRICES = Prices(name="test", source="a test", core_hour=3600.0)
GIVEN = [f"cost.{key}=0" for key in ("gpu_hour", "core_watts", "gpu_watts")]
GIVEN += ["cost.name=test", "cost.source=a test", "cost.core_hour=3600"]
STAGES = ["crawl", "clean", "dedup.sign", "dedup.group"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    root = tmp_path_factory.mktemp("study")
    shapes = [fake_run.Shape(name=f"c-w{p}", p=p, overhead=0.1, stages=STAGES) for p in (1, 2, 4)]
    return [Results(fake_run.build(root, shape)) for shape in shapes]


@pytest.fixture(scope="module")
def lines(runs: list[Results]) -> bytes:
    return study.gather(runs, "c")


def changed(lines: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the lines with a change to each value, sealed anew; those for which it returns False are left out."""
    values = [json.loads(line) for line in lines.splitlines()]
    kept = [value for value in values if change(value) is not False]
    return b"".join(sealed_json({k: v for k, v in value.items() if k != "seal"}) for value in kept)


def test_the_lines_tell_the_points_that_the_runs_themselves_do(runs: list[Results], lines: bytes) -> None:
    found = study.parse(lines, "c.jsonl")
    assert found.name == "c" and found.problems == [] and found.unfinished == []
    assert [dataclasses.asdict(p) for p in found.points()] == [dataclasses.asdict(p) for p in scaling.compare(runs)]
    assert study.gather(list(reversed(runs)), "c") == lines


def test_the_baseline_is_the_one_that_is_named_or_else_has_the_fewest_workers(tmp_path: Path) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="one", p=1, stages=["crawl"]))
    fake_run.build(tmp_path, fake_run.baseline("plain", stages=["crawl"]))
    runs = [Results(tmp_path / name) for name in ("one", "plain")]
    for named, first in ((None, "plain"), (tmp_path / "one", "one")):
        assert study.parse(study.gather(runs, "s", named), "s.jsonl").runs[0].run == first


def test_titles_that_stand_in_for_questions_are_no_quality(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(name="titles", stand_ins=True)))
    found = study.parse(study.gather([run], "titles"), "titles.jsonl")
    assert found.runs[0].quality == {} and "titles that stand in for questions" in found.caveats[0]


def test_what_is_secret_or_says_where_it_ran_is_no_part_of_it(tmp_path: Path) -> None:
    shape = fake_run.Shape(
        name="c",
        stages=["crawl"],
        corpus={"api_key": "k-123", "headers": {"AUTH_TOKEN": "t-456"}, "path": "/home/u-789/texts"},
    )
    told = study.gather([Results(fake_run.build(tmp_path, shape))], "c")
    assert not [secret for secret in (b"k-123", b"t-456", b"a-secret", b"u-789") if secret in told]
    assert b'"path":"texts"' in told


@pytest.mark.parametrize("flaw", ["cut", "bit", "not an object", "no such run", "twice"])
def test_a_line_that_is_damaged_is_named_skipped_and_counted(lines: bytes, flaw: str) -> None:
    each = lines.splitlines()
    number = next(n for n, line in enumerate(each) if json.loads(line)["kind"] == "record" and b'"unit":2' in line)
    each[number] = {
        "cut": each[number][:-9],
        "bit": each[number].replace(b'"attempt":1', b'"attempt":2'),
        "not an object": b"[1,2]",
        "no such run": changed(each[number] + b"\n", lambda value: value.update(of="another")).strip(),
        "twice": each[number - 1],
    }[flaw]
    found = study.parse(b"\n".join(each) + b"\n", "c.jsonl")
    assert len(found.problems) == 1 and found.problems[0].startswith(f"c.jsonl:{number + 1}: damaged")
    assert found.problems[0].endswith("; skipped")
    first = found.runs[0]
    assert len(first.records["crawl"]) == 7 and not first.whole("crawl") and first.whole("clean")
    assert {point.stage for point in found.points()} == {"clean", "dedup"}  # its T is not known, nor what it is against
    report = entries(found, PRICES, most=100)[-1]
    assert report.summary["skipped"] == 1 and report.tables["skipped"] == [{"problem": found.problems[0]}]


def test_a_damaged_record_of_a_run_is_left_out_and_named(tmp_path: Path) -> None:
    run_dir = fake_run.build(tmp_path, fake_run.Shape(name="c", stages=["crawl", "clean"]))
    path = next(run_dir.glob("crawl*/units/unit-00003/record.json"))
    path.write_bytes(path.read_bytes()[:-30])
    found = study.parse(study.gather([Results(run_dir)], "c"), "c.jsonl")
    assert sorted(found.runs[0].records["crawl"]) == [0, 1, 2, 4, 5, 6, 7]
    assert any(problem.startswith(f"{path}: damaged") and problem.endswith("skipped") for problem in found.problems)


def test_runs_of_other_documents_are_no_study(tmp_path: Path, runs: list[Results]) -> None:
    other = Results(fake_run.build(tmp_path, fake_run.Shape(name="d", p=2, first_page=9, stages=STAGES[:1])))
    with pytest.raises(ConfigError, match="d and c-w1 read different documents or questions"):
        study.parse(study.gather([runs[0], other], "c"), "c.jsonl")


def test_without_a_run_there_is_no_study(lines: bytes) -> None:
    with pytest.raises(ConfigError, match="it tells of no run"):
        study.parse(changed(lines, lambda value: value["kind"] != "run"), "c.jsonl")


def test_one_p_has_no_speedup(runs: list[Results]) -> None:
    found = study.parse(study.gather(runs[1:2], "c-w2"), "c-w2.jsonl")
    assert "all of it ran with p = 2" in found.no_curve and "rag-hpc run workers=1,2,4" in found.no_curve
    shown = entries(found, PRICES, most=100)
    assert shown[0].summary["cost/cost"] == pytest.approx(sum(r["cpu_s"] for r in runs[1].records("crawl")))
    assert [entry.stage for entry in shown] == ["crawl", "clean", "dedup", "report"]
    assert shown[0].summary["scaling/T"] > 0 and "scaling/S" not in shown[0].summary
    assert shown[-1].pictures == {}


def test_ids_follow_from_the_names_and_content_from_the_records(lines: bytes) -> None:
    once, again = (entries(study.parse(lines, "c.jsonl"), PRICES, most=100) for _ in range(2))
    assert [(e.id, e.digest) for e in once] == [(e.id, e.digest) for e in again]
    assert len({entry.id for entry in once}) == len(once) == 10
    slower = changed(lines, lambda value: value.update(cpu_s=9.5) if value.get("of") == "c-w4" else None)
    other = entries(study.parse(slower, "c.jsonl"), PRICES, most=100)
    assert [e.id for e in other] == [e.id for e in once]
    assert {a.name for a, b in zip(once, other, strict=True) if a.digest != b.digest} == {
        "c-w4 crawl",
        "c-w4 clean",
        "c-w4 dedup",
        "c report",
    }


def test_what_is_over_the_limit_stands_in_the_report(lines: bytes) -> None:
    found = entries(study.parse(lines, "c.jsonl"), PRICES, most=3)
    assert [entry.stage for entry in found] == ["crawl", "clean", "report"]
    assert found[-1].summary["points_without_entry"] == 7 and len(found[-1].tables["points"]) == 9
    shown = [row for row in found[-1].rows if "scaling/dedup/S" in row]
    assert [row["p"] for row in shown] == [1, 2, 4]


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["a-w1", "a-w2"], "a"),
        (["demo-baseline", "demo-cluster"], "demo"),
        (["x", "y"], "x"),
        (["one-w4"], "one"),
        (["demo"], "demo"),
    ],
)
def test_a_study_is_called_what_its_runs_have_in_common(names: list[str], common: str) -> None:
    assert study.name_of(names) == common


def test_tables_for_other_programs_need_no_tracker(
    tmp_path: Path, runs: list[Results], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    root = runs[0].run_dir.parent
    assert cli.main(["publish", "c", f"cluster.root={root}", f"--out={tmp_path / 'out'}", *GIVEN, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["study"], told["runs"], told["points"], told["skipped"]) == ("c", 3, 9, 0)
    expected = tables(study.parse(study.gather(runs, "c"), "c.jsonl"), PRICES, scaling.compare(runs))
    assert set(told["tables"]) == {
        str(tmp_path / f"out/{name}{kind}") for name in expected for kind in (".csv", ".parquet")
    }
    for name, rows in expected.items():
        assert pq.read_table(tmp_path / f"out/{name}.parquet").to_pylist() == rows
        assert len(list(csv.DictReader((tmp_path / f"out/{name}.csv").read_text().splitlines()))) == len(rows)
    again = cli.main(["publish", str(tmp_path / "out/c.jsonl"), f"--out={tmp_path / 'again'}", *GIVEN])
    assert again == 0 and (tmp_path / "again/points.csv").read_bytes() == (tmp_path / "out/points.csv").read_bytes()
