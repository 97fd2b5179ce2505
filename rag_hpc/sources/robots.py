"""What a host permits and offers: robots.txt (RFC 9309) and sitemaps. Nothing here touches the network."""

from __future__ import annotations

import logging
import zlib
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from xml.parsers import expat

from rag_hpc.sources.base import Reject
from rag_hpc.sources.connection import Ask
from rag_hpc.sources.journal import Reply
from rag_hpc.sources.urls import host_key, normalise_url

log = logging.getLogger(__name__)

MAX_ROBOTS_BYTES = 4 * 1024 * 1024  # RFC 9309, 2.5 asks for at least 500 KiB; more is no robots.txt
MAX_ROBOTS_LINES = 50_000  # each rule is tried for each URL
MAX_REDIRECTS = 5
MAX_CRAWL_DELAY_S = 300.0
MAX_SITEMAPS = 100
MAX_SITEMAP_BYTES = 50 * 1024 * 1024  # https://www.sitemaps.org/protocol.html
MAX_SITEMAP_URLS = 500_000
REDIRECTS = (301, 302, 303, 307, 308)

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
    if text.count("\n") + text.count("\r") > MAX_ROBOTS_LINES:
        return Robots(blocked="robots-unavailable", detail=f"{url}: over {MAX_ROBOTS_LINES} lines")
    rules = Protego.parse(text)
    delay_s = rules.crawl_delay(token) or 0.0
    if not delay_s <= MAX_CRAWL_DELAY_S:
        detail = f"{url} asks for {delay_s:g} s between requests, over {MAX_CRAWL_DELAY_S:g} s"
        return Robots(blocked="crawl-delay", detail=detail)
    return Robots(rules=rules, delay_s=max(0.0, delay_s), sitemaps=list(rules.sitemaps), token=token)


def fetch_sitemaps(origin: str, robots: Robots, max_urls: int) -> Steps[tuple[list[str], list[Reject]]]:
    """Return the same-host page URLs that the sitemaps list, in their order, and a Reject for each broken sitemap.

    Sitemaps that robots.txt names come first, then /sitemap.xml, whose absence is no error. Stops reading further
    sitemaps once `max_urls` (0 = no cap) URLs are known.
    """
    guess, host = f"{origin}/sitemap.xml", host_key(origin)
    named = [normalise_url(url, origin + "/") for url in robots.sitemaps]
    queue = deque(dict.fromkeys(url for url in [*named, guess] if url and host_key(url) == host))
    known = set(queue)
    pages: dict[str, None] = {}
    rejects: list[Reject] = []
    cap = min(max_urls or MAX_SITEMAP_URLS, MAX_SITEMAP_URLS)
    num_read = 0
    while queue and len(pages) < cap:
        url = queue.popleft()
        if num_read == MAX_SITEMAPS:
            rejects.append(Reject(id=url, reason="over-max-sitemaps", detail=f"{len(queue) + 1} sitemaps not read"))
            break
        if not robots.allows(url):
            continue
        num_read += 1
        locs, inner, problem = read_sitemap((yield Ask("sitemap", url, MAX_SITEMAP_BYTES)))
        if problem and (url != guess or url in named):
            rejects.append(Reject(id=url, reason="bad-sitemap", detail=problem))
        for loc in locs:
            page = normalise_url(loc, url)
            if page and host_key(page) == host and len(pages) < MAX_SITEMAP_URLS:
                pages[page] = None
        for loc in inner:
            sitemap = normalise_url(loc, url)
            if sitemap and host_key(sitemap) == host and sitemap not in known:
                known.add(sitemap)
                queue.append(sitemap)
    return list(pages), rejects


def read_sitemap(reply: Reply) -> tuple[list[str], list[str], str]:
    """Return (page URLs, sitemap URLs, problem or "") of a sitemap: XML or a text of lines, maybe gzip."""
    if reply.error:
        return [], [], f"{reply.error}: {reply.detail}"
    if reply.status != 200:
        return [], [], f"status {reply.status}"
    body = reply.body
    if body.startswith(b"\x1f\x8b"):
        inflate = zlib.decompressobj(31)
        try:
            body = inflate.decompress(body, MAX_SITEMAP_BYTES + 1)
        except zlib.error as error:
            return [], [], f"gzip: {error}"
        if len(body) > MAX_SITEMAP_BYTES:
            return [], [], f"over {MAX_SITEMAP_BYTES} bytes when decompressed"
    if reply.mime == "text/plain" and not body.lstrip().startswith(b"<"):
        return body.decode("utf-8-sig", "replace").split()[:MAX_SITEMAP_URLS], [], ""
    return parse_sitemap(body)


def parse_sitemap(body: bytes) -> tuple[list[str], list[str], str]:
    """Return (page URLs, sitemap URLs, problem or "") of a sitemap or sitemap index; what precedes an error is kept.

    A document type is refused, so no entity is ever expanded or fetched.
    """
    pages: list[str] = []
    inner: list[str] = []
    path: list[str] = []
    text: list[str] = []
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name.rpartition(" ")[2])
        text.clear()

    def end(name: str) -> None:
        if path[-2:] == ["url", "loc"]:
            pages.append("".join(text).strip())
        elif path[-2:] == ["sitemap", "loc"]:
            inner.append("".join(text).strip())
        path.pop()

    def doctype(*parts: object) -> None:
        raise _RefusedXml("document type declarations are refused")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _RefusedXml, LookupError, ValueError) as error:  # it has Python look up a charset's name
        return pages, inner, str(error)
    return pages, inner, ""


class _RefusedXml(Exception):
    """XML that could expand entities."""
