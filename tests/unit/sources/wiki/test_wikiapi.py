"""Wikipedia categories through the MediaWiki API, against a small wiki on loopback that speaks its protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from rag_hpc.errors import ConfigError, InputError, Interrupted
from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.wiki.wikiapi import WikiApiConfig, WikiApiSource, article
from rag_hpc.stores.page import Page, Reject

PAGES_A_REPLY = 3  # of categorymembers
BUSY = {"error": {"code": "maxlag", "info": "Waiting for 10.64.32.21: 6.2 seconds lagged.", "host": "x", "lag": 6.2}}


class Wiki:
    """Articles {id: (title, extract)}, categories {title: member ids or titles}, and what to answer out of turn."""

    def __init__(self) -> None:
        self.articles: dict[int, tuple[str, str | None]] = {}
        self.categories: dict[str, list[int | str]] = {}
        self.redirects: set[int] = set()
        self.faults: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[dict[str, str]] = []
        self.agents: set[str] = set()
        handler = type("Handler", (_Handler,), {"wiki": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/w/api.php"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, asked: dict[str, str]) -> dict[str, Any]:
        assert (asked["action"], asked["format"], asked["formatversion"]) == ("query", "json", "2")
        assert asked["maxlag"] == "5"
        if asked.get("list") == "categorymembers":
            return self._members(asked)
        assert asked["prop"] == "extracts|info" and asked["explaintext"] and asked["exlimit"] == "max"
        return self._extracts(asked)

    def _members(self, asked: dict[str, str]) -> dict[str, Any]:
        found = []
        for member in self.categories.get(asked["cmtitle"], []):
            title, ns = (member, 14) if isinstance(member, str) else (self.articles[member][0], 0)
            page_id = 9000 + len(title) if isinstance(member, str) else member
            if str(ns) == asked["cmnamespace"]:
                found.append({"pageid": page_id, "ns": ns, "title": title})
        at = int(asked.get("cmcontinue", "page|0").rpartition("|")[2])
        reply: dict[str, Any] = {"query": {"categorymembers": found[at : at + PAGES_A_REPLY]}}
        if at + PAGES_A_REPLY < len(found):
            reply["continue"] = {"cmcontinue": f"page|{at + PAGES_A_REPLY}", "continue": "-||"}
        else:
            reply["batchcomplete"] = True
        return reply

    def _extracts(self, asked: dict[str, str]) -> dict[str, Any]:
        """One whole extract a reply, all pages in each, as TextExtracts does it."""
        ids = [int(page_id) for page_id in asked["pageids"].split("|")]
        at = int(asked.get("excontinue", "0"))
        pages: list[dict[str, Any]] = []
        for number, page_id in enumerate(sorted(ids)):
            if page_id not in self.articles:
                pages.append({"pageid": page_id, "missing": True})
                continue
            title, extract = self.articles[page_id]
            page: dict[str, Any] = {
                "pageid": page_id,
                "ns": 0,
                "title": title,
                "lastrevid": page_id * 10,
                "fullurl": f"https://x.example/wiki/{quote(title)}",
            }
            if page_id in self.redirects:
                page["redirect"] = True
            if number == at and extract is not None:
                page["extract"] = extract
            pages.append(page)
        reply: dict[str, Any] = {"query": {"pages": pages}, "warnings": {"extracts": {"warnings": "exlimit was 1"}}}
        if at + 1 < len(ids):
            reply["continue"] = {"excontinue": at + 1, "continue": "||info"}
        return reply


class _Handler(BaseHTTPRequestHandler):
    wiki: Wiki

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        assert parts.path == "/w/api.php"
        asked = {key: values[0] for key, values in parse_qs(parts.query, strict_parsing=True).items()}
        self.wiki.requests.append(asked)
        self.wiki.agents.add(self.headers["User-Agent"])
        status, headers, body = self.wiki.faults.pop(0) if self.wiki.faults else (200, {}, b"")
        body = body or json.dumps(self.wiki.answer(asked)).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def wiki() -> Iterator[Wiki]:
    running = Wiki()
    running.articles = {n: (f"Title {n}", f"Lead {n}.\n\n\n== Part ==\nText.") for n in range(1, 41)}
    running.categories = {
        "Category:Top": [7, 3, 5, 9, 1, "Category:Sub", 2],
        "Category:Sub": [11, 3, "Category:Deep"],
        "Category:Deep": [20, "Category:Top"],
        "Category:Big": list(range(1, 41)),
    }
    yield running
    running.close()


def corpus(wiki: Wiki, *categories: str, **changes: Any) -> WikiApiConfig:
    settings: dict[str, Any] = {"max_depth": 0, "delay_s": 0.0, "allow_private": True, "pages_per_unit": 4, **changes}
    return WikiApiConfig(base=wiki.url, categories=list(categories), **settings)


def context(shared: Path, waits: list[float] | None = None) -> ReadContext:
    return ReadContext(shared=shared, should_stop=lambda: False, sleep=(waits if waits is not None else []).append)


def read_all(config: WikiApiConfig, shared: Path, waits: list[float] | None = None) -> list[Page | Reject]:
    parts = WikiApiSource().split(config, shared)
    return [item for part in parts for item in WikiApiSource().read(part, config, context(shared, waits))]


def planned(config: WikiApiConfig, shared: Path) -> list[list[int]]:
    return [part["page_ids"] for part in WikiApiSource().split(config, shared)]


def test_articles_of_a_category_come_by_page_id_with_their_revision(wiki: Wiki, tmp_path: Path) -> None:
    wiki.redirects, wiki.articles[5] = {9}, ("Five", None)
    parts = planned(corpus(wiki, "Top"), tmp_path)
    assert parts == [[1, 2, 3, 5], [7, 9]]
    del wiki.articles[7]
    items = read_all(corpus(wiki, "Top"), tmp_path)
    assert items[0] == Page(
        doc_id="https://x.example/wiki/Title%201",
        url="https://x.example/wiki/Title%201",
        body=b"Lead 1.\n\n## Part\nText.",
        content_type="text/markdown",
        charset="utf-8",
        title="Title 1",
        meta={"page_id": 1, "revision": 10},
    )
    assert [(item.id, item.reason) for item in items if isinstance(item, Reject)] == [
        ("https://x.example/wiki/Five", "no-text"),
        ("wiki:7", "missing"),
        ("https://x.example/wiki/Title%209", "redirect"),
    ]
    assert wiki.agents == {"rag-hpc/0.1"}


def test_continued_replies_are_followed_to_their_end(wiki: Wiki, tmp_path: Path) -> None:
    config = corpus(wiki, "Big", pages_per_unit=30)
    assert planned(config, tmp_path) == [list(range(1, 31)), list(range(31, 41))]
    assert len(wiki.requests) == 14  # 40 members, 3 a reply
    pages = read_all(config, tmp_path)
    assert [page.title for page in pages if isinstance(page, Page)] == [f"Title {n}" for n in range(1, 41)]
    assert len(wiki.requests) == 14 + 40  # one extract a reply; the list was kept
    assert [asked.get("excontinue") for asked in wiki.requests[14:17]] == [None, "1", "2"]


def test_subcategories_are_entered_to_the_depth_and_cycles_end(wiki: Wiki, tmp_path: Path) -> None:
    top = [1, 2, 3, 5, 7, 9]
    for depth, expected in ((0, top), (1, [*top, 11]), (2, [*top, 11, 20]), (9, [*top, 11, 20])):
        config = corpus(wiki, "Category:Top", max_depth=depth, pages_per_unit=100)
        assert planned(config, tmp_path) == [expected]
    assert planned(corpus(wiki, "Deep", "Sub", max_pages=2), tmp_path) == [[3, 11]]


def test_a_resumed_run_keeps_its_list(wiki: Wiki, tmp_path: Path) -> None:
    first = planned(corpus(wiki, "Top"), tmp_path)
    wiki.categories["Category:Top"].append(30)
    assert planned(corpus(wiki, "Top"), tmp_path) == first
    assert planned(corpus(wiki, "Top"), tmp_path / "other") != first


def test_a_busy_wiki_is_waited_for(wiki: Wiki, tmp_path: Path) -> None:
    config = corpus(wiki, "Top", delay_s=0.25)
    parts = WikiApiSource().split(config, tmp_path)
    wiki.faults = [
        (200, {"Retry-After": "5"}, json.dumps(BUSY).encode()),
        (429, {"Retry-After": "3"}, b"slow down"),
        (503, {}, b"busy"),
        (200, {"Retry-After": "5"}, json.dumps(BUSY).encode()),
    ]
    waits: list[float] = []
    items = list(WikiApiSource().read(parts[0], config, context(tmp_path, waits)))
    assert len(items) == 4 and all(isinstance(item, Page) for item in items)
    num_asked = 4 + 2  # replies with an extract, and those of maxlag, are asked with the delay between
    assert sum(waits) == 5 + 3 + 2 + 5 + 0.25 * (num_asked - 1)


def test_errors_of_the_api_end_the_unit_and_say_what_it_says(wiki: Wiki, tmp_path: Path) -> None:
    config = corpus(wiki, "Top")
    (part, _) = WikiApiSource().split(config, tmp_path)
    wiki.faults = [(200, {}, json.dumps(BUSY).encode())] * 6
    with pytest.raises(InputError, match="seconds lagged"):
        list(WikiApiSource().read(part, config, context(tmp_path)))
    for body, message in (
        (b'{"error": {"code": "badvalue", "info": "no such prop"}}', "no such prop"),
        (b'{"error": "odd"}', "odd"),
        (b"<html>Login</html>", "not of a MediaWiki API"),
        (b"[" * 100_000, "not of a MediaWiki API"),
    ):
        wiki.faults = [(200, {}, body)]
        with pytest.raises(InputError, match=message):
            list(WikiApiSource().read(part, config, context(tmp_path)))
    wiki.faults = [(302, {"Location": "http://elsewhere/"}, b"x")]
    with pytest.raises(InputError, match=r"http-302.*elsewhere"):
        list(WikiApiSource().read(part, config, context(tmp_path)))


def test_a_continuation_without_end_is_seen(wiki: Wiki, tmp_path: Path) -> None:
    loop = b'{"query": {"categorymembers": []}, "continue": {"cmcontinue": "x", "continue": "-||"}}'
    wiki.faults = [(200, {}, loop)] * 3
    with pytest.raises(InputError, match="where it was before"):
        WikiApiSource().split(corpus(wiki, "Top"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_is_obeyed_while_waiting(wiki: Wiki, tmp_path: Path) -> None:
    config = corpus(wiki, "Top")
    (part, _) = WikiApiSource().split(config, tmp_path)
    wiki.faults = [(200, {"Retry-After": "60"}, json.dumps(BUSY).encode())]
    waits: list[float] = []
    stopping = ReadContext(shared=tmp_path, should_stop=lambda: len(waits) >= 4, sleep=waits.append)
    with pytest.raises(Interrupted):
        list(WikiApiSource().read(part, config, stopping))
    assert len(waits) == 4


def test_what_cannot_work_says_so(wiki: Wiki, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no article in them"):
        planned(corpus(wiki, "Nothing"), tmp_path)
    with pytest.raises(ConfigError, match="categories is empty"):
        planned(corpus(wiki), tmp_path)
    outside = WikiApiConfig(base="https://en.wikipedia.org/w/api.php", categories=["X"])
    with pytest.raises(ConfigError, match="names no contact"):
        planned(outside, tmp_path)
    with pytest.raises(ConfigError, match="no public address"):
        planned(corpus(wiki, "Top", allow_private=False), tmp_path / "new")


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ({}, "missing"),
        ({"missing": True}, "missing"),
        ({"title": 3, "fullurl": []}, "malformed"),
        ({"title": "T", "fullurl": "u", "extract": ["x"]}, "no-text"),
        ({"title": "T", "fullurl": "u", "extract": "x" * 11}, "too-large"),
    ],
)
def test_odd_pages_have_reasons(page: dict[str, Any], reason: str) -> None:
    found = article(1, page, cap=10)
    assert isinstance(found, Reject) and found.reason == reason
