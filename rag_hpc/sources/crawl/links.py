"""Where a page leads, by one pass over its bytes in linear time: a tree of hostile markup can cost quadratic time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from rag_hpc.algo.extract.entities import unescape_attribute
from rag_hpc.sources.crawl.urls import MAX_URL_CHARS, affordable, host_key, join_links, normalise_url

MAX_LINKS = 20_000  # different targets of one page
MAX_REFRESHES = 4  # of a page that are looked at
MAX_SCAN_BYTES = 2 << 20  # no links are looked for beyond: a page must not hold up the other hosts
_RAW_NAMES = (b"script", b"style", b"textarea", b"title", b"xmp")


def _any_case(name: bytes) -> bytes:
    """Return a pattern of the name; an alternative that starts with a class is passed over quickest."""
    return re.sub(rb"[a-z]", lambda found: b"[%s%s]" % (found[0], found[0].upper()), name)


_VALUE = rb"""\s*=\s*("[^"<>]*"|'[^'<>]*'|[^\s"'<>]+)"""
_HREF = _any_case(b"href") + _VALUE
_EVENT = re.compile(
    rb"""<(?:[aA](?:[rR][eE][aA])?\s(?:[^<>]*?[\s"'/])??"""
    + _HREF
    + rb"|([bB][aA][sS][eE]|[lL][iI][nN][kK]|[mM][eE][tT][aA]|[iI]?[fF][rR][aA][mM][eE])\s([^<>]*))"
)
_RAW = re.compile(rb"<(?:!--|" + b"|".join(_any_case(name) + rb"\b" for name in _RAW_NAMES) + rb")")
_ENDS = {name: re.compile(rb"</" + _any_case(name) + rb"\b") for name in _RAW_NAMES}
_IS_REFRESH = re.compile(rb"refresh", re.IGNORECASE)
_COMMENT_END = re.compile(rb"--!?>")
_ATTRIBUTES = {
    name: re.compile(rb"""(?:^|[\s"'/])""" + _any_case(name) + _VALUE)
    for name in (b"href", b"src", b"content", b"http-equiv")
}
_REFRESH = re.compile(
    r"""\s*+(\d{1,9}|(?=\.))[\d.]*+(?:\s*+[;,]?+\s*+(?:url\s*+=\s*+)?+(?:"([^"]*+)|'([^']*+)|(\S.*+)))?""",
    re.IGNORECASE | re.DOTALL,
)
_CANONICAL = re.compile(rb"""(?:^|[\s"'/])rel\s*=\s*+["']?[^"'<>=]*\bcanonical\b""", re.IGNORECASE)


@dataclass
class Links:
    """Where a page leads, normalised. refresh: (seconds, URL) that it is left for by itself."""

    targets: list[str] = field(default_factory=list)  # of a[href], area[href] and frames in document order, each once
    canonical: str | None = None
    refresh: tuple[int, str] | None = None


def extract_links(body: bytes, charset: str, url: str, header: str = "") -> Links:
    """Return where the page leads; header: its Refresh field.

    Targets that are no http(s) URLs are left out, and inline frames of other hosts. Comments and the text of scripts
    and the like hold no links; an attribute before href whose value holds < or > hides one.
    """
    body = body[:MAX_SCAN_BYTES]
    if charset != "utf-8":
        body = body.decode(charset, "replace").encode("utf-8", "replace")
    tags = _Tags(url)
    for start, end in _markup(body):
        for href, tag, attributes in _EVENT.findall(body, start, end):
            if href:
                tags.hrefs[href] = None
            else:
                tags.take(tag.lower(), attributes)
    base = tags.base or url
    targets = _joined(base, tags.hrefs)
    if tags.inline:
        others = {target for target in _joined(base, tags.inline) if host_key(target) != host_key(url)}
        targets = [target for target in targets if target not in others]
    return Links(
        targets=targets,
        canonical=normalise_url(tags.canonical, base) if tags.canonical else None,
        refresh=parse_refresh(header or _refresh_of(body, tags.refreshes), base),
    )


class _Tags:
    """What the tags of a page say, as it is written; hrefs: of anchors, areas and frames."""

    def __init__(self, url: str) -> None:
        self.hrefs: dict[bytes, None] = {}
        self.inline: dict[bytes, None] = {}  # those of them that are of inline frames
        self.refreshes: list[bytes] = []
        self.base: str | None = None
        self.canonical = ""
        self._url = url

    def take(self, name: bytes, attributes: bytes) -> None:
        """Note what a base, link, meta or frame says."""
        if name == b"base":
            stated = _attribute(b"href", attributes)
            self.base = self.base or (_short(normalise_url(stated, self._url)) if stated else None)
        elif name == b"link":
            self.canonical = self.canonical or (
                _attribute(b"href", attributes) if _CANONICAL.search(attributes) else ""
            )
        elif name == b"meta":
            if len(self.refreshes) < MAX_REFRESHES and _IS_REFRESH.search(attributes):
                self.refreshes.append(attributes)
        elif found := _ATTRIBUTES[b"src"].search(attributes):
            self.hrefs[found[1]] = None
            if name == b"iframe":
                self.inline[found[1]] = None


def parse_refresh(value: str, base: str) -> tuple[int, str] | None:
    """Return seconds and URL of a Refresh value, None if it only loads the page again."""
    found = _REFRESH.match(value)
    if not found:
        return None
    target = (found[2] or found[3] or found[4] or "").strip()
    url = normalise_url(target, base) if target else None
    return (int(found[1] or 0), url) if url and len(url) <= MAX_URL_CHARS else None


def _joined(base: str, hrefs: Iterable[bytes]) -> list[str]:
    texts = dict.fromkeys(text.partition("#")[0].strip() for text in _texts(islice(hrefs, MAX_LINKS)))
    texts.pop("", None)
    return list(dict.fromkeys(link for link in join_links(base, affordable(texts)) if link))


def _attribute(name: bytes, attributes: bytes) -> str:
    found = _ATTRIBUTES[name].search(attributes)
    return _texts([found[1]])[0].strip() if found else ""


def _refresh_of(body: bytes, metas: list[bytes]) -> str:
    """Return the content of the first meta refresh that holds for browsers with scripts, too; "" if there is none."""
    for attributes in metas:
        before = body[: body.index(attributes)].lower()
        in_noscript = before.rfind(b"<noscript") > before.rfind(b"</noscript")
        if not in_noscript and _attribute(b"http-equiv", attributes).lower() == "refresh":
            return _attribute(b"content", attributes)
    return ""


def _short(base: str | None) -> str | None:
    """Return a base that a URL can begin with, else None: every link of the page repeats it."""
    return base if base and len(base) <= MAX_URL_CHARS else None


def _markup(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the page between its comments and the elements whose content is text."""
    start = 0
    while (raw := _RAW.search(body, start)) is not None:
        yield start, raw.start()
        if raw[0] == b"<!--":
            empty = body.startswith((b">", b"->"), raw.end())
            ended = None if empty else _COMMENT_END.search(body, raw.end())
            start = raw.end() if empty else ended.end() if ended else -1
        else:
            ended = _ENDS[raw[0][1:].lower()].search(body, raw.end())
            start = ended.start() if ended else -1
        if start < 0:  # it never closes
            return
    yield start, len(body)


def _texts(values: Iterable[bytes]) -> list[str]:
    """Return what attributes say; their values have no `<`, so that all are decoded in one go."""
    texts = b"<".join(values).decode("utf-8", "replace").split("<")
    return [unescape_attribute(text[1:-1] if text[:1] in ("'", '"') else text) for text in texts]
