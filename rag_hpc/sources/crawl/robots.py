"""What a host permits: robots.txt (RFC 9309). Nothing here touches the network."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rag_hpc.algo.text.charset import BOMS
from rag_hpc.sources.crawl.journal import Ask, Reply
from rag_hpc.sources.crawl.urls import host_key, normalise_url

MAX_ROBOTS_BYTES = 4 * 1024 * 1024  # RFC 9309, 2.5 asks for at least 500 KiB; more is no robots.txt
MAX_ROBOTS_LINES = 50_000  # each rule is tried for each URL
MAX_ROBOTS_RULES = 1_000_000  # a group's rules are held once for each of its user agents
MAX_REDIRECTS = 5
MAX_CRAWL_DELAY_S = 300.0
REDIRECTS = (301, 302, 303, 307, 308)

_PRODUCT = re.compile(r"[A-Za-z0-9_-]+")
_AGENT_LINE = re.compile(r"[ \t]*user[\s-]*agent(?:\s*:|\s)([^#]*)", re.IGNORECASE)
_NOBODY = "~"  # an agent that is not ours: no product token has this character
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

    text = _text(body)
    if max(text.count("\n") + text.count("\r"), len(text.splitlines())) > MAX_ROBOTS_LINES:
        return Robots(blocked="robots-unavailable", detail=f"{url}: over {MAX_ROBOTS_LINES} lines")
    if _num_rules(text) > MAX_ROBOTS_RULES:
        detail = f"{url}: over {MAX_ROBOTS_RULES} rules, each of them once for each user agent of its group"
        return Robots(blocked="robots-unavailable", detail=detail)
    rules = Protego.parse("\n".join(_by_product(line, token) for line in text.splitlines()))
    delay_s = rules.crawl_delay(token) or 0.0
    if not delay_s <= MAX_CRAWL_DELAY_S:
        detail = f"{url} asks for {delay_s:g} s between requests, over {MAX_CRAWL_DELAY_S:g} s"
        return Robots(blocked="crawl-delay", detail=detail)
    return Robots(rules=rules, delay_s=max(0.0, delay_s), sitemaps=list(rules.sitemaps), token=token)


def product_token(agent: str) -> str:
    """Return the name in a user agent, without version and what else may follow, "" if it begins with none.

    RFC 9309, 2.2.1; digits count as letters, for many robots have some in their names.
    """
    found = _PRODUCT.match(agent.strip())
    return found[0] if found else ""


def _text(body: bytes) -> str:
    """Return the text by its byte order mark, else as UTF-8, or as UTF-16 where every other byte is zero."""
    for mark, name in BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    halves = {"utf-16-be": body[:1000:2], "utf-16-le": body[1:1000:2]}
    names = [name for name, half in halves.items() if 2 * half.count(0) > len(half)]
    return body.decode(names[0] if names else "utf-8", "replace")


def _by_product(line: str, token: str) -> str:
    """Return a line of robots.txt, with the agent of a group as "*", as our token, or as nobody.

    Protego takes a version for a part of the name, and a name for another one that begins with it.
    """
    found = _AGENT_LINE.match(line)
    if not found:
        return line
    agent = found[1].strip()
    if agent and not agent.strip("*/ \t"):
        return "User-agent: *"
    names = map(str.lower, _PRODUCT.findall(agent))  # some name several, or copy all of what a log has
    return f"User-agent: {token if token.lower() in names else _NOBODY}"


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
