"""Which URLs a crawl may fetch, and which hosts may join it in a later round."""

from __future__ import annotations

import functools
import re
from urllib.parse import urlsplit

from rag_hpc.sources.crawl.config import ScopeName, SiteConfig
from rag_hpc.sources.crawl.urls import host_key, host_name, normalise_url


class Scope:
    """The rules of a corpus: `corpus.allow` and `corpus.deny` for every URL, `corpus.scope` for other hosts."""

    def __init__(self, corpus: SiteConfig) -> None:
        self._allow = [re.compile(pattern) for pattern in corpus.allow]
        self._deny = [re.compile(pattern) for pattern in corpus.deny]
        self._kind = corpus.scope
        seeds = [url for seed in corpus.seeds if (url := normalise_url(seed))]
        self._hosts = {host_key(url) for url in seeds}
        self._ports = {None, 80, 443} | {_port(host) for host in self._hosts}  # None: the scheme's own
        self._domains = tuple({host_name(host).removeprefix("www.") for host in self._hosts})
        self.admits_host = functools.lru_cache(maxsize=1 << 16)(self._admits_host)

    def permits(self, url: str) -> bool:
        """Return True if the patterns let `url` be fetched."""
        allowed = not self._allow or any(pattern.search(url) for pattern in self._allow)
        return allowed and not any(pattern.search(url) for pattern in self._deny)

    def admits(self, url: str) -> bool:
        """Return True if `url`, on a host other than the one that links to it, may be fetched in a later round."""
        return self.admits_host(host_key(url)) and self.permits(url)

    def _admits_host(self, host: str) -> bool:
        if _port(host) not in self._ports:  # links are no means to reach other services
            return False
        if self._kind is ScopeName.any:
            return True
        name = host_name(host)
        if self._kind is ScopeName.host:
            return host in self._hosts
        return any(name == domain or name.endswith(f".{domain}") for domain in self._domains)


def _port(host: str) -> int | None:
    return urlsplit(f"//{host}").port
