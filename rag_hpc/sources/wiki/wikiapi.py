"""Articles of Wikipedia categories through the MediaWiki API: categorymembers, then extracts, as plain text.

Protocol: https://www.mediawiki.org/wiki/API:Query, https://www.mediawiki.org/wiki/Extension:TextExtracts and the
etiquette: requests one after the other, `maxlag`, a user agent with a contact.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from rag_hpc.algo.text.headers import retry_after_s
from rag_hpc.core.fs import canonical_json, publish_file
from rag_hpc.core.settings import DAY_S, bounded
from rag_hpc.core.stored import read_object, sealed_json
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.archives.download import MAX_TRIES, Remote, Waits
from rag_hpc.sources.base import MAX_WAIT_S, FetchConfig, ReadContext, SourceName
from rag_hpc.sources.files.jsonl import BadRecord, parse_record
from rag_hpc.stores.page import Page, Reject

log = logging.getLogger(__name__)

BATCH = 20  # page ids a query; the API gives one whole extract a reply and the rest by `continue`
MAX_LAG_S = 5  # seconds that the wiki's replicas may be behind before it wants to be left alone
MAX_REPLY_BYTES = 64 << 20
MAX_REPLIES = 100_000  # of one continued query
_BUSY = ("maxlag", "ratelimited", "readonly", "internal_api_error_DBQueryError")


@dataclass(kw_only=True)
class WikiApiConfig(FetchConfig):
    """Settings of `corpus=wikiapi`."""

    source: SourceName = SourceName.wikiapi
    base: str | None = None  # URL of api.php
    categories: list[str] = field(default_factory=list)
    max_depth: int = 0  # of subcategories
    pages_per_unit: int = bounded(256, 1)
    delay_s: float = bounded(1.0, 0, DAY_S)  # between two requests of a worker


class WikiApiSource:
    """Articles in `corpus.categories` and their subcategories; ids are the articles' URLs."""

    def split(self, corpus: WikiApiConfig, shared: Path) -> list[dict[str, Any]]:
        """Return parts of `pages_per_unit` page ids in rising order.

        The categories are listed once a run: the list is kept in `shared`, so that a resumed run keeps its plan.
        """
        ids = _listing(corpus, shared)
        if not ids:
            raise InputError(
                f"corpus.categories={list(corpus.categories)}: no article in them at {corpus.base}; the "
                "names are those of the wiki, without 'Category:'"
            )
        ids = ids[: corpus.max_pages or None]
        step = corpus.pages_per_unit
        return [{"page_ids": ids[at : at + step]} for at in range(0, len(ids), step)]

    def read(self, part: dict[str, Any], corpus: WikiApiConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the part's articles and rejects in the order of their ids. Raises InputError if the API fails."""
        api = Api(corpus, Waits(sleep=ctx.sleep, should_stop=ctx.should_stop))
        ids = part["page_ids"]
        for at in range(0, len(ids), BATCH):
            batch = ids[at : at + BATCH]
            found = api.articles(batch)
            for page_id in batch:
                yield article(page_id, found.get(page_id, {}), corpus.max_page_bytes)


class Api:
    """The API of one wiki, asked one question at a time."""

    def __init__(self, corpus: WikiApiConfig, waits: Waits) -> None:
        if not corpus.base:
            raise ConfigError("corpus.base is not set: name the wiki's API, https://en.wikipedia.org/w/api.php")
        self._path = urlsplit(corpus.base).path
        self._remote = Remote(corpus.base, corpus, waits)
        self._delay_s = corpus.delay_s
        self._asked = False

    def members(self, category: str, namespace: int) -> Iterator[dict[str, Any]]:
        """Yield {pageid, ns, title} of a category's members in a namespace (0: articles, 14: categories)."""
        asked = {
            "list": "categorymembers",
            "cmtitle": category,
            "cmnamespace": str(namespace),
            "cmlimit": "max",
            "cmprop": "ids|title",
        }
        for query in self.query(asked):
            for member in _list(query.get("categorymembers")):
                if isinstance(member.get("pageid"), int) and isinstance(member.get("title"), str):
                    yield member

    def articles(self, ids: list[int]) -> dict[int, dict[str, Any]]:
        """Return what the API says of pages by their ids: title, fullurl, lastrevid, extract, or missing, redirect."""
        asked = {
            "prop": "extracts|info",
            "pageids": "|".join(map(str, ids)),
            "explaintext": "1",
            "exlimit": "max",
            "exsectionformat": "wiki",
            "inprop": "url",
        }
        pages: dict[int, dict[str, Any]] = {}
        for query in self.query(asked):
            for page in _list(query.get("pages")):
                if isinstance(page.get("pageid"), int):
                    pages.setdefault(page["pageid"], {}).update(page)
        return pages

    def query(self, asked: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the "query" object of each reply, as long as the API says to continue.

        Raises InputError: an error of the API, a reply that is none, a continuation without end.
        """
        go_on: dict[str, str] = {}
        seen: set[str] = set()
        while True:
            reply = self._reply({**asked, **go_on})
            query = reply.get("query")
            yield query if isinstance(query, dict) else {}
            token = reply.get("continue")
            if not isinstance(token, dict):
                return
            go_on = {str(key): str(value) for key, value in token.items()}
            key = json.dumps(go_on, sort_keys=True)
            if key in seen or len(seen) == MAX_REPLIES:
                raise InputError(f"{self._path}: the API continues at a place where it was before: {key[:200]}")
            seen.add(key)

    def _reply(self, asked: dict[str, str]) -> dict[str, Any]:
        """Return one reply; waits while the wiki says that it is busy."""
        fixed = {"action": "query", "format": "json", "formatversion": "2", "maxlag": str(MAX_LAG_S)}
        target = f"{self._path}?{urlencode(sorted({**fixed, **asked}.items()))}"
        for attempt in range(MAX_TRIES):
            if self._asked:
                self._remote.waits.pause(self._delay_s)
            self._asked = True
            headers, body = self._remote.get(target, MAX_REPLY_BYTES)
            reply = parse_reply(body)
            error = reply.get("error")
            if error is None:
                return reply
            code = error.get("code") if isinstance(error, dict) else error
            if code not in _BUSY or attempt == MAX_TRIES - 1:
                break
            asked_s = retry_after_s(headers.get("Retry-After", ""), time.time())
            wait_s = min(max(2.0**attempt, asked_s or 0.0), MAX_WAIT_S)
            log.info("%s: %s; next try in %g s", self._path, code, wait_s)
            self._remote.waits.pause(wait_s)
        raise InputError(f"{self._path}: the API says {str(error)[:300]}; try again later, or check corpus.categories")


def parse_reply(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a reply. Raises InputError if it is none."""
    try:
        return parse_record(body)
    except BadRecord as error:
        raise InputError(f"the reply is not of a MediaWiki API ({error}): {body[:80]!r}; check corpus.base") from error


def article(page_id: int, page: dict[str, Any], cap: int) -> Page | Reject:
    """Return the page of what the API says of an article, or why there is none."""
    from rag_hpc.sources.wiki.wikitext import markdown_headings  # its patterns, which planning a run does without

    name = f"wiki:{page_id}"
    title, url, extract = (page.get(key) for key in ("title", "fullurl", "extract"))
    if page.get("missing") or not page:
        return Reject(id=name, reason="missing", detail="deleted since the categories were listed")
    if not isinstance(title, str) or not isinstance(url, str):
        return Reject(id=name, reason="malformed", detail="no title or URL in the API's reply")
    if page.get("redirect"):
        return Reject(id=url, reason="redirect")
    if not isinstance(extract, str) or not extract.strip():
        return Reject(id=url, reason="no-text", detail="the API gives no extract")
    body = markdown_headings(extract).encode("utf-8", "replace")
    if len(body) > cap:
        return Reject(id=url, reason="too-large", detail=f"{len(body)} bytes, cap {cap}")
    revision = page.get("lastrevid")
    meta = {"page_id": page_id, "revision": revision if isinstance(revision, int) else None}
    return Page(doc_id=url, url=url, body=body, content_type="text/markdown", charset="utf-8", title=title, meta=meta)


def _listing(corpus: WikiApiConfig, shared: Path) -> list[int]:
    """Return the page ids of the articles, sorted; listed by the first plan of a run, read by the later ones."""
    asked = [corpus.base, list(corpus.categories), corpus.max_depth]
    path = shared / f"wikiapi-{hashlib.sha256(canonical_json(asked)).hexdigest()[:16]}.json"
    if not path.exists():
        if not corpus.categories:
            raise ConfigError("corpus.categories is empty: name at least one, corpus.categories=[Physics]")
        ids = _list_articles(Api(corpus, Waits(sleep=time.sleep, should_stop=lambda: False)), corpus)
        shared.mkdir(parents=True, exist_ok=True)
        publish_file(path, sealed_json({"ids": ids}))
    remedy = "remove it, and the rag-hpc run command given again lists the articles anew"
    return read_object(path, remedy, lambda value: [int(page_id) for page_id in value["ids"]])


def _list_articles(api: Api, corpus: WikiApiConfig) -> list[int]:
    """Return the ids of the articles in the categories and, breadth first, in their subcategories; cycles end."""
    level = [name if ":" in name else f"Category:{name}" for name in corpus.categories]
    seen = set(level)
    ids: set[int] = set()
    for depth in range(corpus.max_depth + 1):
        below: list[str] = []
        for category in level:
            ids.update(member["pageid"] for member in api.members(category, 0))
            if depth < corpus.max_depth:
                below += [member["title"] for member in api.members(category, 14)]
        level = [title for title in dict.fromkeys(below) if title not in seen]
        seen.update(level)
        if not level:
            break
    return sorted(ids)


def _list(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
