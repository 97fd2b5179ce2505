"""A Lucene shard: built, packed, unpacked.

A shard's bytes depend on its documents alone: one thread, documents in the order given, one segment, ids from a fixed
seed in a JVM of its own, and no diagnostics (host, kernel, time) in the segment's description.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.errors import InputError
from rag_hpc.search import jvm
from rag_hpc.search.jvm import Analyzer, heap, java, java_string, require_java, start

log = logging.getLogger(__name__)

LOCK = "write.lock"
CONTENTS, ID = "contents", "id"  # Anserini's field names, so that pyserini opens these indexes too
_FLUSH_CHARS = 32_000_000  # text held in memory before a segment is written; a fixed point, unlike a heap threshold
_END = "end"
_FILE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[a-z0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Indexing:
    """What an index is made with."""

    analyzer: str = Analyzer.en.value  # a value of `jvm.Analyzer`
    fields: Sequence[str] = ()  # beside a document's text
    positions: bool = False  # of words, for phrases
    term_vectors: bool = False  # of documents' texts, for feedback


def build_index(
    docs: Iterable[Sequence[str]], out_dir: Path, how: Indexing = Indexing(), *, heap_mib: int = 0
) -> dict[str, int]:
    """Write one shard to `out_dir` (absent or empty) and return {docs, docs_with_terms, terms}, of the text's field.

    docs: (id, text, what `how.fields` hold), with `auto` its language last; the i-th becomes Lucene document i. Runs a
    child process with a JVM of its own, whose heap is `jvm.heap(heap_mib)`. Raises InputError with the child's last
    words when Lucene fails.
    """
    require_java()
    heap_mib = heap(heap_mib)
    out_dir.mkdir(parents=True, exist_ok=True)
    if any(out_dir.iterdir()):
        raise InputError(f"lexical: {out_dir} is not empty; give a new folder for the index")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)}
    told = json.dumps(dataclasses.asdict(how))
    command = [sys.executable, "-P", "-m", "rag_hpc.search.lucene", str(out_dir.resolve()), str(heap_mib), told]
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
    names = sorted(p.name for p in index_dir.iterdir() if p.name != LOCK)
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


def _feed(child: subprocess.Popen[bytes], docs: Iterable[Sequence[str]]) -> bytes:
    """Return the child's answer after sending it the documents; b"" when it died early."""
    assert child.stdin is not None and child.stdout is not None  # both are pipes
    try:
        for doc in docs:
            child.stdin.write(json.dumps(doc).encode("ascii") + b"\n")
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


def _bytes_ref(text: str) -> Any:
    return java("org.apache.lucene.util.BytesRef")(text.encode("utf-8", "replace"), signature="([B)V")


def _write(docs: Iterable[Sequence[str]], out_dir: Path, how: Indexing = Indexing()) -> dict[str, int]:
    """Return the statistics of the index written to `out_dir` by this process's JVM."""
    directory = java("org.apache.lucene.store.FSDirectory").open(java("java.nio.file.Paths").get(str(out_dir)))
    by_document = how.analyzer == Analyzer.auto.value
    analyzer = jvm.analyzer(Analyzer.en.value if by_document else how.analyzer)
    analyzer = java("raghpc.Analyzers$Chosen")(analyzer) if by_document else analyzer
    config = java("org.apache.lucene.index.IndexWriterConfig")(analyzer)
    config.setMergeScheduler(java("org.apache.lucene.index.SerialMergeScheduler")())
    config.setMergePolicy(java("org.apache.lucene.index.LogDocMergePolicy")())  # merges neighbours: keeps the order
    config.setMaxBufferedDocs(1 << 30)
    config.setRAMBufferSizeMB(-1.0)  # off: we flush after a fixed amount of text instead
    writer = java("org.apache.lucene.index.IndexWriter")(directory, config)
    doc, held, num_docs = _ReusedDocument(how), 0, 0
    for doc_id, *texts in docs:
        if by_document:
            analyzer.choose(jvm.analyzer(texts.pop()))
        writer.addDocument(doc.fill(doc_id, texts))
        num_docs += 1
        held += sum(map(len, texts))
        if held >= _FLUSH_CHARS:
            writer.flush()
            held = 0
    writer.forceMerge(1)
    writer.commit()
    writer.close()
    _forget_diagnostics(directory)
    reader = java("org.apache.lucene.index.DirectoryReader").open(directory)
    leaf = reader.leaves().get(0).reader() if num_docs else None
    with_terms = int(leaf.getDocCount(CONTENTS)) if leaf else 0
    terms = max(0, int(leaf.getSumTotalTermFreq(CONTENTS))) if leaf else 0
    reader.close()
    (out_dir / LOCK).unlink(missing_ok=True)
    return {"docs": num_docs, "docs_with_terms": with_terms, "terms": terms}


class _ReusedDocument:
    """One Lucene document whose fields are refilled for each text: few calls into Java."""

    def __init__(self, how: Indexing) -> None:
        options = java("org.apache.lucene.index.IndexOptions")
        types = []
        for vectors in (how.term_vectors, False):
            kind = java("org.apache.lucene.document.FieldType")()
            kind.setIndexOptions(options.DOCS_AND_FREQS_AND_POSITIONS if how.positions else options.DOCS_AND_FREQS)
            kind.setTokenized(True)
            kind.setStoreTermVectors(vectors)
            kind.freeze()
            types.append(kind)
        kinds = zip((CONTENTS, *how.fields), [types[0]] + [types[1]] * len(how.fields), strict=True)
        signature = "(Ljava/lang/String;Ljava/lang/CharSequence;Lorg/apache/lucene/index/IndexableFieldType;)V"
        field = java("org.apache.lucene.document.Field")
        self._texts = [field(name, java_string(""), kind, signature=signature) for name, kind in kinds]
        stored = java("org.apache.lucene.document.Field$Store").YES
        signature = "(Ljava/lang/String;Ljava/lang/String;Lorg/apache/lucene/document/Field$Store;)V"
        self._id = java("org.apache.lucene.document.StringField")(ID, "", stored, signature=signature)
        # Anserini breaks ties by this column
        self._id_column = java("org.apache.lucene.document.BinaryDocValuesField")(ID, _bytes_ref(""))
        self._document = java("org.apache.lucene.document.Document")()
        for one in (self._id, self._id_column, *self._texts):
            self._document.add(one)

    def fill(self, doc_id: str, texts: Sequence[str]) -> Any:
        """Return the document with a new id, and a new text of each field."""
        self._id.setStringValue(java_string(doc_id))
        self._id_column.setBytesValue(_bytes_ref(doc_id))
        for field, text in zip(self._texts, texts, strict=True):
            field.setStringValue(java_string(text))
        return self._document


def _forget_diagnostics(directory: Any) -> None:
    """Rewrite each segment's description without the host, kernel, Java and time that Lucene notes in it."""
    infos = java("org.apache.lucene.index.SegmentInfos").readLatestCommit(directory)
    context = java("org.apache.lucene.store.IOContext").DEFAULT
    nothing = java("java.util.Collections").emptyMap()
    for at in range(infos.size()):
        old = infos.info(at).info
        identity = (old.name, old.maxDoc(), old.getUseCompoundFile(), old.getHasBlocks(), old.getCodec(), nothing)
        new = java("org.apache.lucene.index.SegmentInfo")(
            directory, old.getVersion(), old.getMinVersion(), *identity, old.getId(), old.getAttributes(), None
        )
        new.setFiles(old.files())
        directory.deleteFile(f"{old.name}.si")
        old.getCodec().segmentInfoFormat().write(directory, new, context)


def _lines() -> Iterable[Sequence[str]]:
    """Yield the documents that the parent sends; raises InputError when it stops before the end."""
    for line in sys.stdin.buffer:
        record = json.loads(line)
        if record == _END:
            return
        yield record
    raise InputError("lexical: the parent process ended before the last document")


def main(argv: Sequence[str]) -> int:
    """Build an index in argv[0] with a heap of argv[1] MiB as argv[2] says from the standard input."""
    start(int(argv[1]), seeded=True)
    stats = _write(_lines(), Path(argv[0]), Indexing(**json.loads(argv[2])))
    sys.stdout.write(json.dumps(stats))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
