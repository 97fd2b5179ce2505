"""Web sites as a source: breadth-first from seeds, one host per unit, never impolite, every URL accounted for."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError
from rag_hpc.sources.base import CorpusConfig, Page, ReadContext, Reject
from rag_hpc.sources.charset import declared_charset, header_charset
from rag_hpc.sources.fetch import FetchError, HostClient, HostLimits, Pacer, Resolve, Response
from rag_hpc.sources.robots import MAX_REDIRECTS, REDIRECTS, Robots, fetch_robots, fetch_sitemaps
from rag_hpc.sources.urls import MAX_URL_CHARS, host_key, is_loopback_name, join_links, normalise_url

log = logging.getLogger(__name__)

HTML_TYPES = ("text/html", "application/xhtml+xml")
PAGE_TYPES = (*HTML_TYPES, "text/plain", "text/markdown")
MAX_KNOWN_URLS = 1_000_000  # about 150 MB of memory
MAX_FAILURES = 10  # requests in a row without any reply before a host counts as down


class SiteSource:
    """Pages reached from `corpus.seeds`; a host belongs to one part, so politeness needs no coordination."""

    def split(self, corpus: CorpusConfig, shared: Path) -> list[dict[str, Any]]:
        """Return one part per host, by name; `corpus.max_pages` is spread evenly, the first hosts get the rest."""
        by_host: dict[str, list[str]] = {}
        for seed in corpus.seeds:
            url = normalise_url(seed)
            if url is None:
                raise ConfigError(f"corpus.seeds: {seed!r} is no http(s) URL; write it as https://host/path")
            by_host.setdefault(host_key(url), []).append(url)
        if not by_host:
            raise ConfigError("corpus.seeds is empty: name at least one URL, corpus.seeds=[https://host/]")
        _check_user_agent(corpus.user_agent, list(by_host))
        hosts = sorted(by_host)
        shares = _shares(corpus.max_pages, len(hosts))
        if len(shares) < len(hosts):
            log.warning("corpus.max_pages=%d: %d hosts get no page", corpus.max_pages, len(hosts) - len(shares))
        return [
            {"host": host, "seeds": list(dict.fromkeys(by_host[host])), "max_pages": share}
            for host, share in zip(hosts, shares, strict=False)
        ]

    def read(self, part: dict[str, Any], corpus: CorpusConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the host's pages and rejects by (depth, order of discovery)."""
        return crawl_host(part, corpus, ctx)


def crawl_host(
    part: dict[str, Any], corpus: CorpusConfig, ctx: ReadContext, resolve: Resolve | None = None
) -> Iterator[Page | Reject]:
    """Yield the pages and rejects of one host by (depth, order of discovery); part = {host, seeds, max_pages}.

    `resolve` maps the part's host to the (address, port) that serves it. Sitemap URLs have depth 1. When a cap ends
    the crawl, one Reject with the host as its id counts what was left. Raises Interrupted between requests.
    """
    crawl = _Crawl(part, corpus, ctx, resolve)
    try:
        yield from crawl.run()
    finally:
        crawl.client.close()


def extract_links(body: bytes, charset: str, url: str) -> list[str | None]:
    """Return the targets of the page's a[href] in document order, normalised, each once; None for other schemes."""
    from selectolax.lexbor import LexborHTMLParser

    utf8 = body if charset == "utf-8" else body.decode(charset, "replace").encode("utf-8", "replace")
    tree = LexborHTMLParser(utf8)
    base_node = tree.css_first("base[href]")
    base = normalise_url(base_node.attributes.get("href") or "", url) if base_node is not None else None
    hrefs: dict[str, None] = {}
    for node in tree.tags("a"):
        href = (node.attributes.get("href") or "").partition("#")[0].strip()
        if href:
            hrefs[href] = None
    return list(dict.fromkeys(join_links(base or url, list(hrefs))))


class _Crawl:
    """The frontier and counters of one host's crawl."""

    def __init__(self, part: dict[str, Any], corpus: CorpusConfig, ctx: ReadContext, resolve: Resolve | None) -> None:
        self.host: str = part["host"]
        self.max_pages: int = part["max_pages"]
        self.corpus = corpus
        self.token = corpus.user_agent.split("/", 1)[0].strip() or "*"
        limits = HostLimits(
            user_agent=corpus.user_agent,
            timeout_s=corpus.timeout_s,
            allow_private=corpus.allow_private,
            resolve=resolve,
        )
        self.client = HostClient(self.host, limits, Pacer(corpus.delay_s, ctx.sleep, ctx.should_stop))
        self.robots: dict[str, Robots] = {}
        self.queue: deque[tuple[str, int]] = deque()
        self.known: set[str] = set()
        self.done: set[str] = set()  # asked for, as a URL of the queue or the target of a redirect
        self.num_deep = 0
        self.num_unkept = 0
        self.num_failures = 0
        self.seeds: list[str] = part["seeds"]

    def run(self) -> Iterator[Page | Reject]:
        """Yield everything there is to say about the host."""
        for seed in self.seeds:
            self._know(seed, 0)
        yield from self._read_sitemaps()
        num_pages = 0
        while self.queue and not (self.max_pages and num_pages == self.max_pages):
            self.client.pacer.check()
            url, depth = self.queue.popleft()
            if url in self.done:
                continue
            item = self._visit(url, depth)
            num_pages += isinstance(item, Page)
            yield item
        yield from self._left()

    def _read_sitemaps(self) -> Iterator[Reject]:
        for origin in dict.fromkeys(_origin(seed) for seed in self.seeds):
            robots = self._robots(origin)
            if not robots.blocked:
                pages, rejects = fetch_sitemaps(self.client, origin, robots, self.max_pages)
                for page in pages:
                    self._know(page, 1)
                yield from rejects

    def _robots(self, origin: str) -> Robots:
        if origin not in self.robots:
            found = fetch_robots(self.client, origin, self.token)
            self.client.pacer.delay_s = max(self.client.pacer.delay_s, found.delay_s)
            self.robots[origin] = found
        return self.robots[origin]

    def _visit(self, url: str, depth: int) -> Page | Reject:
        """Return the page at `url`, or why there is none; follows redirects inside the host, each hop checked."""
        trail = [url]
        for _ in range(MAX_REDIRECTS + 1):
            target = trail[-1]
            self.done.add(target)
            refusal = self._refusal(target)
            if refusal is not None:
                return Reject(id=url, reason=refusal[0], detail=refusal[1])
            try:
                reply = self.client.get(target, self.corpus.max_page_bytes, _is_page_type)
            except FetchError as error:
                self.num_failures += error.reason in ("connection", "timeout")
                return Reject(id=url, reason=error.reason, detail=error.detail)
            self.num_failures = 0
            if reply.status not in REDIRECTS:
                return self._page(trail, depth, reply)
            problem = self._hop(trail, reply.location)
            if problem:
                return Reject(id=url, reason=problem, detail=f"from {target} to {reply.location[:MAX_URL_CHARS]}")
        return Reject(id=url, reason="redirect-limit", detail=f"over {MAX_REDIRECTS} redirects, last {trail[-1]}")

    def _refusal(self, url: str) -> tuple[str, str] | None:
        if self.num_failures >= MAX_FAILURES:
            return "host-down", f"{self.num_failures} requests in a row got no reply"
        robots = self._robots(_origin(url))
        if robots.blocked:
            return robots.blocked, robots.detail
        if not robots.allows(url):
            return "robots-denied", url
        return None

    def _hop(self, trail: list[str], location: str) -> str:
        """Append the target of a redirect to the trail, or return the reason why it is not followed."""
        target = normalise_url(location, trail[-1]) if location else None
        if target is None or len(target) > MAX_URL_CHARS:
            return "redirect-bad"
        if host_key(target) != self.host:
            return "redirect-offsite"
        if target in trail:
            return "redirect-loop"
        if target in self.done:
            return "redirect-duplicate"
        self.known.add(target)
        trail.append(target)
        return ""

    def _page(self, trail: list[str], depth: int, reply: Response) -> Page | Reject:
        url = trail[0]
        if reply.status != 200:
            return Reject(id=url, reason=f"http-{reply.status}", detail=trail[-1])
        if not _is_page_type(reply.mime):
            return Reject(id=url, reason="content-type", detail=reply.content_type[:200] or "none sent")
        charset = header_charset(reply.content_type) or declared_charset(reply.body) or "utf-8"
        if reply.mime in HTML_TYPES:
            self._follow(reply.body, charset, trail[-1], depth + 1)
        meta: dict[str, Any] = {"depth": depth}
        if len(trail) > 1:
            meta["requested"] = url
        return Page(
            doc_id=trail[-1], url=trail[-1], body=reply.body, content_type=reply.mime, charset=charset, meta=meta
        )

    def _follow(self, body: bytes, charset: str, url: str, depth: int) -> None:
        for link in extract_links(body, charset, url):
            if link is not None and host_key(link) == self.host:
                self._know(link, depth)

    def _know(self, url: str, depth: int) -> None:
        if url in self.known:
            return
        if depth > self.corpus.max_depth:
            self.num_deep += 1
        elif len(self.known) >= MAX_KNOWN_URLS or len(url) > MAX_URL_CHARS:
            self.num_unkept += 1
        else:
            self.known.add(url)
            self.queue.append((url, depth))

    def _left(self) -> Iterator[Reject]:
        left = sum(url not in self.done for url, _ in self.queue)
        counts = (
            ("over-max-pages", left, f"URLs not fetched, max_pages={self.max_pages}"),
            ("over-max-depth", self.num_deep, f"links not followed, max_depth={self.corpus.max_depth}"),
            ("over-max-urls", self.num_unkept, f"links over {MAX_URL_CHARS} characters or {MAX_KNOWN_URLS} URLs"),
        )
        for reason, count, what in counts:
            if count:
                yield Reject(id=self.host, reason=reason, detail=f"{count} {what}")


def _is_page_type(mime: str) -> bool:
    return mime in PAGE_TYPES


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


def _shares(max_pages: int, num_hosts: int) -> list[int]:
    """Return the caps of the hosts that get at least one page; 0 = no cap."""
    if max_pages == 0:
        return [0] * num_hosts
    base, rest = divmod(max_pages, num_hosts)
    return [share for index in range(num_hosts) if (share := base + (index < rest))]


def _check_user_agent(user_agent: str, hosts: list[str]) -> None:
    if not user_agent.isascii() or not user_agent.isprintable() or not user_agent.strip():
        raise ConfigError(f"corpus.user_agent={user_agent!r}: printable ASCII on one line is needed")
    strangers = [host for host in hosts if not is_loopback_name(host)]
    if strangers and "@" not in user_agent and "http" not in user_agent:
        raise ConfigError(
            f"corpus.user_agent={user_agent!r} names no contact, and {strangers[0]} belongs to someone: set "
            "corpus.user_agent='rag-hpc/0.1 (+https://your.page; you@your.org)'"
        )
