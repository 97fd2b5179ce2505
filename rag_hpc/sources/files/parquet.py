"""Parquet tables as a source: a page a row, its fields mapped as those of JSON Lines; a part is some row groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.algo.text.charset import declared_charset
from rag_hpc.errors import InputError
from rag_hpc.sources.base import ReadContext, RecordsConfig, SourceName
from rag_hpc.sources.files.jsonl import HTML_FIELD, BadRecord, Fields, check_fields, check_ids, page_of
from rag_hpc.sources.files.paths import (
    PathSource,
    corpus_root,
    file_item,
    follows,
    item_reject,
    planned_file,
    refused,
)
from rag_hpc.stores.page import Page, Reject

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SUFFIX = ".parquet"
BATCH_BYTES = 32 << 20  # of rows held at a time, by the averages that the file states
MAX_GROUP_BYTES = 4 << 30  # decompressed, of a row group: pyarrow holds a page of each column
MAX_RATIO = 10_000  # decompressed bytes of a row group to those of its file
FREE_BYTES = 1 << 28  # that much may come out whatever the ratio


@dataclass(kw_only=True)
class ParquetConfig(RecordsConfig):
    """Settings of `corpus=parquet`."""

    source: SourceName = SourceName.parquet


class ParquetSource(PathSource):
    """Rows of Parquet files; ids are the id field's, else PATH#ROW."""

    def split(self, corpus: ParquetConfig, shared: Path) -> list[dict[str, Any]]:
        """Return parts of whole row groups with at least `pages_per_unit` rows each, the last may have fewer.

        A file that cannot be opened is a part too, which says so. Raises ConfigError when the first file with rows has
        no column of text, or when ids are those of a file only.
        """
        root, follow = corpus_root(corpus.path), follows(corpus)
        names = self.corpus_files(corpus, lambda name: name.lower().endswith(SUFFIX), SUFFIX)
        _check_columns(root, (name for name in names if not refused(root, name, follow=follow)), Fields.of(corpus))
        parts: list[dict[str, Any]] = []
        items: list[dict[str, Any]] = []
        num_rows = 0
        left = corpus.max_pages or None
        for name in names:
            for item in _items(root, name, follow):
                if left is not None:
                    item["rows"] = min(item["rows"], left)
                    left -= item["rows"]
                items.append(item)
                num_rows += item["rows"]
                if num_rows >= corpus.pages_per_unit:
                    parts.append({"items": items})
                    items, num_rows = [], 0
                if left == 0:
                    break
            if left == 0:
                break
        parts += [{"items": items}] if items else []
        fields, cap = Fields.of(corpus), corpus.max_page_bytes
        check_ids(
            (item for part in parts for item in part["items"] if item.get("first") == 0),
            lambda item: next(read_group(root / item["path"], {**item, "rows": 1}, fields, cap), None),
        )
        return parts

    def read(self, part: dict[str, Any], corpus: ParquetConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the part's pages and rejects in row order. Raises InputError if a file vanished or changed."""
        root = corpus_root(corpus.path)
        for item in part["items"]:
            if (reject := item_reject(item)) is not None:
                yield reject
            else:
                yield from read_group(planned_file(root, item), item, Fields.of(corpus), corpus.max_page_bytes)


def read_group(path: Path, item: dict[str, Any], fields: Fields, cap: int) -> Iterator[Page | Reject]:
    """Yield the pages and rejects of a row group's first rows; item = {path, group, first, rows}.

    Damage is one Reject that stands for the rest of the row group.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = item["first"]
    try:
        with closing(pq.ParquetFile(path)) as file:
            columns, num_bytes = _columns(file, item, fields)
            for record in _rows(file, item, columns, num_bytes):
                yield _row_page(record, fields, f"{item['path']}#{row}", cap)
                row += 1
    except _TooLarge as error:
        yield Reject(id=f"{item['path']}#{row}", reason="bomb", detail=str(error))
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Reject(id=f"{item['path']}#{row}", reason="malformed", detail=str(error)[:200])


class _TooLarge(InputError):
    """A row group that would need more memory than a part may take."""


def _check_columns(root: Path, names: Iterable[str], fields: Fields) -> None:
    """Look for the text and id fields in the first file with rows; a later one without costs its own rows only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in names:
        try:
            metadata = pq.read_metadata(root / name)
            paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
        except (pa.ArrowException, OSError, ValueError):  # damaged: a reject says so
            continue
        if metadata.num_rows:
            steps = (path.split(".") for path in paths)
            parts = (".".join(step[:end]) for step in steps for end in range(1, len(step) + 1))
            check_fields(dict.fromkeys(parts), fields, str(root / name))
            return


def _items(root: Path, name: str, follow: bool) -> list[dict[str, Any]]:
    """Return an item per row group of a file, or the one that says why there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    item = file_item(root, name, follow=follow)
    if (reject := item_reject(item)) is not None:
        return [{"path": reject.id, "reject": reject.reason, "detail": reject.detail, "rows": 1}]
    try:
        metadata = pq.read_metadata(root / name)
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        return [{"path": name, "reject": "malformed", "detail": str(error)[:200], "rows": 1}]
    firsts = accumulate(counts, initial=0)
    return [
        {**item, "group": group, "first": first, "rows": rows}
        for group, (first, rows) in enumerate(zip(firsts, counts, strict=False))
        if rows > 0
    ]


def _columns(file: pq.ParquetFile, item: dict[str, Any], fields: Fields) -> tuple[list[str], int]:
    """Return the columns to read and the decompressed bytes of a row group. Raises _TooLarge.

    Fields and scalars that can be metadata are read, other nested columns and bytes are not. The schema tells, not the
    metadata of column chunks: asked for those of a damaged file, pyarrow aborts the process (found by fuzzing).
    """
    wanted = {fields.id, fields.title, fields.text, fields.url, HTML_FIELD}
    wanted |= {name.split(".")[0] for name in wanted}
    names: dict[str, None] = {}
    for index in range(file.metadata.num_columns):
        column = file.schema.column(index)
        is_scalar = "." not in column.path and column.physical_type != "FIXED_LEN_BYTE_ARRAY"
        if is_scalar or column.path in wanted or column.path.split(".")[0] in wanted:
            names[column.path] = None
    num_bytes = file.metadata.row_group(item["group"]).total_byte_size
    if num_bytes > MAX_GROUP_BYTES or (num_bytes > FREE_BYTES and num_bytes > MAX_RATIO * item["size"]):
        raise _TooLarge(f"a row group of {num_bytes} bytes in a file of {item['size']}; write smaller row groups")
    return list(names), num_bytes


def _rows(file: pq.ParquetFile, item: dict[str, Any], columns: list[str], num_bytes: int) -> Iterator[dict[str, Any]]:
    total = max(1, file.metadata.row_group(item["group"]).num_rows)
    size = max(1, min(1024, BATCH_BYTES * total // max(1, num_bytes)))
    left = item["rows"]
    for batch in file.iter_batches(batch_size=size, row_groups=[item["group"]], columns=columns, use_threads=False):
        rows = batch.slice(0, left).to_pylist()
        yield from rows
        left -= len(rows)
        if left == 0:
            return
    raise ValueError(f"{left} rows fewer than the file states")


def _row_page(record: dict[str, Any], fields: Fields, place: str, cap: int) -> Page | Reject:
    html, text = record.get(HTML_FIELD), record.get(fields.text)
    if isinstance(html, bytes):
        record[HTML_FIELD] = ""  # stays in bytes: its charset is what it declares
    elif isinstance(text, bytes):
        try:
            record[fields.text] = text.decode("utf-8")
        except UnicodeDecodeError as error:
            return Reject(id=place, reason="not-utf8", detail=f"byte {error.start}: {error.reason}")
    try:
        page = page_of(record, fields, place)
    except BadRecord as error:
        return Reject(id=place, reason=error.reason, detail=error.detail)
    if isinstance(html, bytes):
        page.body, page.charset = html, declared_charset(html) or "utf-8"
    if len(page.body) > cap:
        return Reject(id=place, reason="too-large", detail=f"{len(page.body)} bytes, cap {cap}")
    return page
