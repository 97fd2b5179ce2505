"""What lies in a corpus folder and is no file of it: links out, pipes, devices, files of /proc, folders without end."""

from __future__ import annotations

import glob
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stagerun

from rag_hpc.core.stage import output_config
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.archives.warc import WarcConfig, WarcSource
from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.files.beir import BeirConfig, BeirSource
from rag_hpc.sources.files.compress import open_file
from rag_hpc.sources.files.files import FilesConfig, FilesSource
from rag_hpc.sources.files.parquet import ParquetConfig, ParquetSource
from rag_hpc.sources.files.paths import corpus_files
from rag_hpc.sources.wiki.wikidump import WikiDumpConfig, WikiDumpSource
from rag_hpc.stores.page import Page

CONTEXT = ReadContext(shared=Path(), should_stop=lambda: False, sleep=lambda wait: None)
PROSE = "This page explains in plain words how a queue is drained, and what to do when nothing is left in it. " * 3


def ids(config: Any, source: Any = None) -> list[str]:
    """Return the ids of a corpus's pages, and "reason:id" of its rejects, in order."""
    source = source or FilesSource()
    items = [item for part in source.split(config, Path()) for item in source.read(part, config, CONTEXT)]
    return [item.doc_id if isinstance(item, Page) else f"{item.reason}:{item.id}" for item in items]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A corpus folder with a page, a link inside it, and a secret beside it."""
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("page")
    (folder / "sub" / "inside.txt").symlink_to("../a.txt")
    (tmp_path / "secret.txt").write_text("the secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "s.txt").write_text("another secret")
    return folder


def test_links_that_leave_the_corpus_are_rejects_with_a_reason(docs: Path) -> None:
    (docs / "passwd.txt").symlink_to("/etc/passwd")
    (docs / "beside.jsonl").symlink_to("../secret.txt")
    (docs / "around.txt").symlink_to(docs.parent / "docs" / ".." / "secret.txt")
    (docs / "twice.txt").symlink_to("around.txt")
    (docs / "environ.txt").symlink_to("/proc/self/environ")
    (docs / "folder").symlink_to("../secrets")
    (docs / "round").symlink_to("sub")  # a folder inside: its files come under their own names
    (docs / "unwanted.css").symlink_to("/etc/passwd")
    outside = [
        f"outside-corpus:{name}" for name in ("around.txt", "beside.jsonl", "environ.txt", "folder", "passwd.txt")
    ]
    expected = ["a.txt", *outside, "sub/inside.txt", "outside-corpus:twice.txt"]
    assert ids(FilesConfig(path=str(docs))) == expected
    assert ids(FilesConfig(path=f"{docs}/**/*.txt")) == [name for name in expected if ".jsonl" not in name]
    assert ids(FilesConfig(path=str(docs), max_pages=3)) == expected[:3]


def test_links_out_of_the_corpus_are_read_on_request(docs: Path) -> None:
    (docs / "beside.txt").symlink_to("../secret.txt")
    (docs / "folder").symlink_to("../secrets")
    (docs.parent / "secrets" / "up").symlink_to("..")  # which leads to both again
    (docs.parent / "secrets" / "self").symlink_to(".")
    found = ids(FilesConfig(path=str(docs), follow_links=True))
    assert found[:3] == ["a.txt", "beside.txt", "folder/s.txt"] and found[-1] == "sub/inside.txt"
    assert len(found) == len(set(found)) < 12


def test_a_path_that_is_a_link_itself_is_meant(docs: Path) -> None:
    (docs.parent / "link.txt").symlink_to("docs/a.txt")
    (docs.parent / "elsewhere").symlink_to("docs")
    assert ids(FilesConfig(path=str(docs.parent / "link.txt"))) == ["link.txt"]
    assert ids(FilesConfig(path=str(docs.parent / "elsewhere"))) == ["a.txt", "sub/inside.txt"]


def test_a_stage_s_counts_add_up_and_its_fingerprint_stays(docs: Path, tmp_path: Path) -> None:
    (docs / "a.txt").write_text(PROSE)
    plain = stagerun.run_stage(tmp_path / "run", "crawl", {"name": "d", "source": "files", "path": str(docs)}, {})
    assert "follow_links" not in output_config(FilesConfig(path=str(docs)))
    (docs / "shadow.txt").symlink_to("/etc/shadow")
    settings = {"name": "d", "source": "files", "path": str(docs)}
    found = stagerun.run_stage(tmp_path / "run", "crawl", settings, {})
    assert plain.total("items_in") == plain.total("items_out") == 2
    assert (found.total("items_in"), found.total("items_out"), found.dropped()) == (3, 2, {"outside-corpus": 1})


@pytest.mark.timeout(60)
def test_pipes_sockets_devices_and_broken_links_are_rejects_and_hold_nobody_up(docs: Path) -> None:
    os.mkfifo(docs / "pipe.txt")
    (docs / "to-pipe.txt").symlink_to("pipe.txt")
    (docs / "broken.txt").symlink_to("gone.txt")
    (docs / "loop.txt").symlink_to("loop.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(docs / "socket.txt"))
        expected = [
            "a.txt",
            "broken-link:broken.txt",
            "broken-link:loop.txt",
            "special-file:pipe.txt",
            "special-file:socket.txt",
            "sub/inside.txt",
            "special-file:to-pipe.txt",
        ]
        assert ids(FilesConfig(path=str(docs))) == expected
        assert ids(FilesConfig(path=f"{docs}/*.txt")) == [name for name in expected if "/" not in name]


@pytest.mark.parametrize(
    "target", ["/proc/self/environ", "/proc/self/stat", "/proc/kmsg", "/dev/zero", "/sys/kernel/profiling"]
)
def test_files_of_the_kernel_are_rejects_where_links_are_followed(docs: Path, target: str) -> None:
    if not os.path.exists(target):  # noqa: PTH110
        pytest.skip(f"no {target} here")
    (docs / "k.txt").symlink_to(target)
    found = ids(FilesConfig(path=str(docs), follow_links=True))
    assert found == ["a.txt", "special-file:k.txt", "sub/inside.txt"]


def test_a_pipe_that_takes_a_file_s_place_is_an_error_and_no_wait(docs: Path) -> None:
    config = FilesConfig(path=str(docs))
    (part,) = FilesSource().split(config, docs)
    (docs / "a.txt").unlink()
    os.mkfifo(docs / "a.txt")
    begun = time.monotonic()
    with pytest.raises(InputError, match="plan again"):
        list(FilesSource().read(part, config, CONTEXT))
    with pytest.raises(OSError, match="no regular file"):
        open_file(docs / "a.txt")
    assert time.monotonic() - begun < 5


SOURCES: list[tuple[Any, Any, str]] = [
    (WarcConfig, WarcSource, "x.warc"),
    (ParquetConfig, ParquetSource, "x.parquet"),
    (WikiDumpConfig, WikiDumpSource, "x.xml"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("config", "source", "name"), SOURCES)
def test_every_source_of_files_rejects_links_out_and_pipes(config: Any, source: Any, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / f"link-{name}").symlink_to("/etc/passwd")
    os.mkfifo(folder / f"pipe-{name}")
    expected = [f"outside-corpus:link-{name}", f"special-file:pipe-{name}"]
    assert ids(config(path=str(folder)), source()) == expected


def test_a_beir_folder_whose_documents_lie_elsewhere_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "beir").mkdir()
    (tmp_path / "docs.jsonl").write_text('{"_id": "1", "text": "t"}\n')
    (tmp_path / "beir" / "corpus.jsonl").symlink_to("../docs.jsonl")
    with pytest.raises(ConfigError, match=r"corpus\.jsonl: outside-corpus: .*corpus\.follow_links=true"):
        BeirSource().split(BeirConfig(path=str(tmp_path / "beir")), tmp_path)
    assert ids(BeirConfig(path=str(tmp_path / "beir"), follow_links=True), BeirSource()) == ["1"]


@pytest.fixture
def nest(docs: Path) -> Iterator[Callable[[str, int], None]]:
    """Return a function that makes folders inside one another, a page in the last; what it made is removed again."""

    def make(name: str, depth: int) -> None:
        handle = os.open(docs, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=handle)
            inner = os.open(name, os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = inner
        os.close(os.open("deep.txt", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
        os.close(handle)

    yield make
    subprocess.run(["rm", "-rf", docs], check=True)  # the standard library's own is recursive


@pytest.mark.parametrize("pattern", ["", "/**/*.txt"])
def test_folders_inside_one_another_are_read_as_long_as_paths_may_be(
    docs: Path, nest: Callable[[str, int], None], pattern: str
) -> None:
    nest("d", 1100)
    assert ids(FilesConfig(path=f"{docs}{pattern}")) == ["a.txt", "d/" * 1100 + "deep.txt", "sub/inside.txt"]


@pytest.mark.parametrize("pattern", ["", "/**/*.txt"])
def test_folders_whose_path_is_too_long_are_a_reject(
    docs: Path, nest: Callable[[str, int], None], pattern: str
) -> None:
    name = "n" * 200
    nest(name, 30)
    first, deep, last = ids(FilesConfig(path=f"{docs}{pattern}"))
    assert (first, last) == ("a.txt", "sub/inside.txt")
    assert deep.startswith(f"name-too-long:{name}/{name}/")


def test_a_file_whose_path_is_too_long_is_a_reject(docs: Path, nest: Callable[[str, int], None]) -> None:
    nest("x" * 254, (4000 - len(os.fsencode(docs))) // 255)
    folder = (docs / ids(FilesConfig(path=str(docs)))[-1]).parent
    handle = os.open(folder, os.O_RDONLY)
    for letter, length in (("y", 4095 - len(os.fsencode(folder)) - 1), ("z", 251)):  # the longest, and one too long
        os.close(os.open(f"{letter * (length - 4)}.txt", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
    os.close(handle)
    *_, longest, too_long = ids(FilesConfig(path=str(docs)))
    assert longest.startswith("x") and longest.endswith("y.txt")
    assert too_long.startswith("name-too-long:x") and too_long.endswith("z.txt")


def test_a_folder_that_may_not_be_listed_is_a_reject(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(folder: Path) -> Any:  # root may list what it likes
        if folder == docs / "sub":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert ids(FilesConfig(path=str(docs))) == ["a.txt", "unreadable-folder:sub"]
    with pytest.raises(InputError, match=r"sub: cannot be listed \(Permission denied\); make it readable"):
        ids(FilesConfig(path=str(docs / "sub")))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.txt", ["a.txt", "x/b.txt", "x/y/c.txt"]),
        ("**", ["a.txt", "x/b.txt", "x/y/c.txt", "x/y/d.md"]),
        ("x/**/*.txt", ["b.txt", "y/c.txt"]),
        ("*/**/c.*", ["x/y/c.txt"]),
        ("**/y/*", ["x/y/c.txt", "x/y/d.md"]),
        ("**/x/**/y/**/[cd].*", ["x/y/c.txt", "x/y/d.md"]),
        ("**/.h/*.txt", [".h/e.txt"]),
        ("*/*.txt", ["x/b.txt"]),
        (".h/*", ["e.txt"]),
    ],
)
def test_a_glob_names_what_the_standard_library_s_does(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in ("a.txt", "x/b.txt", "x/y/c.txt", "x/y/d.md", ".h/e.txt", "x/.hidden.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("t")
    found = corpus_files(FilesConfig(path=f"{tmp_path}/{pattern}"), lambda name: True, "")
    assert found == names
    expected = [path for path in glob.glob(f"{tmp_path}/{pattern}", recursive=True) if Path(path).is_file()]  # noqa: PTH207
    assert len(expected) == len(found)


def test_folders_that_link_to_themselves_are_no_circle_for_a_glob(docs: Path) -> None:
    for name in "xyz":
        (docs / name).symlink_to(".")
    assert ids(FilesConfig(path=f"{docs}/**/*.txt")) == ["a.txt", "sub/inside.txt"]
