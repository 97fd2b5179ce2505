"""dedup: of each group of duplicates the first document stays, and the others name it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fixedcorpus
import numpy as np
import pytest
import stagerun

from rag_hpc.errors import IncompleteError
from rag_hpc.stages.dedup import text_hash
from rag_hpc.stages.registry import make_stage

STEPS = ("dedup.sign", "dedup.group", "dedup.drop")


def _dedup(tmp_path: Path, texts: dict[str, str], per_unit: int = 2, **settings: Any) -> stagerun.Chain:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts.items()))
    crawl = {"source": "files", "path": str(folder), "pages_per_unit": per_unit}
    chain = stagerun.Chain(tmp_path / "run", {"crawl": crawl, **dict.fromkeys(STEPS, settings)})
    return chain.run("crawl", "clean", *STEPS)


def _keepers(chain: stagerun.Chain) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["reason"], row["detail"]) for row in chain.table("dedup.drop", "rejects.parquet")}


def test_rejects_name_the_document_that_stays(front: stagerun.Chain) -> None:
    assert _keepers(front) == {"exact": ("exact-duplicate", "d05"), "near": ("near-duplicate", "long"),
                               "nearer": ("near-duplicate", "long")}


def test_first_document_stays_even_across_units(tmp_path: Path) -> None:
    one, two = fixedcorpus.prose("paths", 1, 8), fixedcorpus.prose("queues", 2, 8)
    chain = _dedup(tmp_path, {"z": one, "b": two, "a": one + " ", "c": two.upper(), "d": one})
    assert [row["doc_id"] for row in chain.table("dedup.drop", "documents.parquet")] == ["z", "b"]
    assert _keepers(chain) == {"a": ("exact-duplicate", "z"), "c": ("exact-duplicate", "b"),
                               "d": ("exact-duplicate", "z")}


def test_rows_that_stay_are_unchanged(front: stagerun.Chain) -> None:
    clean = {row["doc_id"]: row for row in front.table("clean", "documents.parquet")}
    kept = front.table("dedup.drop", "documents.parquet")
    assert [row["doc_id"] for row in kept] == [i for i in clean if i not in front.rejects("dedup.drop")]
    assert all(row == clean[row["doc_id"]] for row in kept)


@pytest.mark.parametrize("num_groups", [1, 2, 500])
def test_number_of_group_units_does_not_change_what_is_dropped(
    num_groups: int, front: stagerun.Chain, tmp_path: Path
) -> None:
    chain = front.fork(tmp_path, ("clean", "dedup.sign"))
    chain.settings = {**front.settings, "dedup.group": {"num_groups": num_groups}}
    chain.run("dedup.group", "dedup.drop")
    assert chain.hashes()["dedup.drop"] == front.hashes()["dedup.drop"]
    assert len(chain.out["dedup.group"].units) <= num_groups


def test_pairs_are_sorted_and_smaller_first(front: stagerun.Chain) -> None:
    parts = [np.load(path) for path in front.out["dedup.group"].files("pairs.npy")]
    assert sum(map(len, parts)) > 3
    for pairs in parts:
        assert (pairs[:, 0] < pairs[:, 1]).all()
        assert pairs.tolist() == sorted(map(list, {tuple(p) for p in pairs.tolist()}))


def test_signatures_are_rows_of_the_clean_units(front: stagerun.Chain) -> None:
    rows = front.out["clean"].rows("documents.parquet")
    assert front.out["dedup.sign"].rows("signatures.npy") == front.out["dedup.sign"].rows("exact.npy") == rows
    signatures = np.load(front.out["dedup.sign"].files("signatures.npy")[0])
    assert signatures.shape[1] == 128 and signatures.dtype == np.uint32


def test_threshold_parts_near_from_different(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(200)]
    texts = {"a": " ".join(words), "b": " ".join([*words[:190], *(f"new{n}" for n in range(10))])}  # Jaccard 0.90
    folders = [tmp_path / "low", tmp_path / "high"]
    for folder in folders:
        folder.mkdir()
    assert _keepers(_dedup(folders[0], texts, threshold=0.8)) == {"b": ("near-duplicate", "a")}
    assert _keepers(_dedup(folders[1], texts, threshold=0.98)) == {}


def test_threshold_of_one_drops_copies_only(tmp_path: Path) -> None:
    text = fixedcorpus.prose("paths", 1, 8)
    chain = _dedup(tmp_path, {"a": text, "b": "Preface. " + text, "c": text}, threshold=1.0)
    assert _keepers(chain) == {"c": ("exact-duplicate", "a")}


def test_hash_ignores_case_and_white_space_only() -> None:
    assert text_hash("A  b\n") == text_hash("a b") != text_hash("ab")


def test_quarantined_signatures_are_refused_rather_than_shifted(front: stagerun.Chain, tmp_path: Path) -> None:
    chain = front.fork(tmp_path, ("clean",))
    chain.out["dedup.sign"] = chain.again("dedup.sign", tmp_path, fail=[0])
    assert chain.out["dedup.sign"].quarantined == [0]
    with pytest.raises(IncompleteError, match=r"dedup.sign: 1 units are quarantined.*manifest.json and run"):
        make_stage("dedup.group", {}).plan(chain.out, tmp_path)
