"""Reading a run from its files, and finding runs by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from unit.eval import fake_run

from rag_hpc import cli
from rag_hpc.core.fs import canonical_json, read_json
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval import results
from rag_hpc.eval.results import Results


def resubmit(run_dir: Path, **changes: object) -> Path:
    """Write a second submission that repeats the first one with `changes`; return its folder."""
    folder = run_dir / "submissions" / "0002"
    folder.mkdir()
    first = read_json(run_dir / "submissions/0001/submission.json")
    (folder / "submission.json").write_bytes(canonical_json({**first, "number": 2, **changes}))
    return folder


def plan_again(run_dir: Path, stage: str, **changes: object) -> None:
    first = read_json(run_dir / f"submissions/0001/{stage}.plan.json")
    path = run_dir / f"submissions/0002/{stage}.plan.json"
    path.write_bytes(canonical_json({**first, "submission": 2, **changes}))


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
    plan_again(run_dir, "chunk", fingerprint="0" * 64)
    run = Results(run_dir)
    assert "dedup.drop" in run.manifests
    assert run.unfinished == [
        "chunk",
        "lexical",
        "encode",
        "vectors.train",
        "vectors.build",
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


def test_a_baseline_of_another_corpus_is_not_taken(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape()))
    other = fake_run.build(tmp_path, fake_run.baseline(finish=1))
    value = read_json(other / "run.json")
    value["config"]["corpus"]["name"] = "elsewhere"
    (other / "run.json").write_bytes(canonical_json(value))
    assert results.find_baseline(run) is None


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
        return results.root_of(cli.parse(["report", "--config-dir", str(tmp_path), *words]))

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
