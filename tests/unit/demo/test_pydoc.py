"""The library's documentation as a corpus: the rendered site, the source and the questions."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from rag_hpc.config import compose
from rag_hpc.demo.render import PROGRESS
from rag_hpc.demo.site import MANIFEST, PAGE_CHARS, host_name, url_of
from rag_hpc.demo.source import MAX_CRASHES, PydocConfig, PydocSource, load_questions, render_site, site_name
from rag_hpc.errors import InputError
from rag_hpc.sources.base import ReadContext
from rag_hpc.stores.page import Page

NUM_HOSTS = 8
TOP = 1000
QUESTIONS = Path(str(resources.files("rag_hpc.conf"))) / "corpus" / "pydoc_questions.jsonl"
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    render_site(folder / site_name(NUM_HOSTS), NUM_HOSTS)
    return folder


@pytest.fixture(scope="session")
def site(shared: Path) -> Path:
    return shared / site_name(NUM_HOSTS)


@pytest.fixture(scope="session")
def manifest(site: Path) -> list[str]:
    return list(json.loads((site / MANIFEST).read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def texts(site: Path, manifest: list[str]) -> dict[str, str]:
    """The articles' text by path, most important first."""
    return {page: _article(site / page) for page in manifest}


def _words(text: str) -> str:
    """Pythons differ in capitals and hyphens."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _article(file: Path) -> str:
    source = file.read_text(encoding="utf-8")
    body = source[source.index("<article>") : source.index("</article>")]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


# --- the site


def test_site_has_enough_pages_of_a_readable_size(texts: dict[str, str]) -> None:
    top = list(texts.values())[:TOP]
    assert len(top) == TOP
    assert 1_500 <= sum(map(len, top)) / TOP <= 2_500
    assert max(map(len, texts.values())) < PAGE_CHARS * 1.1


def test_page_names_are_unique_and_hosts_even(manifest: list[str]) -> None:
    names = [p.partition("/")[2] for p in manifest if not p.endswith("/index.html")]
    assert len(set(names)) == len(names)
    share = Counter(p.partition("/")[0] for p in manifest[:TOP])
    assert len(share) == NUM_HOSTS and max(share.values()) < 1.4 * min(share.values())


def test_well_known_modules_come_before_classes_and_relics(manifest: list[str]) -> None:
    place = {p.partition("/")[2]: n for n, p in enumerate(manifest)}
    assert place["json.html"] < place["collections.deque.html"] < place["encodings.latin_1.html"]
    assert place["os.path.html"] < TOP <= place["_pyio.html"]


def test_aliases_give_dedup_something_to_find(texts: dict[str, str]) -> None:
    copies = Counter(list(texts.values())[:TOP])
    assert sum(n - 1 for n in copies.values()) >= 20
    by_name = {p.partition("/")[2]: t for p, t in texts.items()}
    assert by_name["os.path.html"] == by_name["posixpath.html"]
    assert by_name["json.decoder.JSONDecoder.html"] == by_name["json.JSONDecoder.html"]


def test_no_page_shows_an_address_or_a_place_of_this_machine(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r" at 0x[0-9a-f]", text), file
        assert not any(place in text for place in (sys.executable, sys.base_prefix + "/lib/")), file


def test_every_link_leads_to_a_page(site: Path) -> None:
    num_links = 0
    for host in range(NUM_HOSTS):
        for file in (site / f"host-{host:02d}").rglob("*.html"):
            here = f"http://{host_name(host)}/{file.name}"
            for href in re.findall(r'<a href="([^"]+)"', file.read_text(encoding="utf-8")):
                url = urlsplit(urljoin(here, html.unescape(href)))
                number = int(str(url.hostname)[2:].partition(".")[0])
                assert (site / f"host-{number:02d}" / url.path[1:]).is_file(), (file, href)
                num_links += 1
    assert num_links > 20_000


def test_index_and_sitemap_list_the_pages_of_the_host_in_order(site: Path, manifest: list[str]) -> None:
    for host in range(NUM_HOSTS):
        folder = site / f"host-{host:02d}"
        wanted = [p.partition("/")[2] for p in manifest if p.startswith(folder.name)]
        root = f"http://{host_name(host)}/"
        assert re.findall("<loc>(.*?)</loc>", (folder / "sitemap.xml").read_text("utf-8")) == [root + p for p in wanted]
        article = re.sub(r"(?s)^.*<article>|</article>.*$", "", (folder / "index.html").read_text("utf-8"))
        assert ["index.html", *re.findall(r'href="/([^"]+)"', article)] == wanted


def test_robots_close_a_folder_that_has_linked_pages(site: Path) -> None:
    from protego import Protego

    num_closed = 0
    for host in range(NUM_HOSTS):
        folder, root = site / f"host-{host:02d}", f"http://{host_name(host)}/"
        rules = Protego.parse((folder / "robots.txt").read_text(encoding="utf-8"))
        assert rules.can_fetch(root + "index.html", "rag-hpc-demo")
        assert not rules.can_fetch(root + "internal/about.html", "rag-hpc-demo")
        assert rules.crawl_delay("rag-hpc-demo") is None and list(rules.sitemaps) == [root + "sitemap.xml"]
        assert 'href="/internal/about.html"' in (folder / "index.html").read_text(encoding="utf-8")
        num_closed += len(list((folder / "internal").iterdir()))
    assert num_closed > NUM_HOSTS


@pytest.mark.parametrize("seed", ["1", "2"])
def test_hash_seed_and_installed_packages_do_not_change_a_byte(site: Path, tmp_path: Path, seed: str) -> None:
    root = str(Path(render_site.__code__.co_filename).resolve().parents[2])
    env = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=root)
    command = [sys.executable, "-m", "rag_hpc.demo.render", str(tmp_path), str(NUM_HOSTS)]
    subprocess.run(command, env=env, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert _tree_hash(tmp_path) == _tree_hash(site)


def _tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


# --- rendering once, whatever happens


def _fake(*steps: Callable[[Path, list[str]], int]) -> Callable[..., Done]:
    """A runner that plays one step a call; a step gets the draft folder and the modules to skip."""
    waiting = list(steps)

    def run(command: list[str], **_: object) -> Done:
        at = command.index(str(NUM_HOSTS))
        return Done(command, waiting.pop(0)(Path(command[at - 1]), command[at + 1 :]), "", "said why")

    return run


def _writes(draft: Path, _: list[str]) -> int:
    (draft / MANIFEST).write_text("[]", encoding="utf-8")
    return 0


def _crashes(draft: Path, skipped: list[str]) -> int:
    (draft / PROGRESS).write_text(f"evil{len(skipped)}", encoding="utf-8")
    return -11


def test_rendered_site_is_not_rendered_again(site: Path) -> None:
    render_site(site, NUM_HOSTS, run=_fake())


def test_module_that_crashes_the_renderer_is_skipped(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def finishes(draft: Path, skipped: list[str]) -> int:
        seen.append(skipped)
        return _writes(draft, skipped)

    render_site(tmp_path / "site", NUM_HOSTS, run=_fake(_crashes, _crashes, finishes))
    assert seen == [["evil0", "evil1"]]
    assert os.listdir(tmp_path) == ["site"]


def test_module_that_hangs_the_renderer_is_skipped(tmp_path: Path) -> None:
    def hangs(draft: Path, skipped: list[str]) -> int:
        _crashes(draft, skipped)
        raise subprocess.TimeoutExpired("python", 1.0)

    render_site(tmp_path / "site", NUM_HOSTS, run=_fake(hangs, _writes))
    assert (tmp_path / "site" / MANIFEST).is_file()


@pytest.mark.parametrize("steps", [[lambda *_: 1], [_crashes] * (MAX_CRASHES + 1)], ids=["error", "crashes"])
def test_failed_rendering_leaves_nothing(tmp_path: Path, steps: list[Callable[[Path, list[str]], int]]) -> None:
    with pytest.raises(InputError, match="said why"):
        render_site(tmp_path / "site", NUM_HOSTS, run=_fake(*steps))
    assert os.listdir(tmp_path) == []


def test_loser_of_a_race_removes_its_copy(tmp_path: Path) -> None:
    def is_overtaken(draft: Path, skipped: list[str]) -> int:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / MANIFEST).write_text('["winner"]', encoding="utf-8")
        return _writes(draft, skipped)

    render_site(tmp_path / "site", NUM_HOSTS, run=_fake(is_overtaken))
    assert (tmp_path / "site" / MANIFEST).read_text(encoding="utf-8") == '["winner"]'
    assert os.listdir(tmp_path) == ["site"]


def test_foreign_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        render_site(tmp_path / "site", NUM_HOSTS, run=_fake(_writes))
    assert os.listdir(tmp_path) == ["site"] and os.listdir(tmp_path / "site") == ["mine.txt"]


# --- the source


def _corpus(**changes: Any) -> PydocConfig:
    plain: dict[str, Any] = {
        "name": "pydoc",
        "num_hosts": NUM_HOSTS,
        "delay_s": 0.0,
        "allow_private": True,
        "user_agent": "rag-hpc-demo/0.1",
    }
    return PydocConfig(**(plain | changes))


def _context(shared: Path) -> ReadContext:
    return ReadContext(shared=shared, should_stop=lambda: False, sleep=time.sleep)


@pytest.mark.parametrize("cap", [3, 100, TOP])
def test_shares_add_up_to_the_most_important_pages(shared: Path, manifest: list[str], cap: int) -> None:
    parts = PydocSource().split(_corpus(max_pages=cap), shared)
    assert json.loads(json.dumps(parts)) == parts
    wanted = Counter(p.partition("/")[0] for p in manifest[:cap])
    assert {p["host"]: p["max_pages"] for p in parts} == {host_name(int(h[-2:])): n for h, n in wanted.items()}
    assert all(p["seeds"] == [f"http://{p['host']}/index.html"] for p in parts)


def test_without_cap_all_hosts_are_uncapped(shared: Path) -> None:
    for cap in (0, 1_000_000):
        assert [p["max_pages"] for p in PydocSource().split(_corpus(max_pages=cap), shared)] == [0] * NUM_HOSTS


def test_capped_crawl_takes_the_most_important_pages(shared: Path, site: Path, manifest: list[str]) -> None:
    corpus, source = _corpus(max_pages=120), PydocSource()
    items = [i for part in source.split(corpus, shared) for i in source.read(part, corpus, _context(shared))]
    pages = [i for i in items if isinstance(i, Page)]
    wanted = {f"http://{host_name(int(p[5:7]))}/{p.partition('/')[2]}": site / p for p in manifest[:120]}
    assert {p.doc_id for p in pages} == set(wanted) and len(pages) == 120
    assert all(p.body == wanted[p.doc_id].read_bytes() for p in pages)


def test_uncapped_crawl_of_a_host_takes_all_but_the_closed_pages(shared: Path, manifest: list[str]) -> None:
    corpus, source = _corpus(), PydocSource()
    part = source.split(corpus, shared)[3]
    items = list(source.read(part, corpus, _context(shared)))
    pages = [i.doc_id for i in items if isinstance(i, Page)]
    root = f"http://{host_name(3)}/"
    assert sorted(pages) == sorted(root + p.partition("/")[2] for p in manifest if p.startswith("host-03/"))
    denied = {i.id for i in items if not isinstance(i, Page) and i.reason == "robots-denied"}
    assert root + "internal/about.html" in denied
    assert all(url.startswith(root + "internal/") for url in denied)


def test_site_of_another_python_is_not_replaced(tmp_path: Path) -> None:
    part = {"host": host_name(0), "seeds": [], "max_pages": 1, "site": "pydoc-site-000000000000"}
    with pytest.raises(InputError, match="another Python"):
        list(PydocSource().read(part, _corpus(), _context(tmp_path)))


# --- the questions


@pytest.fixture(scope="session")
def questions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def test_questions_are_many_varied_and_partly_held_out(questions: list[dict[str, Any]]) -> None:
    assert len(questions) >= 160
    assert len({q["id"] for q in questions}) == len({q["text"] for q in questions}) == len(questions)
    assert sum(q["held_out"] is True for q in questions) == 50
    assert len({q["pages"][0] for q in questions}) >= 70


def test_pages_of_every_question_hold_the_answer(questions: list[dict[str, Any]], texts: dict[str, str]) -> None:
    top = {page.partition("/")[2]: text for page, text in list(texts.items())[:TOP]}

    def holds(q: dict[str, Any]) -> bool:
        found = [top.get(page, "") for page in q["pages"]]  # "": absent, or not important enough
        told = any(_words(q["evidence"]) in _words(text) for text in found)
        return told and all(any(a.lower() in text.lower() for a in q["answers"]) for text in found)

    differ = [q["id"] for q in questions if not holds(q)]
    assert len(differ) <= (0 if sys.version_info[:2] == (3, 11) else 6), differ  # written with 3.11's documentation


def test_questions_use_other_words_than_the_evidence(questions: list[dict[str, Any]]) -> None:
    for q in questions:
        asked, told = (re.findall(r"\w+", q[k].lower()) for k in ("text", "evidence"))
        runs = {tuple(asked[i : i + 4]) for i in range(len(asked) - 3)}
        assert not runs & {tuple(told[i : i + 4]) for i in range(len(told) - 3)}, q["id"]
        assert not {a.lower() for a in q["answers"]} & set(asked), q["id"]


def test_questions_get_the_urls_of_their_pages(questions: list[dict[str, Any]], manifest: list[str]) -> None:
    urls = {f"http://{host_name(int(p[5:7]))}/{p.partition('/')[2]}" for p in manifest}
    loaded = load_questions(QUESTIONS, NUM_HOSTS)
    assert [q["id"] for q in loaded] == [q["id"] for q in questions]
    assert all(set(q["relevant"]) <= urls and set(q["relevant"].values()) == {1} for q in loaded)
    assert list(load_questions(str(QUESTIONS), 1)[0]["relevant"]) == [
        "http://py0.pydoc.internal/collections.deque.html"
    ]
    assert url_of("collections.deque.html", NUM_HOSTS) in loaded[0]["relevant"]


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a", "text": "b", "pages": ["c.html"], "answers": []}'])
def test_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text("\n" + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"q\.jsonl, line 2"):
        load_questions(file, NUM_HOSTS)
    with pytest.raises(InputError, match="cannot read"):
        load_questions(tmp_path / "absent.jsonl", NUM_HOSTS)


def test_yaml_makes_a_corpus() -> None:
    corpus = compose([]).corpus
    assert (corpus.name, corpus.max_pages, corpus.num_hosts) == ("pydoc", TOP, NUM_HOSTS)
    assert QUESTIONS.with_name(str(corpus.questions)) == QUESTIONS
