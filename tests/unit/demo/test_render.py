"""The pieces of the renderer: docstrings to HTML, long pages, signatures, modules that misbehave."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.demo import render
from rag_hpc.demo.render import collect, load_modules, public_names, signature
from rag_hpc.demo.site import PAGE_CHARS, Entry, Site, doc_blocks, host_of, parts_of, text_chars, url_of


def test_prose_becomes_paragraphs_and_sessions_keep_their_lines() -> None:
    blocks = doc_blocks("Add two\nnumbers.\n\n>>> add(1, 2)\n3\n\n>>> add(2, 2)\n4\n\nThat is all.")
    assert blocks == [
        "<p>Add two numbers.</p>",
        "<pre>&gt;&gt;&gt; add(1, 2)\n3\n\n&gt;&gt;&gt; add(2, 2)\n4</pre>",
        "<p>That is all.</p>",
    ]


def test_bullets_become_a_list() -> None:
    assert doc_blocks("- one & two\n- three") == ["<ul><li>one &amp; two</li><li>three</li></ul>"]


def test_markup_in_a_docstring_is_text() -> None:
    assert doc_blocks("Use <b> & ``<i>``.") == ["<p>Use &lt;b&gt; &amp; `&lt;i&gt;`.</p>"]


def test_blank_docstring_gives_no_block() -> None:
    assert doc_blocks(" \n\n  \n") == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=PAGE_CHARS), max_size=12))
def test_long_pages_are_cut_between_blocks_and_lose_nothing(sizes: list[int]) -> None:
    blocks = [f"<p>{'x' * size}</p>" for size in sizes]
    parts = parts_of(blocks)
    assert [b for part in parts for b in part] == blocks
    assert all(sum(map(text_chars, part)) <= PAGE_CHARS for part in parts)


def test_heading_stays_with_its_text() -> None:
    blocks = [f"<p>{'x' * (PAGE_CHARS - 50)}</p>", "<h3>name</h3>", f"<p>{'y' * 100}</p>"]
    assert parts_of(blocks) == [blocks[:1], blocks[1:]]


def test_signature_shows_literals_and_hides_objects() -> None:
    def work(a: int, b: str = "x", *, c: object = sys, d: type = int, e: tuple[int, ...] = (1,)) -> None: ...

    assert signature(work, "work") == "work(a, b='x', *, c=..., d=int, e=(1,))"


def test_signature_hides_places_of_this_machine() -> None:
    def work(path: str = sys.base_prefix + "/lib") -> None: ...

    assert signature(work, "work") == "work(path=...)"


def test_unreadable_signature_is_left_open() -> None:
    class Odd:
        __signature__ = "none of your business"

    assert signature(Odd, "Odd") == "Odd(...)"


def test_names_without_all_are_those_defined_in_the_module() -> None:
    import bisect
    import stat

    assert {"bisect_left", "insort"} <= set(public_names(bisect))
    assert "filemode" in public_names(stat)
    assert "nlargest" not in public_names(bisect)


def _library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> set[str]:
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset(sources))
    return set(sources)


def test_modules_that_fail_exit_or_hang_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _library(
        tmp_path,
        monkeypatch,
        rh_fine="",
        rh_fails="1 / 0",
        rh_exits="raise SystemExit(3)",
        rh_hangs="while True: pass",
        rh_named="",
    )
    monkeypatch.setattr(render, "MODULE_LIMIT_S", 0.1)
    assert set(load_modules({"rh_named"}, tmp_path)) == {"rh_fine"}
    said = capsys.readouterr().err
    assert all(f"left out {name}: " in said for name in ("rh_fails", "rh_exits", "rh_hangs"))


def test_class_shown_on_two_pages_says_the_same_on_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prose = "Word " * 60
    _library(
        tmp_path,
        monkeypatch,
        rh_a=f'class Thing:\n    """{prose}"""\n',
        rh_b="from rh_a import Thing\n__all__ = ['Thing']\n",
    )
    entries = {e.name: e for e in collect(load_modules(set(), tmp_path), tmp_path)}
    assert entries["rh_b.Thing"].same_as == "rh_a.Thing"
    assert entries["rh_b.Thing"].blocks == entries["rh_a.Thing"].blocks
    assert entries["rh_b.Thing"].rank > entries["rh_a.Thing"].rank


def test_class_page_has_its_own_members_and_names_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _library(
        tmp_path,
        monkeypatch,
        rh_c=(
            f'class Base:\n    """{"Base text. " * 30}"""\n    def old(self):\n        "Inherited."\n\n'
            f'class Child(Base):\n    """{"Child text. " * 30}"""\n    limit = 3\n    _secret = 4\n'
            '    def new(self, n=1):\n        "Defined here."\n'
            '    @property\n    def size(self):\n        "How large."\n'
        ),
    )
    entries = {e.name: e for e in collect(load_modules(set(), tmp_path), tmp_path)}
    text = "".join(entries["rh_c.Child"].blocks)
    assert "new(self, n=1)" in text and "Defined here." in text and "How large." in text and "limit = 3" in text
    assert "Inherited." not in text and "_secret" not in text
    assert '<a data-page="rh_c.Base">rh_c.Base</a>' in text
    assert '<a data-page="rh_c.Child">' in "".join(entries["rh_c.Base"].blocks)  # a known subclass


def test_addresses_are_scrubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _library(tmp_path, monkeypatch, rh_d=f'"""Shows <object at 0x7f0012ab>. {"More. " * 60}"""\n')
    text = "".join(collect(load_modules(set(), tmp_path), tmp_path)[0].blocks)
    assert "&lt;object&gt;" in text and "0x" not in text


def _site(tmp_path: Path, *entries: Entry) -> Site:
    site = Site(tmp_path, 4, list(entries))
    for entry in entries:
        site.add(entry)
    site.finish()
    return site


def _entry(name: str, *blocks: str, closed: bool = False) -> Entry:
    return Entry(name=name, module=name, obj=None, rank=(1, name), blocks=list(blocks), closed=closed)


def test_link_leads_to_the_host_of_its_page_and_is_dropped_without_page(tmp_path: Path) -> None:
    both = '<p><a data-page="b">b</a> <a data-page="nowhere">nowhere</a></p>'
    _site(tmp_path, _entry("a", both), _entry("b", "<p>b</p>"))
    here, there = host_of("a.html", 4), host_of("b.html", 4)
    text = (tmp_path / f"host-{here:02d}" / "a.html").read_text(encoding="utf-8")
    target = "/b.html" if here == there else url_of("b.html", 4)
    assert f'<p><a href="{target}">b</a> nowhere</p>' in text


def test_continued_page_is_linked_from_the_part_before(tmp_path: Path) -> None:
    site = _site(tmp_path, _entry("a", *[f"<p>{'x' * 9000}</p>"] * 3))
    assert [p.partition("/")[2] for p in site.manifest] == ["a.html", "a.2.html", "a.3.html"]
    first = (tmp_path / site.manifest[0]).read_text(encoding="utf-8")
    assert re.search(r'href="[^"]*/a\.2\.html"', first)


def test_closed_pages_are_linked_but_not_listed(tmp_path: Path) -> None:
    site = _site(tmp_path, _entry("a", "<p>a</p>"), _entry("_hidden", "<p>hidden</p>", closed=True))
    assert not any("_hidden" in page for page in site.manifest)
    for host in range(4):
        folder = tmp_path / f"host-{host:02d}"
        assert "_hidden" not in (folder / "sitemap.xml").read_text(encoding="utf-8")
        assert "internal/_hidden.html" in (folder / "index.html").read_text(encoding="utf-8")


def test_hosts_of_pages_never_change() -> None:
    assert [host_of(page, 8) for page in ("json.html", "os.html", "collections.deque.html")] == [6, 4, 0]
