"""The gateway's page in a real browser: ask by keyboard, read, follow a citation, judge; in light, dark and narrow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import browser
import fixedcorpus
import gateways
import pytest
from chatserver import ChatServer

from rag_hpc.core.ledger import Ledger
from rag_hpc.serve.gateway.places import FEEDBACK, Doors

pytestmark = [
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on PATH; install it: apt-get install chromium"),
    pytest.mark.timeout(300),
]
ASKED = fixedcorpus.ASKED["caching"]


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[browser.Tab]:
    with browser.tab(tmp_path) as found:
        yield found


def loaded(tab: browser.Tab, doors: Doors, width: int, scheme: str) -> None:
    tab.size(width, 900, scheme)
    tab.call("Page.navigate", url=gateways.url(doors) + "/")
    tab.until("document.readyState == 'complete' && document.activeElement.id == 'question'")


def typed(tab: browser.Tab, text: str) -> None:
    tab.call("Input.insertText", text=text)
    tab.key("Enter", 13, "\r")


def test_a_reader_asks_reads_follows_a_citation_and_judges(
    gated: Ledger, modelled: Doors, replicas: list[ChatServer], tab: browser.Tab, tmp_path: Path
) -> None:
    for one in replicas:
        one.statuses, one.cut, one.pause_s = [429], None, 0.0  # so that passages are quoted
    loaded(tab, modelled, 1000, "light")
    typed(tab, ASKED)
    tab.until("document.getElementById('state').textContent.includes('Bearer TOKEN')")  # whose door this is not
    tab.run("document.querySelector('details').open = true; document.getElementById('token').focus()")
    tab.call("Input.insertText", text=gateways.granted(gated, "reader"))
    tab.until("new Promise(done => setTimeout(() => done(true), 2100))")  # until the gateway sees the account
    tab.run("document.getElementById('question').focus()")
    tab.key("Enter", 13, "\r")
    tab.until("!document.getElementById('sources').hidden")
    answer = tab.run("document.getElementById('answer').textContent")
    assert re.search(r"\[\d+\]", answer)
    state = tab.run("document.getElementById('state').textContent")
    assert "Coverage 4/4" in state and "quoted without a model" in state
    marked = tab.run("[...document.querySelectorAll('#cited mark')].map(one => one.textContent)")
    assert marked and all(" ".join(text.split()) in answer for text in marked)
    tab.run("document.querySelector('#answer a').focus()")
    tab.key("Enter", 13, "\r")
    tab.until("document.activeElement.id.startsWith('passage-')")
    heads = tab.run("[...document.querySelectorAll('#ranks th')].map(one => one.textContent)")
    assert heads[0] == "" and heads[-1] == "title" and {"bm25", "fused"} <= set(heads)
    assert "search" in tab.run("document.getElementById('times').textContent")
    tab.run("document.querySelector('[data-rating=\"1\"]').click()")
    tab.until("document.getElementById('thanks').textContent == 'Noted.'")
    assert ASKED in (gated.run_dir / FEEDBACK / "modelled.jsonl").read_text()
    for width, scheme in ((1000, "light"), (1000, "dark"), (420, "light"), (420, "dark")):
        tab.size(width, 900, scheme)
        assert tab.run("document.documentElement.scrollWidth") <= width
        paper = tab.run("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").rstrip(")").split(",")
        assert (sum(map(int, paper)) < 120) == (scheme == "dark")
        tab.shot(tmp_path / f"page-{width}-{scheme}.png")
    hosts = {urlsplit(request_of(one)).netloc for one in tab.seen if one.get("method") == "Network.requestWillBeSent"}
    assert hosts <= {urlsplit(gateways.url(modelled)).netloc, ""}
    complaints = [one for one in tab.seen if one.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert [one for one in complaints if "401" not in str(one) and "verbose" not in str(one)] == []


def request_of(event: dict[str, Any]) -> str:
    url: str = event["params"]["request"]["url"]
    return "" if url.startswith("data:") else url


def test_what_a_passage_or_an_answer_holds_never_runs(modelled: Doors, tab: browser.Tab) -> None:
    loaded(tab, modelled, 420, "dark")
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    passage = {
        "number": 1,
        "title": evil,
        "text": f"😀 {evil}",
        "url": "javascript:alert(1)",
        "doc_id": evil,
        "page": 0,
    }
    found = {
        "answer": f"{evil} [1] [9]",
        "passages": [{**passage, "cited": True, "verdict": "quoted", "ranks": {evil: {"rank": 1, "score": 0.5}}}],
        "citations": [{"citation": 1, "start": 2, "end": 6}],
        "coverage": "4/4",
        "partial": True,
        "fallback": evil,
        "timings_ms": {evil: 1},
        "request_id": "x",
    }
    tab.run(f"show({json.dumps(found)}, 1, 2)")
    assert tab.run("document.title").startswith("Ask demo") and tab.run("document.querySelectorAll('img').length") == 0
    assert tab.run("document.querySelector('mark').textContent") == "<img"  # counted by characters
    assert tab.run("document.documentElement.scrollWidth") <= 420
