"""Reading a run from its files, and finding runs by name."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import fake_run
import pytest

from rag_hpc import arguments, cli
from rag_hpc.core.fs import canonical_json, read_json
from rag_hpc.core.plan import read_plan, write_plan
from rag_hpc.errors import ConfigError, CorruptOutput, InputError
from rag_hpc.eval import results
from rag_hpc.eval.results import Results


def resubmit(run_dir: Path, **changes: object) -> Path:
    """Write a second submission that repeats the first one with `changes`; return its folder."""
    folder = run_dir / "submissions" / "0002"
    folder.mkdir()
    first = read_json(run_dir / "submissions/0001/submission.json")
    (folder / "submission.json").write_bytes(canonical_json({**first, "number": 2, **changes}))
    return folder


def plan_again(run_dir: Path, stage: str, **changes: Any) -> None:
    first = read_plan(run_dir / f"submissions/0001/{stage}.plan.json")
    write_plan(run_dir / f"submissions/0002/{stage}.plan.json", dataclasses.replace(first, submission=2, **changes))


def test_a_finished_run_has_a_manifest_for_every_stage(run: Results) -> None:
    assert list(run.manifests) == run.stages == fake_run.STAGES
    assert run.unfinished == []
    assert run.manifests["chunk"].total("items_in") == 21


def test_records_are_those_of_committed_units_in_unit_order(run: Results) -> None:
    assert [record["unit"] for record in run.records("crawl")] == list(range(8))
    assert run.records("rerank") == []


def test_an_unfinished_stage_has_records_but_no_manifest(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(finish=2)))
    assert run.unfinished == fake_run.STAGES[2:]
    assert len(run.records("dedup.sign")) == 3
    assert run.records("chunk") == []


def test_a_resubmission_without_plans_shows_the_earlier_results(tmp_path: Path) -> None:
    run_dir = fake_run.build(tmp_path, fake_run.Shape())
    resubmit(run_dir)
    run = Results(run_dir)
    assert run.submission["number"] == 2
    assert run.unfinished == []


def test_plans_that_read_a_replaced_input_are_not_taken_for_the_run_s(tmp_path: Path) -> None:
    run_dir = fake_run.build(tmp_path, fake_run.Shape())
    resubmit(run_dir)
    for stage in fake_run.STAGES[: fake_run.STAGES.index("chunk")]:
        plan_again(run_dir, stage)
    plan_again(run_dir, "chunk", fingerprint="0" * 64)
    run = Results(run_dir)
    assert "dedup.drop" in run.manifests
    assert run.unfinished == [
        "chunk",
        "lexical",
        "encode",
        "vectors.train",
        "vectors.build",
        "retrieve.queries",
        "retrieve.search",
        "generate",
        "evaluate",
    ]


def test_a_run_is_found_by_name_and_by_path(root: Path) -> None:
    assert results.find(root, "demo-cluster").name == "demo-cluster"
    assert results.find(root, str(root / "demo-cluster")).name == "demo-cluster"


def test_the_latest_run_is_the_last_one_used_and_one_without_a_plan_comes_last(tmp_path: Path) -> None:
    for name, unix in (("older", 1_000), ("newer", 2_000)):
        run_dir = fake_run.build(tmp_path, fake_run.Shape(name=name, finish=1))
        os.utime(run_dir / "submissions", (unix, unix))
    assert results.find(tmp_path, None).name == "newer"
    for path in (tmp_path / "newer" / "submissions").glob("*/*.plan.json"):
        path.unlink()
    assert results.find(tmp_path, None).name == "older"


def test_an_unknown_run_lists_the_known_ones(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"known: .*demo-cluster"):
        results.find(root, "nope")
    with pytest.raises(InputError, match="no runs"):
        results.find(tmp_path, None)


def test_a_run_that_was_never_submitted_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(canonical_json({"config": {}, "created_unix": 0}))
    with pytest.raises(InputError, match="nothing was submitted"):
        _ = Results(tmp_path).stages


def test_the_baseline_of_the_same_corpus_is_found_beside_the_run(run: Results, base: Results) -> None:
    found = results.find_baseline(run)
    assert found is not None
    assert found.name == base.name
    assert results.find_baseline(base) is None


def test_a_baseline_of_other_documents_or_questions_is_not_taken(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape()))
    fake_run.build(tmp_path, fake_run.baseline("others", first_page=7))
    fake_run.build(tmp_path, fake_run.baseline("titles", stand_ins=True))
    assert results.find_baseline(run) is None
    fake_run.build(tmp_path, fake_run.baseline("moved", corpus={"path": "/another/place"}))  # of the same files
    found = results.find_baseline(run)
    assert found is not None and found.name == "moved"


def test_before_any_document_is_read_the_settings_tell(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(finish=0, corpus={"path": "/a"})))
    fake_run.build(tmp_path, fake_run.baseline("b", corpus={"path": "/b"}))
    assert results.find_baseline(run) is None
    fake_run.build(tmp_path, fake_run.baseline("a", corpus={"path": "/a"}))
    found = results.find_baseline(run)
    assert found is not None and found.name == "a"


def test_a_point_of_a_sweep_finds_the_one_with_fewest_workers(tmp_path: Path) -> None:
    stages = ["crawl", "clean"]
    one, two, four = (
        Results(fake_run.build(tmp_path, fake_run.Shape(name=f"c-w{p}", p=p, stages=stages))) for p in (1, 2, 4)
    )
    fake_run.build(tmp_path, fake_run.Shape(name="d-w1", p=1, stages=stages))
    for run in (two, four):
        found = results.find_baseline(run)
        assert found is not None and found.name == "c-w1"
    assert results.find_baseline(one) is None
    fake_run.build(tmp_path, fake_run.baseline("base", stages=stages))
    found = results.find_baseline(two)
    assert found is not None and found.name == "base"


def test_of_several_baselines_a_finished_one_is_taken(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(finish=1)))
    fake_run.build(tmp_path, fake_run.baseline("b-done"))
    fake_run.build(tmp_path, fake_run.baseline("b-open", finish=1, start_unix=1_770_000_000.0))
    found = results.find_baseline(run)
    assert found is not None
    assert found.name == "b-done"


def test_the_root_is_the_override_or_the_site_file_s_or_here(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text("root: /scratch/me\n")
    (tmp_path / "cluster" / "bare.yaml").write_text("root: null\n")

    def root(*words: str) -> Path:
        return arguments.root_of(cli.parse(["report", "--config-dir", str(tmp_path), *words]))

    assert root("cluster=mine") == Path("/scratch/me")
    assert root("cluster=mine", "cluster.root=/x") == Path("/x")
    assert root("cluster=bare") == root("cluster=slurm") == root() == Path("results/runs")
    with pytest.raises(ConfigError, match="cluster=absent"):
        root("cluster=absent")


def test_steps_are_grouped_by_stage_in_order() -> None:
    assert results.by_stage(["crawl", "dedup.sign", "dedup.drop", "chunk"]) == {
        "crawl": ["crawl"],
        "dedup": ["dedup.sign", "dedup.drop"],
        "chunk": ["chunk"],
    }


def test_a_damaged_neighbour_is_no_baseline_and_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(finish=1)))
    damaged = fake_run.build(tmp_path, fake_run.baseline("broken", finish=1)) / "run.json"
    damaged.write_text("{")
    assert results.find_baseline(run) is None
    assert f"{damaged}: damaged (" in caplog.text


def test_a_record_of_another_run_is_not_measured(tmp_path: Path) -> None:
    one = Results(fake_run.build(tmp_path, fake_run.Shape(name="one", finish=2)))
    two = Results(fake_run.build(tmp_path, fake_run.Shape(name="two", finish=2, p=1)))
    mine, theirs = (next(run.run_dir.glob("clean-*/units/unit-00000/record.json")) for run in (one, two))
    mine.write_bytes(theirs.read_bytes())
    with pytest.raises(CorruptOutput, match=f"{mine}: not of this unit in this run; remove {mine.parent}"):
        one.records("clean")


@pytest.mark.parametrize("verb", ["milestones", "report"])
@pytest.mark.parametrize("place", ["evaluate-*/units/*/metrics.json", "generate-*/units/*/answers.parquet"])
def test_a_damaged_output_is_named_by_what_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, verb: str
) -> None:
    run_dir = fake_run.build(tmp_path, fake_run.Shape())
    path = sorted(run_dir.glob(place))[0]
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    code = cli.main([verb, "demo-cluster", f"cluster.root={tmp_path}"])
    said = capsys.readouterr().err
    if verb == "milestones" and "answers" in place:  # it has no use for them
        assert (code, said) == (0, "")
    else:
        assert code == 1 and f"{path}: its bytes are not what the manifest promises; mend it: rag-hpc retry" in said


@pytest.mark.parametrize("words", ["scaling a a/", "forecast a a/", "metrics a a/", "compare a a/", "verify a a/"])
def test_a_run_that_is_named_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="a", finish=2))
    assert cli.main([*words.replace("a/", f"{tmp_path}/a").split(), f"cluster.root={tmp_path}"]) == 2
    assert "a is named twice; name each run once" in capsys.readouterr().err
    assert cli.main(["cost", "a", "--baseline", "a", f"cluster.root={tmp_path}"]) == 2
    assert "--baseline a: that is the run itself" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["scaling", "forecast"])
def test_times_of_other_documents_are_no_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    for p in (1, 2):
        fake_run.build(tmp_path, fake_run.Shape(name=f"c{p}", p=p, first_page=p, stages=["crawl", "clean"]))
    assert cli.main([verb, "c1", "c2", f"cluster.root={tmp_path}"]) == 2
    assert "c2 and c1 read different documents or questions" in capsys.readouterr().err
