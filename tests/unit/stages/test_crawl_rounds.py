"""crawl over a web of hosts: rounds, both kinds of output, an earlier run, and the fences of a worker."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import stagerun
from crawlsite import Route, Site, html, redirect, serving

from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context
from rag_hpc.errors import ConfigError, Interrupted
from rag_hpc.sources.crawl.rounds import earlier_crawls
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.page import OutputName, Page
from rag_hpc.stores.pages import WARC, iter_pages, open_pages, pages_of

TEXT = "The deque keeps the older items of a bounded queue in the same order unless it is told otherwise. " * 3


def web() -> dict[str, Route]:
    """Three hosts in a ring, one beyond, and one that only a redirect leads to."""
    page = {
        name: html(*links, text=f"{name} {TEXT}")
        for name, links in {
            "a.web.test/": ("/1", "http://b.web.test/"),
            "a.web.test/1": ("http://c.web.test/deep", "http://far.test/"),
            "a.web.test/2": (),
            "b.web.test/": ("http://a.web.test/2", "http://a.web.test/1", "/moved"),
            "c.web.test/deep": ("http://b.web.test/", "/more"),
            "c.web.test/more": (),
            "d.web.test/": (),
        }.items()
    }
    return {**page, "b.web.test/moved": redirect("http://d.web.test/")}


def settings(site: Site, **more: Any) -> dict[str, Any]:
    return {
        "name": "web",
        "source": "site",
        "seeds": ["http://a.web.test/"],
        "resolve": site.resolve,
        "delay_s": 0.0,
        "allow_private": True,
        "scope": "any",
        "allow": [r"^http://[a-d]\.web\.test"],
        "hosts_per_unit": 1,
        "user_agent": "test (me@x.org)",
        **more,
    }


def crawl(run_dir: Path, site: Site, rounds: int, p: int = 1, **more: Any) -> dict[str, Manifest]:
    """Return the manifests of the rounds."""
    found: dict[str, Manifest] = {}
    for name in ("crawl", *(f"crawl.{number}" for number in range(2, rounds + 1))):
        wanted = settings(site, seeds=["http://b.web.test/"], **more)
        found[name] = stagerun.run_stage(run_dir, name, wanted, found, p=p)
    return found


def ids(found: Manifest) -> list[str]:
    return [
        page["doc_id"].removeprefix("http://")
        for unit in found.units
        for page in iter_pages(pages_of(found, unit["index"]))
    ]


def test_each_round_fetches_what_the_rounds_before_found_elsewhere_and_nothing_twice(tmp_path: Path) -> None:
    with serving(web()) as site:
        found = crawl(tmp_path, site, 4)
        assert [ids(each) for each in found.values()] == [
            ["b.web.test/"],
            [f"a.web.test/{n}" for n in (1, 2)] + ["d.web.test/"],
            ["c.web.test/deep", "c.web.test/more"],
            [],
        ]
        pages = [path for _, _, path in site.arrivals if path not in ("/robots.txt", "/sitemap.xml")]
        assert len(pages) == 7  # six pages and a redirect
        assert found["crawl.4"].units == []
        depths = {
            page["url"]: page["meta"]
            for each in found.values()
            for unit in each.units
            for page in iter_pages(pages_of(each, unit["index"]))
        }
        assert depths["http://d.web.test/"] == '{"depth": 1}'  # as deep as the page that moved there
        assert depths["http://c.web.test/deep"] == '{"depth": 2}'


def test_rounds_give_the_same_bytes_for_every_p(tmp_path: Path) -> None:
    with serving(web()) as site:
        hashes = [[each.output_hash for each in crawl(tmp_path / str(p), site, 3, p).values()] for p in (1, 2, 7)]
    assert hashes[0] == hashes[1] == hashes[2]


def test_clean_takes_the_pages_of_all_rounds(tmp_path: Path) -> None:
    with serving(web()) as site:
        rounds = crawl(tmp_path, site, 3)
    documents = stagerun.run_stage(tmp_path, "clean", {}, rounds)
    assert documents.total("items_in") == 6 == documents.total("items_out") + sum(documents.dropped().values())
    assert len(documents.units) == 4


def test_caps_count_over_all_rounds(tmp_path: Path) -> None:
    with serving(web()) as site:
        assert [ids(each) for each in crawl(tmp_path / "1", site, 3, max_pages=3).values()] == [
            ["b.web.test/"],
            ["a.web.test/1", "d.web.test/"],
            [],
        ]
        capped = crawl(tmp_path / "2", site, 3, max_pages_per_host=1)
        assert [ids(each) for each in capped.values()][1:] == [["a.web.test/1"], ["c.web.test/deep"]]
        assert [ids(each) for each in crawl(tmp_path / "3", site, 3, max_depth=1).values()][1:] == [
            ["a.web.test/1", "a.web.test/2", "d.web.test/"],
            [],
        ]


def test_a_hosts_cap_counts_the_pages_of_all_its_ports(tmp_path: Path) -> None:
    routes = {
        "b.web.test/": html("http://b.web.test:443/x"),
        "b.web.test:443/x": html("/y"),
        "b.web.test:443/y": html(),
    }
    with serving(routes) as site:
        for cap, expected in ((1, []), (2, ["b.web.test:443/x"])):
            found = crawl(tmp_path / str(cap), site, 2, max_pages_per_host=cap, resolve={"*.web.test*": site.host})
            assert ids(found["crawl.2"]) == expected


def test_a_later_round_asks_for_no_url_that_was_redirected_and_for_none_out_of_scope(tmp_path: Path) -> None:
    routes = {
        "b.web.test/": html("/old", "/away", "http://a.web.test/"),
        "b.web.test/old": redirect("/new"),
        "b.web.test/new": html(),
        "b.web.test/away": redirect("http://far.test/"),
        "a.web.test/": html("http://b.web.test/old"),
    }
    with serving(routes) as site:
        found = crawl(tmp_path, site, 3)
    assert [ids(each) for each in found.values()] == [["b.web.test/", "b.web.test/new"], ["a.web.test/"], []]
    assert found["crawl.3"].units == []


def test_a_url_found_twice_has_the_lesser_depth(tmp_path: Path) -> None:
    routes = {
        "a.web.test/": html("http://c.web.test/"),
        "b.web.test/": html("/1"),
        "c.web.test/": html(),
        "b.web.test/1": html("http://c.web.test/"),
    }
    with serving(routes) as site:
        wanted = settings(site, seeds=["http://a.web.test/", "http://b.web.test/"])
        first = stagerun.run_stage(tmp_path, "crawl", wanted, {})
        second = stagerun.run_stage(tmp_path, "crawl.2", wanted, {"crawl": first})
    assert [page["meta"] for page in iter_pages(pages_of(second, 0))] == ['{"depth": 1}']


def test_of_several_crawls_of_a_round_the_latest_is_taken_over(tmp_path: Path) -> None:
    with serving(web()) as site:
        folders = [crawl(tmp_path, site, 1, max_pages=cap)["crawl"].folder for cap in (1, 2)]
    for latest, other in (folders, folders[::-1]):
        os.utime(other / "manifest.json", (1, 1))
        os.utime(latest / "manifest.json", (2, 2))
        assert [found.folder for found in earlier_crawls(str(tmp_path))] == [latest]


def test_a_web_archive_cleans_to_the_same_documents_and_others_can_read_it(tmp_path: Path) -> None:
    from fastwarc.warc import ArchiveIterator, WarcRecordType, is_warc_11

    with serving(web()) as site:
        kept = {output: crawl(tmp_path / output, site, 3, output=output) for output in ("parquet", "warc")}
    assert [ids(each) for each in kept["warc"].values()] == [ids(each) for each in kept["parquet"].values()]
    cleaned = [stagerun.run_stage(tmp_path / output, "clean", {}, found).output_hash for output, found in kept.items()]
    assert cleaned[0] == cleaned[1]
    (path,) = kept["warc"]["crawl"].files(WARC)
    with path.open("rb") as stream:
        records = [
            (record.record_type, record.record_id, record.verify_payload_digest())
            for record in ArchiveIterator(stream, func_filter=is_warc_11, parse_http=True)
        ]
    assert [kind for kind, _, _ in records] == [WarcRecordType.response, WarcRecordType.metadata]
    assert records[0][2] is True


def test_a_header_with_line_ends_of_unicode_does_not_break_a_web_archive(tmp_path: Path) -> None:
    page = Page(
        doc_id="http://a.test/",
        url="http://a.test/",
        body=b"text",
        content_type="text/html",
        meta={"depth": 0, "etag": '"a\x85b\u2028c"'},
        links=["http://b.test/"],
    )
    with open_pages(tmp_path, OutputName.warc) as pages:
        pages.add(page)
    (row,) = iter_pages(tmp_path / WARC)
    assert (json.loads(row["meta"]), row["links"]) == (page.meta, "http://b.test/")


def test_an_earlier_run_saves_the_bodies_that_have_not_changed(tmp_path: Path) -> None:
    routes = {path: (status, {**headers, "ETag": '"1"'}, body) for path, (status, headers, body) in web().items()}
    with serving(routes) as site:
        first = crawl(tmp_path / "one", site, 2)
        unchanged = ("b.web.test/", "a.web.test/1", "d.web.test/")
        site.routes = {**routes, **{path: (304, {"ETag": '"1"'}, b"") for path in unchanged}}
        second = crawl(tmp_path / "two", site, 2, previous=str(tmp_path / "one"))
    assert [each.file_hash("pages.parquet") for each in second.values()] == [
        each.file_hash("pages.parquet") for each in first.values()
    ]
    assert [each.extra()["not_modified"] for each in second.values()] == [1, 2]
    with pytest.raises(ConfigError, match="no finished crawl"):
        make_stage("crawl", settings(site, previous=str(tmp_path / "none"))).plan({}, tmp_path)


def test_an_earlier_run_of_another_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("A page that no host served.")
    files = {"crawl": {"source": "files", "path": str(tmp_path / "page.txt")}}
    run_dir = stagerun.Chain(tmp_path / "run", files).run("crawl").run_dir
    wanted = {"source": "site", "seeds": ["http://127.0.0.1/"], "previous": str(run_dir)}
    with pytest.raises(ConfigError, match=r"corpus.previous=.*of source=files; name a run of corpus=site"):
        make_stage("crawl", wanted).plan({}, tmp_path)


def test_a_crawl_whose_draft_was_swept_stops_and_keeps_what_it_has(tmp_path: Path) -> None:
    with serving(web()) as site:
        stage = make_stage("crawl", settings(site, delay_s=0.3))
        (unit,) = stage.plan({}, tmp_path)
        out = tmp_path / "out"
        out.mkdir()
        site.routes["a.web.test/robots.txt"] = lambda handler: (
            shutil.rmtree(out),
            handler.wfile.write(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n"),
            None,
        )[2]
        with pytest.raises(Interrupted, match="later submission"):
            stage.run(unit, out, Context(carry=tmp_path / "carry"))
        assert list((tmp_path / "carry").glob("*.journal"))
    assert stage.exclusive and not make_stage("crawl", {"source": "files"}).exclusive


def test_strangers_of_a_later_round_need_a_contact_too(tmp_path: Path) -> None:
    with serving({**web(), "localhost/": html("http://b.web.test/")}) as site:
        first = {
            "seeds": ["http://localhost/"],
            "scope": "any",
            "user_agent": "nobody",
            "allow": [],
            "resolve": {"localhost": site.host},
        }
        found = stagerun.run_stage(tmp_path, "crawl", settings(site, **first), {})
        with pytest.raises(ConfigError, match=r"b\.web\.test belongs to someone"):
            make_stage("crawl.2", settings(site, **first)).plan({"crawl": found}, tmp_path)
