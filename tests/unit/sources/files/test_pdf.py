"""Text of PDF files: what is read, and that a bad file costs itself only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import mutations
from pdfs import make_pdf

from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.files import pdf
from rag_hpc.sources.files.files import FilesConfig, FilesSource
from rag_hpc.sources.files.pdf import PdfError, pdf_text
from rag_hpc.stores.documents import PAGE_CHARS, page_number
from rag_hpc.stores.page import Page, Reject

LOCK = b"/ID [<00><00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (b"11" * 32, b"22" * 32)
ENCRYPTED = make_pdf("secret", trailer=LOCK)


def reason_of(body: bytes, timeout_s: float = 60.0) -> str:
    with pytest.raises(PdfError) as caught:
        pdf_text(body, 1000, timeout_s)
    return caught.value.reason


def test_pages_are_parted_by_blank_lines_and_capped() -> None:
    body = make_pdf("Page one", "", "Third page")
    assert pdf_text(body, 1000) == ("Page one\n\nThird page", [7, 0, 9])
    assert pdf_text(body, 4) == ("Page", [7])


def test_what_is_no_text_has_a_reason() -> None:
    assert reason_of(b"<html>") == "malformed"
    assert reason_of(b"%PDF-1.4\n" + b"\xff" * 1000) == "malformed"
    assert reason_of(make_pdf("")) == "no-text"
    assert reason_of(ENCRYPTED) == "encrypted"


def test_too_many_pages_are_refused() -> None:
    assert reason_of(make_pdf(*["x"] * (pdf.MAX_PAGES + 1))) == "too-many-pages"


def test_a_reader_that_dies_or_hangs_costs_one_file() -> None:
    body = make_pdf("fine")
    assert pdf_text(body, 100)[0] == "fine"
    process = pdf._readers[0]._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    assert reason_of(body, timeout_s=0.2) == "timeout"
    assert pdf_text(body, 100)[0] == "fine"
    process = pdf._readers[0]._process
    assert process is not None
    process.kill()
    process.wait()
    assert reason_of(body) == "crashed"
    assert pdf_text(body, 100)[0] == "fine"


def test_the_reader_ends_with_its_owner_and_takes_nothing_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "a.pdf").write_bytes(make_pdf("text"))
    code = (
        "import os, sys; sys.path[:] = filter(None, sys.path); from rag_hpc.sources.files import pdf\n"
        "print(pdf.pdf_text(open('a.pdf', 'rb').read(), 99)[0], pdf._readers[0]._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    text, pid = done.stdout.split()
    assert text == "text"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_mutated_files_never_fail_otherwise() -> None:
    for body in mutations([make_pdf("One page", "two"), ENCRYPTED], 60, seed=3):
        try:
            assert isinstance(pdf_text(body, 1000)[0], str)
        except PdfError as error:
            assert error.reason in {"malformed", "no-text", "encrypted", "too-many-pages", "too-large"}


def test_pdf_files_of_a_folder_become_text_pages(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf("Hello"))
    (tmp_path / "b.pdf").write_bytes(ENCRYPTED)
    (tmp_path / "c.pdf").write_bytes(make_pdf("cut")[:60])
    config = FilesConfig(path=str(tmp_path))
    context = ReadContext(shared=tmp_path, should_stop=lambda: False, sleep=lambda wait: None)
    (part,) = FilesSource().split(config, tmp_path)
    found = list(FilesSource().read(part, config, context))
    meta = {PAGE_CHARS: [5]}
    assert found[0] == Page(
        doc_id="a.pdf", url="", body=b"Hello", content_type="text/plain", charset="utf-8", meta=meta
    )
    assert [(item.id, item.reason) for item in found if isinstance(item, Reject)] == [
        ("b.pdf", "encrypted"),
        ("c.pdf", "malformed"),
    ]


def test_a_place_in_the_text_has_its_page(tmp_path: Path) -> None:
    text, chars = pdf_text(make_pdf("Page one", "", "Third page"), 1000)
    document = {"text": text, "meta": json.dumps({PAGE_CHARS: chars})}
    assert [page_number(document, text.index(word)) for word in ("Page", "one", "Third", "page")] == [1, 1, 3, 3]
    assert page_number(document, len(text)) == 3
    assert page_number({"text": text, "meta": "{}"}, 4) is None
