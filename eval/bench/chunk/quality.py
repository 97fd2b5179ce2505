"""What the way of cutting does to dense retrieval: recall@10 and nDCG@10 of the passage that holds the answer.

SQuAD: the passages of a title are one document again. A question's relevant chunks are those that hold its answer, at
its place; a ranking is of chunks, by cosine.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag_hpc.algo.rank.topk import exact_topk
from rag_hpc.eval.bench.rows import Row
from rag_hpc.models.encoder import Encoder
from rag_hpc.stages.chunk import ChunkConfig, Chunker, Method

DEPTH = 10
JOIN = "\n\n"
Asked = tuple[str, str, int, int]  # question, document, where the answer starts and ends in it


def quality_rows(folder: Path, model: str = "minilm") -> list[Row]:
    """Return nDCG@10 and recall@10 of semantic chunks (ours) beside recursive ones (peer) on SQuAD; not judged."""
    docs, asked = squad(folder)
    encoder = Encoder(model, threads=1)
    found = {method.value: _scores(docs, asked, encoder, ChunkConfig(model=model, method=method)) for method in Method}
    notes = f"{len(docs)} documents, {len(asked)} questions; " + ", ".join(
        f"{name}: {num} chunks" for name, (_, _, num) in found.items()
    )
    return [
        Row(
            name=f"chunk quality squad {measure}",
            ours=found["semantic"][at],
            unit=measure,
            peers={"recursive": found["recursive"][at]},
            ratio=found["semantic"][at] / found["recursive"][at],
            note=notes,
        )
        for at, measure in enumerate(("R@10", "nDCG@10"))
    ]


def squad(folder: Path) -> tuple[list[dict[str, Any]], list[Asked]]:
    """Return one document a title, its passages joined, and the answerable questions with where their answer is."""
    texts: dict[str, str] = {}
    place: dict[str, tuple[str, int]] = {}
    for row in json_lines(folder / "qa_squad2/passages.jsonl.zst"):
        before = texts.get(row["title"], "")
        before += JOIN if before else ""
        place[row["id"]] = (row["title"], len(before))
        texts[row["title"]] = before + row["text"]
    asked = []
    for row in json_lines(folder / "qa_squad2/questions.jsonl.zst"):
        if row["answers"]:
            title, first = place[row["passage_id"]]
            start = first + row["answer_starts"][0]
            asked.append((row["question"], title, start, start + len(row["answers"][0])))
    docs = [
        {"doc_id": title, "url": "", "title": title.replace("_", " "), "text": text, "lang": "en", "meta": "{}"}
        for title, text in texts.items()
    ]
    return docs, asked


def _scores(
    docs: Sequence[dict[str, Any]], asked: Sequence[Asked], encoder: Encoder, config: ChunkConfig
) -> tuple[float, float, int]:
    """Return (recall@10, nDCG@10, number of chunks), means over the questions."""
    chunker = Chunker(config)
    chunks = [row for doc in docs for row in chunker.rows(doc)]
    vectors = encoder.encode([f"{row[5]}\n{row[6]}" if row[5] else row[6] for row in chunks])
    _, ids = exact_topk(encoder.encode([q for q, *_ in asked], allow_truncate=True), vectors, DEPTH)
    recalls, gains = [], []
    for (_, doc, start, end), found in zip(asked, ids, strict=True):
        good = {at for at, row in enumerate(chunks) if row[1] == doc and row[7] <= start and end <= row[8]}
        hits = [1.0 / math.log2(rank + 2) for rank, at in enumerate(found.tolist()) if at in good]
        ideal = sum(1.0 / math.log2(rank + 2) for rank in range(min(len(good), DEPTH)))
        recalls.append(float(bool(hits)))
        gains.append(sum(hits) / ideal if ideal else 0.0)  # an answer that was cut in two is found by none
    return statistics.fmean(recalls), statistics.fmean(gains), len(chunks)


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl.zst file."""
    import zstandard

    with path.open("rb") as raw:
        lines = zstandard.ZstdDecompressor().stream_reader(raw).read().split(b"\n")
    return [json.loads(line) for line in lines if line]
