"""The report: complete, self-contained, and closed to what passages smuggle in."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import fake_corpus
import fake_run
import pytest

from rag_hpc import cli
from rag_hpc.eval.cost import Prices, of_records
from rag_hpc.eval.quality import Cited, Sample
from rag_hpc.eval.report.report import render
from rag_hpc.eval.report.sections import cite_links, is_web
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


def test_titles_that_stand_in_for_questions_are_no_quality(tmp_path: Path) -> None:
    absent = {fake_corpus.documents()[0]["doc_id"]: "too-short"}
    titles = render(Results(fake_run.build(tmp_path, fake_run.Shape(stand_ins=True, absent=absent))), None)
    texts = [text.strip() for text in Page(titles).texts]
    assert "bm25, titles as queries" in texts and "nDCG@10, fused" not in texts
    assert not any(values.get("class") == "best" for _, values in Page(titles).tags)
    warned = " ".join(texts)
    assert "each asks for its own document: the figures tell that search works, not how good it is." in warned
    assert "1 of 8 documents judged relevant cannot be found (too-short 1)." in warned
    assert ", 1 of 8 documents judged relevant are not among them, 8 titles stand in for questions." in warned
    assert "mean over the titles that stand in for questions." in warned and "held-out" not in warned
    assert "finds, mean over the titles that stand in for questions." in warned and "over 8 titles" in warned
    assert (
        "questions answered, titles as queries" in texts
        and " titles, which stand in for questions, were drawn" in warned
    )


def test_a_shared_machine_has_no_speed_up_to_show(tmp_path: Path, base: Results) -> None:
    page = render(Results(fake_run.build(tmp_path, fake_run.Shape(pressure=50.0))), base)
    assert page.count("(shared)") == 2 * 9 and "encode, p = 2" not in page
    assert "above 20 % S and E are not judged" in " ".join(page.split())


def test_what_went_in_and_out_is_said(page: str) -> None:
    said = "21 documents kept, 5 rejected (near duplicate 2, exact duplicate 1, http 404 1, robots denied 1)."
    assert said in page


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


def test_the_ranking_that_answers_were_made_from_is_marked(page: str) -> None:
    assert re.findall(r"<tr><th>([^<]*?) ?<span class=\"mark flat\">\s*handed on</span>", page) == [
        "fused (BM25 and dense)"
    ]


def test_how_well_the_encoder_knows_the_corpus_is_told(page: str) -> None:
    assert "reciprocal rank of 0.91: below 0.8 its vectors count less" in page


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


def test_questions_without_judgements_leave_the_quality_tables_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_run, "judge_queries", lambda *_: ({}, {}))
    monkeypatch.setattr(fake_run, "judge_answers", lambda _: ({}, []))
    run_dir = fake_run.build(tmp_path, fake_run.Shape(ann=False))
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


def test_only_web_addresses_become_links(page: str) -> None:
    assert f'<a href="http://127.0.0.1:8000/{Path.glob.__module__}.Path.glob.html" rel="noopener noreferrer">' in page
    assert is_web("https://example.org/a?b=1&c=2")
    for url in (
        "javascript:alert(1)",
        "JaVaScRiPt://x/%0aalert(1)",
        "data:text/html,x",
        "http:",
        "",
        "http://[bad",
        "a/b.html",
    ):
        assert not is_web(url)


def test_citations_are_linked_to_their_passages_only() -> None:
    sample = Sample(
        query_id="a",
        question="?",
        answer="<b> said [1]. More [2, 4]; and a[9].",
        found=True,
        held_out=False,
        gold=[],
        f1=None,
        cited=[Cited(number=number, verdict="quoted") for number in (1, 2, 4)],
    )
    assert cite_links(sample, "q1-") == (
        '&lt;b&gt; said [<a href="#q1-1">1</a>]. More [<a href="#q1-2">2</a>, <a href="#q1-4">4</a>]; and a[9].'
    )


def test_numbers_stand_on_the_right_and_verdicts_have_their_colour(page: str) -> None:
    assert '<th class="n">units</th>' in page
    assert '<span class="mark good">hit</span>' in page


def test_costs_stand_in_the_report_at_the_prices_that_are_named(run: Results, base: Results) -> None:
    prices = Prices(name="site", source="a test", core_hour=1.0)
    page, told = render(run, base, prices), of_records(run, prices)
    assert Page(page).open == [] and "at the prices site: a test" in page
    for value in (told.total, told.per_1000_documents, told.per_query, told.per_correct_answer):
        assert value is not None and f"{value:.3g}" in page
    assert all(f"{stage.cost:.3g} EUR" in page for stage in told.stages)
