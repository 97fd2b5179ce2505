"""dedup against earlier runs: their documents count as seen, without a look at their text."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import stagerun
from dedupchain import STEPS, keepers, many_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import plan_path, read_plan, write_plan
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.dedup.given import given_documents, in_units, run_dedup
from rag_hpc.inline import open_stage
from rag_hpc.stages.dedup.signed import SIGNED
from rag_hpc.stages.registry import make_stage


def run(run_dir: Path, texts: dict[str, str], **settings: object) -> stagerun.Chain:
    """Run dedup with its plans written, as an earlier run has them."""
    rows = [row for row in texts.items() if row[1]]
    found = run_dedup(run_dir, given_documents(run_dir, in_units(rows, 9)), settings)
    for step in STEPS:
        plan = open_stage(make_stage(step, dict(settings)), found, run_dir, 1)
        write_plan(plan_path(run_dir, 1, step), plan)
    return stagerun.Chain(run_dir, {step: dict(settings) for step in STEPS}, found)


def kept(chain: stagerun.Chain) -> list[str]:
    return [row["doc_id"] for row in chain.table("dedup.drop", "documents.parquet")]


def words(seed: int, num: int = 60) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(num))


def test_documents_of_an_earlier_run_always_win_and_are_named_with_their_run(tmp_path: Path) -> None:
    old = {"o1": words(1), "o2": words(2), "copy of o2": words(2)}
    run(tmp_path / "spring", old)
    shutil.rmtree(next((tmp_path / "spring").glob("clean-*")))  # the text is not needed any more
    new = {"a": words(3), "b": words(2), "c": words(1) + " more", "d": words(3) + " more", "e": words(4)}
    chain = run(tmp_path / "summer", new, against=[str(tmp_path / "spring")])
    assert keepers(chain) == {
        "b": ("exact-duplicate", "o2 of spring"),
        "c": ("near-duplicate", "o1 of spring"),
        "d": ("near-duplicate", "a"),
    }
    rows = {row["doc_id"]: (row["kept_id"], row["kept_run"]) for row in chain.table("dedup.link", "keep_map.parquet")}
    assert rows == {"b": ("o2", "spring"), "c": ("o1", "spring"), "d": ("a", None)}


def chain_of_three() -> list[str]:
    """Return texts of which the middle one alone is like both others."""
    text = words(1, 100).split()
    return [" ".join([*text[8 * n :], *(f"end{i}" for i in range(8 * n))]) for n in range(3)]


def test_a_document_that_leads_to_an_old_one_through_a_new_one_goes(tmp_path: Path) -> None:
    step = chain_of_three()
    run(tmp_path / "old", {"o": step[0]})
    chain = run(tmp_path / "new", {"far": step[2], "between": step[1]}, against=[str(tmp_path / "old")])
    assert keepers(chain) == {"far": ("near-duplicate", "o of old"), "between": ("near-duplicate", "o of old")}


def test_a_document_that_leads_to_an_old_one_through_one_that_went_goes_too(tmp_path: Path) -> None:
    step = chain_of_three()
    run(tmp_path / "one", {"o": step[0]})
    run(tmp_path / "two", {"between": step[1]}, against=[str(tmp_path / "one")])
    chain = run(tmp_path / "three", {"far": step[2]}, against=[str(tmp_path / "one"), str(tmp_path / "two")])
    assert keepers(chain) == {"far": ("near-duplicate", "o of one")}


def test_documents_of_an_earlier_run_are_not_paired_with_each_other_again(tmp_path: Path) -> None:
    run(tmp_path / "old", {"a": words(1), "b": words(1) + " more"})
    chain = run(tmp_path / "new", {"c": words(1) + " end"}, against=[str(tmp_path / "old")])
    pairs = np.unique(np.concatenate([np.load(path) for path in chain.out["dedup.group"].files("pairs.npy")]), axis=0)
    assert pairs.tolist() == [[-2, 0], [-1, 0]]


def test_three_generations_are_compared_with_what_each_kept(tmp_path: Path) -> None:
    run(tmp_path / "one", {"a": words(1), "b": words(2)})
    run(tmp_path / "two", {"c": words(2), "d": words(3)}, against=[str(tmp_path / "one")])
    third = {"e": words(1), "f": words(2), "g": words(3), "h": words(4)}
    chain = run(tmp_path / "three", third, against=[str(tmp_path / "one"), str(tmp_path / "two")])
    assert keepers(chain) == {
        "e": ("exact-duplicate", "a of one"),
        "f": ("exact-duplicate", "b of one"),
        "g": ("exact-duplicate", "d of two"),
    }
    alone = run(tmp_path / "alone", third, against=[str(tmp_path / "two")])
    assert kept(alone) == ["e", "f", "h"]  # what `two` dropped for a document of `one` is no document of it


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 49), st.sampled_from(["exact", "estimate"]))
def test_two_generations_keep_what_one_would(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int, verify: str
) -> None:
    folder = tmp_path_factory.mktemp("generations")
    texts = list({k: v for k, v in many_texts(60, seed).items() if v}.items())
    whole = run(folder / "whole", dict(texts), verify=verify)
    run(folder / "old", dict(texts[:cut]), verify=verify)
    new = run(folder / "new", dict(texts[cut:]), verify=verify, against=[str(folder / "old")])
    later = [name for name in kept(whole) if name in dict(texts[cut:])]
    assert kept(new) == later


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_older_documents_too(tmp_path: Path, world_size: int) -> None:
    texts = {name: text for name, text in many_texts(80, 1).items() if text}
    run(tmp_path / "old", dict(list(texts.items())[:30]))
    chain = run(tmp_path / "new", dict(list(texts.items())[30:]), against=[str(tmp_path / "old")])
    inputs: dict[str, Manifest] = {name: chain.out[name] for name in ("dedup.sign", "dedup.verify")}
    found = stagerun.run_on_ranks("dedup.link", chain.settings["dedup.link"], inputs, tmp_path / "ranks", world_size)
    for name in ("labels.npy", "keep_map.parquet"):
        assert (found / "unit-00000" / name).read_bytes() == chain.out["dedup.link"].files(name)[0].read_bytes()


@pytest.mark.parametrize(
    ("setting", "words_of_error"),
    [
        ({"ngram": 4}, "ngram is 5 there, 4 here"),
        ({"num_perm": 64}, "num_perm is 128 there, 64 here"),
        ({"threshold": 0.5}, "bands is"),
        ({"verify": "estimate"}, "verify is exact there, estimate here"),
    ],
)
def test_a_run_that_was_signed_otherwise_is_refused(
    tmp_path: Path, setting: dict[str, object], words_of_error: str
) -> None:
    run(tmp_path / "old", {"a": words(1)})
    stage = make_stage("dedup.sign", {"against": [str(tmp_path / "old")], **setting})
    with pytest.raises(ConfigError, match=words_of_error):
        stage.plan({"clean": given_documents(tmp_path / "new", [[("b", "x")]])}, tmp_path)


def test_a_run_whose_signatures_are_of_another_version_is_refused(tmp_path: Path) -> None:
    path = run(tmp_path / "old", {"a": words(1)}).out["dedup.sign"].folder / "manifest.json"
    value = json.loads(path.read_text()) | {"version": 1, "config": {}}
    del value["seal"]
    path.write_text(json.dumps(value))
    stage = make_stage("dedup.sign", {"against": [str(tmp_path / "old")]})
    with pytest.raises(ConfigError, match=f"version is 1 there, {SIGNED} here; make that run again with"):
        stage.plan({"clean": given_documents(tmp_path / "new", [[("b", "x")]])}, tmp_path)


def test_a_run_without_a_finished_dedup_is_refused(tmp_path: Path) -> None:
    chain = run(tmp_path / "old", {"a": words(1)})
    stage = make_stage("dedup.group", {"against": [str(tmp_path / "old")]})
    (chain.out["dedup.link"].folder / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="old is not finished"):
        stage.plan(chain.out, tmp_path)
    plan_path(tmp_path / "old", 1, "dedup.link").unlink()
    with pytest.raises(ConfigError, match="no finished dedup; finish it: rag-hpc retry run=old"):
        stage.plan(chain.out, tmp_path)


def test_the_latest_submission_of_an_earlier_run_counts(tmp_path: Path) -> None:
    run(tmp_path / "old", {"a": words(1)})
    run(tmp_path / "later", {"b": words(2)})
    shutil.rmtree(next((tmp_path / "later").glob("clean-*")))
    first = tmp_path / "later" / "submissions" / "0001"
    for path in first.glob("*.plan.json"):
        plan = dataclasses.replace(read_plan(path), submission=2)
        write_plan(plan_path(tmp_path / "later", 2, plan.stage), plan)
    shutil.rmtree(first)
    shutil.copytree(tmp_path / "later", tmp_path / "old", dirs_exist_ok=True)
    chain = run(tmp_path / "new", {"c": words(1), "d": words(2)}, against=[str(tmp_path / "old")])
    assert keepers(chain) == {"d": ("exact-duplicate", "b of old")}


def test_the_place_of_an_earlier_run_does_not_matter_but_what_it_holds_does(tmp_path: Path) -> None:
    fingerprints = []
    for place, text in (("here", words(1)), ("there", words(1)), ("other", words(2))):
        run(tmp_path / place / "old", {"a": text})
        chain = run(tmp_path / place / "new", {"b": words(1)}, against=[str(tmp_path / place / "old")])
        fingerprints.append(chain.out["dedup.link"].fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_an_earlier_run_that_changed_after_the_plan_is_noticed(tmp_path: Path) -> None:
    run(tmp_path / "old", {"a": words(1)})
    chain = run(tmp_path / "new", {"b": words(1)}, against=[str(tmp_path / "old")])
    for step in ("dedup.group", "dedup.verify", "dedup.link"):
        stage, ctx = make_stage(step, chain.settings[step]), stagerun.context(chain.out, tmp_path)
        (unit,) = stage.plan(chain.out, tmp_path)[:1]
        unit.inputs["older"] = [["old", "other", "hashes"]]
        stage.setup(ctx)
        with pytest.raises(InputError, match="old changed since this was planned"):
            stage.run(unit, tmp_path, ctx)
