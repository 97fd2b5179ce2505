"""chunk: passages are slices of their document and fit the encoder, heading included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stagerun

from rag_hpc.core.chunkstore import COLUMNS, ChunkStore
from rag_hpc.core.tables import TableWriter, read_table
from rag_hpc.encoder import tokenizer_file
from rag_hpc.errors import ConfigError
from rag_hpc.stages.chunk import Chunk, ChunkConfig
from rag_hpc.stages.registry import make_stage


@pytest.fixture(scope="module")
def tokenizer(front: stagerun.Chain) -> Any:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(tokenizer_file("minilm")))
    found.no_truncation()
    found.no_padding()
    return found


def _documents(front: stagerun.Chain) -> dict[str, dict[str, Any]]:
    return {row["doc_id"]: row for row in front.table("dedup.drop", "documents.parquet")}


def test_every_chunk_is_the_slice_its_offsets_name(front: stagerun.Chain) -> None:
    documents = _documents(front)
    rows = front.table("chunk", "chunks.parquet")
    assert len(rows) == int(front.out["chunk"].extra()["chunks"]) > len(documents)
    for row in rows:
        document = documents[row["doc_id"]]
        assert row["text"] == document["text"][row["start"] : row["end"]] == row["text"].strip() != ""
        assert row["chunk_id"] == f"{row['doc_id']}#{row['start']}-{row['end']}"
        assert (row["title"], row["url"]) == (document["title"], document["url"])


def test_chunk_ids_are_unique_and_rows_follow_documents_and_offsets(front: stagerun.Chain) -> None:
    rows = front.table("chunk", "chunks.parquet")
    assert len({row["chunk_id"] for row in rows}) == len(rows)
    place = {doc_id: at for at, doc_id in enumerate(_documents(front))}
    keys = [(place[row["doc_id"]], row["end"]) for row in rows]
    assert keys == sorted(keys)


def test_what_the_encoder_reads_fits_with_heading_and_special_tokens(front: stagerun.Chain, tokenizer: Any) -> None:
    limit = front.settings["chunk"]["max_tokens"]
    rows = front.table("chunk", "chunks.parquet")
    texts = ChunkStore(front.out["chunk"]).indexed_texts(0, len(rows))
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    assert max(lengths) <= limit + 2
    assert sum(length > limit - 8 for length in lengths) > 20  # passages are filled, not merely short
    for row in rows:
        assert row["num_tokens"] == len(tokenizer.encode(row["text"], add_special_tokens=False).ids)


def test_all_words_of_a_document_are_in_some_chunk(front: stagerun.Chain) -> None:
    covered: dict[str, set[int]] = {}
    for row in front.table("chunk", "chunks.parquet"):
        covered.setdefault(row["doc_id"], set()).update(range(row["start"], row["end"]))
    for doc_id, document in _documents(front).items():
        solid = {at for at, ch in enumerate(document["text"]) if not ch.isspace()}
        assert doc_id == "marks" or solid <= covered[doc_id]


def test_document_without_tokens_is_rejected(front: stagerun.Chain) -> None:
    assert front.rejects("chunk") == {"marks": "no-tokens"}


def _chunks(tmp_path: Path, title: str, text: str, **settings: Any) -> list[dict[str, Any]]:
    stage = Chunk(ChunkConfig(**settings))
    stage.setup(stagerun.context({}, tmp_path))
    with TableWriter(tmp_path / "x.parquet", COLUMNS) as writer:
        stage._cut({"doc_id": "d", "url": "", "title": title, "text": text}, writer)
    rows: list[dict[str, Any]] = read_table(tmp_path / "x.parquet").to_pylist()
    return rows


def test_long_title_is_cut_at_a_token_and_leaves_its_room(tmp_path: Path, tokenizer: Any) -> None:
    title = "Incomprehensibilities\n of  unbelievably internationalised titles"
    (first, *rest) = _chunks(tmp_path, title, "word " * 100, max_tokens=16, heading_tokens=7, overlap_tokens=0)
    flat = " ".join(title.split())
    assert flat.startswith(first["heading"]) and first["heading"] != flat
    assert len(tokenizer.encode(first["heading"], add_special_tokens=False).ids) == 7
    assert first["num_tokens"] == 9 and {row["heading"] for row in rest} == {first["heading"]}


def test_text_that_begins_with_its_title_gets_no_heading(tmp_path: Path, tokenizer: Any) -> None:
    assert {r["heading"] for r in _chunks(tmp_path, "Sorting", "Sorting is stable. " * 20)} == {""}
    assert {r["heading"] for r in _chunks(tmp_path, "", "It is stable. " * 20)} == {""}
    assert {r["heading"] for r in _chunks(tmp_path, "Sorting", "It is stable. " * 20)} == {"Sorting"}


def test_title_of_no_tokens_takes_no_room(tmp_path: Path, tokenizer: Any) -> None:
    (first, *_) = _chunks(tmp_path, "\u0301 \u0301", "word " * 100, max_tokens=16, heading_tokens=7, overlap_tokens=0)
    assert (first["heading"], first["num_tokens"]) == ("", 16)


def test_chunks_longer_than_the_encoder_reads_are_refused_at_the_plan(front: stagerun.Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set stage.chunk.max_tokens=254"):
        make_stage("chunk", {"max_tokens": 255}).plan(front.out, tmp_path)
    assert len(make_stage("chunk", {"max_tokens": 254}).plan(front.out, tmp_path)) == 7
