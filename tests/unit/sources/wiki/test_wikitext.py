"""Wikitext to plain text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.sources.wiki.wikitext import markdown_headings, plain_text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Paris''' is the ''[[capital city|capital]]'' of [[France]]s.", "Paris is the capital of Frances."),
        ("a<ref name=x>cite {{cite|t={{y}}}}</ref> b<ref name=x/> c<ref>open", "a b copen"),
        ("{{Infobox|pop={{formatnum:1}}|map=[[File:a.png|x]]}}\nText", "Text"),
        (
            "It is {{convert|10|km|mi}} to {{lang|fr|la ville}} ({{IPA|x}}) and ({{IPA|x}}; west).",
            "It is 10 km to la ville and (west).",
        ),
        ("[[File:a.jpg|thumb|A [[b]] c]][[Image:x.png]]x [[de:Paris]][[:Category:A]] [[#There]]", "x Category:A There"),
        ("[http://h/p text] [https://h] http://bare/", "text  http://bare/"),
        ("a<!-- b\n== c ==\n -->d<!-- no end", "ad"),
        ("<nowiki>[[a]] '''</nowiki> &amp;lt; &eacute;x<br/>y H<sub>2</sub>O __NOTOC__", "[[a]] ''' &lt; éx\ny H2O"),
        ("* a\n** b\n# c\n: d\n;e\n----\n* ", "- a\n  - b\n- c\nd\ne"),
        ("see <code>x = [1]</code> and <math>\\frac{{a}}{b}</math>", "see x = [1] and \\frac{{a}}{b}"),
        ("a\n x <nowiki>''y''</nowiki>\n\nb", "a\n```\nx ''y''\n```\n\nb"),  # kept text in a listing
        ("a\n <pre></pre>", "a\n```\n``\n```"),  # found by fuzzing
        ("{{open [[also [http://x this", "{{open [[also [http://x this"),
        ("}} ]] |} </ref> | ]", "}} ]] |}  | ]"),
        ("[[a\nb]]", "[[a\nb]]"),
        ("a &#" + "9" * 5000 + "; &#x" + "f" * 5000 + " &#65;", "a \ufffd \ufffd A"),  # found by fuzzing
    ],
)
def test_markup_goes_and_text_stays(wikitext: str, text: str) -> None:
    assert plain_text(wikitext).text == text


def test_headings_code_and_tables_keep_their_structure() -> None:
    source = """lead
== History ==
=== Empty {{x}} ===
{{main|y}}
=== Years ===
{| class="wikitable" style="x"
|+ Caption
! A !! B
|-
| style="x" | 1 || [[two|2]]
|-
| a
more
|
{|
| inner || cell
|}
|}
== Code ==
<syntaxhighlight lang="python">
# == no heading ==
x = "[[a]]"
</syntaxhighlight>
<pre>one line</pre>
== References ==
{{reflist}}
<references />
"""
    assert (
        plain_text(source).text
        == """lead
## History

### Years

Caption
A | B
1 | 2
a
more | inner | cell

## Code

```
# == no heading ==
x = "[[a]]"
```

`one line`"""
    )


def test_categories_and_files_are_known_by_the_wikis_own_names() -> None:
    found = plain_text(
        "[[Datei:x.png|thumb]]a [[Kategorie:Stadt|!]] [[category:B]][[Kategorie:Stadt]]", ["Datei"], ["Kategorie"]
    )
    assert found == ("a", ["Stadt", "B"])


def test_headings_of_extracts_become_markdown() -> None:
    assert markdown_headings("Lead.\n\n\n== A ==\nx = 1\n=== B ===\n== C ==\nEnd.") == (
        "Lead.\n\n## A\nx = 1\n## C\nEnd."
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "{{",
                "}}",
                "[[",
                "]]",
                "{|\n",
                "\n|}",
                "|",
                "<ref>",
                "</ref>",
                "<pre>",
                "</pre>",
                "\n",
                "==",
                "'''",
                "<!--",
                "-->",
                "[http://x ",
                "]",
                "word",
                "\x00",
                "-{",
                "}-",
                "zh-cn:a;",
                "<x>",
                "\n ",
                "{{quote|",
                "(",
                "{{x}})",
            ]
        ),
        max_size=40,
    )
)
def test_words_outside_markup_survive_any_order_of_marks(tokens: list[str]) -> None:
    text = plain_text("before\n" + "".join(tokens)).text
    assert text.startswith("before") and "\x00" not in text
    assert plain_text("".join(tokens) + "-->\n|}\n}}\n]]\n</ref></pre>\nafter").text.endswith("after")


@pytest.mark.parametrize(
    "piece",
    [
        "[[",
        "{{",
        "{{a|",
        "<ref>",
        "[http://",
        "<pre>",
        "<a ",
        "<!--",
        "( ",
        "{|\n",
        "\n|}",
        "=",
        "'",
        "[[a\n",
        "__",
        "&#",
        "\n ",
        "_A",
        "\n|",
        "||a",
        "<nowiki>",
        "-{",
        "-{zh:a;",
        "-{zh-tw:a;zh-cn:b}-",
        "}-",
        "<x",
        "<x>",
        "( {{x}}",
        "({{x}};",
        "{{x}}",
        "{{quote|a=",
        "{{ubl|",
        "|a",
        "\n a",
        "<rt>",
    ],
)
def test_time_is_linear_in_hostile_input(piece: str) -> None:
    def seconds(size: int) -> float:
        started = time.process_time()
        plain_text(piece * (size // len(piece)))
        return time.process_time() - started

    assert min(seconds(200_000) for _ in range(2)) < 1.5  # quadratic ones take minutes


def test_nesting_is_capped() -> None:
    deep = "[[a|" * 10_000 + "x" + "]]" * 10_000
    assert "x" in plain_text(deep).text


def test_a_cell_of_many_lines_takes_time_linear_in_them() -> None:
    begun = time.process_time()
    text = plain_text("{|\n|first\n" + "line\n" * 400_000 + "| second\n|}").text
    assert time.process_time() - begun < 10
    assert text.startswith("first\nline\n") and text.endswith("line | second")
