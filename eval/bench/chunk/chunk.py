"""Bench `chunk`: text to passages per core, exactness of the token counts, and what topic breaks do to retrieval.

Rates are of whole chunking per CPU second: tokenization, cuts and ids, without Parquet. quality=true adds nDCG and
recall of recursive against semantic chunks (minutes: every passage is encoded).
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rag_hpc.algo.extract.decode import markdown_headings
from rag_hpc.core.commit import UNITS
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context
from rag_hpc.core.unit import Unit
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.chunk.quality import quality_rows
from rag_hpc.eval.bench.pairs import Timed, take_turns
from rag_hpc.eval.bench.registry import known, peer
from rag_hpc.eval.bench.rows import Row
from rag_hpc.models.folder import tokenizer_file
from rag_hpc.models.tokens import TokenCounter
from rag_hpc.stages.chunk import Chunk, ChunkConfig, Chunker
from rag_hpc.stores.documents import COLUMNS, DOCUMENTS, open_documents

DEFAULTS = {"data": "", "mb": "1.0", "rounds": "7", "peers": "true", "quality": "false"}
CORPORA = ("docs_cpp/docs", "docs_powershell/docs", "qa_squad2/passages")
BARS = {"tokenizers alone": 2.0, "langchain": 10.0}  # times the peer's rate
EXACT_BAR = 1.0  # share of chunks
MAX_TOKENS, OVERLAP = 254, 25

Document = dict[str, Any]


def run(options: dict[str, str]) -> list[Row]:
    """Return rate rows per corpus, the stage's rate, the exactness row, and quality rows where asked for.

    Options: data (folder of the shared corpora), mb (of each corpus), rounds, peers, quality.
    """
    given = known(options, DEFAULTS)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a side
    folder = Path(given["data"] or os.environ.get("RAG_HPC_DATA") or "../shared/data")
    corpora = {name: list(documents(folder, name, float(given["mb"]) * 1e6)) for name in CORPORA}
    chunker = Chunker(ChunkConfig(max_tokens=MAX_TOKENS, overlap_tokens=OVERLAP))
    rows = []
    for name, docs in corpora.items():
        rows += _rate_rows(name, docs, chunker, given)
    rows += [
        _stage_row([doc for docs in corpora.values() for doc in docs], int(given["rounds"])),
        _exactness(corpora, chunker),
    ]
    return rows + (quality_rows(folder) if given["quality"] == "true" else [])


def documents(folder: Path, name: str, num_bytes: float) -> Iterator[Document]:
    """Yield a corpus's documents as the chunk stage reads them, evenly spread, up to so many bytes of text."""
    import json

    import zstandard

    path = folder / f"{name}.jsonl.zst"
    if not path.is_file():
        raise InputError(f"bench chunk: {path} does not exist; give data=FOLDER of the shared corpora")
    with path.open("rb") as raw:
        lines = [line for line in zstandard.ZstdDecompressor().stream_reader(raw).read().split(b"\n") if line]
    step = max(1, int(sum(map(len, lines)) / num_bytes))
    for line in lines[::step]:
        row = json.loads(line)
        yield {
            "doc_id": row["id"],
            "url": row.get("url") or "",
            "title": row.get("title") or "",
            "text": row["text"],
            "lang": "",
            "meta": json.dumps({"headings": markdown_headings(row["text"])}),
        }


def _rate_rows(name: str, docs: list[Document], chunker: Chunker, given: Mapping[str, str]) -> list[Row]:
    texts = [doc["text"] for doc in docs]
    sides: dict[str, Callable[[], object]] = {"ours": lambda: [chunker.rows(doc) for doc in docs]}
    if given["peers"] == "true":
        sides |= _peers(texts)
    size_mb = sum(len(text.encode()) for text in texts) / 1e6
    for side in sides.values():
        side()
    timed = take_turns({side: _rate(work, size_mb) for side, work in sides.items()}, int(given["rounds"]))
    corpus = name.split("/")[0]
    return [_own_row(corpus, timed, size_mb), *peer_rows(corpus, timed)]


def _own_row(corpus: str, timed: Timed, size_mb: float) -> Row:
    """Return our rate: MB/s are the processor's as much as ours, so the bars are ratios."""
    return Row(
        name=f"chunk {corpus}",
        ours=timed.median("ours"),
        unit="MB/s/core",
        peers={side: timed.median(side) for side in timed.values if side != "ours"},
        contention=timed.contention,
        note=f"{size_mb:.2f} MB",
    )


def peer_rows(corpus: str, timed: Timed) -> Iterator[Row]:
    """Yield our rate beside each peer's."""
    for side in timed.values:
        if side != "ours":
            ratio, interval = timed.ratio(side)
            yield Row(
                name=f"chunk {corpus} / {side}",
                ours=timed.median("ours"),
                unit="MB/s/core",
                peers={side: timed.median(side)},
                ratio=ratio,
                interval=interval,
                bar=BARS.get(side),
                contention=timed.contention,
            )


def _rate(work: Callable[[], object], size_mb: float) -> Callable[[], float]:
    def timed() -> float:
        begun = time.process_time()  # of all threads: what a core costs, whoever else is on the machine
        work()
        return size_mb / (time.process_time() - begun)

    return timed


def _stage_row(docs: list[Document], rounds: int) -> Row:
    """Return the rate of the whole stage in one process: Parquet of documents in, Parquet of chunks out."""
    size_mb = sum(len(doc["text"].encode()) for doc in docs) / 1e6
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as name:
        folder = Path(name)
        unit_dir = folder / UNITS / Unit(0, {}).name
        unit_dir.mkdir(parents=True)
        with open_documents(unit_dir) as table:
            for doc in docs:
                table.add(*[doc[column] for column in COLUMNS])
        written = unit_dir / DOCUMENTS
        files = {DOCUMENTS: {"bytes": written.stat().st_size, "sha256": hash_file(written)}}
        manifest = Manifest(
            stage="dedup.drop",
            version=1,
            fingerprint="",
            config={},
            inputs={},
            quarantined=[],
            units=[{"index": 0, "files": files}],
            output_hash="",
            folder=folder,
        )
        stage, ctx = (
            Chunk(ChunkConfig(max_tokens=MAX_TOKENS, overlap_tokens=OVERLAP)),
            Context(inputs={"dedup.drop": manifest}),
        )
        stage.setup(ctx)
        work = _rate(lambda: stage.run(Unit(0, {"unit": 0}), folder, ctx), size_mb)
        work()
        timed = take_turns({"ours": work}, rounds)
    return Row(
        name="chunk stage, Parquet to Parquet",
        ours=timed.median("ours"),
        unit="MB/s/core",
        contention=timed.contention,
        note=f"{size_mb:.2f} MB",
    )


def _peers(texts: list[str]) -> dict[str, Callable[[], object]]:
    """Return the peers, each with the encoder's tokenizer and our limits; the last one only tokenizes."""
    peer("semantic_text_splitter", "semantic-text-splitter")
    peer("langchain_text_splitters", "langchain-text-splitters")
    rust = importlib.import_module("semantic_text_splitter").TextSplitter
    split = rust.from_huggingface_tokenizer(_tokenizer(), MAX_TOKENS, OVERLAP).chunks
    langchain = importlib.import_module("langchain_text_splitters").RecursiveCharacterTextSplitter
    tokenizer = _tokenizer()
    recursive = langchain(
        chunk_size=MAX_TOKENS,
        chunk_overlap=OVERLAP,
        length_function=lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids),
    )
    return {
        "langchain": lambda: [recursive.split_text(text) for text in texts],
        "semantic-text-splitter": lambda: [split(text) for text in texts],
        "tokenizers alone": lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False),
    }


def _tokenizer() -> Any:
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(tokenizer_file("minilm")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _exactness(corpora: Mapping[str, list[Document]], chunker: Chunker) -> Row:
    """Return the share of chunks whose count of tokens is the tokenizer's and fits with its heading."""
    judge, good, total = _tokenizer(), 0, 0
    for docs in corpora.values():
        rows = [row for doc in docs for row in chunker.rows(doc)]
        alone = judge.encode_batch_fast([row[6] for row in rows], add_special_tokens=False)
        whole = judge.encode_batch_fast([f"{row[5]}\n{row[6]}" for row in rows], add_special_tokens=False)
        good += sum(
            len(a.ids) == row[9] and len(w.ids) <= MAX_TOKENS for row, a, w in zip(rows, alone, whole, strict=True)
        )
        total += len(rows)
    fast = "compiled" if TokenCounter("minilm").is_fast else "general"
    return Row(
        name="chunk exactness",
        ours=good / total,
        unit="of chunks",
        bar=EXACT_BAR,
        note=f"{total} chunks, {fast} tokenizer",
    )
