"""The links of a page, by one pass over its bytes in linear time: a tree of hostile markup can cost quadratic time."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rag_hpc.algo.entities import unescape
from rag_hpc.sources.urls import join_links, normalise_url

MAX_LINKS = 20_000  # different targets of one page
MAX_SCAN_BYTES = 2 << 20  # no links are looked for beyond: a page must not hold up the other hosts
_HREF = rb"""href\s*=\s*(?:"([^"<>]*)"|'([^'<>]*)'|([^\s"'<>]+))"""
_EVENT = re.compile(
    rb"""<(?:a\s(?:[^<>]*?[\s"'/])??""" + _HREF
    + rb"""|(!--)|(script|style|textarea|title|xmp)\b|(base|link)\s([^<>]*))""", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""(?:^|[\s"'/])""" + _HREF, re.IGNORECASE)
_CANONICAL = re.compile(rb"""(?:^|[\s"'/])rel\s*=\s*["']?[^"'<>=]*\bcanonical\b""", re.IGNORECASE)
_ENDS = {name: re.compile(rb"</" + name + rb"\b", re.IGNORECASE)
         for name in (b"script", b"style", b"textarea", b"title", b"xmp")}


def extract_links(body: bytes, charset: str, url: str) -> tuple[list[str], str | None]:
    """Return the targets of the page's a[href] in document order, normalised, each once, and its canonical URL.

    Targets that are no http(s) URLs are left out. Comments and the text of scripts and the like hold no links;
    an attribute before href whose value holds < or > hides one.
    """
    body = body[:MAX_SCAN_BYTES]
    if charset != "utf-8":
        body = body.decode(charset, "replace").encode("utf-8", "replace")
    hrefs: dict[bytes, None] = {}
    base = canonical = None
    for kind, href in _scan(body):
        if kind == b"a":
            hrefs[href] = None
            if len(hrefs) == MAX_LINKS:
                break
        elif kind == b"base":
            base = base or normalise_url(_text(href), url)
        else:
            canonical = canonical or _text(href)
    base = base or url
    targets = [_text(href).partition("#")[0].strip() for href in hrefs]
    joined = join_links(base, [target for target in targets if target])
    return list(dict.fromkeys(link for link in joined if link)), normalise_url(canonical, base) if canonical else None


def _scan(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (b"a", b"base" or b"link", href); of link elements only the canonical ones."""
    skip = 0
    for event in _EVENT.finditer(body):
        if event.start() < skip:
            continue
        double, single, bare, comment, raw, other, attributes = event.groups()
        if comment or raw:
            end = _ENDS[raw.lower()].search(body, event.end()) if raw else None
            skip = end.start() if end else -1 if raw else body.find(b"-->", event.start() + 2)
            if skip < 0:  # it never closes
                return
        elif not other:
            yield b"a", double or single or bare or b""
        elif other.lower() == b"base" or _CANONICAL.search(attributes):
            found = _ATTRIBUTE.search(attributes)
            if found:
                yield other.lower(), found[1] or found[2] or found[3] or b""


def _text(value: bytes) -> str:
    return unescape(value.decode("utf-8", "replace"))
