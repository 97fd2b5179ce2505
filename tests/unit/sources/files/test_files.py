"""Files and JSON Lines as a source."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from realdata import DATA

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.files import paths
from rag_hpc.sources.files.compress import TruncatedStream, iter_lines, stream_chunks
from rag_hpc.sources.files.files import FilesConfig, FilesSource
from rag_hpc.stores.page import Page, Reject

CONTEXT = ReadContext(shared=Path(), should_stop=lambda: False, sleep=lambda wait: None)


def corpus(path: Path | str, **changes: Any) -> FilesConfig:
    return FilesConfig(path=str(path), **changes)


def read_all(config: FilesConfig) -> list[Page | Reject]:
    source = FilesSource()
    parts = source.split(config, Path())
    assert parts == json.loads(json.dumps(source.split(config, Path())))
    return [item for part in parts for item in source.read(part, config, CONTEXT)]


def test_a_file_that_may_not_be_read_is_named_when_the_run_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("secret")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(paths, "open_file", refuse)  # root may read what it likes
    with pytest.raises(InputError, match=r"a\.txt: cannot be read \(Permission denied\); make it readable"):
        FilesSource().split(corpus(tmp_path), Path())


def pages_of(items: list[Page | Reject]) -> list[Page]:
    pages = [item for item in items if isinstance(item, Page)]
    assert len(pages) == len(items), items
    return pages


def packed(name: str, body: bytes) -> bytes:
    suffix = Path(name).suffix
    if suffix in (".gz", ".tgz"):
        return gzip.compress(body, 1)
    return zstandard.compress(body) if suffix == ".zst" else body


def ids(items: list[Page | Reject]) -> list[str]:
    return [item.doc_id if isinstance(item, Page) else f"{item.reason}:{item.id}" for item in items]


def jsonl(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_a_missing_text_field_is_said_when_the_run_is_planned(tmp_path: Path) -> None:
    record = {"id": "1", "page": {"body": "t"}}
    (tmp_path / "a.jsonl").write_bytes(b"\n" + jsonl(record, {"text": "u"}))
    with pytest.raises(
        ConfigError,
        match=r"a\.jsonl, first record: no field 'page\.boby' .*; there are id, page, "
        r"page\.body; did you mean corpus.text_field=page\.body\?",
    ):
        FilesSource().split(corpus(tmp_path, text_field="page.boby"), Path())
    with pytest.raises(ConfigError, match="no field 'text'"):
        FilesSource().split(corpus(tmp_path), Path())
    assert ids(read_all(corpus(tmp_path, text_field="page.body"))) == ["1", "no-text:a.jsonl#1"]


@pytest.mark.parametrize("first", [b"no record", b"[]", b'{"text": null}', b'{"html": "<p>t"}', b'"' + b"x" * 99])
def test_a_first_line_that_says_nothing_about_the_fields_stops_no_plan(tmp_path: Path, first: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(first + b"\n" + jsonl({"text": "u"}, {"other": "v"}))
    assert ids(read_all(corpus(tmp_path, max_page_bytes=90)))[1:] == ["a.jsonl#1", "no-text:a.jsonl#2"]


def tar_bytes(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return file.getvalue()


def test_a_folder_gives_its_known_files_by_sorted_path(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    (tmp_path / "b.HTML").write_bytes(b"<meta charset=koi8-r>")
    (tmp_path / "a.md.gz").write_bytes(gzip.compress(b"---\ntitle: 'A title'\n---\n# Head\n"))
    (tmp_path / "sub" / "c.txt.zst").write_bytes(zstandard.compress(b"\xef\xbb\xbftext"))
    (tmp_path / "sub" / ".git" / "d.txt").write_bytes(b"hidden")
    (tmp_path / "style.css").write_bytes(b"no")
    items = pages_of(read_all(corpus(tmp_path)))
    assert [(page.doc_id, page.content_type, page.charset, page.title, page.body) for page in items] == [
        ("a.md.gz", "text/markdown", "utf-8", "A title", b"# Head\n"),
        ("b.HTML", "text/html", "koi8-r", "", b"<meta charset=koi8-r>"),
        ("sub/c.txt.zst", "text/plain", "utf-8", "", b"text"),
    ]


def test_a_file_and_a_glob_give_the_same_ids_as_paths_below_them(tmp_path: Path) -> None:
    for name in ("x/1.txt", "x/y/2.txt", "z/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("t")
    assert ids(read_all(corpus(tmp_path / "x" / "1.txt"))) == ["1.txt"]
    assert ids(read_all(corpus(tmp_path / "*" / "*.txt"))) == ["x/1.txt", "z/3.txt"]
    assert ids(read_all(corpus(tmp_path / "x" / "**" / "*.txt"))) == ["1.txt", "y/2.txt"]


def test_missing_and_empty_paths_say_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "no", tmp_path / "*.html"):
        with pytest.raises(ConfigError, match="name an existing file"):
            FilesSource().split(corpus(path), tmp_path)
    with pytest.raises(ConfigError, match=r"corpus\.path is not set"):
        FilesSource().split(FilesConfig(), tmp_path)
    with pytest.raises(InputError, match="empty corpus"):
        FilesSource().split(corpus(tmp_path), tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"\n \r\n")
    with pytest.raises(InputError, match="empty corpus"):
        FilesSource().split(corpus(tmp_path), tmp_path)


def test_records_become_pages_with_the_configured_fields(tmp_path: Path) -> None:
    records = [
        {"id": "a", "title": "T", "text": "line\u2028one\x85", "url": "http://x/y", "lang": "en", "big": "z" * 2000},
        {"id": 7, "text": "no title", "nested": {"a": 1}, "rank": 1.5, "bad": float("nan")},
        {"text": "", "title": 3},
        {"id": "h", "html": "<p>", "text": "p"},
        {"id": "u", "text": " <p>x", "url": "http://x/y.html?q"},
        {"id": "v", "text": "a < b", "url": "http://x/y.html"},
        {"id": "w", "text": "# m", "url": "http://x/y.md"},
    ]
    path = tmp_path / "d.jsonl"
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    items = pages_of(read_all(corpus(path)))
    assert [item.doc_id for item in items] == ["a", "7", "d.jsonl#2", "h", "u", "v", "w"]
    assert items[0] == Page(
        doc_id="a",
        url="http://x/y",
        body="line\u2028one\x85".encode(),
        content_type="text/plain",
        charset="utf-8",
        title="T",
        meta={"lang": "en"},
    )
    assert items[1].meta == {"rank": 1.5}
    assert [item.content_type for item in items[3:]] == ["text/html", "text/html", "text/plain", "text/markdown"]
    path.write_bytes(jsonl({"k": "1", "body": "b", "head": "h", "link": "l"}))
    with pytest.raises(ConfigError, match=r"no field 'key' \(corpus.id_field\).*; there are body, head, k, link"):
        read_all(corpus(path, id_field="key", text_field="body"))
    renamed = corpus(path, id_field="k", text_field="body", title_field="head", url_field="link")
    assert read_all(renamed) == [
        Page(doc_id="1", url="l", body=b"b", content_type="text/plain", charset="utf-8", title="h")
    ]


def test_fields_may_be_dotted_paths_into_nested_objects(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(
        jsonl(
            {"meta": {"id": 3, "url": "u", "deep": {"title": "T"}}, "a.b": "text", "a": {"b": "no"}},
            {"meta": ["no object"], "a": {"b": "inner"}},
            {"meta": {"id": {}}, "a.b": "x"},
        )
    )
    config = corpus(path, id_field="meta.id", url_field="meta.url", title_field="meta.deep.title", text_field="a.b")
    first, second, third = read_all(config)
    assert isinstance(first, Page) and (first.doc_id, first.url, first.title, first.body) == ("3", "u", "T", b"text")
    assert isinstance(second, Page) and (second.doc_id, second.body) == ("d.jsonl#1", b"inner")
    assert isinstance(third, Reject) and third.reason == "bad-id"


def test_ids_numbered_anew_in_each_file_are_refused_when_the_run_is_planned(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"id": 0, "text": "one"}, {"id": 1, "text": "more"}))
    (tmp_path / "b.jsonl").write_bytes(jsonl({"id": 0, "text": "two"}))
    (tmp_path / "a.txt").write_bytes(b"no record")
    with pytest.raises(ConfigError, match=r"a\.jsonl and b\.jsonl begin .* the same id, '0'.*corpus\.id_field= "):
        FilesSource().split(corpus(tmp_path, pages_per_unit=1), Path())
    named = pages_of(read_all(corpus(tmp_path, id_field="")))
    assert [page.doc_id for page in named] == ["a.jsonl#0", "a.jsonl#1", "a.txt", "b.jsonl#0"]
    assert len(read_all(corpus(tmp_path, max_pages=3))) == 3  # the second file of records is not in the plan
    (tmp_path / "b.jsonl").write_bytes(jsonl({"id": 0, "text": "one"}, {"id": 5, "text": "x"}))  # a copy is dedup's
    assert [page.doc_id for page in pages_of(read_all(corpus(tmp_path)))][3:] == ["0", "5"]
    (tmp_path / "b.jsonl").write_bytes(b'no record\n{"id": 0, "text": "two"}\n')  # then nothing is known
    assert [item.reason for item in read_all(corpus(tmp_path)) if isinstance(item, Reject)] == ["bad-json"]


def test_each_bad_record_is_rejected_with_its_position(tmp_path: Path) -> None:
    bad = [
        b'{"text": "\xff"}',
        b"{not json}",
        b"[" * 100_000,
        b'["list"]',
        b'{"id": "x"}',
        b'{"text": 5}',
        b'{"text": "\\ud800"}',
        b'{"text": "x", "id": [1]}',
        b'{"text": "' + b"x" * 200_000 + b'"}',
        b'{"text": "good"}',
    ]
    (tmp_path / "d.jsonl").write_bytes(b"\n\n".join(bad))
    items = read_all(corpus(tmp_path, max_page_bytes=150_000))
    reasons = ["not-utf8", "bad-json", "bad-json", "bad-json", "no-text", "no-text", "not-utf8", "bad-id", "too-large"]
    assert ids(items) == [*(f"{reason}:d.jsonl#{n}" for n, reason in enumerate(reasons)), "d.jsonl#9"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_parts_hold_exactly_their_records_whatever_their_size(tmp_path: Path, suffix: str, size: int) -> None:
    for name, count in (("a", 5), ("b", 0), ("c", 11)):
        body = b"\n".join(b'{"text": "%d"}\n' % n for n in range(count))
        (tmp_path / f"{name}.jsonl{suffix}").write_bytes(packed(f"x{suffix}", body))
    (tmp_path / "b.txt").write_bytes(b"t")
    config = corpus(tmp_path, pages_per_unit=size)
    parts = FilesSource().split(config, tmp_path)
    per_part = [len(list(FilesSource().read(part, config, CONTEXT))) for part in parts]
    assert per_part == [size] * (17 // size) + [17 % size] * (17 % size > 0)
    expected = [f"a.jsonl{suffix}#{n}" for n in range(5)] + ["b.txt"] + [f"c.jsonl{suffix}#{n}" for n in range(11)]
    assert ids(read_all(config)) == expected
    for cap in (1, 4, 5, 6, 7, 16, 17, 99):
        capped = corpus(tmp_path, pages_per_unit=size, max_pages=cap)
        assert ids(read_all(capped)) == expected[:cap]


def test_a_change_or_loss_after_the_plan_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    config = corpus(tmp_path)
    part = FilesSource().split(config, tmp_path)[0]
    path.write_bytes(b"two")
    assert FilesSource().split(config, tmp_path)[0] != part
    with pytest.raises(InputError, match="changed since"):
        list(FilesSource().read(part, config, CONTEXT))
    path.unlink()
    with pytest.raises(InputError, match="plan again"):
        list(FilesSource().read(part, config, CONTEXT))


def test_text_that_is_not_utf8_and_files_over_the_cap_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.html").write_bytes(b"caf\xe9")
    (tmp_path / "c.txt").write_bytes(b"x" * 101)
    (tmp_path / "d.txt").write_bytes(b"x" * 100)
    assert ids(read_all(corpus(tmp_path, max_page_bytes=100))) == [
        "not-utf8:a.txt",
        "b.html",
        "too-large:c.txt",
        "d.txt",
    ]


def test_a_file_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    except OSError:
        pytest.skip("this filesystem takes UTF-8 names only")
    (tmp_path / "é.txt").write_bytes(b"x")
    assert sorted(ids(read_all(corpus(tmp_path)))) == ["bad-name:caf\\xe9.txt", "é.txt"]


@pytest.mark.parametrize("name", ["big.jsonl", "big.jsonl.zst", "big.jsonl.gz", "big.txt.zst", "big.txt"])
def test_a_huge_record_or_file_is_rejected_without_being_held(tmp_path: Path, name: str) -> None:
    num_bytes = 200_000_000 if name.endswith(".zst") else 60_000_000
    body = b'{"text": "' + b"x" * num_bytes + b'"}\n{"text": "after"}\n'
    (tmp_path / name).write_bytes(packed(name, body))
    del body
    config = corpus(tmp_path, max_page_bytes=1_000_000)
    tracemalloc.start()
    items = read_all(config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = [f"too-large:{name}#0", f"{name}#1"] if "jsonl" in name else [f"too-large:{name}"]
    assert ids(items) == expected
    assert peak < 40_000_000  # the zstd reader's bound is 16 MiB a call, whatever the compression


LINES = [json.dumps({"id": str(n), "text": "word " * (n % 7)}).encode() for n in range(40)]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=1), suffix=st.sampled_from([".gz", ".zst"]))
def test_everything_before_a_cut_is_kept_and_the_cut_is_told(
    tmp_path_factory: pytest.TempPathFactory, cut: int, suffix: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("cut")
    body = b"\n".join(LINES) + b"\n"
    whole = packed(f"x{suffix}", body)
    part = whole[: cut % (len(whole) - 1) + 1]
    path = tmp_path / f"d.jsonl{suffix}"
    path.write_bytes(part)
    inflate: Any = zlib.decompressobj(31) if suffix == ".gz" else zstandard.ZstdDecompressor().decompressobj()
    readable = inflate.decompress(part)
    lines = readable.split(b"\n")
    num_whole = len(lines) - 1 + (lines[-1] in LINES)
    items = read_all(corpus(path))
    assert ids(items[:-1]) == [str(n) for n in range(num_whole)]
    assert isinstance(items[-1], Reject) and items[-1].reason == "truncated"


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=400).map(lambda data: data.replace(b"a", b"\n")), size=st.integers(1, 9))
def test_lines_do_not_depend_on_how_the_bytes_are_cut_into_chunks(data: bytes, size: int) -> None:
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    lines = list(iter_lines(chunks, 20))
    assert lines == list(iter_lines([data], 20))
    assert [line.data for line in lines] == [
        line if len(line) <= 20 else None for line in data.split(b"\n") if len(line) > 20 or line.strip()
    ]
    for line in lines:
        if line.data is not None:
            assert data[line.offset :].startswith(line.data)


def test_several_gzip_members_and_zstd_frames_are_one_file(tmp_path: Path) -> None:
    gz = tmp_path / "a.gz"
    gz.write_bytes(gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two") + b"\0" * 512)
    assert b"".join(stream_chunks(gz)) == b"one two"
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    zst = tmp_path / "a.zst"
    zst.write_bytes(zstandard.compress(b"one ") + skippable + zstandard.compress(b"two"))
    assert b"".join(stream_chunks(zst)) == b"one two"


@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
@pytest.mark.parametrize("content", [b"", b"not compressed at all"])
def test_a_file_that_is_not_what_its_name_says_is_damaged(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TruncatedStream):
        list(stream_chunks(tmp_path / name))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst", ".tgz"])
def test_archives_are_read_member_by_member(tmp_path: Path, suffix: str) -> None:
    files = {
        "s/a.html": b"<p>",
        "s/b.css": b"",
        "s/c.md": b"# c",
        "s/big.txt": b"x" * 5000,
        "s/d.jsonl": b"{}",
        "e.txt": b"e",
    }
    name = f"site{suffix}"
    (tmp_path / name).write_bytes(packed(name, tar_bytes(files)))
    expected = [
        f"{name}/s/a.html",
        f"{name}/s/c.md",
        f"too-large:{name}/s/big.txt",
        f"unsupported-member:{name}/s/d.jsonl",
        f"{name}/e.txt",
    ]
    for size in (1, 2, 10):
        items = read_all(corpus(tmp_path, max_page_bytes=4000, pages_per_unit=size))
        assert ids(items) == expected
    assert ids(read_all(corpus(tmp_path, max_page_bytes=4000, max_pages=2))) == expected[:2]


def test_a_cut_archive_keeps_what_came_before(tmp_path: Path) -> None:
    whole = gzip.compress(tar_bytes({f"{n}.txt": os.urandom(3000).hex().encode() for n in range(9)}))
    for cut in range(2, 10):
        (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) * cut // 10])
        for size in (1, 2, 100):
            items = read_all(corpus(tmp_path, pages_per_unit=size))
            assert cut - 2 <= len(items) <= cut
            assert ids(items) == [*(f"a.tar.gz/{n}.txt" for n in range(len(items) - 1)), "truncated:a.tar.gz"]


def test_real_pages_and_records_are_all_read() -> None:
    site = DATA / "html_slurm"
    if not site.is_dir():
        pytest.skip(f"no shared data at {DATA}; set RAG_HPC_DATA")
    items = read_all(corpus(site, pages_per_unit=50))
    assert len(items) == 148 and all(isinstance(item, Page) for item in items)
    config = corpus(DATA / "docs_powershell" / "docs.jsonl.zst", pages_per_unit=1000)
    pages = read_all(config)
    assert len(pages) == 3076 and all(isinstance(page, Page) for page in pages)
    assert len({page.doc_id for page in pages if isinstance(page, Page)}) == 3076


@pytest.mark.parametrize(
    ("line", "title"),
    [
        (b'title: "In quotes"  ', "In quotes"),
        (b"title:'x'\r", "x"),
        (b'title: it\'s "so"', 'it\'s "so"'),
        (b'title: "', '"'),
        (b"title:", ""),
    ],
)
def test_titles_of_front_matter_lose_their_quotes(tmp_path: Path, line: bytes, title: str) -> None:
    (tmp_path / "a.md").write_bytes(b"---\n" + line + b"\n---\ntext")
    assert [page.title for page in pages_of(read_all(corpus(tmp_path)))] == [title]


def test_blanks_in_a_title_of_front_matter_take_linear_time(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"---\ntitle: a" + b" " * 1_000_000 + b"b\n---\ntext")
    begun = time.process_time()
    (page,) = pages_of(read_all(corpus(tmp_path)))
    assert time.process_time() - begun < 2 and page.title.split() == ["a", "b"]


def test_objects_inside_one_another_do_not_multiply_the_names_of_fields(tmp_path: Path) -> None:
    record = b'{"text": "t", "k": ' + b"".join(b'{"%s":' % (b"x" * 2000) for _ in range(800)) + b"1" + b"}" * 801
    (tmp_path / "a.jsonl").write_bytes(record)
    tracemalloc.start()
    assert ids(read_all(corpus(tmp_path))) == ["a.jsonl#0"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000_000  # of all the dotted names: 640 MB
