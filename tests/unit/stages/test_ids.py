"""Ids are unique in the corpus: however its documents are divided into units, and for every number of workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fixedcorpus
import pytest
import stagerun
from warcs import HTML, record

NO_LIMITS = {"clean": {"min_chars": 1}}


def run(folder: Path, crawl: dict[str, Any], p: int = 1, **dedup: Any) -> stagerun.Chain:
    steps = stagerun.TO_CHUNK
    settings: dict[str, dict[str, Any]] = {"crawl": {"name": "ids", **crawl}, **NO_LIMITS}
    settings |= {step: dedup for step in steps if step.startswith("dedup.")}
    return stagerun.Chain(folder, settings).run(*steps, p=p)


def ids(chain: stagerun.Chain, stage: str = "dedup.drop") -> list[str]:
    return [row["doc_id"] for row in chain.table(stage, "documents.parquet")]


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    topics = iter(fixedcorpus.TOPICS)

    def captures(*uris: str) -> bytes:
        pages = ((uri, HTML + f"<p>{fixedcorpus.prose(next(topics), 1, 8)}".encode()) for uri in uris)
        return b"".join(record(uri, block) for uri, block in pages)

    folder = tmp_path / "archives"
    folder.mkdir()
    (folder / "a.warc").write_bytes(captures("http://h/prices", "http://h/prices"))
    (folder / "b.warc").write_bytes(captures("http://h/prices", "http://h/only", "http://h/prices"))
    (folder / "c.warc").write_bytes(captures("http://h/only", "http://h/prices"))
    return folder


@pytest.mark.parametrize("p", [1, 2, 7])
def test_captures_of_a_url_in_several_archives_go_on_counting(archives: Path, tmp_path: Path, p: int) -> None:
    chain = run(tmp_path / "run", {"source": "warc", "path": str(archives)}, p)
    assert ids(chain) == [
        "http://h/prices",
        "http://h/prices#2",
        "http://h/prices#3",
        "http://h/only",
        "http://h/prices#4",
        "http://h/only#2",
        "http://h/prices#5",
    ]
    chunks = [row["chunk_id"] for row in chain.table("chunk", "chunks.parquet")]
    assert len(chunks) == len(set(chunks))
    assert {row["url"] for row in chain.table("dedup.drop", "documents.parquet")} == {
        "http://h/prices",
        "http://h/only",
    }


def test_where_all_is_kept_copies_have_ids_of_their_own(archives: Path, tmp_path: Path) -> None:
    (archives / "d.warc").write_bytes((archives / "a.warc").read_bytes())
    chain = run(tmp_path / "run", {"source": "warc", "path": str(archives)}, keep_all=True)
    assert ids(chain)[-2:] == ["http://h/prices#6", "http://h/prices#7"]
    assert len(set(ids(chain))) == 9


@pytest.mark.parametrize("pages_per_unit", [1, 2, 100])
def test_a_record_whose_id_stood_before_is_a_reject_in_any_unit(tmp_path: Path, pages_per_unit: int) -> None:
    topics = list(fixedcorpus.TOPICS)
    names = ["a", "b", "a#2", "b#7", "a", "b"]
    records = [{"id": name, "text": fixedcorpus.prose(topic, 1, 8)} for name, topic in zip(names, topics, strict=False)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    crawl = {"source": "files", "path": str(tmp_path / "a.jsonl"), "pages_per_unit": pages_per_unit}
    chain = run(tmp_path / "run", crawl)
    assert ids(chain) == ["a", "b", "a#2", "b#7"]
    assert chain.rejects("crawl") | chain.rejects("dedup.drop") == {"a": "duplicate-id", "b": "duplicate-id"}
