"""The links of a page, by one pass over its bytes in linear time: a tree of hostile markup can cost quadratic time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from rag_hpc.algo.extract.entities import unescape
from rag_hpc.sources.crawl.urls import MAX_URL_CHARS, affordable, join_links, normalise_url

MAX_LINKS = 20_000  # different targets of one page
MAX_SCAN_BYTES = 2 << 20  # no links are looked for beyond: a page must not hold up the other hosts
_RAW_NAMES = (b"script", b"style", b"textarea", b"title", b"xmp")


def _any_case(name: bytes) -> bytes:
    """Return a pattern of the name; an alternative that starts with a class is passed over quickest."""
    return re.sub(rb"[a-z]", lambda found: b"[%s%s]" % (found[0], found[0].upper()), name)


_HREF = _any_case(b"href") + rb"""\s*=\s*("[^"<>]*"|'[^'<>]*'|[^\s"'<>]+)"""
_EVENT = re.compile(
    rb"""<(?:[aA]\s(?:[^<>]*?[\s"'/])??"""
    + _HREF
    + rb"|"
    + _any_case(b"base")
    + rb"\s([^<>]*)|"
    + _any_case(b"link")
    + rb"\s([^<>]*))"
)
_RAW = re.compile(rb"<(?:!--|" + b"|".join(_any_case(name) + rb"\b" for name in _RAW_NAMES) + rb")")
_ENDS = {name: re.compile(rb"</" + _any_case(name) + rb"\b") for name in _RAW_NAMES}
_ATTRIBUTE = re.compile(rb"""(?:^|[\s"'/])""" + _HREF)
_CANONICAL = re.compile(rb"""(?:^|[\s"'/])rel\s*=\s*+["']?[^"'<>=]*\bcanonical\b""", re.IGNORECASE)


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
    for start, end in _markup(body):
        for href, of_base, of_link in _EVENT.findall(body, start, end):
            if href:
                hrefs[href] = None
            elif found := _ATTRIBUTE.search(of_base):
                base = base or _short(normalise_url(_texts([found[1]])[0], url))
            elif (found := _ATTRIBUTE.search(of_link)) and _CANONICAL.search(of_link):
                canonical = canonical or _texts([found[1]])[0]
    base = base or url
    targets = dict.fromkeys(text.partition("#")[0].strip() for text in _texts(islice(hrefs, MAX_LINKS)))
    targets.pop("", None)
    joined = join_links(base, affordable(targets))
    return list(dict.fromkeys(link for link in joined if link)), normalise_url(canonical, base) if canonical else None


def _short(base: str | None) -> str | None:
    """Return a base that a URL can begin with, else None: every link of the page repeats it."""
    return base if base and len(base) <= MAX_URL_CHARS else None


def _markup(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the page between its comments and the elements whose content is text."""
    start = 0
    while (raw := _RAW.search(body, start)) is not None:
        yield start, raw.start()
        if raw[0] == b"<!--":
            start = body.find(b"-->", raw.end() - 2)
        else:
            ended = _ENDS[raw[0][1:].lower()].search(body, raw.end())
            start = ended.start() if ended else -1
        if start < 0:  # it never closes
            return
    yield start, len(body)


def _texts(values: Iterable[bytes]) -> list[str]:
    """Return what attributes say; their values have no `<`, so that all are decoded in one go."""
    texts = b"<".join(values).decode("utf-8", "replace").split("<")
    return [unescape(text[1:-1] if text[:1] in ("'", '"') else text) for text in texts]
