"""chunk: passages are slices of their document and fit the encoder, heading included."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import stagerun

from rag_hpc.errors import ConfigError
from rag_hpc.models.folder import tokenizer_file
from rag_hpc.stages.chunk import ChunkConfig, Chunker, Method
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.chunks import COLUMNS, ChunkStore


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
        assert all(row[name] == document[name] for name in ("title", "url", "lang"))


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


def _chunks(title: str, text: str, meta: str = "{}", **settings: Any) -> list[dict[str, Any]]:
    document = {"doc_id": "d", "url": "", "title": title, "text": text, "lang": "en", "meta": meta}
    return [dict(zip(COLUMNS, row, strict=True)) for row in Chunker(ChunkConfig(**settings)).rows(document)]


def test_long_title_is_cut_at_a_token_and_leaves_its_room(tokenizer: Any) -> None:
    title = "Incomprehensibilities\n of  unbelievably internationalised titles"
    (first, *rest) = _chunks(title, "word " * 100, max_tokens=16, heading_tokens=7, overlap_tokens=0)
    flat = " ".join(title.split())
    assert flat.startswith(first["heading"]) and first["heading"] != flat
    assert len(tokenizer.encode(first["heading"], add_special_tokens=False).ids) == 7
    assert first["num_tokens"] == 9 and {row["heading"] for row in rest} == {first["heading"]}


def test_passage_that_begins_with_the_title_does_not_carry_it_again(tokenizer: Any) -> None:
    first, *rest = _chunks("Sorting", "# Sorting\n\n" + "It is stable. " * 40, max_tokens=64)
    assert first["heading"] == "" and {row["heading"] for row in rest} == {"Sorting"} and rest
    assert {r["heading"] for r in _chunks("", "It is stable. " * 20)} == {""}
    assert {r["heading"] for r in _chunks("Sorting", "It is stable. " * 20)} == {"Sorting"}


SECTIONS = "".join(
    f"{name}\n{f'The {name} is described at length here. ' * 9}\n\n" for name in ("Setup", "Linux", "Use")
)


def test_passages_carry_the_headings_above_them(tokenizer: Any) -> None:
    found = [[0, 2, "Setup"], [SECTIONS.index("Linux\n"), 3, "Linux"], [SECTIONS.index("Use\n"), 2, "Use"]]
    rows = _chunks("The Manual", SECTIONS, json.dumps({"headings": found}), max_tokens=48, overlap_tokens=8)
    by_text = {row["text"].split("\n")[0][:5] + str(row["start"] > 0): row["heading"] for row in rows}
    assert by_text["SetupFalse"] == "The Manual" and by_text["LinuxTrue"] == "The Manual > Setup"
    assert by_text["UseTrue"] == "The Manual"
    deep = [row for row in rows if "Linux" in row["text"] and not row["text"].startswith("Linux")]
    assert deep and {row["heading"] for row in deep} == {"The Manual > Setup > Linux"}
    assert all(row["text"].count("Linux") == 0 or "Use\n" not in row["text"] for row in rows)  # cut at the heading


@pytest.mark.parametrize("meta", ["", "{", "[1]", "[" * 100_000, '{"headings": [[0, 1, "\\ud800"]]}'])
def test_metadata_that_cannot_be_read_costs_no_document(meta: str, tokenizer: Any) -> None:
    rows = _chunks("Use", SECTIONS, meta, max_tokens=48, overlap_tokens=0)
    assert len(rows) > 2 and {row["heading"].encode() for row in rows} >= {b"Use"}


@pytest.mark.parametrize("max_tokens", [16, 20, 24, 66, 150, 254])
def test_endless_korean_word_keeps_the_limit(max_tokens: int, tokenizer: Any) -> None:
    for num_chars in (260, 288, 289, 300, 330, 416):  # as a whole unknown, and of three tokens a character in pieces
        text = ("\ud55c\uad6d" * 300)[:num_chars]
        rows = _chunks("", text, max_tokens=max_tokens, overlap_tokens=0, heading_tokens=0)
        assert "".join(row["text"] for row in rows) == text
        assert all(len(tokenizer.encode(row["text"], add_special_tokens=False).ids) <= max_tokens for row in rows)


def test_path_that_is_too_long_keeps_its_ends(tokenizer: Any) -> None:
    found = [[0, 2, "Setup " * 9], [SECTIONS.index("Linux\n"), 3, "Linux"]]
    rows = _chunks(
        "The Manual", SECTIONS, json.dumps({"headings": found}), max_tokens=48, overlap_tokens=8, heading_tokens=8
    )
    assert rows[-1]["heading"] == "The Manual > Linux"


def test_title_of_no_tokens_takes_no_room(tokenizer: Any) -> None:
    (first, *_) = _chunks("\u0301 \u0301", "word " * 100, max_tokens=16, heading_tokens=7, overlap_tokens=0)
    assert (first["heading"], first["num_tokens"]) == ("", 16)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 300_000,
        "\u200b" * 300_000 + "a",
        "a" + " " * 300_000 + "b",
        "字" * 50_000,
        "ไม่มีช่องว่าง" * 9_000,
        "مرحبا بالعالم. " * 5_000,
        "e\u0301" * 50_000,
        ("ab" * 75 + " ") * 900,
        "a\n" * 50_000,
        "[MASK]" * 9_000,
        "a\u302e\u302f " * 9_000,
        "." * 100_000,
        "#" * 9 + "# a\n" * 20_000,
        "```\n" * 30_000,
    ],
)
def test_hostile_texts_are_cut_in_bounded_time(text: str, tokenizer: Any) -> None:
    begun = time.process_time()
    rows = _chunks("", text, max_tokens=64, overlap_tokens=16)
    assert time.process_time() - begun < 20
    assert all(row["text"] == text[row["start"] : row["end"]] and len(row["text"]) <= 64 * 32 for row in rows)
    lengths = [len(e.ids) for e in tokenizer.encode_batch([row["text"] for row in rows[:50]], add_special_tokens=False)]
    assert lengths == [row["num_tokens"] for row in rows[:50]] and max(lengths) <= 64


def test_semantic_cuts_where_the_topic_changes(tokenizer: Any) -> None:
    about = {
        "cats": "The cat sleeps on a warm sofa. A kitten chases the small mouse. Cats purr when they are happy. ",
        "tax": "The tax return is due in April. Income is taxed by the state. A deduction lowers your tax. ",
    }
    text = about["cats"] * 3 + about["tax"] * 3
    meant = text.index("The tax return")
    settings: dict[str, Any] = {"max_tokens": 110, "overlap_tokens": 0}
    recursive, semantic = (_chunks("", text, method=method, **settings) for method in Method)
    assert meant in {row["start"] for row in semantic} and meant not in {row["start"] for row in recursive}
    assert semantic == _chunks("", text, method=Method.semantic, **settings)


def test_topics_do_not_depend_on_other_documents(front: stagerun.Chain, tmp_path: Path) -> None:
    made = front.again("chunk", tmp_path / "run", method="semantic")
    long = next(row for row in front.table("dedup.drop", "documents.parquet") if row["doc_id"] == "long")
    config = ChunkConfig(**{k: v for k, v in front.settings["chunk"].items() if k != "method"}, method=Method.semantic)
    alone = [row[0] for row in Chunker(config).rows(long)]
    assert alone == [row["chunk_id"] for row in stagerun.rows_of(made, "chunks.parquet") if row["doc_id"] == "long"]


def test_chunks_longer_than_the_encoder_reads_are_refused_at_the_plan(front: stagerun.Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set stage.chunk.max_tokens=254"):
        make_stage("chunk", {"max_tokens": 255}).plan(front.out, tmp_path)
    assert len(make_stage("chunk", {"max_tokens": 254}).plan(front.out, tmp_path)) == 7
