"""crawl: every record becomes a page or a reject with its reason, and a source that changed is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import fixedcorpus
import pytest
import stagerun

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.tables import read_table


def _jsonl(folder: Path, *records: dict[str, object]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(folder)


def test_rejects_say_which_record_and_why(front: stagerun.Chain) -> None:
    assert front.rejects("crawl") == {
        "latin.txt": "not-utf8",
        "notes.jsonl#4": "bad-json",
        "notes.jsonl#9": "no-text",
        "d03": "duplicate-id",
    }
    assert front.out["crawl"].dropped() == {"bad-json": 1, "duplicate-id": 1, "no-text": 1, "not-utf8": 1}


def test_units_hold_pages_per_unit_records_of_the_sorted_files(front: stagerun.Chain) -> None:
    units = front.out["crawl"].units
    assert [u["items_in"] for u in units] == [12] * 6 + [10]
    ids = [row["doc_id"] for row in front.table("crawl", "pages.parquet")]
    assert ids[:3] == ["guide.html", "d00", "d01"]
    assert ids[-2:] == ["plain.txt", "readme.md"] and len(set(ids)) == len(ids) == 78


def test_first_of_two_equal_ids_stays(front: stagerun.Chain) -> None:
    (kept,) = [row for row in front.table("crawl", "pages.parquet") if row["doc_id"] == "d03"]
    assert kept["title"] == "Paths note 3"


def test_meta_is_json_with_sorted_keys_and_unicode_kept(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "c", {"id": "x", "text": "t", "zeta": 1, "alpha": "é", "list": [1]})
    out = stagerun.run_alone("crawl", {"source": "files", "path": path}, {}, tmp_path)
    assert read_table(out / "pages.parquet").column("meta").to_pylist() == ['{"alpha": "é", "zeta": 1}']
    assert not (out / "rejects.parquet").exists()


def test_fields_of_the_config_are_read(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "c", {"key": 7, "head": "T", "body": "words", "link": "http://a/b"})
    settings = {
        "source": "files",
        "path": path,
        "id_field": "key",
        "title_field": "head",
        "text_field": "body",
        "url_field": "link",
    }
    (row,) = read_table(stagerun.run_alone("crawl", settings, {}, tmp_path) / "pages.parquet").to_pylist()
    assert (row["doc_id"], row["title"], row["body"], row["url"]) == ("7", "T", b"words", "http://a/b")


def test_beir_folder_gives_the_same_documents_as_the_records(front: stagerun.Chain, tmp_path: Path) -> None:
    settings = {"source": "beir", "path": str(fixedcorpus.write_beir(tmp_path / "beir")), "pages_per_unit": 30}
    found = stagerun.run_stage(tmp_path / "run", "crawl", settings, {})
    ours = {row["doc_id"]: (row["title"], row["body"]) for row in stagerun.rows_of(found, "pages.parquet")}
    theirs = {row["doc_id"]: (row["title"], row["body"]) for row in front.table("crawl", "pages.parquet")}
    assert len(found.units) == 3 and len(ours) == 74
    assert ours == {key: value for key, value in theirs.items() if key in ours}


def test_file_that_changes_after_the_plan_fails_the_unit(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "c", {"id": "x", "text": "one"})
    stage = make_stage("crawl", {"source": "files", "path": path})
    (unit,) = stage.plan({}, tmp_path)
    _jsonl(tmp_path / "c", {"id": "x", "text": "two"})
    with pytest.raises(InputError, match="changed since the plan was made"):
        stage.run(unit, tmp_path, stagerun.context({}, tmp_path))


def test_changed_file_gives_another_fingerprint(tmp_path: Path) -> None:
    folders = []
    for text in ("one", "two"):
        settings = {"source": "files", "path": _jsonl(tmp_path / "c", {"id": "x", "text": text})}
        folders.append(stagerun.run_stage(tmp_path / "run", "crawl", settings, {}).folder.name)
    assert len(set(folders)) == 2


def test_empty_or_absent_corpus_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for path in (tmp_path / "c", tmp_path / "none", None):
        stage = make_stage("crawl", {"source": "files", "path": str(path) if path else None})
        with pytest.raises((InputError, ConfigError), match=r"corpus|path"):
            stage.plan({}, tmp_path)
