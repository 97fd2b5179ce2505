"""Lucene shards: the same bytes for the same documents."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_hpc.algo.rank import bm25
from rag_hpc.errors import ConfigError, InputError, MissingDependency
from rag_hpc.search import jvm, lucene
from rag_hpc.search.shards import Shards

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A fox is a small wild dog; foxes jump.",
    "",
    "\U0001f600 emoji, \u00e9t\u00e9 and a lone \ud800 surrogate",
    "Rate limits: 429 is returned when the rate limit of the gateway is exceeded. " * 40,
]
DOCS = [(f"doc-{i}\U0001f600", text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module", autouse=True)
def _java() -> None:
    try:
        jvm.start()  # whichever test comes first: a class asked for before it would start a JVM without Lucene
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "shard"
    assert lucene.build_index(DOCS, folder) == {"docs": 5, "docs_with_terms": 4, "terms": 378}
    return folder


def test_two_builds_pack_to_the_same_bytes(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    lucene.build_index(iter(DOCS), tmp_path / "again")
    hashes = []
    for folder in (built, tmp_path / "again"):
        tar = tmp_path / f"{folder.name}.tar"
        lucene.pack(folder, tar)
        hashes.append(hashlib.sha256(tar.read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]


def test_index_does_not_name_the_machine_that_built_it(built: Path) -> None:
    kept = b"".join(p.read_bytes() for p in built.iterdir())
    assert b"timestamp" not in kept and b"os.version" not in kept and os.uname().release.encode() not in kept
    assert not (built / "write.lock").exists()


def test_many_small_flushes_keep_the_order_and_one_segment(tmp_path: Path) -> None:
    script = (
        "import sys, json; from pathlib import Path; from rag_hpc.search import jvm, lucene\n"
        "lucene._FLUSH_CHARS = 50; jvm.start(512, seeded=True)\n"
        "docs = [(str(i), f'word{i} common text number {i}') for i in range(120)]\n"
        f"print(json.dumps(lucene._write(docs, Path({str(tmp_path)!r}))))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["docs"] == 120
    shard = Shards([tmp_path])
    assert shard.ids(range(120)) == [str(i) for i in range(120)]
    assert shard.top([bm25.make_query(["word77"], shard.collection(["word77"]))], 3)[1].tolist() == [[77, -1, -1]]
    shard.close()


def test_packed_index_answers_after_unpacking(built: Path, tmp_path: Path) -> None:
    lucene.pack(built, tmp_path / "shard.tar")
    shard = Shards([lucene.unpack(tmp_path / "shard.tar", tmp_path / "back")])
    (scores,), (docs,) = shard.top([bm25.make_query(["fox"], shard.collection(["fox"]))], 2)
    assert shard.ids(docs) == ["doc-1\U0001f600", "doc-0\U0001f600"] and scores[0] > scores[1] > 0
    shard.close()


def test_pyserini_field_names_and_lucene_version_are_anserini_s(built: Path) -> None:
    readers = jvm.java("io.anserini.index.IndexReaderUtils")
    reader = readers.getReader(jvm.java_string(str(built)))
    stats = readers.getIndexStats(reader, "contents")
    assert (int(stats.get("documents")), int(stats.get("non_empty_documents"))) == (5, 4)


def test_builder_whose_parent_dies_writes_no_index(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "rag_hpc.search.lucene", str(tmp_path), "256", "{}"],
        input=b'["a", "some text"]\n',
        capture_output=True,
        check=False,
    )
    assert child.returncode == 1 and b"parent process ended" in child.stderr
    assert not list(tmp_path.glob("segments_*"))


def test_documents_that_fail_midway_stop_the_builder(tmp_path: Path) -> None:
    def docs() -> Iterator[tuple[str, str]]:
        yield "a", "text"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        lucene.build_index(docs(), tmp_path / "x")
    assert not list((tmp_path / "x").glob("segments_*"))


def test_what_lucene_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)exit status 1.*immense term"):
        lucene.build_index([("i" * 40_000, "text")], tmp_path / "x")
    with pytest.raises(InputError, match="not empty"):
        lucene.build_index(DOCS, tmp_path)
    with pytest.raises(InputError, match="no Lucene index"):
        Shards([tmp_path])
    with pytest.raises(ConfigError, match="JVM of its own"):
        jvm.start(seeded=True)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "write me"])
def test_unpack_refuses_names_that_are_not_lucene_s(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match="no part of an index"):
        lucene.unpack(tmp_path / "x.tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_unpack_refuses_links_and_cut_files(built: Path, tmp_path: Path) -> None:
    link = tarfile.TarInfo("_0.si")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(link)
    with pytest.raises(InputError, match="no part of an index"):
        lucene.unpack(tmp_path / "x.tar", tmp_path / "out")
    lucene.pack(built, tmp_path / "whole.tar")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:700])
    with pytest.raises(InputError, match="not a whole tar"):
        lucene.unpack(tmp_path / "cut.tar", tmp_path / "cut")
