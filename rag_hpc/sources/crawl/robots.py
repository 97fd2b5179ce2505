"""What a host permits and offers: robots.txt (RFC 9309) and sitemaps. Nothing here touches the network."""

from __future__ import annotations

import logging
import re
import zlib
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from xml.parsers import expat

from rag_hpc.sources.crawl.connection import Ask
from rag_hpc.sources.crawl.journal import Reply
from rag_hpc.sources.crawl.urls import affordable, host_key, normalise_url
from rag_hpc.sources.files.compress import GZIP_MAGIC, inflated_start
from rag_hpc.stores.page import Reject

log = logging.getLogger(__name__)

MAX_ROBOTS_BYTES = 4 * 1024 * 1024  # RFC 9309, 2.5 asks for at least 500 KiB; more is no robots.txt
MAX_ROBOTS_LINES = 50_000  # each rule is tried for each URL
MAX_ROBOTS_RULES = 1_000_000  # a group's rules are held once for each of its user agents
MAX_REDIRECTS = 5
MAX_CRAWL_DELAY_S = 300.0
MAX_SITEMAPS = 100  # of a host that are read
MAX_KNOWN_SITEMAPS = 10_000  # and that wait for it
MAX_SITEMAP_BYTES = 50 * 1024 * 1024  # https://www.sitemaps.org/protocol.html
MAX_SITEMAP_URLS = 500_000
MAX_SITEMAP_CHARS = 250 * MAX_SITEMAP_URLS  # of the URLs together
MAX_INDEX_SITEMAPS = 50_000  # of a sitemap index, by the protocol
MAX_XML_ELEMENTS = 2 * MAX_SITEMAP_URLS
MAX_XML_DEPTH = 8
MAX_XML_TAG_BYTES = 1 << 18  # of one tag or comment, which is held as a whole
XML_BLOCK = 1 << 16
MAX_PIECES = 8  # of 8 KiB, of the text of an element; a URL is shorter
REDIRECTS = (301, 302, 303, 307, 308)

_AGENT = re.compile(r"\s*user[\s-]*agent", re.IGNORECASE)
_RULE = re.compile(r"\s*(?:allow|di[as]+l+[ao]w)", re.IGNORECASE)  # also as it is misspelt

T = TypeVar("T")
Steps = Generator[Ask, Reply, T]  # asks for what it needs, and returns once it has the replies


@dataclass(kw_only=True)
class Robots:
    """One origin's rules. With `blocked` set (the reason of the Reject) nothing may be fetched."""

    blocked: str = ""
    detail: str = ""
    delay_s: float = 0.0
    sitemaps: list[str] = field(default_factory=list)
    rules: Any = None  # protego.Protego, None = everything is allowed
    token: str = "*"

    def allows(self, url: str) -> bool:
        """Return True if the rules permit `url`."""
        return not self.blocked and (self.rules is None or bool(self.rules.can_fetch(url, self.token)))


def fetch_robots(origin: str, token: str) -> Steps[Robots]:
    """Return the rules of `origin` ("scheme://host[:port]") for the product token.

    4xx means everything is allowed; 429, 5xx, no reply, a redirect to another host and a Crawl-delay over
    MAX_CRAWL_DELAY_S mean nothing is (RFC 9309, 2.3.1; 429 is about load, so it is read as a server error).
    """
    url = f"{origin}/robots.txt"
    for _ in range(MAX_REDIRECTS + 1):
        reply = yield Ask("robots", url, MAX_ROBOTS_BYTES)
        if reply.error:
            reason = reply.error if reply.error == "address-refused" else "robots-unavailable"
            return Robots(blocked=reason, detail=f"{url}: {reply.error}: {reply.detail}")
        if reply.status not in REDIRECTS:
            break
        target = normalise_url(reply.location, url)
        if target is None or host_key(target) != host_key(url):
            return Robots(blocked="robots-unavailable", detail=f"{url} leads to another host: {reply.location[:200]}")
        url = target
    else:
        return Robots(blocked="robots-unavailable", detail=f"{origin}/robots.txt: over {MAX_REDIRECTS} redirects")
    if 200 <= reply.status < 300:
        return parse_robots(reply.body, url, token)
    if 400 <= reply.status < 500 and reply.status != 429:
        return Robots(token=token)
    return Robots(blocked="robots-unavailable", detail=f"{url}: status {reply.status}")


def parse_robots(body: bytes, url: str, token: str) -> Robots:
    """Return the rules in the robots.txt at `url`; one with over MAX_ROBOTS_LINES lines forbids everything."""
    from protego import Protego

    text = body.decode("utf-8-sig", "replace")
    if max(text.count("\n") + text.count("\r"), len(text.splitlines())) > MAX_ROBOTS_LINES:
        return Robots(blocked="robots-unavailable", detail=f"{url}: over {MAX_ROBOTS_LINES} lines")
    if _num_rules(text) > MAX_ROBOTS_RULES:
        detail = f"{url}: over {MAX_ROBOTS_RULES} rules, each of them once for each user agent of its group"
        return Robots(blocked="robots-unavailable", detail=detail)
    rules = Protego.parse(text)
    delay_s = rules.crawl_delay(token) or 0.0
    if not delay_s <= MAX_CRAWL_DELAY_S:
        detail = f"{url} asks for {delay_s:g} s between requests, over {MAX_CRAWL_DELAY_S:g} s"
        return Robots(blocked="crawl-delay", detail=detail)
    return Robots(rules=rules, delay_s=max(0.0, delay_s), sitemaps=list(rules.sitemaps), token=token)


def _num_rules(text: str) -> int:
    """Return at least as many as the rules that Protego would hold of a robots.txt."""
    total = agents = 0
    ended = True  # the group, by a rule
    for line in text.splitlines():
        if _AGENT.match(line):
            agents, ended = 1 if ended else agents + 1, False
            total += agents  # it looks for each among the group's
        elif _RULE.match(line):
            total, ended = total + agents, True
    return total


def fetch_sitemaps(origin: str, robots: Robots, max_urls: int) -> Steps[tuple[list[str], list[Reject]]]:
    """Return the same-host page URLs that the sitemaps list, in their order, and a Reject for each broken sitemap.

    Sitemaps that robots.txt names come first, then /sitemap.xml, whose absence is no error. Stops reading further
    sitemaps once `max_urls` (0 = no cap) URLs are known.
    """
    guess, host = f"{origin}/sitemap.xml", host_key(origin)
    named = [normalise_url(url, origin + "/") for url in affordable(robots.sitemaps)]
    queue = deque(dict.fromkeys(url for url in [*named, guess] if url and host_key(url) == host))
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
        if not robots.allows(url):
            continue
        num_read += 1
        locs, inner, problem = read_sitemap((yield Ask("sitemap", url, MAX_SITEMAP_BYTES)))
        if problem and (url != guess or url in named):
            rejects.append(Reject(id=url, reason="bad-sitemap", detail=problem))
        for loc in affordable(locs):
            page = normalise_url(loc, url)
            room = len(pages) < MAX_SITEMAP_URLS and num_chars < MAX_SITEMAP_CHARS
            if page and host_key(page) == host and room:
                pages[page] = None
                num_chars += len(page)
        for loc in affordable(inner):
            sitemap = normalise_url(loc, url)
            if not sitemap or host_key(sitemap) != host or sitemap in known:
                continue
            if len(known) < MAX_KNOWN_SITEMAPS:
                known.add(sitemap)
                queue.append(sitemap)
            else:
                num_left += 1
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
    if reply.mime == "text/plain" and not body.lstrip().startswith(b"<"):
        return body.decode("utf-8-sig", "replace").split(None, MAX_SITEMAP_URLS)[:MAX_SITEMAP_URLS], [], ""
    return parse_sitemap(body)


def parse_sitemap(body: bytes) -> tuple[list[str], list[str], str]:
    """Return (page URLs, sitemap URLs, problem or "") of a sitemap or sitemap index; what precedes an error is kept.

    A document type is refused, so no entity is ever expanded or fetched; so are elements more than MAX_XML_DEPTH deep,
    more than MAX_XML_ELEMENTS of them, and a tag of more than MAX_XML_TAG_BYTES.
    """
    found = _Locations()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = found.start, found.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = found.data, found.doctype
    problem = ""
    try:
        for end_byte in range(XML_BLOCK, len(body) + XML_BLOCK, XML_BLOCK):
            parser.Parse(body[end_byte - XML_BLOCK : end_byte], False)
            if end_byte - parser.CurrentByteIndex > MAX_XML_TAG_BYTES:
                raise _RefusedXml(f"a tag of more than {MAX_XML_TAG_BYTES} bytes")
        parser.Parse(b"", True)
    except (expat.ExpatError, _RefusedXml, LookupError, ValueError) as error:  # it has Python look up a charset's name
        problem = str(error)
    return found.pages, found.inner, problem


class _Locations:
    """What a parser meets in a sitemap: the URLs of pages, and of sitemaps in an index."""

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
        self._path.append(name.rpartition(" ")[2])
        self._text.clear()

    def data(self, piece: str) -> None:
        if len(self._text) < MAX_PIECES:
            self._text.append(piece)

    def end(self, name: str) -> None:
        if self._path[-2:] == ["url", "loc"]:
            self.pages.append("".join(self._text).strip())
        elif self._path[-2:] == ["sitemap", "loc"] and len(self.inner) < MAX_INDEX_SITEMAPS:
            self.inner.append("".join(self._text).strip())
        self._path.pop()

    def doctype(self, *parts: object) -> None:
        raise _RefusedXml("document type declarations are refused")


class _RefusedXml(Exception):
    """XML that could expand entities, or cost much for little."""
