"""clean: text and titles out of pages, and a reason for every page that is no document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fixedcorpus
import pytest
import stagerun

from rag_hpc.algo.extract.extract import extract
from rag_hpc.config import compose
from rag_hpc.errors import ConfigError, Interrupted, MissingDependency
from rag_hpc.schema import from_plain
from rag_hpc.stages import clean
from rag_hpc.stages.clean import CleanConfig

FRENCH = (
    "Le conseil municipal a décidé hier soir que la nouvelle école ouvrira ses portes au printemps prochain, et "
    "les parents des élèves sont heureux de cette décision qui était attendue depuis plusieurs années."
)


def _clean(tmp_path: Path, records: list[dict[str, Any]], **settings: Any) -> stagerun.Chain:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    crawl = {"source": "files", "path": str(folder)}
    return stagerun.Chain(tmp_path / "run", {"crawl": crawl, "clean": settings}).run("crawl", "clean")


def test_each_dropped_page_has_its_reason(front: stagerun.Chain) -> None:
    assert front.rejects("clean") == {
        "short": "too-short",
        "digits": "low-alpha",
        "lines": "repeated-lines",
        "empty": "empty",
        "bell": "binary",
        "nothing.html": "no-text",
    }
    detail = {row["id"]: row["detail"] for row in front.table("clean", "rejects.parquet")}
    assert detail["short"].startswith("18 characters")


def test_a_collection_that_is_kept_whole_loses_no_document_with_a_word_in_it(tmp_path: Path) -> None:
    records = [r for r in fixedcorpus.records() if r["id"] in ("short", "digits", "lines", "marks", "empty")]
    records.append({"id": "nothing", "title": " ", "text": ""})
    chain = _clean(tmp_path, records, keep_all=True)
    texts = {row["doc_id"]: row["text"] for row in chain.table("clean", "documents.parquet")}
    assert list(texts) == ["short", "digits", "lines", "marks", "empty"]
    assert texts["empty"] == "Empty"  # a title is all that it has
    assert chain.rejects("clean") == {"nothing": "empty"}


def test_limits_that_are_asked_for_hold_all_the_same(tmp_path: Path) -> None:
    records = [r for r in fixedcorpus.records() if r["id"] in ("short", "lines", "empty")]
    chain = _clean(tmp_path, records, keep_all=True, min_chars=20, max_repeated=0.5)
    assert chain.rejects("clean") == {"short": "too-short", "lines": "repeated-lines", "empty": "empty"}


def test_the_limit_on_repeated_lines_is_a_setting(tmp_path: Path) -> None:
    records = [r for r in fixedcorpus.records() if r["id"] in ("short", "lines")]
    assert _clean(tmp_path, records, max_repeated=1.0).rejects("clean") == {"short": "too-short"}
    for name, value in (("max_repeated", 1.5), ("min_letters", -1.0)):
        with pytest.raises(ConfigError, match=rf"stage.clean.{name}={value}: a share from 0 to 1; try 0"):
            CleanConfig(**{name: value})


def test_beir_is_kept_whole_unless_asked_otherwise() -> None:
    def limits(*words: str) -> list[Any]:
        stage = compose([*words, "corpus.path=/d"]).stage
        whole = stage.lexical.whole_documents
        return [stage.clean.min_chars, stage.clean.max_repeated, stage.dedup.keep_all, whole]

    assert limits("corpus=files") == [50, 0.6, False, False]
    assert limits("corpus=files", "corpus.keep_all=true") == limits("corpus=beir") == [0, 1.0, True, True]
    asked = ("stage.clean.min_chars=30", "stage.dedup.keep_all=false", "stage.lexical.whole_documents=false")
    assert limits("corpus=beir", *asked) == [30, 1.0, False, False]


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


@pytest.mark.parametrize("code", ["english", "EN", "en-GB", "False", ""])
def test_what_is_no_language_code_is_refused(code: str) -> None:
    with pytest.raises(ConfigError, match=r"stage.clean.languages: '.*' is no language code .*=\[en,de\]"):
        CleanConfig(languages=["de", code])


def test_length_limits_are_the_config_s(tmp_path: Path) -> None:
    records = [{"id": "a", "text": "three words here"}, {"id": "b", "text": fixedcorpus.prose("paths", 1, 9)}]
    chain = _clean(tmp_path, records, min_chars=0, max_chars=100)
    assert chain.rejects("clean") == {"b": "too-long"}
    assert [row["text"] for row in chain.table("clean", "documents.parquet")] == ["three words here"]


def test_unit_in_which_nothing_is_left_still_counts(tmp_path: Path) -> None:
    chain = _clean(tmp_path, [{"id": "a", "text": "no"}]).run(*stagerun.DEDUP, "chunk")
    assert chain.out["clean"].dropped() == {"too-short": 1}
    assert [chain.out[s].total("items_in") for s in ("dedup.sign", "dedup.drop", "chunk")] == [0, 0, 0]
    with pytest.raises(Exception, match="nothing to do, its input is empty"):
        chain.run("encode")


MAIL = "Write to the council at council@example.org before the end of the month, and tell them what you think of it. "
PAGE = (
    "<html lang='en'><head><title>Offices of council@example.org</title><link rel='canonical' href='https://a.org/b'>"
    "<meta property='article:published_time' content='2024-03-05'></head><body><h1>Where to write to</h1><p>{0}</p>"
    "<h2>The second heading</h2><p>{0}</p><h2>Mail council@example.org</h2><p>{0}</p></body></html>"
)


def _documents(chain: stagerun.Chain) -> list[dict[str, Any]]:
    rows = chain.table("clean", "documents.parquet")
    return [row | {"meta": json.loads(row["meta"])} for row in rows]


def test_what_the_page_states_goes_into_meta(tmp_path: Path) -> None:
    (row,) = _documents(_clean(tmp_path, [{"id": "a", "html": PAGE.format(MAIL), "author": "me"}]))
    meta, text = row["meta"], row["text"]
    assert {name: meta[name] for name in ("date", "canonical", "declared_lang", "author")} == {
        "date": "2024-03-05",
        "canonical": "https://a.org/b",
        "declared_lang": "en",
        "author": "me",
    }
    assert [(level, title) for _, level, title in meta["headings"]] == [
        (1, "Where to write to"),
        (2, "The second heading"),
        (2, "Mail council@example.org"),
    ]
    assert all(text[start : start + len(title)] == title for start, _, title in meta["headings"])


def test_what_the_source_says_goes_before_what_the_page_states(tmp_path: Path) -> None:
    (row,) = _documents(_clean(tmp_path, [{"id": "a", "html": PAGE.format(MAIL), "date": "1999"}]))
    assert row["meta"]["date"] == "1999"


def test_masks_are_off_until_asked_for(tmp_path: Path) -> None:
    chain = _clean(tmp_path, [{"id": "a", "text": MAIL}])
    assert "council@example.org" in _documents(chain)[0]["text"]
    assert chain.out["clean"].extra() == {}


def test_masked_text_keeps_its_headings_in_place_and_counts_what_it_masked(tmp_path: Path) -> None:
    chain = _clean(tmp_path, [{"id": "a", "html": PAGE.format(MAIL)}], mask_pii=True)
    (row,) = _documents(chain)
    assert row["text"].count("<EMAIL>") == 4 and "council@" not in row["text"] + row["title"]
    headings = row["meta"]["headings"]
    assert [title for _, _, title in headings] == ["Where to write to", "The second heading"]
    assert all(row["text"][start : start + len(title)] == title for start, _, title in headings)
    assert chain.out["clean"].extra() == {"masked_email": 5}


@pytest.mark.parametrize(
    ("error", "detail"),
    [(RecursionError("too deep"), "RecursionError: too deep"), (ValueError("x" * 999), "ValueError: " + "x" * 188)],
)
def test_a_page_that_breaks_the_extractor_costs_that_page_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, detail: str
) -> None:
    chain = _clean_with(error, tmp_path, monkeypatch)
    assert [row["doc_id"] for row in _documents(chain)] == ["b"]
    (row,) = chain.table("clean", "rejects.parquet")
    assert row == {"id": "a", "reason": "extract-failed", "detail": detail}
    assert chain.out["clean"].dropped() == {"extract-failed": 1}


@pytest.mark.parametrize("error", [MemoryError(), Interrupted("stop"), MissingDependency("none"), ImportError("none")])
def test_what_is_no_fault_of_the_page_ends_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(type(error)):
        _clean_with(error, tmp_path, monkeypatch)


def _clean_with(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stagerun.Chain:
    """Return a chain in which the extractor raises the error on the page that says BROKEN."""

    def broken(body: bytes, *rest: Any) -> Any:
        if b"BROKEN" in body:
            raise error
        return extract(body, *rest)

    monkeypatch.setattr(clean, "extract", broken)
    return _clean(tmp_path, [{"id": "a", "text": "BROKEN " + MAIL}, {"id": "b", "text": MAIL}])


def test_quality_filters_drop_by_name_with_what_they_measured(tmp_path: Path) -> None:
    good = fixedcorpus.prose("paths", 1, 9)
    records = [
        {"id": "good", "text": good},
        {"id": "short", "text": MAIL},
        {"id": "brace", "text": good + "\nThis last line has one { of these."},
    ]
    limits = {"min_words": 30, "min_stop_words": 1}
    chain = _clean(tmp_path, records, quality=["gopher-word-count", "c4-curly-bracket"], quality_limits=limits)
    details = {row["id"]: (row["reason"], row["detail"]) for row in chain.table("clean", "rejects.parquet")}
    assert details == {
        "short": ("gopher-word-count", "20, at least 30 allowed"),
        "brace": ("c4-curly-bracket", "in 'This last line has one { of these.'"),
    }
    assert chain.out["clean"].dropped() == {"gopher-word-count": 1, "c4-curly-bracket": 1}


def test_lines_that_c4_takes_move_headings_or_take_them_along(tmp_path: Path) -> None:
    text = "# First\n\n" + MAIL.strip() + "\n\nPlease enable javascript here.\n\n## Second\n\n" + MAIL.strip() + "\n"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.md").write_text(text)
    settings = {"crawl": {"source": "files", "path": str(tmp_path / "c")}}
    for filters, titles in ((["c4-javascript"], ["First", "Second"]), (["c4-short-lines"], [])):
        chain = stagerun.Chain(tmp_path / filters[0], settings | {"clean": {"quality": filters}}).run("crawl", "clean")
        (row,) = _documents(chain)
        found = row["meta"].get("headings", [])
        assert [title for _, _, title in found] == titles
        assert all(row["text"][start : start + len(title)] == title for start, _, title in found)
        assert "javascript" not in row["text"] and row["text"].count(MAIL.strip()) == 2


def test_a_text_that_filters_leave_too_short_is_dropped_for_that(tmp_path: Path) -> None:
    text = "No line of this text ends as a sentence does\n" * 2 + "Only this short one is left."
    chain = _clean(tmp_path, [{"id": "a", "text": text}], quality=["c4-terminal-punctuation"])
    assert chain.rejects("clean") == {"a": "too-short"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": ["gophr"]}, "no filter 'gophr'; sets: gopher, "),
        (
            {"quality_limits": {"max_duplicate_ngrams": [0.1]}},
            "needs 6 figures, for n-grams of 5, 6, 7, 8, 9, 10 words",
        ),
        ({"quality_limits": {"min_wrds": 3}}, "min_wrds"),
        ({"min_chars": 9, "max_chars": 3}, "try min_chars=50"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_plain(CleanConfig, settings)


def test_filters_can_be_chosen_on_the_command_line() -> None:
    chosen = compose(
        [
            "stage.clean.quality=[gopher,-gopher-stop-words]",
            "stage.clean.quality_limits.min_words=20",
            "stage.clean.mask_pii=true",
        ]
    ).stage.clean
    assert chosen.quality == ["gopher", "-gopher-stop-words"] and chosen.mask_pii
    assert chosen.quality_limits.min_words == 20 and chosen.quality_limits.max_words == 100_000
