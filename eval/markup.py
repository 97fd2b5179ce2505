"""Pieces of HTML. Whatever comes in as plain text is escaped here; `Markup` is text that already is HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from urllib.parse import urlsplit


class Markup(str):
    """HTML made by this package, not to be escaped again."""


Cell = str  # plain text, or Markup
LINKED = ("http", "https")
CITATION = re.compile(r"\[\d+(?:\s*[,;]\s*\d+)*\]")
NUMBER = re.compile(r"\d+")


def safe(text: str) -> Markup:
    """Return the text as HTML: escaped unless it is Markup."""
    return text if isinstance(text, Markup) else Markup(escape(text))


def tag(name: str, *inner: str, css: str = "") -> Markup:
    """Return an element around the pieces."""
    attribute = f' class="{escape(css)}"' if css else ""
    return Markup(f"<{name}{attribute}>{''.join(safe(piece) for piece in inner)}</{name}>")


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    numeric: Sequence[int] = (),
    wide: Sequence[int] = (),
    css: str = "",
) -> Markup:
    """Return a table that scrolls on narrow screens; the first column names the row, `numeric` ones align right."""

    def align(column: int) -> str:
        return "n" if column in numeric else "w" if column in wide else ""

    head = "".join(tag("th", text, css=align(i)) for i, text in enumerate(header))
    body = "".join(
        tag("tr", *[tag("th" if i == 0 else "td", cell, css=align(i)) for i, cell in enumerate(row)]) for row in rows
    )
    inner = tag("thead", tag("tr", Markup(head))), tag("tbody", Markup(body))
    return tag("div", tag("table", *inner, css=css), css="scroll")


def mark(verdict: str) -> Markup:
    """Return a verdict as a coloured word."""
    good, bad = ("hit", "same", "verified", "within"), ("missed", "differs", "not verified", "unfinished")
    css = "good" if verdict in good else "bad" if verdict.startswith(bad) else "flat"
    return tag("span", verdict, css=f"mark {css}")


def link(url: str, text: str) -> Markup:
    """Return a link when the address is one of the web's, plain text otherwise ("javascript:" never becomes a link)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return safe(text)
    if parts.scheme.lower() not in LINKED or not parts.netloc:
        return safe(text)
    return Markup(f'<a href="{escape(url)}" rel="noopener noreferrer">{escape(text)}</a>')


def cite_links(answer: str, anchors: dict[int, str]) -> Markup:
    """Return the escaped answer with each number of [n] or [n, m] linked to its passage's anchor."""

    def linked(match: re.Match[str]) -> str:
        anchor = anchors.get(int(match.group()))
        return f'<a href="#{escape(anchor)}">{match.group()}</a>' if anchor else match.group()

    return Markup(CITATION.sub(lambda group: NUMBER.sub(linked, group.group()), escape(answer)))


def figure(picture: str, caption: str) -> Markup:
    """Return a plot with its caption; `picture` is SVG of this package."""
    return tag("figure", tag("div", Markup(picture), css="scroll"), tag("figcaption", caption))


def section(anchor: str, title: str, *body: str) -> Markup:
    """Return a titled section of the page."""
    return Markup(
        f'<section id="{escape(anchor)}">{tag("h2", title)}{"".join(safe(piece) for piece in body)}</section>'
    )
