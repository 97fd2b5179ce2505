"""clean: text and titles out of pages, and a reason for every page that is no document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fixedcorpus
import pytest
import stagerun

FRENCH = ("Le conseil municipal a décidé hier soir que la nouvelle école ouvrira ses portes au printemps prochain, et "
          "les parents des élèves sont heureux de cette décision qui était attendue depuis plusieurs années.")


def _clean(tmp_path: Path, records: list[dict[str, Any]], **settings: Any) -> stagerun.Chain:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    crawl = {"source": "files", "path": str(folder)}
    return stagerun.Chain(tmp_path / "run", {"crawl": crawl, "clean": settings}).run("crawl", "clean")


def test_each_dropped_page_has_its_reason(front: stagerun.Chain) -> None:
    assert front.rejects("clean") == {
        "short": "too-short", "digits": "low-alpha", "lines": "repeated-lines", "empty": "empty", "bell": "binary",
        "nothing.html": "no-text",
    }
    detail = {row["id"]: row["detail"] for row in front.table("clean", "rejects.parquet")}
    assert detail["short"].startswith("18 characters")


def test_html_keeps_main_text_and_code_and_loses_navigation_and_scripts(front: stagerun.Chain) -> None:
    (page,) = [row for row in front.table("clean", "documents.parquet") if row["doc_id"] == "guide.html"]
    assert page["title"] == "Sockets guide" and page["lang"] == "en"
    assert "    s.bind(a)" in page["text"]
    assert all(word not in page["text"] for word in ("Home", "Imprint", "var x", "<p>"))


def test_title_of_the_page_goes_before_that_of_the_text(front: stagerun.Chain) -> None:
    titles = {row["doc_id"]: row["title"] for row in front.table("clean", "documents.parquet")}
    assert titles["readme.md"] == "Read me first" and titles["plain.txt"] == "" and titles["d00"] == "Queues note 0"


def test_rows_keep_the_order_of_the_pages(front: stagerun.Chain) -> None:
    pages = [row["doc_id"] for row in front.table("crawl", "pages.parquet")]
    kept = [row["doc_id"] for row in front.table("clean", "documents.parquet")]
    assert kept == [doc_id for doc_id in pages if doc_id not in front.rejects("clean")]


def test_language_filter_drops_other_languages_by_name(tmp_path: Path) -> None:
    english = fixedcorpus.prose("paths", 1, 6)
    records = [{"id": "en", "text": english}, {"id": "fr", "text": FRENCH}]
    assert _clean(tmp_path, records, languages=["en"]).rejects("clean") == {"fr": "language-fr"}


def test_length_limits_are_the_config_s(tmp_path: Path) -> None:
    records = [{"id": "a", "text": "three words here"}, {"id": "b", "text": fixedcorpus.prose("paths", 1, 9)}]
    chain = _clean(tmp_path, records, min_chars=0, max_chars=100)
    assert chain.rejects("clean") == {"b": "too-long"}
    assert [row["text"] for row in chain.table("clean", "documents.parquet")] == ["three words here"]


def test_unit_in_which_nothing_is_left_still_counts(tmp_path: Path) -> None:
    chain = _clean(tmp_path, [{"id": "a", "text": "no"}]).run("dedup.sign", "dedup.group", "dedup.drop", "chunk")
    assert chain.out["clean"].dropped() == {"too-short": 1}
    assert [chain.out[s].total("items_in") for s in ("dedup.sign", "dedup.drop", "chunk")] == [0, 0, 0]
    with pytest.raises(Exception, match="nothing to do, its input is empty"):
        chain.run("encode")
