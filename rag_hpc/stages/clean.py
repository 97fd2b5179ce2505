"""clean: from pages to the text of documents; filters that give their reason, and masks for personal data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.algo.c4 import c4_edits
from rag_hpc.algo.edits import Edit, Heading, apply_edits, move_headings
from rag_hpc.algo.extract import Extracted, ExtractError, Extractor, extract
from rag_hpc.algo.filters import chosen_filters, reject_reason
from rag_hpc.algo.language import language, language_reason
from rag_hpc.algo.pii import pii_edits
from rag_hpc.algo.quality import QualityLimits, gopher_reason
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import Rejects, TableWriter
from rag_hpc.errors import ConfigError, Interrupted
from rag_hpc.pagestore import COLUMNS as PAGE_COLUMNS
from rag_hpc.pagestore import iter_pages
from rag_hpc.sources.base import MAX_ROUNDS

DOCUMENTS = "documents.parquet"
WARM_UP = b"<title>A page</title><h1>A page</h1><p>" + b"Some words of a page. " * 20
_READ = tuple(name for name in PAGE_COLUMNS if name != "links")
_AHEAD, _AHEAD_CHARS = 64, 4_000_000  # pages, and characters of their texts
COLUMNS = {"doc_id": "string", "url": "string", "title": "string", "text": "string", "lang": "string", "meta": "string"}


@dataclass(kw_only=True)
class CleanConfig:
    """Settings of the clean stage."""

    extractor: Extractor = Extractor.density
    min_chars: int = 50
    max_chars: int = 2_000_000
    languages: list[str] = field(default_factory=list)  # ISO 639-1 codes to keep; empty keeps all
    # filters by name, or sets of them: gopher, gopher-quality, gopher-repetition, c4; "-name" takes one away again.
    # None by default: they are made for prose, and pages of documentation repeat themselves, hold tables and code.
    quality: list[str] = field(default_factory=list)
    quality_limits: QualityLimits = field(default_factory=QualityLimits)
    mask_pii: bool = False  # e-mail and public IP addresses, phone, card and account numbers, keys and tokens

    def __post_init__(self) -> None:
        if not 0 <= self.min_chars <= self.max_chars:
            raise ConfigError(f"stage.clean: min_chars={self.min_chars} must lie between 0 and "
                              f"max_chars={self.max_chars}; try min_chars=50")
        for code in self.languages:
            if not re.fullmatch("[a-z]{2,3}", code):
                raise ConfigError(f"stage.clean.languages: {code!r} is no language code of ISO 639-1; write "
                                  "stage.clean.languages=[en,de] (in a YAML file no is false, 'no' is Norwegian)")
        chosen_filters(self.quality)


@dataclass
class Document:
    """What is left of a page, while filters and masks edit it."""

    title: str
    text: str
    headings: list[Heading]

    def edit(self, edits: list[Edit]) -> None:
        """Change the text; headings move with it, those that an edit changed are lost."""
        self.headings = move_headings(self.headings, edits)
        self.text = apply_edits(self.text, edits)


class Clean(Stage):
    """Extracts main text and drops what is no document."""

    Config: ClassVar[type] = CleanConfig
    name = "clean"
    version = 3
    needs = ("crawl",)
    wants = tuple(f"crawl.{number}" for number in range(2, MAX_ROUNDS + 1))
    counts_from = "crawl"

    def __init__(self, config: CleanConfig) -> None:
        super().__init__(config)
        self._filters = chosen_filters(config.quality)

    def setup(self, ctx: Context) -> None:
        """Compile, or load, what the extractor and the language model need: that is no work on a page."""
        found = extract(WARM_UP, "text/html", "utf-8", "", self.config.extractor)
        language(found.text)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per crawl unit, the rounds of a crawl one after another."""
        units = [(name, unit["index"]) for name in (*self.needs, *self.wants) if name in inputs
                 for unit in inputs[name].units]
        return [Unit(i, {"crawl": name, "crawl_unit": index}) for i, (name, index) in enumerate(units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write documents.parquet, rows in the order of the pages; extra counts masked_email, masked_ip and so on."""
        counts, rejects = Counts(), Rejects()
        masked: Counter[str] = Counter()
        crawl = ctx.inputs[unit.inputs["crawl"]]
        with TableWriter(out / DOCUMENTS, COLUMNS) as documents:
            for page, found in self._found(crawl.unit_dir(unit.inputs["crawl_unit"]), ctx):
                counts.items_in += 1
                try:
                    row = self._row(page, found, masked)
                except ExtractError as error:
                    rejects.add(page["doc_id"], error.reason, error.detail)
                else:
                    documents.add(page["doc_id"], page["url"], *row)
        counts.items_out, counts.dropped = documents.num_rows, rejects.write(out)
        counts.extra = {f"masked_{kind}": float(masked[kind]) for kind in sorted(masked)}
        return counts

    def _found(self, unit_dir: Path, ctx: Context) -> Iterator[tuple[dict[str, Any], Extracted | ExtractError]]:
        """Yield the pages, without body, and what the extractor made of them. It reads some pages ahead: it and the
        language model, taking turns at every page, throw each other out of the processor's cache."""
        ahead: list[tuple[dict[str, Any], Extracted | ExtractError]] = []
        num_chars = 0
        for page in iter_pages(unit_dir, _READ):
            ctx.check_stop()
            try:
                found = self._extract(page)
                ahead.append((page, found))
                num_chars += len(found.text)
            except ExtractError as error:  # anew: its traceback would hold the body
                ahead.append((page, ExtractError(error.reason, page["url"], error.detail)))
            del page["body"]
            if len(ahead) == _AHEAD or num_chars > _AHEAD_CHARS:
                yield from ahead
                ahead, num_chars = [], 0
        yield from ahead

    def _row(
        self, page: dict[str, Any], found: Extracted | ExtractError, masked: Counter[str]
    ) -> tuple[str, str, str, str]:
        """Return title, text, lang and meta of a page. Raises ExtractError with the reason why there are none."""
        config, url = self.config, page["url"]
        if isinstance(found, ExtractError):
            raise found
        document = Document(page["title"] or found.title, found.text, list(found.headings))
        _check(url, self._unfit(document.text))
        spoken = language(document.text, found.lang_hint)
        _check(url, language_reason(spoken, config.languages))
        _check(url, gopher_reason(document.text, self._filters, config.quality_limits))
        edits, reason = c4_edits(document.text, self._filters, config.quality_limits)
        _check(url, reason)
        if edits:
            document.edit(edits)
            _check(url, self._unfit(document.text))
        if config.mask_pii:
            _mask(document, masked)
        return document.title, document.text, spoken.code, _meta(page["meta"], found, document.headings)

    def _extract(self, page: dict[str, Any]) -> Extracted:
        """Return what the extractor finds; a page that makes it fail costs the page, not the unit."""
        try:
            return extract(page["body"], page["content_type"], page["charset"], page["url"], self.config.extractor)
        except (ExtractError, ConfigError, Interrupted, ImportError, MemoryError):
            raise
        except Exception as error:  # parsers fail in ways of their own
            raise ExtractError("extract-failed", page["url"], f"{type(error).__name__}: {error}"[:200]) from error

    def _unfit(self, text: str) -> tuple[str, str] | None:
        return reject_reason(text, min_chars=self.config.min_chars, max_chars=self.config.max_chars)


def _check(url: str, reason: tuple[str, str] | None) -> None:
    if reason:
        raise ExtractError(reason[0], url, reason[1])


def _mask(document: Document, masked: Counter[str]) -> None:
    edits, counts = pii_edits(document.text)
    document.edit(edits)
    masked.update(counts)
    edits, counts = pii_edits(document.title)
    document.title = apply_edits(document.title, edits)
    masked.update(counts)


def _meta(meta: str, found: Extracted, headings: list[Heading]) -> str:
    """Return the page's meta with what its text and markup state; what the source says of a page goes before."""
    stated = {"date": found.date, "canonical": found.canonical, "declared_lang": found.lang_hint,
              "headings": headings}
    if not any(stated.values()):
        return meta
    merged = {name: value for name, value in stated.items() if value} | json.loads(meta)
    return json.dumps(merged, sort_keys=True, ensure_ascii=False)
