"""The URLs that a host offers: sitemaps (https://www.sitemaps.org/protocol.html). Nothing here touches the network."""

from __future__ import annotations

import codecs
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from xml.parsers import expat

from rag_hpc.algo.extract.entities import unescape_attribute
from rag_hpc.algo.text.charset import BOMS
from rag_hpc.algo.text.headers import is_markup
from rag_hpc.sources.crawl.journal import Ask, Reply
from rag_hpc.sources.crawl.robots import Robots, Steps
from rag_hpc.sources.crawl.urls import affordable, host_key, normalise_url
from rag_hpc.sources.files.compress import GZIP_MAGIC, inflated_start
from rag_hpc.stores.page import Reject

MAX_SITEMAPS = 100  # of a host that are read
MAX_KNOWN_SITEMAPS = 10_000  # and that wait for it
MAX_SITEMAP_BYTES = 50 * 1024 * 1024  # by the protocol
MAX_SITEMAP_URLS = 500_000
MAX_SITEMAP_CHARS = 250 * MAX_SITEMAP_URLS  # of the URLs together
MAX_INDEX_SITEMAPS = 50_000  # of a sitemap index, by the protocol
MAX_XML_ELEMENTS = 2 * MAX_SITEMAP_URLS
MAX_XML_DEPTH = 8
MAX_XML_TAG_BYTES = 1 << 18  # of one tag or comment, which is held as a whole
XML_BLOCK = 1 << 16
MAX_PIECES = 8  # of 8 KiB, of the text of an element; a URL is shorter
_LINES = re.compile(r"\s*https?://", re.IGNORECASE)
_LENIENT = re.compile(
    r"<([\w.-]*:)?(url|sitemap|item|entry)\b[^<>]{0,1000}>"
    r"|<([\w.-]*:)?(?:loc|link)\s*+>\s*+(?:<!\[CDATA\[\s*+)?+([^<>\s]{1,2048}?)\s*+(?:\]\]>\s*+)?+<"
    r"|<link\s(?![^<>]{0,1000}\brel\s*=\s*[\"']?(?!alternate))[^<>]{0,1000}?\bhref\s*=\s*[\"']?([^<>\"'\s]{1,2048})",
    re.IGNORECASE,
)

RobotsOf = Callable[[str], Steps[Robots]]


def fetch_sitemaps(
    origin: str, robots: Robots, max_urls: int, robots_of: RobotsOf | None = None
) -> Steps[tuple[list[str], list[Reject]]]:
    """Return the same-host page URLs that the sitemaps list, in their order, and a Reject for what was refused.

    Sitemaps that robots.txt names come first, then /sitemap.xml, whose absence is no error. Those on other hosts
    (https://www.sitemaps.org/protocol.html#sitemaps_cross_submits) are read if `robots_of` gives their hosts' rules.
    Stops reading further sitemaps once `max_urls` (0 = no cap) URLs are known.
    """
    guess, host = f"{origin}/sitemap.xml", host_key(origin)
    named = [normalise_url(url, origin + "/") for url in affordable(robots.sitemaps)]
    queue = deque(dict.fromkeys(url for url in [*named, guess] if url))
    known = set(queue)
    pages: dict[str, None] = {}
    rejects: list[Reject] = []
    cap = min(max_urls or MAX_SITEMAP_URLS, MAX_SITEMAP_URLS)
    num_read = num_left = num_chars = 0
    while queue and len(pages) < cap:
        url = queue.popleft()
        if num_read == MAX_SITEMAPS:
            num_left += len(queue) + 1
            rejects.append(Reject(id=url, reason="over-max-sitemaps", detail=f"{num_left} sitemaps not read"))
            break
        refusal = yield from _refusal(url, host, robots, robots_of)
        if refusal is not None:
            rejects += [refusal] if url != guess or url in named else []
            continue
        num_read += 1
        reply = yield Ask("sitemap", url, MAX_SITEMAP_BYTES)
        locs, inner, problem = read_sitemap(reply)
        if problem and (url != guess or url in named or _is_there(reply)):
            rejects.append(Reject(id=url, reason="bad-sitemap", detail=problem))
        elsewhere: list[str] = []
        for page in _normalised(locs, url):
            if host_key(page) != host:
                elsewhere.append(page)
            elif len(pages) < MAX_SITEMAP_URLS and num_chars < MAX_SITEMAP_CHARS:
                pages[page] = None
                num_chars += len(page)
        for sitemap in _normalised(inner, url):
            if host_key(sitemap) not in (host, host_key(url)):
                elsewhere.append(sitemap)
            elif sitemap not in known and len(known) < MAX_KNOWN_SITEMAPS:
                known.add(sitemap)
                queue.append(sitemap)
            else:
                num_left += sitemap not in known
        if elsewhere:
            detail = f"{len(elsewhere)} URLs on other hosts than {host}, the first {elsewhere[0]}"
            rejects.append(Reject(id=url, reason="sitemap-offsite", detail=detail))
    return list(pages), rejects


def read_sitemap(reply: Reply) -> tuple[list[str], list[str], str]:
    """Return (page URLs, sitemap URLs, problem or "") of a sitemap: XML or a text of lines, maybe gzip."""
    if reply.error:
        return [], [], f"{reply.error}: {reply.detail}"
    if reply.status != 200:
        return [], [], f"status {reply.status}"
    body = reply.body
    if body.startswith(GZIP_MAGIC):
        try:
            unpacked = inflated_start(body, "gzip", MAX_SITEMAP_BYTES)
        except zlib.error as error:
            return [], [], f"gzip: {error}"
        if unpacked is None:
            return [], [], f"over {MAX_SITEMAP_BYTES} bytes when decompressed"
        body = unpacked
    if _LINES.match(_text(body[:1000])):
        return _text(body).split(None, MAX_SITEMAP_URLS)[:MAX_SITEMAP_URLS], [], ""
    return parse_sitemap(body)


def parse_sitemap(body: bytes) -> tuple[list[str], list[str], str]:
    """Return (page URLs, sitemap URLs, problem or "") of a sitemap, sitemap index or feed.

    What is no XML, or names a document type, is read by its tags, as far as they can be told. One that declares
    entities is refused, so none is ever expanded or fetched; so are elements more than MAX_XML_DEPTH deep, more than
    MAX_XML_ELEMENTS of them, and a tag of more than MAX_XML_TAG_BYTES.
    """
    body = body.lstrip().removeprefix(codecs.BOM_UTF8).lstrip()
    found = _Locations()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = found.start, found.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = found.data, found.doctype
    try:
        for end_byte in range(XML_BLOCK, len(body) + XML_BLOCK, XML_BLOCK):
            parser.Parse(body[end_byte - XML_BLOCK : end_byte], False)
            if end_byte - parser.CurrentByteIndex > MAX_XML_TAG_BYTES:
                raise _RefusedXml(f"a tag of more than {MAX_XML_TAG_BYTES} bytes")
        parser.Parse(b"", True)
    except _Doctype as error:
        return *_lenient(_text(body)), str(error)
    except _RefusedXml as error:
        return found.pages, found.inner, str(error)
    except (expat.ExpatError, LookupError, ValueError) as error:  # it has Python look up a charset's name
        pages, inner = _lenient(_text(body))
        return max(found.pages, pages, key=len), max(found.inner, inner, key=len), str(error)
    return found.pages, found.inner, ""


def _refusal(url: str, host: str, robots: Robots, robots_of: RobotsOf | None) -> Steps[Reject | None]:
    """Return why a sitemap is not asked for, None if it is."""
    if host_key(url) != host:
        if robots_of is None:
            detail = "on another host, which another unit of this crawl may be asking"
            return Reject(id=url, reason="sitemap-offsite", detail=detail)
        robots = yield from robots_of("/".join(url.split("/", 3)[:3]))
    if robots.blocked:
        return Reject(id=url, reason=robots.blocked, detail=robots.detail)
    return None if robots.allows(url) else Reject(id=url, reason="robots-denied", detail=url)


def _is_there(reply: Reply) -> bool:
    """Return whether a reply is a sitemap that nobody promised, not a page that stands for all that is absent."""
    return reply.status == 200 and not is_markup(reply.body)


def _normalised(locs: Iterable[str], base: str) -> Iterable[str]:
    return filter(None, (normalise_url(loc, base) for loc in affordable(locs)))


def _text(body: bytes) -> str:
    for mark, name in BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    return body.decode("utf-8", "replace")


def _lenient(text: str) -> tuple[list[str], list[str]]:
    """Return the URLs of pages and of sitemaps by the tags alone; those of images and videos have another prefix."""
    pages: list[str] = []
    inner: list[str] = []
    prefix: str | None = None
    urls = pages
    for of_group, group, of_loc, loc, href in _LENIENT.findall(text):
        if group:
            prefix, urls = of_group, inner if group.lower() == "sitemap" else pages
        elif of_loc == prefix and len(urls) < (MAX_SITEMAP_URLS if urls is pages else MAX_INDEX_SITEMAPS):
            urls.append(unescape_attribute(loc or href))
            prefix = None  # each has one
    return pages, inner


class _Locations:
    """What a parser meets in a sitemap or a feed: the URLs of pages, and of sitemaps in an index."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.inner: list[str] = []
        self._num_elements = 0
        self._path: list[str] = []
        self._text: list[str] = []  # since the last tag began

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._num_elements += 1
        if len(self._path) == MAX_XML_DEPTH:
            raise _RefusedXml(f"elements more than {MAX_XML_DEPTH} deep")
        if self._num_elements > MAX_XML_ELEMENTS:
            raise _RefusedXml(f"more than {MAX_XML_ELEMENTS} elements")
        self._path.append(name.rpartition(" ")[2].lower())
        self._text.clear()
        if self._path[-2:] == ["entry", "link"] and attributes.get("rel", "alternate") == "alternate":
            self.pages.append(attributes.get("href", "").strip())

    def data(self, piece: str) -> None:
        if len(self._text) < MAX_PIECES:
            self._text.append(piece)

    def end(self, name: str) -> None:
        if self._path[-2:] in (["url", "loc"], ["item", "link"]):
            self.pages.append("".join(self._text).strip())
        elif self._path[-2:] == ["sitemap", "loc"] and len(self.inner) < MAX_INDEX_SITEMAPS:
            self.inner.append("".join(self._text).strip())
        self._path.pop()

    def doctype(self, name: str, system: str | None, public: str | None, has_entities: int) -> None:
        raise (_RefusedXml if has_entities else _Doctype)("document type declarations are refused")


class _RefusedXml(Exception):
    """XML that could expand entities, or cost much for little."""


class _Doctype(_RefusedXml):
    """XML with a document type."""
