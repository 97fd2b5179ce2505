"""Web sites as a source: breadth-first from seeds, each host in one unit, never impolite, every URL accounted for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError
from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.crawl.config import Address, SiteConfig, mapped, parse_resolve
from rag_hpc.sources.crawl.frontier import HostPlan
from rag_hpc.sources.crawl.urls import host_key, host_name, is_loopback_name, normalise_url
from rag_hpc.stores.page import Page, Reject

log = logging.getLogger(__name__)
MAX_KNOWN_URLS = 4_000_000  # of a unit's hosts together, about 1 GB of memory
MAX_HOST_URLS = 1_000_000


class SiteSource:
    """Pages reached from `corpus.seeds`; a host belongs to one part, so politeness needs no coordination."""

    def split(self, corpus: SiteConfig, shared: Path) -> list[dict[str, Any]]:
        """Return parts of `corpus.hosts_per_unit` hosts by name; `corpus.max_pages` is spread evenly over all hosts."""
        by_host: dict[str, dict[str, int]] = {}
        for seed in corpus.seeds:
            url = normalise_url(seed)
            if url is None:
                raise ConfigError(f"corpus.seeds: {seed!r} is no http(s) URL; write it as https://host/path")
            by_host.setdefault(host_key(url), {})[url] = 0
        if not by_host:
            raise ConfigError("corpus.seeds is empty: name at least one URL, corpus.seeds=[https://host/]")
        check_user_agent(corpus.user_agent, by_host, corpus.resolve)
        return deal(by_host, corpus, corpus.max_pages)

    def read(self, part: dict[str, Any], corpus: SiteConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the pages and rejects host by host, each by (depth, order of discovery)."""
        hosts = part["hosts"]
        cap = min(MAX_HOST_URLS, MAX_KNOWN_URLS // len(hosts))
        plans = [
            HostPlan(
                host=item["host"],
                seeds=[(url, depth) for url, depth in item["seeds"]],
                max_pages=item["max_pages"],
                done=frozenset(item.get("done", ())),
                again="done" in item,
                max_urls=cap,
                alone=part.get("alone", False),
            )
            for item in hosts
        ]
        return _crawl(plans, corpus, ctx)


def crawl_host(
    part: dict[str, Any], corpus: SiteConfig, ctx: ReadContext, resolve: dict[str, Address] | None = None
) -> Iterator[Page | Reject]:
    """Yield the pages and rejects of one host by (depth, order of discovery); part = {host, seeds, max_pages}."""
    plan = HostPlan(host=part["host"], seeds=[(url, 0) for url in part["seeds"]], max_pages=part["max_pages"])
    return _crawl([plan], corpus, ctx, resolve)


def _crawl(
    plans: list[HostPlan], corpus: SiteConfig, ctx: ReadContext, resolve: dict[str, Address] | None = None
) -> Iterator[Page | Reject]:
    from rag_hpc.sources.crawl.crawler import crawl_hosts  # an event loop and TLS, which planning a run does without

    return crawl_hosts(plans, corpus, ctx, resolve)


def deal(
    by_host: Mapping[str, Mapping[str, int]], corpus: SiteConfig, max_pages: int, had: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Return the parts of some hosts: {"hosts": [{host, seeds, max_pages}]}, hosts by name, dealt like cards; the only
    part has "alone", too.

    by_host: host key -> seed -> depth; the ports of a name are in one part, and share the cap of a host.
    `max_pages` (0 = no cap) is spread evenly, the first hosts get the rest; `had`: name -> pages that earlier rounds
    got of it, within that cap. Hosts without a page to fetch are left out.
    """
    own = _own_caps(by_host, corpus.max_pages_per_host, had or {})
    hosts = list(own)
    shares = _shares(max_pages, len(hosts))
    if len(shares) < len(by_host):
        log.warning("corpus.max_pages=%d: %d hosts get no page", corpus.max_pages, len(by_host) - len(shares))
    items = [
        {
            "host": host,
            "seeds": [list(seed) for seed in by_host[host].items()],
            "max_pages": min((n for n in (share, own[host]) if n), default=0),
        }
        for host, share in zip(hosts, shares, strict=False)
    ]
    names = [[*group] for _, group in groupby(items, key=lambda item: host_name(str(item["host"])))]
    num_parts = -(-len(names) // corpus.hosts_per_unit)
    alone = {"alone": True} if num_parts == 1 else {}
    return [{"hosts": [*chain.from_iterable(names[number::num_parts])], **alone} for number in range(num_parts)]


def check_user_agent(user_agent: str, hosts: Iterable[str], resolve: dict[str, str] | None = None) -> None:
    """Raise ConfigError unless the user agent fits a header, and names a contact if a host is not this machine."""
    addresses = parse_resolve(resolve or {})
    if not user_agent.isascii() or not user_agent.isprintable() or not user_agent.strip():
        raise ConfigError(f"corpus.user_agent={user_agent!r}: printable ASCII on one line is needed")
    strangers = [host for host in hosts if not is_loopback_name((mapped(addresses, host) or (host,))[0])]
    if strangers and "@" not in user_agent and "http" not in user_agent:
        raise ConfigError(
            f"corpus.user_agent={user_agent!r} names no contact, and {strangers[0]} belongs to someone: set "
            "corpus.user_agent='rag-hpc/0.1 (+https://your.page; you@your.org)'"
        )


def _own_caps(hosts: Iterable[str], cap: int, had: Mapping[str, int]) -> dict[str, int]:
    """Return what is left of each host's own cap (0 = no cap), by name; hosts that have nothing left are not there."""
    caps: dict[str, int] = {}
    for name, group in groupby(sorted(hosts, key=lambda host: (host_name(host), host)), key=host_name):
        ports, left = list(group), cap - had.get(name, 0)
        if not cap:
            caps.update(dict.fromkeys(ports, 0))
        elif left > 0:
            caps.update(zip(ports, _shares(left, len(ports)), strict=False))
    return caps


def _shares(max_pages: int, num_hosts: int) -> list[int]:
    """Return the caps of the hosts that get at least one page; 0 = no cap."""
    if max_pages == 0 or num_hosts == 0:
        return [0] * num_hosts
    base, rest = divmod(max_pages, num_hosts)
    return [share for index in range(num_hosts) if (share := base + (index < rest))]
