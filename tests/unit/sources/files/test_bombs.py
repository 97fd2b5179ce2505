"""Small files that unpack to much, and archives that lead elsewhere: refused with a reason, and counted."""

from __future__ import annotations

import bz2
import gzip
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard

from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.files import compress
from rag_hpc.sources.files.compress import MAX_RATIO, Bomb, stream_chunks
from rag_hpc.sources.files.files import FilesConfig, FilesSource
from rag_hpc.sources.wiki.wikidump import WikiDumpConfig, WikiDumpSource
from rag_hpc.stores.page import Page

CONTEXT = ReadContext(shared=Path(), should_stop=lambda: False, sleep=lambda wait: None)
MIB = b"\0" * (1 << 20)
FREE_MIB = 20
OVER = FREE_MIB + 2


@pytest.fixture(autouse=True)
def _small_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "FREE_BYTES", FREE_MIB << 20)


def bomb(path: Path, head: bytes, mib: int, tail: bytes = b"") -> Path:
    """Write a file that unpacks to `head`, so many MiB of zeros and `tail`."""
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".zst": zstandard.open}[path.suffix]
    if path.suffix == ".bz2":  # equal streams, so that it is made in no time
        path.write_bytes(bz2.compress(head) + bz2.compress(MIB) * mib + bz2.compress(tail))
        return path
    with opener(path, "wb") as file:
        file.write(head)
        for _ in range(mib):
            file.write(MIB)
        file.write(tail)
    return path


def read_all(path: Path, source: Any = None, **changes: Any) -> tuple[list[str], int]:
    """Return ids and reasons of what the source finds, and the peak of memory in bytes."""
    config = (WikiDumpConfig if source else FilesConfig)(path=str(path), **changes)
    source = source or FilesSource()
    tracemalloc.start()
    items = [item for part in source.split(config, Path()) for item in source.read(part, config, CONTEXT)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return [item.doc_id if isinstance(item, Page) else f"{item.reason}:{item.id}" for item in items], peak


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_a_stream_that_packs_better_than_text_can_is_a_bomb(tmp_path: Path, suffix: str) -> None:
    path = bomb(tmp_path / f"a.jsonl{suffix}", b'{"id": "first", "text": "x"}\n{"id": "', OVER)
    assert path.stat().st_size * MAX_RATIO < FREE_MIB << 20
    found, peak = read_all(path, max_page_bytes=1_000_000)
    assert found == ["first", f"bomb:a.jsonl{suffix}#1"]
    assert peak < (75_000_000 if suffix == ".zst" else 5_000_000)  # zstd gives up to 16 MiB a call


def test_a_large_file_of_repeated_lines_is_none(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.txt.zst", b"", FREE_MIB - 1)
    assert sum(map(len, stream_chunks(path))) == (FREE_MIB - 1) << 20
    with pytest.raises(Bomb, match="unpack to more than"):
        list(map(len, stream_chunks(bomb(tmp_path / "b.txt.zst", b"", OVER))))


def test_one_document_stops_at_the_cap_of_a_page(tmp_path: Path) -> None:
    found, peak = read_all(bomb(tmp_path / "a.html.gz", b"<p>", OVER), max_page_bytes=1_000_000)
    assert found == ["too-large:a.html.gz"] and peak < 10_000_000


def test_a_dump_may_be_a_bomb_too(tmp_path: Path) -> None:
    path = bomb(tmp_path / "w.xml.bz2", b"<mediawiki><page>", OVER)
    found, peak = read_all(path, WikiDumpSource(), max_page_bytes=1_000_000)
    assert found == ["bomb:w.xml.bz2@0#0"] and peak < 5_000_000


def header(name: str, kind: bytes, size: int, body: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + body + b"\0" * (-len(body) % 512)


def tar_of(*members: tuple[str, bytes]) -> bytes:
    return b"".join(header(name, tarfile.REGTYPE, len(body), body) for name, body in members)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE])
def test_names_and_attributes_without_end_are_not_held(tmp_path: Path, kind: bytes) -> None:
    head = tar_of(("a.txt", b"first")) + header("long", kind, 16 << 20)
    found, peak = read_all(bomb(tmp_path / "a.tar.zst", head, 16, tar_of(("b.txt", b"x")) + b"\0" * 1024))
    assert found == ["a.tar.zst/a.txt", "truncated:a.tar.zst"] and peak < 60_000_000


def test_a_sparse_map_without_end_is_not_held(tmp_path: Path) -> None:
    attributes = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
    body = b"999999999\n" + b"1\n" * 251
    head = header("p", tarfile.XHDTYPE, len(attributes), attributes) + header("a.txt", tarfile.REGTYPE, 1 << 30) + body
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(4):
            file.write(b"1\n" * (1 << 19))
    found, peak = read_all(path)
    assert found == ["truncated:a.tar.gz"] and peak < 30_000_000


def test_members_that_lead_out_of_the_archive_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.tar").write_bytes(
        tar_of(("../../x.txt", b"x"), ("/etc/y.txt", b"y"), ("d/../../z.md", b"z"))
        + link.tobuf()
        + tar_of(("..ok.txt", b"ok"))
        + b"\0" * 1024
    )
    found, _ = read_all(folder)
    assert found == [
        "bad-name:a.tar/../../x.txt",
        "bad-name:a.tar//etc/y.txt",
        "bad-name:a.tar/d/../../z.md",
        "a.tar/..ok.txt",
    ]
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.tar"]


def test_archives_in_archives_are_not_entered(tmp_path: Path) -> None:
    inner = gzip.compress(b"x" * 1000)
    for _ in range(5):
        inner = gzip.compress(tar_of(("a.txt.gz", inner)) + b"\0" * 1024)
    (tmp_path / "a.tar").write_bytes(tar_of(("b.tar.gz", inner), ("c.jsonl.zst", b"x"), ("d.txt", b"d")) + b"\0" * 1024)
    (tmp_path / "nested.txt.gz").write_bytes(gzip.compress(gzip.compress(b"text")))
    found, _ = read_all(tmp_path)
    assert found == [
        "unsupported-member:a.tar/b.tar.gz",
        "unsupported-member:a.tar/c.jsonl.zst",
        "a.tar/d.txt",
        "not-utf8:nested.txt.gz",
    ]


def test_damage_in_the_middle_of_a_plain_archive_is_told(tmp_path: Path) -> None:
    body = bytearray(tar_of(*((f"{n}.txt", b"x" * 600) for n in range(6))) + b"\0" * 1024)
    body[3 * 1536 + 10] ^= 255
    (tmp_path / "a.tar").write_bytes(body)
    found, _ = read_all(tmp_path)
    assert found == ["a.tar/0.txt", "a.tar/1.txt", "a.tar/2.txt", "truncated:a.tar"]


def test_a_line_of_100_megabytes_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"id": "a", "text": "x"}\n')
        file.truncate(100 << 20)  # a hole of zeros, no line end
        file.seek(0, 2)
        file.write(b'\n{"id": "b", "text": "y"}\n')
    found, peak = read_all(path)
    assert found == ["a", "too-large:a.jsonl#1", "b"] and peak < 45_000_000
