"""Mutated pages and HTML bombs: the density extractor ends in text or a reason, soon and small.

Long run: RAG_HPC_FUZZ_INPUTS=200000 nice pytest --timeout=0 tests/faults/test_fuzz_html.py
"""

from __future__ import annotations

import random
import resource
import tarfile
import time

import pytest
from fuzzing import NUM_INPUTS, mutations, survive
from realdata import DATA

from rag_hpc.algo.extract.decode import clean_text
from rag_hpc.algo.extract.extract import ExtractError, Extractor, extract

PAGE = b"""<!doctype html><html lang=en><head><meta charset=utf-8><title>A &amp; b</title>
<meta property="article:published_time" content="2024-02-03T10:00:00Z"><link rel=canonical href=/page>
<script type="application/ld+json">{"datePublished": "2024-02-03"}</script></head><body class="home page">
<nav><ul><li><a href=/>Home</a><li><a href=/x>Next</a></ul></nav><div id="main-content" role=main>
<h1>Head &lt;1&gt;</h1>
<p>One sentence, and one more of them; there are words enough here to look like prose, are there not?
<p>Another <b>one</b> without an end tag<br>and<br><br>breaks &nbsp; \xc2\xa0 \xe4\xb8\xad\xe6\x96\x87\xe3\x80\x82<pre>
  code
\tmore</pre><table><thead><tr><th>a<th>b<tbody><tr><td>1<td>2 <a href="#">link</a></table><dl><dt>t<dd>d</dl>
<svg><path d="M0"/></svg><!-- note --><select><option>no</select></div><footer style="display:none">c</footer>"""
BOMBS = {
    "deep": b"<div>" * 100_000 + b"x",
    "deep inline": b"<b>" * 100_000 + b"x",
    "long attribute": b'<div class="' + b"a " * 2_000_000 + b'">x</div>',
    "many attributes": b"<div " + b" ".join(b"a%d=1" % i for i in range(200_000)) + b">x</div>",
    "attribute without end": b"<div " + b"a" * 1_000_000,
    "metadata without end": b"<meta name=date " + b"a" * 5_000 + b">" + b"<meta content=" * 200_000,
    "tiny tags": b"<p>" * 1_000_000 + b"x",
    "tiny blocks": b"<p>x" * 1_000_000,
    "links": b"<a href=x>" * 300_000 + b"x",
    "raw text without end": b"<title>" * 300_000 + b"<script>" * 300_000,
    "comments without end": b"<!--" * 1_000_000,
    "end tags": b"<div>" * 400 + b"<table><td>" + b"</div>" * 1_000_000 + b"x",
    "implied end tags": b"<ul>" * 400 + b"<li>" * 50_000 + b"x",
    "entities": b"<p>" + b"&amp;&#8203;" * 300_000,
    "spaces": b"<p>" + b" " * 5_000_000 + b"x",
    "NUL": b"<p>a\0b" * 100_000,
    "less than": b"<" * 2_000_000,
    "headings": b"<h1>t</h1>x" * 40_000,
    "breaks": b"<pre>" + b"x<br>" * 400_000,
    "readings without end": b"<p><ruby>x<rt>y" * 200_000,
    "boxes in boxes": b"<p>x<button>" * 200 + b"<p>x<svg>y</svg>" * 100_000,
}


def read(body: bytes) -> None:
    """Extract, and check what holds for every page."""
    found = extract(body, "text/html", None, "http://h/p", Extractor.density)
    assert clean_text(found.text) == found.text
    assert all(found.text[start : start + len(title)] == title for start, _, title in found.headings)
    assert found.canonical == "" or found.canonical.startswith("http")
    assert found.date == "" or len(found.date) == 10


def seeds() -> list[bytes]:
    found = [PAGE, *(bomb[:2000] for bomb in BOMBS.values())]
    archive = DATA / "extract_readability" / "test-pages.tar.zst"
    if archive.is_file():
        zstandard = pytest.importorskip("zstandard")
        with (
            open(archive, "rb") as file,
            tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(file), mode="r|") as tar,
        ):
            for member in tar:
                if member.name.endswith("source.html") and member.size < 40_000:
                    content = tar.extractfile(member)
                    found.append(content.read() if content else b"")
    return found


def test_mutated_pages_give_text_or_a_reason() -> None:
    read(PAGE)  # compiles
    assert survive(read, mutations(seeds(), NUM_INPUTS, seed=7), allowed=(ExtractError,)) == NUM_INPUTS


def test_random_markup_gives_text_or_a_reason() -> None:
    read(PAGE)  # compiles
    rng = random.Random(3)
    words = [
        b"<",
        b">",
        b"</",
        b"/>",
        b'"',
        b"'",
        b"=",
        b"!--",
        b"-->",
        b"&",
        b";",
        b" ",
        b"\n",
        b"x",
        b"\xc2\xa0",
        b"\xff",
        *(
            b"<%s>" % name
            for name in b"p div td tr table li ul a h1 h2 pre br svg select script title dd ruby rt button".split()
        ),
        *(
            b"</%s>" % name
            for name in b"p div td tr table li ul a h1 pre svg select script title ruby rt button map".split()
        ),
    ]
    inputs = (b"<p>" + b"".join(rng.choices(words, k=rng.randrange(200))) for _ in range(NUM_INPUTS))
    assert survive(read, inputs, allowed=(ExtractError,)) == NUM_INPUTS


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_bounded_time_and_memory(name: str) -> None:
    read(PAGE)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        read(BOMBS[name])
    except ExtractError as error:
        assert error.reason in ("too-deep", "too-many-elements", "no-text", "binary")
    assert time.process_time() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10
