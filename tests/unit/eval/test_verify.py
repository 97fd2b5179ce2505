"""Comparing two runs."""

from __future__ import annotations

import json
from pathlib import Path

import fake_corpus
import fake_run
import pytest

from rag_hpc import cli
from rag_hpc.core.fs import canonical_json
from rag_hpc.eval import verify
from rag_hpc.eval.results import Results


def verdicts(a: Results, b: Results) -> dict[str, str]:
    return {row.stage: row.verdict for row in verify.compare(a, b)}


def call(root: Path, *words: str) -> int:
    return cli.main(["verify", *words, f"cluster.root={root}"])


def test_baseline_and_cluster_are_the_same_but_for_their_layout(run: Results, base: Results) -> None:
    found = verdicts(base, run)
    assert found["lexical"] == "layout"
    assert found["vectors.build"] == found["vectors.train"] == "only in B"
    assert {
        verdict for stage, verdict in found.items() if stage not in ("lexical", "vectors.build", "vectors.train")
    } == {"same"}


def test_an_index_of_other_passages_differs_in_more_than_its_layout(
    tmp_path: Path, run: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fake_corpus.chunks
    monkeypatch.setattr(fake_corpus, "chunks", lambda document: whole(document)[:1])
    other = verdicts(run, Results(fake_run.build(tmp_path, fake_run.Shape(name="other", num_shards=2))))
    assert (other["chunk"], other["lexical"], other["vectors.build"]) == ("differs",) * 3


def test_rows_follow_the_pipeline_whichever_run_comes_first(run: Results, base: Results) -> None:
    forth, back = verdicts(base, run), verdicts(run, base)
    assert list(forth) == list(back) == fake_run.STAGES
    assert back["vectors.train"] == "only in A"


def test_same_runs_exit_with_0_and_show_the_recall(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "demo-baseline", "demo-cluster") == 0
    printed = capsys.readouterr().out
    assert "13 of 13 comparable stages are the same" in printed
    assert (
        "recall@10 of the vector index against exact search: 1.0000 [1.0000, 1.0000] over 8 questions, within"
        in printed
    )
    assert not any(line.endswith(" ") for line in printed.splitlines())


def test_one_name_is_held_against_its_baseline(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "demo-cluster") == 0
    assert "A  demo-baseline" in capsys.readouterr().out
    assert call(root, "demo-baseline") == 2
    assert call(root) == 2


def test_other_rankings_differ_and_the_first_list_is_shown(
    tmp_path: Path, base: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    other = fake_run.build(tmp_path, fake_run.Shape(name="other", seed=8))
    assert call(tmp_path, str(base.run_dir), "other") == 1
    printed = capsys.readouterr().out
    assert "the runs part at retrieve.search; settings that differ: seed=7 | 8" in printed
    assert "first list that differs: query pydoc-000, bm25, from rank" in printed
    found = verdicts(base, Results(other))
    assert found["retrieve.search"] == found["evaluate"] == "differs"
    assert found["encode"] == "same"


def test_approximate_hits_do_not_count_as_a_difference(tmp_path: Path, run: Results) -> None:
    other = Results(fake_run.build(tmp_path, fake_run.Shape(ann_flaws=1)))
    assert other.manifests["retrieve.search"].output_hash != run.manifests["retrieve.search"].output_hash
    found = verdicts(run, other)
    assert found["retrieve.search"] == found["evaluate"] == "same"


def test_a_recall_that_is_too_low_fails_although_all_stages_agree(
    tmp_path: Path, base: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="blurred", ann_flaws=1))
    assert call(tmp_path, str(base.run_dir), "blurred") == 1
    assert "0.9875 [0.9625, 1.0000] over 8 questions, NOT within 0.01" in capsys.readouterr().out


def test_an_unfinished_run_exits_with_3(tmp_path: Path, base: Results, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="open", finish=5))
    assert call(tmp_path, str(base.run_dir), "open") == 3
    printed = capsys.readouterr().out
    assert "unfinished in B" in printed
    assert "rag-hpc retry" in printed


def test_a_difference_weighs_more_than_what_is_unfinished() -> None:
    rows = [
        verify.Comparison(stage="crawl", a="1", b="2", verdict="differs"),
        verify.Comparison(stage="clean", a="1", b=None, verdict="unfinished in B"),
    ]
    assert verify.exit_code(rows, None) == 1
    assert verify.exit_code(rows[1:], None) == 3
    assert verify.exit_code(rows[1:], 0.98) == 1


def test_json_says_the_same(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "demo-baseline", "demo-cluster", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["same"] is True
    assert value["ann_recall"] == 1.0
    assert {row["stage"]: row["verdict"] for row in value["stages"]}["lexical"] == "layout"


def test_files_that_are_not_what_their_manifest_promises_are_named(
    tmp_path: Path, base: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their size always, by every byte with --files; in either run."""
    other = fake_run.build(tmp_path, fake_run.Shape(name="other"))
    words = (str(base.run_dir), "other")
    longer, flipped = (
        next(other.glob(place)) for place in ("encode-*/units/*3/vectors.npy", "chunk-*/units/*2/chunks.parquet")
    )
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"x")
    assert call(tmp_path, *words) == 0
    capsys.readouterr()
    with longer.open("ab") as stream:
        stream.write(b"x")
    assert call(tmp_path, *words) == 1
    printed = capsys.readouterr().out
    assert f"other encode: {longer}: " in printed and str(flipped) not in printed and "1 damaged files" in printed
    for order in (words, words[::-1]):
        assert call(tmp_path, *order, "--files") == 1
        printed = capsys.readouterr().out
        assert f"other chunk: {flipped}: its bytes are not what the manifest promises; mend it: rag-hpc" in printed
        assert f"other encode: {longer}: " in printed and "2 damaged files" in printed
    assert call(tmp_path, *words, "--files", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], len(told["damaged"])) == (False, 2)


def test_hashes_of_the_old_kind_are_told(tmp_path: Path, base: Results, capsys: pytest.CaptureFixture[str]) -> None:
    other = fake_run.build(tmp_path, fake_run.Shape(name="other"))
    path = next(other.glob("chunk-*/manifest.json"))
    value = json.loads(path.read_bytes())
    del value["seal"]
    path.write_bytes(canonical_json(value))
    assert call(tmp_path, str(base.run_dir), "other") == 0
    printed = capsys.readouterr().out
    assert "other: hashes of the old kind in 1 manifests" in printed and "demo-baseline: hashes" not in printed
