"""Inline elements stand inside a sentence: none ends the paragraph, whatever of it is left out."""

from __future__ import annotations

import pytest

from rag_hpc.algo.extract.density import scan_page
from rag_hpc.algo.extract.extract import Extractor, extract
from rag_hpc.algo.extract.html_names import TAGS
from rag_hpc.algo.extract.html_page import END, NODE, START, TAG

PROSE = "The harbour of the old town was rebuilt after the flood, and the council has kept the plans of that time. " * 2
SKIPPED = {
    "svg": "<svg width=16><title>x</title><path d='M0'/><foreignObject><div>x<br>x</div></foreignObject></svg>",
    "svg alone": "<svg class='icon'/>",
    "math": "<math><semantics><annotation encoding='application/x-tex'>x^2</annotation></semantics></math>",
    "content math": "<math><annotation-xml><apply><ci>x</ci></apply></annotation-xml></math>",
    "button": "<button type=button><span>Save</span></button>",
    "select": "<select><optgroup label=a><option>One<option>Two</select>",
    "object": "<object data=x><param name=a><p>No plug-in</p></object>",
    "nested objects": "<object><object>x</object><p>y</p></object>",
    "applet": "<applet code=x>No Java</applet>",
    "video": "<video controls><source src=x><p>No video</p></video>",
    "audio": "<audio controls>No <a href=x>audio</a></audio>",
    "canvas": "<canvas><table><tr><td>No canvas</table></canvas>",
    "map": "<map name=m><area href=x><p>x</p></map>",
    "datalist": "<datalist><option>a<option>b</datalist>",
    "input": "<input type=checkbox>",
    "iframe": "<iframe src=x>no frames</iframe>",
    "script": "<script>document.write('<p>')</script>",
    "textarea": "<textarea>typed</textarea>",
    "img": "<img src=x alt=y>",
    "template": "<template><p>x</p></template>",
    "picture": "<picture><source srcset=x><img src=y></picture>",
}
KEPT = [
    *("label", "ruby", "math", "mrow", "output", "meter", "progress", "bdi", "bdo", "data", "mark", "kbd", "q"),
    *("slot", "font", "ins", "del", "abbr", "cite", "dfn", "samp", "var", "time", "small", "sub", "tt", "nobr", "x-y"),
]
RUBY = [
    ("<ruby>漢字<rp>(</rp><rt>かんじ</rt><rp>)</rp></ruby>は", "漢字は"),
    ("<ruby>漢字<rt>かんじ</ruby>は", "漢字は"),
    ("<ruby>漢<rt>かん字<rt>じ</ruby>は", "漢は"),
    ("<ruby><rb>漢<rt>かん<rb>字<rt>じ</ruby>は", "漢字は"),
    ("<ruby><rb>漢</rb><rb>字</rb><rtc><rt>かん</rt><rt>じ</rt></rtc><rtc>kanji</rtc></ruby>は", "漢字は"),
    ("<ruby><ruby>攻<rt>こう</rt>殻<rt>かく</rt></ruby><rt>x</rt></ruby>は", "攻殻は"),
    ("<ruby>漢字<rp>（<rt>かんじ<rp>）</ruby>は", "漢字は"),
    ("<ruby>北<rp>(</rp><rt><b>Běi</b></rt><rp>)</rp>京<rt>jīng</rt></ruby>是", "北京是"),
]


def blocks(body: str) -> list[tuple[str, str]]:
    """Return tag and text of the scanner's blocks."""
    page = scan_page(body.encode(), "u")
    raw = page.out.tobytes()
    return [(TAGS[page.nodes[row[NODE], TAG]], raw[row[START] : row[END]].decode()) for row in page.blocks]


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_left_out_of_a_sentence_does_not_cut_it(name: str) -> None:
    inner = SKIPPED[name]
    assert blocks(f"<p>Click the gear {inner} icon in <b>the {inner}bar</b>.<p>End") == [
        ("p", "Click the gear icon in the bar."),
        ("p", "End"),
    ]
    assert blocks(f"<ul><li>one {inner}two</li><li>{inner} three") == [("li", "one two"), ("li", "three")]


@pytest.mark.parametrize("name", ["button", "select", "object", "video", "audio", "canvas", "applet"])
def test_a_box_between_two_words_parts_them(name: str) -> None:
    assert blocks(f"<p>Author{SKIPPED[name]}3 min read") == [("p", "Author 3 min read")]
    assert blocks(f"<p>{SKIPPED[name]}Author") == [("p", "Author")]


@pytest.mark.parametrize("name", KEPT)
def test_what_inline_elements_hold_stays_in_the_sentence(name: str) -> None:
    assert blocks(f"<p>The word <{name} class=x>stands</{name}> in it, <{name}>twice</{name}>.") == [
        ("p", "The word stands in it, twice.")
    ]


def test_a_formula_is_read_once() -> None:
    formula = (
        "<math><semantics><mrow><mi>E</mi><mo>=</mo><mi>m</mi><msup><mi>c</mi><mn>2</mn></msup></mrow>"
        "<annotation encoding='application/x-tex'>E=mc^2</annotation></semantics></math>"
    )
    assert blocks(f"<p>The energy {formula} of a body at rest") == [("p", "The energy E=mc2 of a body at rest")]


KATEX = (
    '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>E</mi><mo>=</mo><mfrac><mi>a</mi><mi>b'
    "</mi></mfrac></mrow><annotation encoding='application/x-tex'>E=\\frac{a}{b}</annotation></semantics></math></span>"
    '<span class="katex-html" aria-hidden="true"><span class="base"><span class="mord">E</span><span>=</span><span>b'
    "</span><span>a</span></span></span></span>"
)


def test_a_formula_that_is_drawn_too_is_read_once() -> None:
    assert blocks(f"<p>The sum {KATEX} of <b>all {KATEX}</b> is <span>so</span>") == [
        ("p", "The sum E=ab of all E=ab is so")
    ]
    half = KATEX[: KATEX.index("</span><span>=")]
    assert blocks(f"<p>The sum {half} of <p>b")[-1] == ("p", "b")


@pytest.mark.parametrize(("markup", "text"), RUBY)
def test_readings_are_left_out_and_what_they_annotate_is_kept(markup: str, text: str) -> None:
    assert blocks(f"<p>日本の{markup}{markup}<p>灯台") == [("p", f"日本の{text}{text}"), ("p", "灯台")]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<p>a <button>b</p><p>c", [("p", "a"), ("p", "c")]),
        ("<div>a <svg>b</div><p>c", [("div", "a"), ("p", "c")]),
        ("<p>a <video>b", [("p", "a")]),
        ("<p>a <ruby>b<rt>c<p>d<div>e</ruby>f", [("p", "a b"), ("p", "d"), ("div", "ef")]),
        ("<p>a</button> b</svg> c</rt></ruby> d", [("p", "a b c d")]),
        ("<table><tr><td>a <select><option>b</td><td>c</table>d", [("td", "a"), ("td", "c"), ("", "d")]),
    ],
)
def test_what_is_never_closed_costs_no_more_than_its_block(body: str, found: list[tuple[str, str]]) -> None:
    assert blocks(body) == found


def test_a_page_keeps_its_sentences_whole() -> None:
    ruby = "<p>日本の<ruby>漢字<rt>かんじ</rt></ruby>は<ruby>中国<rt>ちゅうごく</rt></ruby>から伝わった。</p>"
    body = (
        f"<article><p>{PROSE}<p>Click the gear <svg><path/></svg> icon to open the settings.{ruby}<p>{PROSE}</article>"
    )
    text = extract(body.encode(), "text/html", "utf-8", "http://h/p", Extractor.density).text
    assert "\n\nClick the gear icon to open the settings.\n\n日本の漢字は中国から伝わった。\n\n" in text
