from __future__ import annotations

import html as entities
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from realdata import DATA

from rag_hpc.algo.extract.decode import clean_text
from rag_hpc.algo.extract.density import scan_page
from rag_hpc.algo.extract.extract import Extracted, ExtractError, Extractor, extract
from rag_hpc.algo.extract.features import NAMES, block_features
from rag_hpc.algo.extract.html_names import TAGS
from rag_hpc.algo.extract.html_page import END, NODE, START, TAG

PROSE = "The scheduler starts a job when the resources it asked for are free, and no other job has a higher priority. "
NAV = "<div class='navbar'><a href='/'>Board index</a> <a href='/faq'>FAQ</a> <a href='/in'>Login</a></div>"
FOOT = "<div class='footer'><a href='/p'>Privacy</a> | <a href='/t'>Terms</a><p>Powered by BoardSoft</p></div>"
POSTS = [
    "I have a node that goes into the drained state after every reboot. The log says low real memory.",
    "Check RealMemory in slurm.conf. It must not be larger than what slurmd -C prints on that node.",
    "That was it, thanks! It said 257000 and slurmd -C shows 256842.",
    "For the record: scontrol update nodename=n12 state=resume brings it back once the value is right.",
]
THREADS = {
    "posts with profiles": "".join(
        f"<div class='post'><dl class='postprofile'><dt><a href='/u'>user{i}</a></dt><dd>Posts: {i}</dd></dl>"
        f"<div class='postbody'><p class='author'>by user{i}</p><div class='content'>{text}</div></div></div>"
        for i, text in enumerate(POSTS)
    ),
    "rows of a table": "<table class='tborder'>"
    + "".join(
        f"<tr><td class='alt2'><a href='/u'>user{i}</a><br>Member</td><td class='alt1'>{text}</td></tr>"
        for i, text in enumerate(POSTS)
    )
    + "</table>",
    "articles": "<main><h1>Node drained</h1>"
    + "".join(
        f"<article class='topic-post'><div class='meta'>user{i}</div><div class='cooked'><p>{text}</p></div></article>"
        for i, text in enumerate(POSTS)
    )
    + "</main>",
    "answers": f"<div id='content'><h1>Node drained</h1><div class='question'><div class='post-text'><p>{POSTS[0]}</p>"
    "</div></div>"
    + "".join(f"<div class='answer'><div class='post-text'><p>{text}</p></div></div>" for text in POSTS[1:])
    + "</div>",
}


def html(body: str | bytes, url: str = "http://h/dir/p") -> Extracted:
    raw = body.encode() if isinstance(body, str) else body
    return extract(raw, "text/html", None, url, Extractor.density)


def blocks(body: str) -> list[tuple[str, str]]:
    """Return tag and text of the scanner's blocks."""
    page = scan_page(body.encode(), "u")
    raw = page.out.tobytes()
    return [(TAGS[page.nodes[row[NODE], TAG]], raw[row[START] : row[END]].decode()) for row in page.blocks]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<p>a <b>b</b>c\n d<p>e", [("p", "a bc d"), ("p", "e")]),
        ("<ul><li>a<li>b<ul><li>c</ul></ul>d", [("li", "a"), ("li", "b"), ("li", "c"), ("", "d")]),
        ("<table><tr><td>a<td>b<tr><th>c</table>d", [("td", "a"), ("td", "b"), ("th", "c"), ("", "d")]),
        ("<dl><dt>a<dd>b<dt>c</dl>", [("dt", "a"), ("dd", "b"), ("dt", "c")]),
        ("<div><table><tr><td></div>a</td></table>b</div>c", [("td", "a"), ("div", "b"), ("", "c")]),
        ("<p>a<div>b</p>c</div>", [("p", "a"), ("div", "b"), ("div", "c")]),
        ("a<br>b<br><br>c<hr>d", [("", "a\nb"), ("", "c"), ("", "d")]),
        ("<pre>\n  a\r\n\tb  \n</pre>", [("pre", "\n  a\n\tb")]),
        ("<script>a</scripty><p>b</script>c", [("", "c")]),
        ("a<!-- > --b -->c<!-->d<?x?>e</ f>g", [("", "acdeg")]),
        ("<title>a<p>b", [("", "a"), ("p", "b")]),
        ("<select><option>a</select><svg/>b<svg><text>c</svg>", [("", "b")]),
        ("<a title='x>y' href=z>a</a> < b <3", [("", "a < b <3")]),
        ("a\u00a0b&nbsp;c&#160;d\u200be\u00adf", [("", "a b c def")]),
        ("<h1>a<h2>b</h3>c", [("h1", "a"), ("h2", "b"), ("", "c")]),
        ("<p>a<a href=x class=headerlink>\u00b6</a>", [("p", "a")]),
        ("<p", []),
        ("", []),
    ],
)
def test_blocks_follow_the_standard_where_it_matters(body: str, found: list[tuple[str, str]]) -> None:
    assert blocks(body) == found


def test_page_keeps_what_it_is_about() -> None:
    page = html(f"""<!doctype html><html lang=en-GB><head><title>Guide \n to jobs</title>
        <link rel="canonical" href="/guide">
        <meta property="article:published_time" content="2024-05-06T01:02:03Z"></head>
        <body>{NAV}<div class="content"><h1>Jobs &amp; queues</h1><p>{PROSE * 4}</p><h2>Options<br>of sbatch</h2>
        <ul><li>first <b>option</b></li><li>second option, which is long enough<ul><li>inner</li></ul></li></ul>
        <pre>if true; then\n    srun hostname\n\n\n\nfi   </pre><p>{PROSE * 4}</p></div>{FOOT}</body></html>""")
    assert (page.title, page.lang_hint, page.date) == ("Guide to jobs", "en", "2024-05-06")
    assert page.canonical == "http://h/guide"
    assert [(level, title) for _, level, title in page.headings] == [(1, "Jobs & queues"), (2, "Options of sbatch")]
    assert "\n\n- first option\n- second option, which is long enough\n  - inner\n\n" in page.text
    assert "\n\nif true; then\n    srun hostname\n\nfi\n\n" in page.text
    assert "FAQ" not in page.text
    assert "Privacy" not in page.text


@pytest.mark.parametrize("thread", THREADS)
def test_all_posts_of_a_thread_are_kept(thread: str) -> None:
    page = html(f"<html><head><title>Node drained</title></head><body>{NAV}{THREADS[thread]}{FOOT}</body></html>")
    assert [post for post in POSTS if post not in page.text] == []
    assert "FAQ" not in page.text


@pytest.mark.parametrize("around", ["", f"<h1>Partitions</h1><p>{PROSE}</p>"])
def test_rows_of_a_table_are_lines_of_cells(around: str) -> None:
    rows = "".join(f"<tr><td>part{i}</td><td>{i}0\nnodes</td><td>{i} days</td></tr>" for i in range(1, 15))
    page = html(f"<body>{NAV}<div>{around}<table><tr><th>Name<th>Nodes<th>Limit</tr>{rows}</table></div>{FOOT}</body>")
    assert "\npart1 | 10 nodes | 1 days\npart2 | 20 nodes | 2 days\n" in page.text
    assert page.text.count("\npart") == 14


def test_tiny_and_hidden_pages_are_not_lost() -> None:
    assert html("<p>Two words</p>").text == "Two words"
    assert html(f"<p>{PROSE * 3}</p><div style='display: none'><p>{PROSE}</p>secret</div>").text == (PROSE * 3).strip()


def test_list_of_links_in_main_is_kept() -> None:
    links = "".join(f"<li><a href='/{i}.html'>Chapter {i}</a></li>" for i in range(30))
    page = html(f"<body>{NAV}<div role=main><h1>Documentation</h1><ul>{links}</ul></div>{FOOT}</body>")
    assert page.text.count("- Chapter") == 30
    assert "FAQ" not in page.text


@pytest.mark.parametrize(
    ("head", "date"),
    [
        ("<meta name=date content='May 2024'><meta name=pubdate content=20240506>", "2024-05-06"),
        ("<meta name=date content=2024/5/6>", "2024-05-06"),
        (
            "<time datetime=2023-01-01>x</time>"
            '<script type=\'application/ld+json\'>{"datePublished":"2024-05-06T1"}</script>',
            "2024-05-06",
        ),
        ("<time datetime='2024-05-06T10:00'>yesterday</time>", "2024-05-06"),
        ("<meta property=article:published_time content=2024-02-31>", ""),
        ("<script>datePublished: 2024-05-06</script>", ""),
    ],
)
def test_date_of_publication(head: str, date: str) -> None:
    assert html(f"{head}<p>text").date == date


@pytest.mark.parametrize(
    ("link", "canonical"),
    [
        ("<link rel=canonical href=q?a=1&amp;b=2>", "http://h/dir/q?a=1&b=2"),
        ("<link href='https://other/x' rel='x Canonical'>", "https://other/x"),
        ("<link rel=canonical href='javascript:x'>", ""),
        ("<link rel=canonical href='http://[bad'>", ""),
        ("<link rel=alternate href=canonical>", ""),
    ],
)
def test_canonical_address(link: str, canonical: str) -> None:
    assert html(f"{link}<p>text").canonical == canonical


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<div>" * 5000 + "deep", "too-deep"),
        ("<p>x" * 200_000, "too-many-elements"),
        ("<html><script>x=1</script>", "no-text"),
    ],
)
def test_useless_pages_are_refused_with_a_reason(body: str, reason: str) -> None:
    with pytest.raises(ExtractError) as caught:
        html(body)
    assert caught.value.reason == reason


MARKUP = st.lists(
    st.sampled_from(
        [
            "<p>",
            "<h1>",
            "</h1>",
            "<h2>",
            "</h2>",
            "<ul>",
            "<li>",
            "</ul>",
            "<table>",
            "<tr>",
            "<td>",
            "</table>",
            "<pre>",
            "</pre>",
            "<br>",
            "<a href=x>",
            "</a>",
            "<div>",
            "</div>",
            "<dl>",
            "<dt>",
            "<dd>",
            "&amp;",
            "&#769;",
            "&shy;",
            "&nbsp;",
            "\u200b",
            "\n\n",
            " ",
            "|",
            "- ",
        ]
    )
    | st.text(max_size=12),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(MARKUP)
def test_text_is_clean_and_headings_stand_where_they_say(parts: list[str]) -> None:
    try:
        page = html("<p>" + "".join(parts).replace("\0", ""))
    except ExtractError:
        return
    assert clean_text(page.text) == page.text
    assert all(page.text[start : start + len(title)] == title for start, _, title in page.headings)
    assert [start for start, _, _ in page.headings] == sorted({start for start, _, _ in page.headings})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{1,8}( [a-z]{1,8}){0,9}", fullmatch=True), min_size=1, max_size=20))
def test_words_are_never_torn_or_made_up(texts: list[str]) -> None:
    page = html("<div>" + "".join(f"<p><i>{text[:1]}</i>{text[1:]}</p>" for text in texts) + "</div>")
    assert not Counter(page.text.split()) - Counter(" ".join(texts).split())


def test_features_have_a_name_each_and_no_odd_numbers() -> None:
    x_BF = block_features(scan_page(f"<h1>a</h1><p>{PROSE}</p><ul><li><a href=x>b</a></ul>".encode(), "u"))
    assert x_BF.shape == (3, len(NAMES)) == (3, len(set(NAMES)))
    assert np.isfinite(x_BF).all()
    assert x_BF[:, NAMES.index("links_share")].tolist() == [0, 0, 1]


def test_works_where_no_folder_for_compiled_code_can_be_written(tmp_path: Path) -> None:
    script = (
        "import numba\nnumba.njit, real = (lambda *a, **k: (_ for _ in ()).throw(RuntimeError('no locator'))"
        " if k.pop('cache', False) else real(*a, **k)), numba.njit\n"
        "from rag_hpc.algo.jit import jit_inlined\nprint(jit_inlined(lambda x: x + 1)(2))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (found.stdout, found.stderr) == ("3\n", "")


def test_documentation_pages_keep_their_body() -> None:
    zstandard = pytest.importorskip("zstandard")
    folder = DATA / "html_ipython"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set RAG_HPC_DATA")
    with open(folder / "docs.jsonl.zst", "rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().split(b"\n")[:-1]
    gold = {doc["id"]: doc["text"] for doc in map(json.loads, lines)}
    wanted = found = kept = 0
    with (
        open(folder / "ipython-doc-1-2-3.tar.zst", "rb") as file,
        tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(file), mode="r|") as tar,
    ):
        for number, member in enumerate(tar):
            key = member.name.split("ipython-doc/", 1)[-1]
            if number % 7 or key not in gold or (content := tar.extractfile(member)) is None:
                continue
            body, text = Counter(words(gold[key])), Counter(words(html(content.read()).text))
            wanted, found, kept = wanted + body.total(), found + text.total(), kept + (body & text).total()
    assert kept >= 0.95 * wanted > 10_000
    assert kept >= 0.95 * found


def words(text: str) -> list[str]:
    return re.findall(r"\w+", entities.unescape(text))
