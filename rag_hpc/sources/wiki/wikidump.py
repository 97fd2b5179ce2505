"""Wikipedia XML dumps as a source: pages-articles.xml, plain or packed, one page an article.

Format: https://www.mediawiki.org/wiki/Help:Export. A part is a byte range of a plain or bzip2 file that begins where a
bzip2 stream begins (multistream dumps have one per hundred pages; no index is needed to find them). It owns the pages
whose tag begins in it. Each page is parsed by itself, so a bad one costs nothing else, and a document type, without
which there are no entities to expand, can not stand in it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.parsers import expat

from rag_hpc.core.settings import bounded
from rag_hpc.errors import InputError
from rag_hpc.sources.base import PathConfig, ReadContext, SourceName
from rag_hpc.sources.files.compress import CHUNK, TruncatedStream, stream_chunks
from rag_hpc.sources.files.paths import (
    PathSource,
    cap_parts,
    corpus_root,
    file_item,
    follows,
    item_reject,
    planned_file,
    take_pages,
)
from rag_hpc.stores.page import Page, Reject

SUFFIXES = (".xml", ".xml.gz", ".xml.bz2", ".xml.zst")
MAX_DEPTH = 8  # of elements in a page
MAX_DIGITS = 18  # of a page id
HEAD_BYTES = 1 << 18
_OPEN, _CLOSE, _END = b"<page>", b"</page>", b"</mediawiki>"
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
_BASE = re.compile(rb"<base>\s*(https?://[^<>\s]{1,500}/)[^</]*</base>")
_NAMESPACE = re.compile(rb'<namespace key="(6|14)"[^>]{0,200}>([^<]{1,100})</namespace>')
_FIELDS = {
    "page/title",
    "page/ns",
    "page/id",
    "page/revision/id",
    "page/revision/timestamp",
    "page/revision/model",
    "page/revision/text",
}


@dataclass(kw_only=True)
class WikiDumpConfig(PathConfig):
    """Settings of `corpus=wikidump`."""

    source: SourceName = SourceName.wikidump
    unit_bytes: int = bounded(64 << 20, 1)  # of the file, as it lies there


class WikiDumpSource(PathSource):
    """Articles of dumps; ids are their URLs, or "wiki:PAGE_ID" if the dump names no site."""

    def split(self, corpus: WikiDumpConfig, shared: Path) -> list[dict[str, Any]]:
        """Return one part per `unit_bytes` of a plain or bzip2 file, one per file that is packed otherwise."""
        root = corpus_root(corpus.path)
        parts: list[dict[str, Any]] = []
        for name in self.corpus_files(corpus, lambda name: name.lower().endswith(SUFFIXES), "/".join(SUFFIXES)):
            item = file_item(root, name, follow=follows(corpus))
            if item_reject(item) is not None:
                parts.append(item)
                continue
            site = _site(root / name)
            parts += [
                {**item, **site, "start": start, "stop": stop}
                for start, stop in _ranges(root / name, item["size"], corpus.unit_bytes)
            ]
        return cap_parts(parts, corpus.max_pages, lambda part: _read(root, part, corpus.max_page_bytes))

    def read(self, part: dict[str, Any], corpus: WikiDumpConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the part's pages and rejects in file order."""
        with closing(_read(corpus_root(corpus.path), part, corpus.max_page_bytes)) as found:
            yield from take_pages(found, part["max_pages"])


class BadPage(InputError):
    """A page that is no article; `reason` is the slug of its Reject."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def parse_page(xml: bytes) -> dict[str, str]:
    """Return title, ns, id, redirect (its target) and the last revision's revision/id, .../timestamp, .../model and
    .../text of one <page> element. Raises BadPage malformed.
    """
    found: dict[str, list[str]] = {}
    path: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        if len(path) > MAX_DEPTH:
            raise BadPage("malformed", f"elements more than {MAX_DEPTH} deep")
        here = "/".join(path)
        if here in _FIELDS:
            found[here] = []
        elif here == "page/redirect":
            found[here] = [attributes.get("title", "")]

    def data(text: str) -> None:
        here = "/".join(path)
        if here in _FIELDS:
            found[here].append(text)

    def end(name: str) -> None:
        path.pop()

    def doctype(*_: object) -> None:
        raise BadPage("malformed", "a document type inside a page")

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, ValueError) as error:
        raise BadPage("malformed", str(error)) from error
    return {here.removeprefix("page/"): "".join(texts) for here, texts in found.items()}


def article(fields: dict[str, str], site: dict[str, Any]) -> Page:
    """Return the page of a parsed article. Raises BadPage: malformed, redirect, namespace-N, model, no-text.

    `site`: {base, files, categories} of the dump it is from.
    """
    from rag_hpc.sources.wiki.wikitext import plain_text  # its patterns, which planning a run does without

    title, page_id = fields.get("title", "").strip(), fields.get("id", "").strip()
    if not title or not page_id.isdecimal() or len(page_id) > MAX_DIGITS:
        raise BadPage("malformed", "no title or no id")
    if "redirect" in fields:
        raise BadPage("redirect", f"to {fields['redirect']}"[:200])
    if (namespace := fields.get("ns", "0").strip()) != "0":
        raise BadPage(f"namespace-{namespace}" if namespace.lstrip("-").isdecimal() else "malformed")
    if (model := fields.get("revision/model", "wikitext")) != "wikitext":
        raise BadPage("model", f"{model[:50]}, not wikitext")
    text, categories = plain_text(fields.get("revision/text", ""), site["files"], site["categories"])
    if not text:
        raise BadPage("no-text", "nothing is left without templates and files")
    url = article_url(site["base"], title)
    meta = {
        "page_id": int(page_id),
        "revision": fields.get("revision/id", ""),
        "timestamp": fields.get("revision/timestamp", ""),
        "categories": categories,
    }
    return Page(
        doc_id=url or f"wiki:{page_id}",
        url=url,
        body=text.encode(),
        content_type="text/markdown",
        charset="utf-8",
        title=title,
        meta=meta,
    )


def article_url(base: str, title: str) -> str:
    """Return the URL of an article by its title, "" without a base."""
    return base + quote(title.replace(" ", "_"), safe="/:@!$*(),;~") if base else ""


def split_pages(owned: Iterable[bytes], after: Iterable[bytes] | None, cap: int) -> Iterator[bytes | None]:
    """Yield the <page> elements that begin in `owned`, None for one over `cap` bytes; the last may end in `after`.

    `after` is None if the dump ends with `owned`. Raises TruncatedStream if the last page, or the dump, does not end.
    """
    splitter = _Splitter(cap)
    for chunk in owned:
        yield from splitter.feed(chunk)
    if after is None and not splitter.ended:
        raise TruncatedStream("the file ends without </mediawiki>")
    if after is None or not (splitter.inside or splitter.partial):
        return
    rest = len(_OPEN) - 1  # a tag that begins in `owned` ends within these bytes of `after`, one that begins there not
    for chunk in after:
        if not splitter.inside and splitter.partial:
            head, chunk = chunk[:rest], chunk[rest:]
            rest -= len(head)
            yield from splitter.feed(head)
        if not splitter.inside and (rest == 0 or not splitter.partial):
            return
        for page in splitter.feed(chunk):
            yield page
            return
    if splitter.inside:
        raise TruncatedStream("the file ends in a page")


class _Splitter:
    """Cuts a stream of bytes into pages; holds one page at most, and nothing of one that is over the cap."""

    def __init__(self, cap: int) -> None:
        self.inside = False
        self._cap = cap
        self._held = bytearray()
        self._num_bytes = 0
        self._lost = False  # the page at hand is over the cap

    @property
    def ended(self) -> bool:
        """Return True if the bytes end as a dump does; a range may begin within its last tag."""
        tail = self._held.rstrip()
        return tail.endswith(_END) or (len(self._held) == self._num_bytes and _END.endswith(tail))

    @property
    def partial(self) -> bool:
        """Return True if the bytes at hand may be the beginning of a page's tag."""
        return any(self._held.endswith(_OPEN[:size]) for size in range(1, len(_OPEN)))

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """Yield the pages that end in `chunk`."""
        at = max(0, len(self._held) - len(_CLOSE))
        self._held += chunk
        self._num_bytes += len(chunk)
        while True:
            tag = _CLOSE if self.inside else _OPEN
            place = self._held.find(tag, at)
            if place < 0:
                break
            end, at = place + len(tag), 0
            if self.inside:
                yield None if self._lost or end > self._cap else bytes(self._held[:end])
            self.inside, self._lost = not self.inside, False
            del self._held[: end if tag == _CLOSE else place]
            at = len(_OPEN) if self.inside else 0
        if not self.inside or self._lost or len(self._held) > self._cap:
            self._lost = self.inside
            del self._held[: -len(_END) - 2]


def _read(root: Path, part: dict[str, Any], cap: int) -> Generator[Page | Reject, None, None]:
    name = part["path"]
    if (reject := item_reject(part)) is not None:
        yield reject
        return
    path = planned_file(root, part)
    if part["start"] == 0 and not part["is_dump"]:
        yield Reject(id=name, reason="malformed", detail="no MediaWiki export: it does not begin with <mediawiki>")
        return
    number = 0
    stop = part["stop"]
    rest = None if stop is None else stream_chunks(path, stop)
    with closing(stream_chunks(path, part["start"], stop)) as owned, closing(rest or owned):
        place = f"{name}@{part['start']}"
        try:
            for xml in split_pages(owned, rest, cap):
                yield _page(xml, f"{place}#{number}", part, cap)
                number += 1
        except TruncatedStream as error:
            yield Reject(id=f"{place}#{number}", reason=error.reason, detail=str(error))


def _page(xml: bytes | None, place: str, part: dict[str, Any], cap: int) -> Page | Reject:
    if xml is None:
        return Reject(id=place, reason="too-large", detail=f"a page over {cap} bytes")
    fields: dict[str, str] = {}
    try:
        fields = parse_page(xml)
        return article(fields, part)
    except BadPage as error:
        title = fields.get("title", "").strip()
        name = (article_url(part["base"], title) or title) if title and error.reason != "malformed" else place
        return Reject(id=name, reason=error.reason, detail=error.detail)


def _site(path: Path) -> dict[str, Any]:
    """Return what the dump's head says of its site: base URL and the site's own names of the two namespaces."""
    head = b""
    try:
        with closing(stream_chunks(path)) as chunks:
            for chunk in chunks:
                head += chunk
                if b"</siteinfo>" in head or len(head) > HEAD_BYTES:
                    break
    except TruncatedStream:
        pass  # told when the part is read
    base = _BASE.search(head)
    names = {key: value.decode("utf-8", "replace") for key, value in _NAMESPACE.findall(head)}
    return {
        "is_dump": b"<mediawiki" in head,
        "base": base[1].decode("ascii", "replace") if base else "",
        "files": [names[b"6"]] if b"6" in names else [],
        "categories": [names[b"14"]] if b"14" in names else [],
    }


def _ranges(path: Path, size: int, unit_bytes: int) -> list[tuple[int, int | None]]:
    """Return the byte ranges of a file's parts; None = to the end, for what can only be read as a whole."""
    suffix = path.suffix.lower()
    if suffix not in (".xml", ".bz2") or size <= unit_bytes:
        return [(0, None)]
    if suffix == ".xml":
        starts = list(range(0, size, unit_bytes))
    else:
        starts = [0]
        for place in _stream_starts(path):
            if place - starts[-1] >= unit_bytes:
                starts.append(place)
    return list(zip(starts, [*starts[1:], None], strict=True))


def _stream_starts(path: Path) -> Iterator[int]:
    """Yield where a bzip2 file's streams begin: their first bytes, which packed data hold by chance once in 2^80."""
    length = 10
    held, offset = b"", 0
    with path.open("rb") as file:
        while block := file.read(16 * CHUNK):
            held += block
            for match in _STREAM.finditer(held):
                yield offset + match.start()
            keep = max(0, len(held) - length + 1)
            offset, held = offset + keep, held[keep:]
