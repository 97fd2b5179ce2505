"""Title, main text, headings and metadata of a fetched page: HTML, Markdown or plain text, from bytes."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from rag_hpc.algo.extract.decode import ExtractError, clean_text, decode_both, markdown_headings, markdown_title
from rag_hpc.algo.extract.elsewhere import MIN_CHARS, TIMES_VISIBLE, noscript_chars, noscript_shown
from rag_hpc.algo.text.edits import Heading
from rag_hpc.algo.text.headers import HTML_TYPES, media_type

__all__ = ["ExtractError", "Extracted", "Extractor", "extract"]

_MARKUP_TYPES = (*HTML_TYPES, "application/xml", "text/xml")
_MARKDOWN_TYPES = ("text/markdown", "text/x-markdown")
_LOOKS_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_HEAD_CHARS = 4096


class Extractor(enum.Enum):
    """How main text is taken from HTML. density: our own, fast and exact; resiliparse; trafilatura; plain: all text."""

    density = "density"
    trafilatura = "trafilatura"
    resiliparse = "resiliparse"
    plain = "plain"


@dataclass(frozen=True)
class Extracted:
    """The text of a page; what the page does not state is empty.

    headings: in order, text[start : start + len(title)] == title. date: of publication, YYYY-MM-DD.
    """

    title: str
    text: str
    lang_hint: str = ""
    headings: tuple[Heading, ...] = ()
    date: str = ""
    canonical: str = ""


def extract(body: bytes, content_type: str, charset: str | None, url: str, extractor: Extractor) -> Extracted:
    """Return title and cleaned text of a page; the same bytes give the same text.

    Code blocks keep their lines and indents, headings and list items their own lines, rows of tables are lines of
    cells. Markdown and plain text pass through. Raises ExtractError with the reason: empty, binary, undecodable,
    unsupported-type, too-deep, too-many-elements, too-many-attributes, no-text; MissingDependency when the extractor
    is not installed.
    """
    if not body.strip():
        raise ExtractError("empty", url, "the body has no bytes but spaces")
    kind = media_type(content_type)
    if kind and not kind.startswith("text/") and kind not in _MARKUP_TYPES:
        raise ExtractError("unsupported-type", url, f"content type {kind!r} is neither HTML nor text")
    raw, source = decode_both(body, charset, url)
    if kind in _MARKUP_TYPES or (not kind and _looks_html(raw)):
        extracted = _from_html(raw, source, url, extractor)
    else:
        text = clean_text(raw)
        markdown = kind in _MARKDOWN_TYPES
        extracted = Extracted(
            markdown_title(text) if markdown else "", text, headings=tuple(markdown_headings(text)) if markdown else ()
        )
    if not extracted.text:
        raise ExtractError("no-text", url, "nothing is left once markup is removed")
    return extracted


def _looks_html(text: str) -> bool:
    head = text[:_HEAD_CHARS].lstrip()
    return head.startswith("<") and _LOOKS_HTML.search(head) is not None


def _from_html(raw: str, source: bytes, url: str, extractor: Extractor) -> Extracted:
    from rag_hpc.algo.extract.density import block_headings, main_text, scan_page
    from rag_hpc.algo.extract.html_page import NOSCRIPT
    from rag_hpc.algo.extract.meta import page_meta

    page = scan_page(source, url)
    meta = page_meta(source, page.noted(), url)
    if extractor is Extractor.density:
        text, headings = main_text(page)
        least = max(MIN_CHARS, TIMES_VISIBLE * len(text))
        if page.state[NOSCRIPT] > least and noscript_chars(source, least) > least:
            text, headings = max((text, headings), main_text(scan_page(noscript_shown(source), url)), key=_length)
        article = clean_text(meta.article)
        if len(article) > max(MIN_CHARS, TIMES_VISIBLE * len(text)):
            text, headings = article, []
    else:
        text = _peer_text(raw, url, extractor)
        headings = _find_headings(text, block_headings(page))
    title = clean_text(meta.title) or next((title for level, title in block_headings(page) if level == 1), "")
    return Extracted(title, text, meta.lang, tuple(headings), meta.date, meta.canonical)


def _length(found: tuple[str, list[Heading]]) -> int:
    return len(found[0])


def _peer_text(raw: str, url: str, extractor: Extractor) -> str:
    from rag_hpc.algo.extract import peers as peers

    chosen = {
        Extractor.trafilatura: peers.trafilatura_text,
        Extractor.resiliparse: peers.resiliparse_text,
        Extractor.plain: peers.plain_text,
    }
    return clean_text(chosen[extractor](raw, url))


def _find_headings(text: str, headings: list[tuple[int, str]]) -> list[Heading]:
    """Return where the titles of a page's headings stand as lines of their own."""
    levels = {title: level for level, title in reversed(headings)}
    placed, at = [], 0
    for line in text.split("\n"):
        if line in levels:
            placed.append((at, levels[line], line))
        at += len(line) + 1
    return placed
