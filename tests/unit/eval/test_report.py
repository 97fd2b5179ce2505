"""The report: complete, self-contained, and closed to what passages smuggle in."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from unit.eval import fake_corpus, fake_run

from rag_hpc import cli
from rag_hpc.core.fs import canonical_json, read_json
from rag_hpc.eval.markup import cite_links, link, mark, table
from rag_hpc.eval.report import render
from rag_hpc.eval.results import Results

VOID = ("meta", "img", "br")


class Page(HTMLParser):
    """Checks that elements nest, and collects tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def page(run: Results, base: Results) -> str:
    return render(run, base)


def test_all_sections_are_there_and_elements_nest(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    anchors = [values["id"] for tag, values in parsed.tags if tag == "section"]
    assert anchors == [
        "milestones",
        "speed-up",
        "pipeline",
        "time",
        "retrieval",
        "answers",
        "identity",
        "resources",
        "provenance",
    ]


def test_links_inside_the_page_lead_somewhere_and_ids_are_unique(page: str) -> None:
    parsed = Page(page)
    ids = [values["id"] for _, values in parsed.tags if "id" in values]
    targets = {
        href[1:] for tag, values in parsed.tags if tag == "a" and (href := values["href"]) and href.startswith("#")
    }
    assert len(ids) == len(set(ids))
    assert targets <= set(ids)
    assert "q1-1" in targets


def test_nothing_is_loaded_and_no_script_can_run(page: str) -> None:
    parsed = Page(page)
    assert "default-src 'none'" in page
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & {tag for tag, _ in parsed.tags}
    for _, values in parsed.tags:
        assert not any(name.startswith("on") or name in ("src", "srcset") for name in values)
        assert not (values.get("href") or "").lower().startswith("javascript")


def test_hostile_passages_are_shown_as_text(page: str) -> None:
    texts = Page(page).texts
    assert any(fake_corpus.HOSTILE_TITLE in text for text in texts)
    assert any(fake_corpus.HOSTILE_TEXT in text for text in texts)
    assert "<script" not in page
    assert fake_corpus.HOSTILE_URL not in page


def test_every_reason_and_every_stage_stands_in_the_pipeline_table(page: str) -> None:
    for part in (
        *fake_run.STAGES,
        "http-404 1, robots-denied 1",
        "exact-duplicate 1, near-duplicate 2",
        "2 hosts",
        "torchrun",
    ):
        assert part in page


def test_key_figures_are_those_of_the_run(page: str, run: Results) -> None:
    tiles = re.findall(r'<div class="tile"><b>(.*?)</b><span>(.*?)</span>', page)
    found = {label: value for value, label in tiles}
    assert found["documents"] == "21"
    assert found["passages"] == "42"
    assert found["milestones hit"] == "8 of 8"
    assert found["crawl, p = 2"].startswith("1.9")


def test_the_same_results_give_the_same_page(root: Path, page: str) -> None:
    assert render(Results(root / "demo-cluster"), Results(root / "demo-baseline")) == page


def test_values_of_the_site_s_environment_stay_out(page: str) -> None:
    assert "a-secret" not in page


def test_an_unfinished_run_has_a_report_that_says_so(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(finish=3)))
    page = render(run, None)
    assert Page(page).open == []
    assert "This run is unfinished; still open: dedup.group" in page
    assert "rag-hpc retry run=demo-cluster" in page
    assert 'id="retrieval"' not in page


def test_a_run_without_any_committed_unit_still_has_a_report(tmp_path: Path) -> None:
    assert "unfinished" in render(Results(fake_run.build(tmp_path, fake_run.Shape(finish=-1))), None)


def test_questions_without_judgements_leave_the_quality_tables_out(tmp_path: Path) -> None:
    run_dir = fake_run.build(tmp_path, fake_run.Shape())
    for path in (run_dir / Results(run_dir).plans["evaluate"].folder / "units").glob("*/metrics.json"):
        value = read_json(path)
        path.write_bytes(canonical_json({**value, "metrics": {}}))
    assert "by document, under ir_measures" not in render(Results(run_dir), None)


def test_the_verb_writes_into_the_run_s_folder_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run.build(tmp_path, fake_run.Shape(finish=1))
    assert cli.main(["report", f"cluster.root={tmp_path}"]) == 0
    assert (tmp_path / "demo-cluster" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    out = tmp_path / "elsewhere.html"
    capsys.readouterr()
    assert cli.main(["report", "demo-cluster", f"cluster.root={tmp_path}", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(out)
    assert cli.main(["report", f"cluster.root={tmp_path}", "--out", str(tmp_path / "no" / "r.html")]) == 1
    assert cli.main(["report", f"cluster.root={tmp_path}", "--out", str(tmp_path)]) == 1
    assert "a folder; name the file to write" in capsys.readouterr().err


def test_only_web_addresses_become_links() -> None:
    assert link("https://example.org/a?b=1&c=2", "A & B") == (
        '<a href="https://example.org/a?b=1&amp;c=2" rel="noopener noreferrer">A &amp; B</a>'
    )
    for url in (
        "javascript:alert(1)",
        "JaVaScRiPt://x/%0aalert(1)",
        "data:text/html,x",
        "http:",
        "",
        "http://[bad",
        "a/b.html",
    ):
        assert link(url, "<b>") == "&lt;b&gt;"


def test_citations_are_linked_to_their_passages_only() -> None:
    found = cite_links("<b> said [1]. More [2, 4]; and a[9].", {1: "q1-1", 2: "q1-2", 4: "q1-4"})
    assert found == (
        '&lt;b&gt; said [<a href="#q1-1">1</a>]. More [<a href="#q1-2">2</a>, <a href="#q1-4">4</a>]; and a[9].'
    )


def test_cells_are_escaped_unless_they_are_markup() -> None:
    found = table(("a", "b"), [("<i>", mark("hit"))], numeric=(1,))
    assert "&lt;i&gt;" in found
    assert '<td class="n"><span class="mark good">hit</span></td>' in found
