"""One host's crawl as a generator of requests: breadth-first, every URL accounted for, and nothing of time or network.

Given the same replies it asks for the same URLs in the same order and finds the same items, so an attempt that has the
replies of an earlier one comes to where that one stood without asking anybody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rag_hpc.algo.text.charset import page_charset
from rag_hpc.algo.text.headers import HTML_TYPES
from rag_hpc.sources.crawl.config import SiteConfig
from rag_hpc.sources.crawl.journal import PAGE_TYPES, Ask, Reply
from rag_hpc.sources.crawl.links import Links, extract_links
from rag_hpc.sources.crawl.robots import MAX_REDIRECTS, REDIRECTS, Robots, Steps, fetch_robots, product_token
from rag_hpc.sources.crawl.scope import Scope
from rag_hpc.sources.crawl.sitemaps import fetch_sitemaps
from rag_hpc.sources.crawl.urls import MAX_URL_CHARS, normalise_url
from rag_hpc.stores.page import Reject

MAX_FAILURES = 10  # requests in a row without any reply before a host counts as down
MEAN_URL_CHARS = 250  # of the URLs that are known, when there are as many as there may be
MAX_REFRESH_S = 5  # a page that is left sooner by itself is a redirect
OFFSITE = "redirect-offsite"


@dataclass(kw_only=True)
class Found:
    """A page that was found; its body lies in the journal under `key`."""

    key: str
    doc_id: str
    content_type: str
    charset: str
    meta: dict[str, Any]
    links: list[str]  # on other hosts, those that no earlier page of the host had


@dataclass(kw_only=True)
class HostPlan:
    """What one host's crawl starts from."""

    host: str
    seeds: list[tuple[str, int]]  # URLs with their depths
    max_pages: int = 0
    done: frozenset[str] = frozenset()  # URLs that earlier rounds fetched
    again: bool = False  # an earlier round may just have asked the host
    max_urls: int = 1_000_000  # that may be known at once, about 250 bytes each
    alone: bool = False  # no other unit asks any host at the same time


@dataclass
class Left:
    """What was not followed, and why."""

    deep: int = 0
    denied: int = 0
    unkept: int = 0


class HostCrawl:
    """The frontier of one host; `items` fills while `run` goes on, in the order of the visits, for others to empty."""

    def __init__(self, plan: HostPlan, corpus: SiteConfig, scope: Scope) -> None:
        self.items: deque[Found | Reject] = deque()
        self.delay_s = corpus.delay_s  # goes up to a Crawl-delay
        self._plan, self._corpus, self._scope = plan, corpus, scope
        self._token = product_token(corpus.user_agent) or "*"
        self._own = (f"http://{plan.host}/", f"https://{plan.host}/")
        self._robots_of: dict[str, Robots] = {}
        self._queue: deque[tuple[str, int]] = deque()
        self._known: set[str] = set(plan.done)
        self._done: set[str] = set(plan.done)  # asked for, as a URL of the queue or the target of a redirect
        self._outward: set[str] = set()
        self._num_chars = 0  # of the URLs in both sets
        self._left = Left()
        self._failures = 0

    def run(self) -> Steps[None]:
        """Ask for everything there is to ask."""
        plan = self._plan
        for seed, depth in plan.seeds:
            self._know(seed, depth)
        yield from self._read_sitemaps()
        num_pages = 0
        while self._queue and not (plan.max_pages and num_pages == plan.max_pages):
            url, depth = self._queue.popleft()
            if url not in self._done:
                item = yield from self._visit(url, depth)
                num_pages += isinstance(item, Found)
                self.items.append(item)
        self.items += self._rest()

    def _read_sitemaps(self) -> Steps[None]:
        for origin in dict.fromkeys(_origin(seed) for seed, _ in self._plan.seeds):
            robots = yield from self._robots(origin)
            if not robots.blocked:
                robots_of = self._robots if self._plan.alone else None
                pages, rejects = yield from fetch_sitemaps(origin, robots, self._plan.max_pages, robots_of)
                for page in pages:
                    self._know(page, 1)
                self.items += rejects

    def _robots(self, origin: str) -> Steps[Robots]:
        if origin not in self._robots_of:
            found = yield from fetch_robots(origin, self._token)
            self.delay_s = max(self.delay_s, found.delay_s)
            self._robots_of[origin] = found
        return self._robots_of[origin]

    def _visit(self, url: str, depth: int) -> Steps[Found | Reject]:
        """Return the page at `url`, or why there is none; follows redirects inside the host, each hop checked."""
        trail = [url]
        for _ in range(MAX_REDIRECTS + 1):
            target = trail[-1]
            self._done.add(target)
            refusal = yield from self._refusal(target)
            if refusal is not None:
                return Reject(id=url, reason=refusal[0], detail=refusal[1])
            ask = Ask("page", target, self._corpus.max_page_bytes)
            reply = yield ask
            if reply.error:
                self._failures += reply.error in ("connection", "timeout")
                return Reject(id=url, reason=reply.error, detail=reply.detail)
            self._failures = 0
            location = reply.location
            if reply.status not in REDIRECTS:
                found = self._links(trail[-1], reply)
                if not found.refresh or found.refresh[0] > MAX_REFRESH_S or found.refresh[1] == trail[-1]:
                    return self._page(ask.key, trail, depth, reply, found)
                location = found.refresh[1]
            problem, detail = self._hop(trail, depth, location)
            if problem:
                return Reject(id=url, reason=problem, detail=detail)
        return Reject(id=url, reason="redirect-limit", detail=f"over {MAX_REDIRECTS} redirects, last {trail[-1]}")

    def _refusal(self, url: str) -> Steps[tuple[str, str] | None]:
        if self._failures >= MAX_FAILURES:
            return "host-down", f"{self._failures} requests in a row got no reply"
        robots = yield from self._robots(_origin(url))
        if robots.blocked:
            return robots.blocked, robots.detail
        return None if robots.allows(url) else ("robots-denied", url)

    def _hop(self, trail: list[str], depth: int, location: str) -> tuple[str, str]:
        """Append the target of a redirect to the trail and return ("", ""), or why it is not followed."""
        target = normalise_url(location, trail[-1]) if location else None
        detail = f"from {trail[-1]} to {location[:MAX_URL_CHARS]}"
        if target is None or len(target) > MAX_URL_CHARS:
            return "redirect-bad", detail
        if not target.startswith(self._own):
            return OFFSITE, f"{target} depth={depth}"
        if target in trail:
            return "redirect-loop", detail
        if target in self._done:
            return "redirect-duplicate", detail
        if not self._scope.permits(target):
            return "redirect-denied", detail
        self._known.add(target)
        trail.append(target)
        return "", ""

    def _links(self, url: str, reply: Reply) -> Links:
        if reply.status != 200 or reply.mime not in HTML_TYPES:
            return Links()
        return extract_links(reply.body, _charset(reply), url, reply.location)

    def _page(self, key: str, trail: list[str], depth: int, reply: Reply, found: Links) -> Found | Reject:
        url = trail[0]
        if reply.status != 200:
            return Reject(id=url, reason=f"http-{reply.status}", detail=trail[-1])
        if reply.mime not in PAGE_TYPES:
            return Reject(id=url, reason="content-type", detail=reply.content_type[:200] or "none sent")
        meta: dict[str, Any] = {"depth": depth}
        if found.canonical and found.canonical != trail[-1] and found.canonical.startswith(self._own):
            meta["canonical"] = found.canonical
            found.targets.append(found.canonical)
        if found.refresh:
            found.targets.append(found.refresh[1])
        outward = self._follow(found.targets, depth + 1)
        values = {"requested": url if len(trail) > 1 else "", "etag": reply.etag, "last_modified": reply.last_modified}
        meta.update((name, value) for name, value in values.items() if value)
        return Found(
            key=key,
            doc_id=trail[-1],
            content_type=reply.mime,
            charset=_charset(reply),
            meta=meta,
            links=outward,
        )

    def _follow(self, links: Iterable[str], depth: int) -> list[str]:
        """Queue the host's own links; return the new ones that lead to other hosts in scope."""
        own, known = self._own, self._known
        outward: list[str] = []
        for link in links:
            if link.startswith(own):
                if link not in known:
                    self._know(link, depth)
            elif self._is_outward(link):
                self._outward.add(link)
                self._num_chars += len(link)
                outward.append(link)
        return outward

    def _is_outward(self, link: str) -> bool:
        """Return True for the first link to a URL of another host that a later round may fetch."""
        return self._has_room(self._outward, link) and link not in self._outward and self._scope.admits(link)

    def _has_room(self, urls: set[str], url: str) -> bool:
        most = self._plan.max_urls
        return len(urls) < most and len(url) <= MAX_URL_CHARS and self._num_chars < MEAN_URL_CHARS * most

    def _know(self, url: str, depth: int) -> None:
        if url in self._known:
            return
        if depth > self._corpus.max_depth:
            self._left.deep += 1
        elif not self._has_room(self._known, url):
            self._left.unkept += 1
        else:
            self._known.add(url)
            self._num_chars += len(url)
            if self._scope.permits(url):
                self._queue.append((url, depth))
            else:
                self._left.denied += 1

    def _rest(self) -> list[Reject]:
        """Return one Reject, with the host as its id, for each cap that left URLs out."""
        plan, corpus = self._plan, self._corpus
        waiting = sum(url not in self._done for url, _ in self._queue)
        counts = (
            ("over-max-pages", waiting, f"URLs not fetched, max_pages={plan.max_pages} of this host"),
            ("over-max-depth", self._left.deep, f"links not followed, max_depth={corpus.max_depth}"),
            ("over-max-urls", self._left.unkept, f"links over {MAX_URL_CHARS} characters or {plan.max_urls} URLs"),
            ("url-denied", self._left.denied, "URLs not fetched by corpus.allow and corpus.deny"),
        )
        return [Reject(id=plan.host, reason=why, detail=f"{count} {what}") for why, count, what in counts if count]


def _charset(reply: Reply) -> str:
    return page_charset(reply.body, reply.content_type) or "utf-8"


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


def next_round(detail: str) -> tuple[str, int]:
    """Return target and depth in the detail of an OFFSITE reject."""
    target, _, depth = detail.rpartition(" depth=")
    return target, int(depth)
