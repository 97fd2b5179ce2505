"""BEIR folders and files of questions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from realdata import DATA

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import ReadContext, SourceName
from rag_hpc.sources.files.beir import BeirConfig, BeirSource, load_beir_questions
from rag_hpc.sources.files.questions import read_questions
from rag_hpc.sources.registry import SOURCES, config_class, get_source
from rag_hpc.stores.page import Page

CONTEXT = ReadContext(shared=Path(), should_stop=lambda: False, sleep=lambda wait: None)
HEADER = "query-id\tcorpus-id\tscore\n"


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    body = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    packers: dict[str, Any] = {".gz": gzip.compress, ".zst": zstandard.compress}
    path.write_bytes(packers.get(path.suffix, bytes)(body))


def folder(tmp_path: Path, qrels: str = HEADER + "q1\td1\t2\nq1\td2\t0\nq3\td2\t1\n", suffix: str = "") -> Path:
    docs: list[dict[str, Any]] = [
        {"_id": "d1", "title": "One", "text": "first", "metadata": {}},
        {"_id": "d2", "title": "", "text": ""},
    ]
    write_jsonl(tmp_path / f"corpus.jsonl{suffix}", docs)
    write_jsonl(tmp_path / f"queries.jsonl{suffix}", [{"_id": f"q{n}", "text": f"what {n}?"} for n in (3, 2, 1)])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(qrels)
    return tmp_path


@pytest.fixture(scope="module")
def cranfield(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BEIR folder of the Cranfield collection."""
    source = DATA / "ir_cranfield"
    if not source.is_dir():
        pytest.skip(f"no shared data at {DATA}; set RAG_HPC_DATA")
    beir = tmp_path_factory.mktemp("cranfield")
    with zstandard.open(source / "docs.jsonl.zst", "rb") as file:
        docs = [json.loads(line) for line in file.read().split(b"\n") if line]
    queries = [json.loads(line) for line in (source / "queries.jsonl").read_bytes().split(b"\n") if line]
    write_jsonl(
        beir / "corpus.jsonl.zst", [{"_id": doc["id"], "title": doc["title"], "text": doc["text"]} for doc in docs]
    )
    write_jsonl(beir / "queries.jsonl", [{"_id": query["id"], "text": query["text"]} for query in queries])
    rows = [line.split() for line in (source / "qrels.txt").read_text().splitlines()]
    (beir / "qrels").mkdir()
    (beir / "qrels" / "test.tsv").write_text(HEADER + "".join(f"{row[0]}\t{row[2]}\t{row[3]}\n" for row in rows))
    return beir


def corpus(path: Path, **changes: Any) -> BeirConfig:
    return BeirConfig(path=str(path), **changes)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_documents_keep_title_and_text_apart(tmp_path: Path, suffix: str) -> None:
    config = corpus(folder(tmp_path, suffix=suffix), pages_per_unit=1)
    parts = BeirSource().split(config, tmp_path)
    assert len(parts) == 2
    pages = [page for part in parts for page in BeirSource().read(part, config, CONTEXT)]
    assert pages == [
        Page(doc_id="d1", url="", body=b"first", content_type="text/plain", charset="utf-8", title="One"),
        Page(doc_id="d2", url="", body=b"", content_type="text/plain", charset="utf-8", title=""),
    ]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_only_judged_queries_are_questions(tmp_path: Path, suffix: str) -> None:
    assert load_beir_questions(folder(tmp_path, suffix=suffix)) == [
        {"id": "q3", "text": "what 3?", "answers": [], "relevant": {"d2": 1}},
        {"id": "q1", "text": "what 1?", "answers": [], "relevant": {"d1": 2, "d2": 0}},
    ]


def test_queries_bring_their_answers_in_their_metadata(tmp_path: Path) -> None:
    path = folder(tmp_path) / "queries.jsonl"
    records = [{"_id": f"q{n}", "text": f"what {n}?", "metadata": {"url": "u"}} for n in (3, 2)]
    more = {"answers": ["one", "two"], "held_out": True}
    write_jsonl(path, [*records, {"_id": "q1", "text": "what 1?", "metadata": more}])
    first, last = load_beir_questions(tmp_path)
    assert first["answers"] == [] and "held_out" not in first
    assert (last["answers"], last["held_out"]) == (["one", "two"], True)
    for wrong, match in (({"answers": "one"}, "`answers` must be a list"), ({"held_out": 1}, "`held_out` must be")):
        write_jsonl(path, [*records, {"_id": "q1", "text": "what 1?", "metadata": wrong}])
        with pytest.raises(InputError, match=rf"queries\.jsonl:3: {match}"):
            load_beir_questions(tmp_path)


@pytest.mark.parametrize(
    ("qrels", "match"),
    [
        (HEADER + "q1\td1\n", r"test\.tsv:2: query-id TAB"),
        (HEADER + "q1\td1\t1\nq1 0 d1 1\n", r"test\.tsv:3: "),
        (HEADER + "q1\td1\t0.5\n", r"test\.tsv:2: "),
        (HEADER + "q1\td1\t1\nq1\td1\t0\n", r"test\.tsv:3: .*two different scores"),
        (HEADER, "holds no judgement"),
        (HEADER + "q9\td1\t1\n", "1 judged queries are not there, first 'q9'"),
    ],
)
def test_bad_judgements_are_named_by_line(tmp_path: Path, qrels: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        load_beir_questions(folder(tmp_path, qrels))


def test_bad_queries_are_named_by_line(tmp_path: Path) -> None:
    path = folder(tmp_path) / "queries.jsonl"
    for lines, match in (
        (b'{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n', r"queries\.jsonl:2: `_id`"),
        (b'\n{"_id": "q1"}\n', r"queries\.jsonl:2: `text`"),
        (b'{"_id": "q1", "text": "a"}\n{oops\n', r"queries\.jsonl:2: bad-json"),
        (b'{"_id": "q1", "text": "\xff"}\n', r"queries\.jsonl:1: not-utf8"),
    ):
        path.write_bytes(lines)
        with pytest.raises(InputError, match=match):
            load_beir_questions(tmp_path)


def test_a_folder_without_its_files_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.jsonl"):
        BeirSource().split(corpus(tmp_path), tmp_path)
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "d1", "text": "first"}])
    with pytest.raises(
        ConfigError, match=r"no field '_id'.* A BEIR folder's are _id, title, text; others: corpus=files"
    ):
        BeirSource().split(corpus(tmp_path), tmp_path)
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"corpus\.path is not set"):
        BeirSource().split(BeirConfig(), tmp_path)
    with pytest.raises(ConfigError, match=r"dev\.tsv"):
        load_beir_questions(folder(tmp_path), split="dev")


def test_cranfield_is_read_whole(cranfield: Path) -> None:
    config = corpus(cranfield)
    parts = BeirSource().split(config, cranfield)
    pages = [page for part in parts for page in BeirSource().read(part, config, CONTEXT)]
    assert len(parts) == 6 and len(pages) == 1400
    empty = [page.doc_id for page in pages if isinstance(page, Page) and not page.body]
    assert empty == ["471", "995"]
    questions = load_beir_questions(cranfield)
    assert len(questions) == 225
    assert sum(len(question["relevant"]) for question in questions) == 1837


def test_questions_are_read_with_answers_and_grades(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl.gz"
    write_jsonl(path, [{"id": 1, "text": "a?"}, {"id": "b", "text": "b?", "answers": ["x"], "relevant": {"d": 2}}])
    assert read_questions(path) == [
        {"id": "1", "text": "a?", "answers": [], "relevant": {}},
        {"id": "b", "text": "b?", "answers": ["x"], "relevant": {"d": 2}},
    ]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"id": "1", "text": "again"}', "no other question"),
        ('{"text": "a"}', "`id`"),
        ('{"id": true, "text": "a"}', "`id`"),
        ('{"id": "2", "text": " "}', "`text`"),
        ('{"id": "2", "text": "a", "answers": "x"}', "`answers`"),
        ('{"id": "2", "text": "a", "relevant": ["d"]}', "`relevant`"),
        ('{"id": "2", "text": "a", "relevant": {"d": 0.5}}', "`relevant`"),
        ("[]", "bad-json"),
    ],
)
def test_a_bad_question_is_named_by_line(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "1", "text": "ok?"}\n\n' + line)
    with pytest.raises(InputError, match=rf"q\.jsonl:3: .*{match}"):
        read_questions(path)


def test_a_cut_or_missing_file_of_questions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_questions(tmp_path / "q.jsonl")
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "1", "text": "ok?"}\n')[:-4])
    with pytest.raises(InputError, match="ends early"):
        read_questions(path)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(InputError, match="holds no question"):
        read_questions(path)


def test_every_source_name_has_a_source() -> None:
    assert set(SOURCES) == set(SourceName)
    for name in SourceName:
        source = get_source(name)
        assert type(source).__name__ == SOURCES[name][1] and config_class(name.value)().source is name
        assert callable(source.split) and callable(source.read)


def test_only_judged_queries_need_a_text(tmp_path: Path) -> None:
    path = folder(tmp_path) / "queries.jsonl"
    judged = [{"_id": f"q{n}", "text": f"what {n}?"} for n in (3, 1)]
    write_jsonl(path, [*judged, {"_id": "q2", "text": " "}, {"_id": "q4", "text": None}, {"_id": "q5"}])
    assert [question["id"] for question in load_beir_questions(tmp_path)] == ["q3", "q1"]
    write_jsonl(path, [judged[0], {"_id": "q1", "text": ""}])
    with pytest.raises(InputError, match=r"queries\.jsonl:2: `text` must be a string that is not blank"):
        load_beir_questions(tmp_path)
