"""Many hosts crawled at once in one process: the generators of frontier.py, fed from the journal or the network."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from math import inf
from typing import Any

from rag_hpc.errors import Interrupted
from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.crawl.client import HostClient, Network, Pace, Sleep
from rag_hpc.sources.crawl.config import Address, SiteConfig, parse_resolve
from rag_hpc.sources.crawl.frontier import Found, HostCrawl, HostPlan
from rag_hpc.sources.crawl.journal import Ask, Journal, Reply
from rag_hpc.sources.crawl.scope import Scope
from rag_hpc.sources.crawl.urls import host_key, host_name
from rag_hpc.stores.page import Page, Reject

BLOCK = 16  # items of a host that lie together in the output
TICK_S = 0.5  # how often a crawl looks whether it has to stop and which replies are late


def crawl_hosts(
    plans: Sequence[HostPlan],
    corpus: SiteConfig,
    ctx: ReadContext,
    resolve: dict[str, Address] | None = None,
    sleep: Sleep = asyncio.sleep,
) -> Iterator[Page | Reject]:
    """Yield the pages and rejects of the hosts, each host's by (depth, order of discovery).

    They come in blocks of BLOCK items of a host: the first block of each host, hosts in the order of `plans`, then the
    second ones. So the order does not depend on time, and a block's pages are stored while the next is crawled, by a
    thread of its own. `corpus.resolve` goes before `resolve`. Replies are kept in `ctx.carry`, so that another call
    with the same arguments goes on where a killed one stood. Raises Interrupted.
    """
    with closing(Journal(ctx.carry, ctx.attempt)) as journal, closing(Journal(ctx.carry, None)) as store:
        earlier = Earlier(ctx.previous, {plan.host for plan in plans}, store)
        crawler = Crawler(plans, corpus, ctx, journal, earlier)
        crawler.resolve = {**(resolve or {}), **parse_resolve(corpus.resolve)}
        crawler.sleep = sleep
        thread = threading.Thread(target=crawler.main, name="crawl", daemon=True)
        thread.start()
        try:
            while (item := crawler.found.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item if isinstance(item, Reject) else _page(item, journal)
        finally:
            crawler.abandoned = True
            thread.join()


class Crawler:
    """The crawl of a unit's hosts; `found` gets the items in their order, then None, or what went wrong."""

    def __init__(
        self, plans: Sequence[HostPlan], corpus: SiteConfig, ctx: ReadContext, journal: Journal, earlier: Earlier
    ) -> None:
        scope = Scope(corpus)
        self.found: queue.SimpleQueue[Found | Reject | BaseException | None] = queue.SimpleQueue()
        self.abandoned = False  # nobody takes the items any more
        self.resolve: dict[str, Address] = {}
        self.sleep: Sleep = asyncio.sleep
        self._hosts = [HostCrawl(plan, corpus, scope) for plan in plans]
        self._plans, self._corpus, self._ctx, self._journal, self._earlier = plans, corpus, ctx, journal, earlier
        self._complete: list[float] = [0] * len(plans)  # blocks of each host; inf when it has ended
        self._paces: dict[str, Pace] = {}
        self._next = 0  # the block that is put out next

    def main(self) -> None:
        """Crawl, in an event loop of this thread's own."""
        try:
            asyncio.run(self._run())
            self.found.put(None)
        except BaseException as error:  # noqa: BLE001  handed to the thread that takes the items
            self.found.put(error)

    async def _run(self) -> None:
        corpus = self._corpus
        network = Network(
            user_agent=corpus.user_agent,
            timeout_s=corpus.timeout_s,
            allow_private=corpus.allow_private,
            max_ratio=corpus.max_ratio,
            resolve=self.resolve,
            validators=self._earlier.validators,
            sleep=self.sleep,
            concurrency=corpus.concurrency,
        )
        work = asyncio.gather(*(self._crawl(number, network) for number in range(len(self._hosts))))
        watch = asyncio.ensure_future(self._watch(network))
        try:
            done, _ = await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _crawl(self, number: int, network: Network) -> None:
        """Walk one host: what the journal holds first, then over the network."""
        plan, host, journal = self._plans[number], self._hosts[number], self._journal
        pace = self._pace(plan.host, network, again=plan.again)
        clients = {plan.host: HostClient(plan.host, network, pace)}  # and of hosts that have its sitemaps
        steps = host.run()
        try:
            ask = next(steps)
            while True:
                known = ask.key in journal
                pace.delay_s = max(pace.delay_s, host.delay_s)
                if (key := host_key(ask.url)) not in clients:
                    clients[key] = HostClient(key, network, self._pace(key, network))
                reply = journal.get(ask.key) if known else self._earlier.completed(ask, await clients[key].get(ask))
                if not known:
                    journal.add(ask.key, reply)
                ask = steps.send(reply)
                self._hand_over(number)
                if known:
                    await asyncio.sleep(0)
        except StopIteration:
            self._hand_over(number, ended=True)
        finally:
            for client in clients.values():
                client.close()

    def _pace(self, host: str, network: Network, *, again: bool = False) -> Pace:
        """Return the pace of a host: one for all its ports, they are one machine's."""
        resumed = self._journal.resumed or again  # an attempt may have asked until it saw that it has to stop
        last_s = time.monotonic() + TICK_S if resumed else None
        return self._paces.setdefault(host_name(host), Pace(self._corpus.delay_s, network.sleep, last_s=last_s))

    def _hand_over(self, number: int, *, ended: bool = False) -> None:
        """Put out the blocks that are now complete: those that every host has completed, or ended without."""
        complete = inf if ended else self._next + len(self._hosts[number].items) // BLOCK
        if complete == self._complete[number]:
            return
        self._complete[number] = complete
        while min(self._complete) > self._next and any(host.items for host in self._hosts):
            self._next += 1
            for host in self._hosts:
                for _ in range(min(BLOCK, len(host.items))):
                    self.found.put(host.items.popleft())

    async def _watch(self, network: Network) -> None:
        """Never return; raise Interrupted when the crawl has to stop."""
        tick_s = min(TICK_S, network.timeout_s / 4)
        while True:
            if self.abandoned or self._ctx.should_stop():
                raise Interrupted("crawl: stopped; what was fetched is kept in the unit's journal, run again to go on")
            network.check()
            await asyncio.sleep(tick_s)


class Earlier:
    """Pages of an earlier run: what makes a request conditional, and the body when nothing has changed."""

    def __init__(self, rows: Iterator[dict[str, Any]], hosts: set[str], store: Journal) -> None:
        self._store = store
        self._known: dict[str, tuple[str, str]] = {}
        for row in rows:
            meta = json.loads(row["meta"])
            known = meta.get("etag", ""), meta.get("last_modified", "")
            if any(known) and host_key(row["doc_id"]) in hosts:
                self._known[row["doc_id"]] = known
                kind = f"{row['content_type']}; charset={row['charset']}"
                store.add(
                    row["doc_id"],
                    Reply(
                        url=row["doc_id"],
                        status=200,
                        content_type=kind,
                        etag=known[0],
                        last_modified=known[1],
                        body=row["body"],
                    ),
                )

    def validators(self, url: str) -> tuple[str, str] | None:
        """Return ETag and Last-Modified that the page had, None if we have no such page."""
        return self._known.get(url)

    def completed(self, ask: Ask, reply: Reply) -> Reply:
        """Return the reply, or the page that we have when it says "not modified" to a question of ours."""
        if reply.status != 304 or ask.kind != "page" or ask.url not in self._known:
            return reply
        kept = self._store.get(ask.url)
        return dataclasses.replace(
            kept,
            reused=True,
            fetched_unix=reply.fetched_unix,
            etag=reply.etag or kept.etag,
            last_modified=reply.last_modified or kept.last_modified,
        )


def _page(found: Found, journal: Journal) -> Page:
    reply = journal.get(found.key)
    return Page(
        doc_id=found.doc_id,
        url=found.doc_id,
        body=reply.body,
        content_type=found.content_type,
        charset=found.charset,
        meta=found.meta,
        links=found.links,
        fetched_unix=reply.fetched_unix,
        reused=reply.reused,
    )
