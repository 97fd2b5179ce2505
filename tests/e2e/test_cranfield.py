"""Cranfield: four Lucene shards and our encoder rank as well as Pyserini and sentence-transformers on their own do."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import realdata
import zstandard

from rag_hpc.core import manifest
from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.tables import read_table
from rag_hpc.stores.vectors import VectorStore
from tests.e2e.conftest import Cli

pytestmark = pytest.mark.timeout(1500)
DATA = realdata.DATA / "ir_cranfield"
MEASURE = ir_measures.nDCG @ 10
NUM_DOCUMENTS = 600  # the first of 1,400: all of them take minutes
NUM_ENCODED = 200


@pytest.fixture(scope="module")
def cranfield(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection's first documents, and the queries judged on them, as a BEIR folder."""
    if not DATA.exists():
        pytest.skip(f"no Cranfield collection at {DATA}; set RAG_HPC_DATA")
    folder = tmp_path_factory.mktemp("cranfield")
    with zstandard.open(DATA / "docs.jsonl.zst", "rb") as packed:
        docs = [json.loads(line) for line in io.BytesIO(packed.read())][:NUM_DOCUMENTS]
    known = {d["id"] for d in docs}
    rows = [line.split() for line in (DATA / "qrels.txt").read_text().split("\n") if line]
    rows = [row for row in rows if row[2] in known]
    judged_ids = {row[0] for row in rows}
    queries = [json.loads(line) for line in (DATA / "queries.jsonl").read_text().split("\n") if line]
    queries = [q for q in queries if q["id"] in judged_ids]
    write_lines(folder / "corpus.jsonl", [{"_id": d["id"], "title": d["title"], "text": d["text"]} for d in docs])
    write_lines(folder / "queries.jsonl", [{"_id": q["id"], "text": q["text"]} for q in queries])
    (folder / "qrels").mkdir()
    judged = "".join(f"{query}\t{document}\t{grade}\n" for query, _, document, grade in rows)
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def run_dir(cli: Cli, cranfield: Path, workdir: Path) -> Path:
    """The distributed pipeline: two workers, four Lucene shards."""
    done = cli("run", "run=cranfield", "workers=2", "corpus=beir", f"corpus.path={cranfield}", timeout=1200)
    assert done.returncode == 0, done.stderr
    return workdir / "results/runs/cranfield"


@dataclass(frozen=True)
class Judged:
    """What a run indexed, and what is asked of it."""

    texts: list[str]
    documents: list[str]  # of each text
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    def score(self, hits: list[list[int]]) -> float:
        """Return the measure of each query's best texts; a document stands where the best of its texts does."""
        run = {}
        for query, found in zip(self.queries, hits, strict=True):
            best = dict.fromkeys(self.documents[number] for number in found)
            run[query] = {document: float(-rank) for rank, document in enumerate(best)}
        return float(ir_measures.calc_aggregate([MEASURE], self.qrels, run)[MEASURE])


@pytest.fixture(scope="module")
def judged(cranfield: Path, run_dir: Path) -> Judged:
    chunks = ChunkStore(loaded(run_dir, "chunk"))
    records = [json.loads(line) for line in (cranfield / "queries.jsonl").read_text().split("\n") if line]
    qrels: dict[str, dict[str, int]] = {}
    for line in (cranfield / "qrels/test.tsv").read_text().split("\n")[1:-1]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    return Judged(
        chunks.indexed_texts(0, len(chunks)), chunks.column("doc_id"), {r["_id"]: r["text"] for r in records}, qrels
    )


def rows(path: Path) -> list[dict[str, str]]:
    return read_table(path).to_pylist()


def loaded(run_dir: Path, stage: str) -> Manifest:
    return manifest.load(next(run_dir.glob(f"{stage}-*")))


def found_by_library(kind: str, texts: list[str], queries: Collection[str], folder: Path) -> list[list[int]]:
    """Return the numbers of the best texts of each query, from a process of its own."""
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "queries.json").write_text(json.dumps([*queries]))
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("reference.py")), kind, str(folder)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"},
        timeout=1200,
    )
    found: list[list[int]] = json.loads((folder / "hits.json").read_text())
    return found


def measured(run_dir: Path, part: str, measure: str = str(MEASURE)) -> float:
    """Return a measure as the run's own evaluation has it."""
    found = [json.loads(path.read_bytes()) for path in run_dir.glob("evaluate-*/units/*/metrics.json")]
    return float(next(value["metrics"][measure] for value in found if value["part"] == part))


def test_four_lucene_shards_rank_as_pyserini_with_one_index_of_whole_documents(
    run_dir: Path, cranfield: Path, judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(loaded(run_dir, "lexical").units) == 4
    ours = measured(run_dir, "bm25")
    records = [json.loads(line) for line in (cranfield / "corpus.jsonl").read_text().split("\n") if line]
    texts = [f"{record['title']} {record['text']}" for record in records]
    whole = dataclasses.replace(judged, texts=texts, documents=[record["_id"] for record in records])
    theirs = whole.score(found_by_library("bm25", texts, judged.queries.values(), tmp_path))
    with capsys.disabled():
        print(f"\nCranfield {MEASURE} BM25: {ours:.4f}, Pyserini alone {theirs:.4f}")
    assert abs(ours - theirs) < 0.001
    assert ours > 0.3


def test_no_judged_document_is_dropped(run_dir: Path) -> None:
    kept = {row["doc_id"] for path in loaded(run_dir, "dedup.drop").files("documents.parquet") for row in rows(path)}
    assert {str(number) for number in range(1, NUM_DOCUMENTS + 1)} - kept == {"471"}  # neither title nor text


def test_vectors_rank_as_those_of_sentence_transformers(
    run_dir: Path, judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    num = judged.documents.index(str(NUM_ENCODED + 1))  # texts of the first documents: the library takes its time
    asked = np.load(loaded(run_dir, "retrieve.queries").files("vectors.npy")[0]).astype(np.float32)
    passages = VectorStore(loaded(run_dir, "encode")).rows(0, num).astype(np.float32)
    ours = judged.score(np.argsort(-(asked @ passages.T), axis=1, kind="stable")[:, :100].tolist())
    theirs = judged.score(found_by_library("dense", judged.texts[:num], judged.queries.values(), tmp_path))
    with capsys.disabled():
        print(
            f"\nCranfield {MEASURE} dense, {NUM_ENCODED} documents: {ours:.4f}, sentence-transformers {theirs:.4f}; "
            f"{NUM_DOCUMENTS}: {measured(run_dir, 'dense'):.4f}"
        )
    assert abs(ours - theirs) < 0.001
    assert measured(run_dir, "dense") > 0.3


def test_the_baseline_gives_the_same_answers(cli: Cli, cranfield: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, run_dir.parent / "cranbase")  # what both pipelines share is not done again
    done = cli("run", "run=cranbase", "pipeline=baseline", "corpus=beir", f"corpus.path={cranfield}")
    assert done.returncode == 0, done.stderr
    done = cli("verify", "cranbase", "cranfield")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "differs" not in done.stdout


def test_the_vector_index_finds_what_exact_search_finds(run_dir: Path) -> None:
    assert measured(run_dir, "ann", "recall@10_vs_exact") >= 0.99
