"""clean: from pages to the text of documents; filters that give their reason, and masks for personal data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.algo.extract.decode import clean_text
from rag_hpc.algo.extract.extract import Extracted, ExtractError, Extractor, extract
from rag_hpc.algo.quality.c4 import c4_edits
from rag_hpc.algo.quality.filters import LIMITS, NO_LIMITS, chosen_filters, reject_reason
from rag_hpc.algo.quality.gopher import QualityLimits, gopher_reason
from rag_hpc.algo.quality.language import language, language_reason
from rag_hpc.algo.quality.pii import pii_edits
from rag_hpc.algo.text.edits import Edit, Heading, apply_edits, move_headings
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError, Interrupted
from rag_hpc.sources.base import ROUNDS
from rag_hpc.stores.documents import open_documents
from rag_hpc.stores.pages import COLUMNS, iter_pages, pages_of
from rag_hpc.stores.tables import Rejects

NO_TEXT = ("empty", "no-text")
WARM_UP = b"<title>A page</title><h1>A page</h1><p>" + b"Some words of a page. " * 20
_READ = tuple(name for name in COLUMNS if name != "links")
_AHEAD, _AHEAD_CHARS = 64, 4_000_000  # pages, and characters of their texts


@dataclass(kw_only=True)
class CleanConfig:
    """Settings of the clean stage."""

    extractor: Extractor = Extractor.density
    min_chars: int | None = None  # null, here and below: as LIMITS says, or no limit with keep_all
    max_chars: int | None = None
    min_letters: float | None = None  # of the characters that are not blank
    max_repeated: float | None = None  # of the characters: those in lines that stood before, as in menus gone wrong
    keep_all: bool = field(default=False, metadata={"output": False})  # its limits are, and they are settings
    languages: list[str] = field(default_factory=list)  # ISO 639-1 codes to keep; empty keeps all
    # filters by name, or sets of them: gopher, gopher-quality, gopher-repetition, c4; "-name" takes one away again.
    # None by default: they are made for prose, and pages of documentation repeat themselves, hold tables and code.
    quality: list[str] = field(default_factory=list)
    quality_limits: QualityLimits = field(default_factory=QualityLimits)
    mask_pii: bool = False  # e-mail and public IP addresses, phone, card and account numbers, keys and tokens

    def __post_init__(self) -> None:
        for name, limit in (NO_LIMITS if self.keep_all else LIMITS).items():
            if getattr(self, name) is None:
                setattr(self, name, limit)
        if not 0 <= self.limits["min_chars"] <= self.limits["max_chars"]:
            raise ConfigError(
                f"stage.clean: min_chars={self.min_chars} must lie between 0 and "
                f"max_chars={self.max_chars}; try min_chars=50"
            )
        for name in ("min_letters", "max_repeated"):
            if not 0 <= self.limits[name] <= 1:
                raise ConfigError(f"stage.clean.{name}={self.limits[name]}: a share from 0 to 1; try {LIMITS[name]}")
        for code in self.languages:
            if not re.fullmatch("[a-z]{2,3}", code):
                raise ConfigError(
                    f"stage.clean.languages: {code!r} is no language code of ISO 639-1; write "
                    "stage.clean.languages=[en,de] (in a YAML file no is false, 'no' is Norwegian)"
                )
        chosen_filters(self.quality)

    @property
    def limits(self) -> dict[str, Any]:
        """The limits on any text, none of them null."""
        return {name: getattr(self, name) for name in LIMITS}


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
    version = 6
    needs = ("crawl",)
    wants = ROUNDS[1:]
    counts_from = "crawl"

    def __init__(self, config: CleanConfig) -> None:
        super().__init__(config)
        self._filters = chosen_filters(config.quality)

    def setup(self, ctx: Context) -> None:
        """Compile, or load, what the extractor and the language model need: that is no work on a page."""
        extracted = extract(WARM_UP, "text/html", "utf-8", "", self.config.extractor)
        language(extracted.text)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per crawl unit, the rounds of a crawl one after another."""
        units = [
            (name, unit["index"])
            for name in (*self.needs, *self.wants)
            if name in inputs
            for unit in inputs[name].units
        ]
        return [Unit(i, {"crawl": name, "crawl_unit": index}) for i, (name, index) in enumerate(units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write documents.parquet, rows in the order of the pages; extra counts masked_email, masked_ip and so on."""
        counts, rejects = Counts(), Rejects()
        masked: Counter[str] = Counter()
        crawl = ctx.inputs[unit.inputs["crawl"]]
        with open_documents(out) as documents:
            for page, extracted in self._read_ahead(pages_of(crawl, unit.inputs["crawl_unit"]), ctx):
                counts.items_in += 1
                try:
                    row = self._row(page, extracted, masked)
                except ExtractError as error:
                    rejects.add(page["doc_id"], error.reason, error.detail)
                else:
                    documents.add(page["doc_id"], page["url"], *row)
        counts.items_out, counts.dropped = documents.num_rows, rejects.write(out)
        counts.extra = {f"masked_{kind}": float(masked[kind]) for kind in sorted(masked)}
        return counts

    def _read_ahead(self, path: Path, ctx: Context) -> Iterator[tuple[dict[str, Any], Extracted | ExtractError]]:
        """Yield the pages, without body, and what the extractor made of them. It reads some pages ahead: it and the
        language model, taking turns at every page, throw each other out of the processor's cache."""
        ahead: list[tuple[dict[str, Any], Extracted | ExtractError]] = []
        num_chars = 0
        for page in iter_pages(path, _READ):
            ctx.check_stop()
            try:
                extracted = self._extract(page)
                ahead.append((page, extracted))
                num_chars += len(extracted.text)
            except ExtractError as error:  # anew: its traceback would hold the body
                ahead.append((page, ExtractError(error.reason, page["url"], error.detail)))
            del page["body"]
            if len(ahead) == _AHEAD or num_chars > _AHEAD_CHARS:
                yield from ahead
                ahead, num_chars = [], 0
        yield from ahead

    def _row(
        self, page: dict[str, Any], extracted: Extracted | ExtractError, masked: Counter[str]
    ) -> tuple[str, str, str, str]:
        """Return title, text, lang and meta of a page. Raises ExtractError with the reason why there are none."""
        config, url = self.config, page["url"]
        if isinstance(extracted, ExtractError):
            if extracted.reason not in NO_TEXT or len(page["title"].strip()) < max(1, config.limits["min_chars"]):
                raise extracted
            extracted = Extracted("", clean_text(page["title"]))  # a page of a title only: that is what it says
        document = Document(page["title"] or extracted.title, extracted.text, list(extracted.headings))
        _check(url, self._unfit(document.text))
        spoken = language(document.text, extracted.lang_hint)
        _check(url, language_reason(spoken, config.languages))
        _check(url, gopher_reason(document.text, self._filters, config.quality_limits))
        edits, reason = c4_edits(document.text, self._filters, config.quality_limits)
        _check(url, reason)
        if edits:
            document.edit(edits)
            _check(url, self._unfit(document.text))
        if config.mask_pii:
            _mask(document, masked)
        return document.title, document.text, spoken.code, _meta(page["meta"], extracted, document.headings)

    def _extract(self, page: dict[str, Any]) -> Extracted:
        """Return what the extractor finds; a page that makes it fail costs the page, not the unit."""
        try:
            return extract(page["body"], page["content_type"], page["charset"], page["url"], self.config.extractor)
        except (ExtractError, ConfigError, Interrupted, ImportError, MemoryError):
            raise
        except Exception as error:  # parsers fail in ways of their own
            raise ExtractError("extract-failed", page["url"], f"{type(error).__name__}: {error}"[:200]) from error

    def _unfit(self, text: str) -> tuple[str, str] | None:
        return reject_reason(text, **self.config.limits)


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


def _meta(meta: str, extracted: Extracted, headings: list[Heading]) -> str:
    """Return the page's meta with what its text and markup state; what the source says of a page goes before."""
    stated = {
        "date": extracted.date,
        "canonical": extracted.canonical,
        "declared_lang": extracted.lang_hint,
        "headings": headings,
    }
    if not any(stated.values()):
        return meta
    merged = {name: value for name, value in stated.items() if value} | json.loads(meta)
    return json.dumps(merged, sort_keys=True, ensure_ascii=False)
