"""Revisit records of an archive (ISO 28500, 6.7): captures whose payload was archived before, which they refer to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from rag_hpc.stores.page import Page, Reject

MAX_REVISITS = 1_000_000  # of an archive that are looked up, about 1 KB each


@dataclass(frozen=True, kw_only=True)
class Revisit:
    """A capture without payload, and what it says of the one that has it."""

    uri: str
    record_id: str
    target: str
    date: str
    digest: str

    @classmethod
    def of(cls, headers: Any, uri: str) -> Self:
        """Return what the headers of a record say."""
        return cls(
            uri=uri,
            record_id=_text(headers, "WARC-Refers-To").strip("<> "),
            target=_text(headers, "WARC-Refers-To-Target-URI").strip("<> "),
            date=_text(headers, "WARC-Refers-To-Date"),
            digest=_text(headers, "WARC-Payload-Digest").lower(),
        )

    @property
    def keys(self) -> Iterator[tuple[str, ...]]:
        """What names the original."""
        if self.record_id:
            yield ("id", self.record_id)
        if self.target:
            yield ("uri", self.target, self.date) if self.date else ("uri", self.target)
        if self.digest:
            yield ("digest", self.digest)

    def reject(self) -> Reject:
        """Return why it is no page."""
        named = self.target or self.record_id or self.digest or "a capture that it does not name"
        return Reject(id=self.uri, reason="revisit", detail=f"the same as {named} {self.date}".rstrip())


class Revisits:
    """The revisits of an archive, until their originals are met."""

    def __init__(self) -> None:
        self._open: dict[int, Revisit] = {}
        self._of_key: dict[tuple[str, ...], list[int]] = {}
        self._wanting: list[int] = []  # of the original that was met last

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, revisit: Revisit) -> Reject | None:
        """Keep a revisit; return the Reject of one that is not looked up: of its own URI, which is a page already."""
        if revisit.target == revisit.uri or len(self._open) >= MAX_REVISITS:
            return revisit.reject()
        number = len(self._open)
        self._open[number] = revisit
        for key in revisit.keys:
            self._of_key.setdefault(key, []).append(number)
        return None

    def refer_to(self, headers: Any, uri: str) -> bool:
        """Return whether an open revisit refers to the record with these headers; `pages` is about the last such."""
        record_id, date = _text(headers, "WARC-Record-ID").strip("<> "), _text(headers, "WARC-Date")
        digest = _text(headers, "WARC-Payload-Digest").lower()
        keys = (("id", record_id), ("uri", uri, date), ("uri", uri), ("digest", digest))
        numbers = dict.fromkeys(number for key in keys for number in self._of_key.get(key, ()))
        self._wanting = [number for number in numbers if number in self._open and self._open[number].uri != uri]
        return bool(self._wanting)

    def pages(self, original: Page) -> Iterator[Page]:
        """Yield the revisits of the page that `refer_to` was asked about, as pages of their own URIs."""
        for number in self._wanting:
            uri = self._open.pop(number).uri
            meta = {**original.meta, "revisit_of": original.url}
            yield replace(original, doc_id=uri, url=uri, meta=meta, links=list(original.links))

    def rejects(self) -> Iterator[Reject]:
        """Yield those whose originals are not in the archive."""
        for revisit in self._open.values():
            yield revisit.reject()


def _text(headers: Any, name: str) -> str:
    return (headers.get(name) or "").strip()
