"""clean: from pages to the text of documents, with language and length filters that give their reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.algo.extract import Extracted, ExtractError, Extractor, extract
from rag_hpc.algo.filters import language, reject_reason
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import Rejects, TableWriter, read_table
from rag_hpc.errors import ConfigError

DOCUMENTS = "documents.parquet"
COLUMNS = {"doc_id": "string", "url": "string", "title": "string", "text": "string", "lang": "string", "meta": "string"}


@dataclass(kw_only=True)
class CleanConfig:
    """Settings of the clean stage."""

    extractor: Extractor = Extractor.resiliparse
    min_chars: int = 50
    max_chars: int = 2_000_000
    languages: list[str] = field(default_factory=list)  # ISO 639-1 codes to keep; empty keeps all

    def __post_init__(self) -> None:
        if not 0 <= self.min_chars <= self.max_chars:
            raise ConfigError(f"stage.clean: min_chars={self.min_chars} must lie between 0 and "
                              f"max_chars={self.max_chars}; try min_chars=50")


class Clean(Stage):
    """Extracts main text and drops what is no document."""

    Config: ClassVar[type] = CleanConfig
    name = "clean"
    version = 1
    needs = ("crawl",)
    counts_from = "crawl"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per crawl unit."""
        return [Unit(i, {"crawl_unit": unit["index"]}) for i, unit in enumerate(inputs["crawl"].units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write documents.parquet, rows in the order of the pages."""
        counts, rejects = Counts(), Rejects()
        pages = read_table(ctx.inputs["crawl"].unit_dir(unit.inputs["crawl_unit"]) / "pages.parquet")
        with TableWriter(out / DOCUMENTS, COLUMNS) as documents:
            for batch in pages.to_batches(max_chunksize=64):
                for page in batch.to_pylist():
                    ctx.check_stop()
                    counts.items_in += 1
                    self._clean(page, documents, rejects)
        counts.items_out, counts.dropped = documents.num_rows, rejects.write(out)
        return counts

    def _clean(self, page: dict[str, Any], documents: TableWriter, rejects: Rejects) -> None:
        try:
            found: Extracted = extract(page["body"], page["content_type"], page["charset"], page["url"],
                                       self.config.extractor)
        except ExtractError as error:
            rejects.add(page["doc_id"], error.reason, str(error))
            return
        lang, _ = language(found.text)
        reason = reject_reason(found.text, min_chars=self.config.min_chars, max_chars=self.config.max_chars,
                               languages=self.config.languages)
        if reason:
            rejects.add(page["doc_id"], reason, f"{len(found.text)} characters, language {lang}")
        else:
            title = page["title"] or found.title
            documents.add(page["doc_id"], page["url"], title, found.text, lang, page["meta"])
