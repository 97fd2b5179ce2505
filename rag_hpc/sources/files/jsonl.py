"""JSON Lines: one line into one page, or into the reason why not."""

from __future__ import annotations

import codecs
import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import RecordsConfig
from rag_hpc.sources.files.compress import TruncatedStream, stream_chunks
from rag_hpc.stores.page import Page, Reject

HTML_FIELD = "html"
MAX_LINE_BYTES = 64 * 1024 * 1024  # of a line in a file of questions
_MAX_META_CHARS = 1000
_MAX_SHOWN = 20  # names of fields in a message
_MAX_NAME_CHARS = 1000  # of a field whose own fields are named


class NoField(ConfigError):
    """A field that a corpus names is not in its records."""


class BadRecord(InputError):
    """A line that is no usable record; `reason` is the slug of its Reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(kw_only=True)
class Fields:
    """The names of the fields that make a page; "meta.url" is the field `url` of the object `meta`."""

    id: str = "id"
    title: str = "title"
    text: str = "text"
    url: str = "url"

    @classmethod
    def of(cls, corpus: RecordsConfig) -> Fields:
        """Return the names that the corpus uses."""
        return cls(id=corpus.id_field, title=corpus.title_field, text=corpus.text_field, url=corpus.url_field)


def parse_record(line: bytes) -> dict[str, Any]:
    """Return the JSON object on a line. Raises BadRecord not-utf8 or bad-json."""
    try:
        record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecord("not-utf8", f"byte {error.start}: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise BadRecord("bad-json", str(error)[:200]) from error
    if not isinstance(record, dict):
        raise BadRecord("bad-json", f"a JSON object is needed, found {type(record).__name__}")
    return record


def record_page(line: bytes, fields: Fields, fallback_id: str) -> Page:
    """Return the page of one line. Raises BadRecord not-utf8, bad-json, no-text or bad-id."""
    return page_of(parse_record(line), fields, fallback_id)


def page_of(record: dict[str, Any], fields: Fields, fallback_id: str) -> Page:
    """Return the page of one record. Raises BadRecord not-utf8, no-text or bad-id.

    The `html` field is the body if there is one, else the text field. Short scalars of other fields become meta.
    """
    url = _text(_field(record, fields.url))
    html = record.get(HTML_FIELD)
    text = html if isinstance(html, str) else _field(record, fields.text)
    if not isinstance(text, str):
        raise BadRecord("no-text", f"field {fields.text!r} is {'missing' if text is None else 'no string'}")
    used = {fields.id, fields.title, fields.text, fields.url, HTML_FIELD}
    page = Page(
        doc_id=_doc_id(_field(record, fields.id), fallback_id),
        url=url,
        body=b"",
        content_type="text/html" if isinstance(html, str) else _content_type(url, text),
        charset="utf-8",
        title=_text(_field(record, fields.title)),
        meta={key: value for key, value in record.items() if key not in used and _is_meta(value)},
    )
    try:
        page.body = text.encode("utf-8")
        json.dumps([page.doc_id, page.url, page.title, page.meta], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord("not-utf8", f"a lone surrogate: {error.reason}") from error
    return page


def field_names(record: dict[str, Any]) -> list[str]:
    """Return the names of a record's fields, and the dotted ones of the objects in it."""
    names: dict[str, None] = {}
    left: list[tuple[str, dict[str, Any]]] = [("", record)]
    while left:
        before, values = left.pop()
        for key, value in values.items():
            names[before + key] = None
            if isinstance(value, dict) and len(before) + len(key) <= _MAX_NAME_CHARS:
                left.append((f"{before}{key}.", value))
    return list(names)


def check_fields(names: Iterable[str], fields: Fields, place: str) -> None:
    """Raise ConfigError when neither the text field nor `html` is among the names of a file's fields, or the id field
    is not, unless it is the default one: records need no ids.
    """
    known = sorted(names)
    if fields.text not in known and HTML_FIELD not in known:
        raise _no_field(known, "text_field", fields.text, f" and none named {HTML_FIELD!r}", place)
    if fields.id not in (*known, Fields.id, ""):
        raise _no_field(known, "id_field", fields.id, ", so that no id in questions would fit", place)


def _no_field(known: list[str], setting: str, name: str, more: str, place: str) -> NoField:
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean corpus.{setting}={close[0]}?" if close else f"; set corpus.{setting} to one of them"
    shown = ", ".join(known[:_MAX_SHOWN]) + (f" and {len(known) - _MAX_SHOWN} more" if len(known) > _MAX_SHOWN else "")
    return NoField(
        f"{place}: no field {name!r} (corpus.{setting}){more}; "
        f"there are {shown or 'no fields at all'}{meant if known else ''}"
    )


def check_ids(items: Iterable[dict[str, Any]], first_of: Callable[[dict[str, Any]], Page | Reject | None]) -> None:
    """Raise ConfigError when records are numbered anew in each file: other documents would share their ids.

    `items` are those that files begin with; what the first records of two became, by `first_of`, tells. The same record
    in both is a copy, which dedup drops.
    """
    two = list(islice(items, 2))
    pages = [page for page in map(first_of, two) if isinstance(page, Page)] if len(two) == 2 else []
    if len(pages) == 2 and pages[0].doc_id == pages[1].doc_id and pages[0].body != pages[1].body:
        raise ConfigError(
            f"{two[0]['path']} and {two[1]['path']} begin with two documents of the same id, "
            f"{pages[0].doc_id!r}: ids must be unique in the whole corpus, not in a file; set "
            "corpus.id_field= (empty) to name records PATH#N, or to a field with such ids"
        )


def iter_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", object) for each line of a JSONL file. Blank lines are passed over.

    Raises InputError naming the line (from 1) at the first fault.
    """
    number = 0
    try:
        for number, line in enumerate(_all_lines(path), start=1):
            if line.strip():
                yield f"{path}:{number}", parse_record(line)
    except BadRecord as error:
        raise InputError(f"{path}:{number}: {error}; correct the line or leave it out") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _all_lines(path: Path) -> Iterator[bytes]:
    rest = b""
    try:
        for chunk in stream_chunks(path):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > MAX_LINE_BYTES:
                raise InputError(f"{path}: a line is longer than {MAX_LINE_BYTES} bytes")
    except TruncatedStream as error:
        raise InputError(f"{path}: {error}; fetch the file again") from error
    if rest:
        yield rest


def _field(record: dict[str, Any], name: str) -> Any:
    """Return a field by its name or dotted path, None where there is none."""
    if name in record:
        return record[name]
    value: Any = record
    for key in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _doc_id(value: object, fallback_id: str) -> str:
    if value is None or value == "":
        return fallback_id
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise BadRecord("bad-id", f"a string or an integer is needed, found {type(value).__name__}")


def _content_type(url: str, text: str) -> str:
    """Return the type that the URL promises; "text/html" only if the text has markup, for text is often extracted."""
    path = url.partition("?")[0].partition("#")[0].lower()
    if path.endswith((".html", ".htm")) and text.lstrip().startswith("<"):
        return "text/html"
    return "text/markdown" if path.endswith(".md") else "text/plain"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_meta(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_META_CHARS
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int)
