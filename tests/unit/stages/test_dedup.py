"""dedup: of each group of duplicates the first document stays, and the others name it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import fixedcorpus
import numpy as np
import pyarrow as pa
import pytest
import stagerun
from dedupchain import STEPS, dedup, keepers, many_chain

from rag_hpc.algo.dedup.minhash import bands_for
from rag_hpc.algo.dedup.sketch import from_texts, shingle_sets
from rag_hpc.errors import ConfigError, IncompleteError
from rag_hpc.eval.bench.dedup.given import given_documents
from rag_hpc.stages.dedup.sign import bytes_and_ends
from rag_hpc.stages.dedup.signed import MIN_RECALL
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.tables import read_table


@pytest.fixture(scope="module")
def many() -> stagerun.Chain:
    """Read it, never write to it."""
    return many_chain()


def test_first_document_stays_even_across_units(tmp_path: Path) -> None:
    one, two = fixedcorpus.prose("paths", 1, 8), fixedcorpus.prose("queues", 2, 8)
    chain = dedup(tmp_path, {"z": one, "b": two, "a": one + " ", "c": two.upper(), "d": one})
    assert [row["doc_id"] for row in chain.table("dedup.drop", "documents.parquet")] == ["z", "b"]
    assert keepers(chain) == {
        "a": ("exact-duplicate", "z"),
        "c": ("exact-duplicate", "b"),
        "d": ("exact-duplicate", "z"),
    }


def test_duplicates_are_named_and_stay_where_all_is_kept(many: stagerun.Chain, tmp_path: Path) -> None:
    found = many.again("dedup.drop", tmp_path, keep_all=True)
    assert stagerun.rows_of(found, "documents.parquet") == many.table("clean", "documents.parquet")
    assert found.dropped() == {} and found.extra() == {"duplicates_kept": len(many.rejects("dedup.drop"))}
    with pytest.raises(ConfigError, match=r"against drops what earlier runs have: set stage.dedup.keep_all=false"):
        make_stage("dedup.drop", {"keep_all": True, "against": ["run"]})


def test_rows_that_stay_are_unchanged(many: stagerun.Chain) -> None:
    clean = {row["doc_id"]: row for row in many.table("clean", "documents.parquet")}
    kept = many.table("dedup.drop", "documents.parquet")
    assert [row["doc_id"] for row in kept] == [i for i in clean if i not in many.rejects("dedup.drop")]
    assert all(row == clean[row["doc_id"]] for row in kept)


@pytest.mark.parametrize("num_groups", [1, 2, 500])
def test_number_of_group_units_does_not_change_what_is_dropped(
    num_groups: int, many: stagerun.Chain, tmp_path: Path
) -> None:
    chain = many.fork(tmp_path, ("clean", "dedup.sign"))
    chain.settings = {**many.settings, "dedup.group": {"num_groups": num_groups}}
    chain.run(*STEPS[1:])
    assert all(chain.hashes()[step] == many.hashes()[step] for step in STEPS[2:])
    assert len(chain.out["dedup.group"].units) <= num_groups + 1


def test_pairs_are_sorted_by_the_larger_number_and_are_no_repeats(many: stagerun.Chain) -> None:
    parts = [np.load(path) for name in ("pairs.npy", "copies.npy") for path in many.out["dedup.group"].files(name)]
    assert sum(map(len, parts)) > 3
    for pairs in parts:
        assert (pairs[:, 0] < pairs[:, 1]).all()
        assert pairs[:, ::-1].tolist() == sorted(map(list, {tuple(p) for p in pairs[:, ::-1].tolist()}))
    near, copies = np.concatenate(parts[:-1]), parts[-1]
    assert len(copies) and not np.isin(near, copies[:, 1]).any()  # the first of some copies stands for all
    verified = [row for path in many.out["dedup.verify"].files("verified.npy") for row in np.load(path).tolist()]
    assert [(second, first) for first, second, *_ in verified] == sorted((b, a) for a, b, *_ in verified)


def test_rows_of_every_file_are_those_of_the_clean_units(many: stagerun.Chain) -> None:
    rows = many.out["clean"].rows("documents.parquet")
    assert many.out["dedup.sign"].rows("bands.parquet") == rows
    assert many.out["dedup.link"].rows("labels.npy") == [sum(rows)]
    assert 0 in rows
    names = read_table(many.out["dedup.sign"].files("bands.parquet")[0]).column_names
    assert names[:3] == ["doc_id", "exact", "band_000"] and len(names) == 2 + bands_for(128, 0.8, MIN_RECALL)[0]


def test_keep_map_says_where_each_dropped_document_belongs(tmp_path: Path) -> None:
    one, two = fixedcorpus.prose("paths", 1, 8), fixedcorpus.prose("queues", 2, 8)
    chain = dedup(tmp_path, {"a": one, "b": two, "c": two, "d": one + " One more.", "e": "Before. " + two})
    rows = chain.table("dedup.link", "keep_map.parquet")
    assert [(row["number"], row["doc_id"], row["kept_id"], row["reason"]) for row in rows] == [
        (2, "c", "b", "exact"),
        (3, "d", "a", "near"),
        (4, "e", "b", "near"),
    ]
    assert rows[0]["jaccard"] == 1.0 and 0.8 <= rows[1]["jaccard"] < 1.0
    assert keepers(chain) == {row["doc_id"]: (f"{row['reason']}-duplicate", row["kept_id"]) for row in rows}


def test_documents_joined_by_a_third_have_no_similarity_of_their_own(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(100)]
    shifted = {f"d{n}": " ".join(words[8 * n :] + [f"end{i}" for i in range(8 * n)]) for n in range(3)}
    chain = dedup(tmp_path, shifted)
    found = {row["doc_id"]: (row["kept_id"], row["jaccard"]) for row in chain.table("dedup.link", "keep_map.parquet")}
    assert found == {"d1": ("d0", pytest.approx(88 / 104)), "d2": ("d0", None)}


def test_threshold_parts_near_from_different(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(200)]
    texts = {"a": " ".join(words), "b": " ".join([*words[:190], *(f"new{n}" for n in range(10))])}  # Jaccard 0.90
    folders = [tmp_path / "low", tmp_path / "high"]
    for folder in folders:
        folder.mkdir()
    assert keepers(dedup(folders[0], texts, threshold=0.8)) == {"b": ("near-duplicate", "a")}
    assert keepers(dedup(folders[1], texts, threshold=0.98)) == {}


def test_documents_just_as_alike_as_the_threshold_asks_are_duplicates(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(10)]
    chain = dedup(tmp_path, {"a": " ".join(words[:9]), "b": " ".join([*words[:8], words[9]])}, ngram=1)
    assert keepers(chain) == {"b": ("near-duplicate", "a")}  # 8 of 10 words


def test_threshold_of_one_drops_copies_only(tmp_path: Path) -> None:
    text = fixedcorpus.prose("paths", 1, 8)
    chain = dedup(tmp_path, {"a": text, "b": "Preface. " + text, "c": text}, threshold=1.0)
    assert keepers(chain) == {"c": ("exact-duplicate", "a")}


def test_case_and_white_space_make_exact_copies_and_nothing_else_does(tmp_path: Path) -> None:
    text = fixedcorpus.prose("paths", 1, 8)
    chain = dedup(tmp_path, {"a": text, "b": f"  {text.upper()}\n", "c": text.replace(".", "!")})
    assert keepers(chain) == {"b": ("exact-duplicate", "a"), "c": ("near-duplicate", "a")}


@pytest.mark.parametrize("verify", ["exact", "estimate"])
def test_texts_without_words_are_copies_only_when_they_are_equal(verify: str, tmp_path: Path) -> None:
    marks = {"a": "!" * 60, "b": "?" * 60, "c": "!" * 60, "d": fixedcorpus.prose("paths", 1, 8)}
    assert keepers(dedup(tmp_path, marks, verify=verify)) == {"c": ("exact-duplicate", "a")}


def test_texts_are_read_from_a_slice_of_a_column_too() -> None:
    data, ends = bytes_and_ends(pa.array(["ab", "c", "dé"]).slice(1))
    assert (bytes(data), ends.tolist()) == ("cdé".encode(), [1, 4])


@pytest.mark.parametrize("family", ["affine32", "legacy"])
def test_signatures_are_datasketchs(family: str, tmp_path: Path) -> None:
    datasketch = pytest.importorskip("datasketch")
    scheme = {"scheme": family} if int(datasketch.__version__.split(".")[0]) >= 2 else {}
    if not scheme and family == "affine32":
        pytest.skip("datasketch before 2.0 knows the legacy family only")
    text = fixedcorpus.prose("paths", 1, 12)
    chain = dedup(tmp_path, {"a": text, "b": f"{text} One more."}, family=family, verify="estimate", num_perm=64)
    assert keepers(chain) == {"b": ("near-duplicate", "a")}
    ours = np.load(chain.out["dedup.sign"].files("signatures.npy")[0])
    loaded = [datasketch.MinHash(num_perm=64, hashvalues=row, **scheme) for row in ours]
    jaccard = chain.table("dedup.link", "keep_map.parquet")[0]["jaccard"]
    assert loaded[0].jaccard(loaded[1]) == pytest.approx(jaccard)
    flat, ends = shingle_sets(*from_texts([row["text"] for row in chain.table("clean", "documents.parquet")]))
    for row, grams in zip(ours, np.split(flat, ends[:-1]), strict=True):
        theirs = datasketch.MinHash(num_perm=64, hashfunc=lambda value: value, **scheme)
        theirs.update_batch(grams.tolist())
        np.testing.assert_array_equal(row, theirs.hashvalues)


def test_estimate_drops_what_exact_drops_and_keeps_no_sets(many: stagerun.Chain, tmp_path: Path) -> None:
    chain = many.fork(tmp_path, ("clean",))
    chain.settings = {step: {"verify": "estimate"} for step in STEPS}
    chain.run(*STEPS)
    assert set(chain.rejects("dedup.drop")) == set(many.rejects("dedup.drop"))
    assert {path.name for path in chain.out["dedup.sign"].unit_dir(0).iterdir()} == {
        "bands.parquet",
        "signatures.npy",
        "record.json",
    }


def test_quarantined_signatures_are_refused_rather_than_shifted(many: stagerun.Chain, tmp_path: Path) -> None:
    chain = many.fork(tmp_path, ("clean",))
    chain.out["dedup.sign"] = chain.again("dedup.sign", tmp_path, fail=[0])
    assert chain.out["dedup.sign"].quarantined == [0]
    with pytest.raises(IncompleteError, match=r"dedup.sign: 1 units are quarantined.*manifest.json and run"):
        make_stage("dedup.group", {}).plan(chain.out, tmp_path)


@pytest.mark.parametrize(
    ("failed", "refused"),
    [("dedup.group", "dedup.verify"), ("dedup.verify", "dedup.link"), ("dedup.link", "dedup.drop")],
)
def test_a_step_that_lacks_a_unit_is_not_gone_on_from(
    failed: str, refused: str, many: stagerun.Chain, tmp_path: Path
) -> None:
    out = {**many.out, failed: many.again(failed, tmp_path, fail=[len(many.out[failed].units) - 1])}
    with pytest.raises(IncompleteError, match=f"{failed}: 1 units are quarantined"):
        make_stage(refused, {}).plan(out, tmp_path)


def test_one_giant_bucket_is_paired_within_the_budget(tmp_path: Path) -> None:
    common = " ".join(f"w{n}" for n in range(150))
    texts = {f"d{n:04d}": f"{common} end{n}" for n in range(3000)}
    chain = stagerun.Chain(tmp_path / "run", {}, {"clean": given_documents(tmp_path / "run", [list(texts.items())])})
    chain.run("dedup.sign")
    stage, ctx = make_stage("dedup.group", {"memory_mib": 1}), stagerun.context(chain.out, tmp_path)
    stage.setup(ctx)
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    counts = stage.run(stage.plan(chain.out, tmp_path)[0], tmp_path / "out", ctx)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.items_out > 16 * 2900 and peak < 3 << 20


def test_settings_that_no_bands_fit_are_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"can not find pairs at threshold=0\.05"):
        make_stage("dedup.sign", {"threshold": 0.05, "num_perm": 16})
