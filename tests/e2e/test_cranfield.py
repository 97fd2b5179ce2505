"""Cranfield: four Lucene shards and our encoder rank as well as Pyserini and sentence-transformers on their own do."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ir_measures
import pytest
import zstandard

from rag_hpc.core import manifest
from rag_hpc.core.chunkstore import ChunkStore
from tests.e2e.conftest import Cli

pytestmark = pytest.mark.timeout(600)
DATA = Path(os.environ.get("RAG_HPC_DATA", Path(__file__).parents[3] / "shared" / "data")) / "ir_cranfield"
MEASURE = ir_measures.nDCG @ 10
Judge = Callable[[str], float]


@pytest.fixture(scope="module")
def cranfield(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection as a BEIR folder."""
    if not DATA.exists():
        pytest.skip(f"no Cranfield collection at {DATA}; set RAG_HPC_DATA")
    folder = tmp_path_factory.mktemp("cranfield")
    with zstandard.open(DATA / "docs.jsonl.zst", "rb") as packed:
        docs = [json.loads(line) for line in io.BytesIO(packed.read())]
    queries = [json.loads(line) for line in (DATA / "queries.jsonl").read_text().split("\n") if line]
    rows = [line.split() for line in (DATA / "qrels.txt").read_text().split("\n") if line]
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
    done = cli("run", "run=cranfield", "workers=2", "corpus=beir", f"corpus.path={cranfield}", timeout=500)
    assert done.returncode == 0, done.stderr
    return workdir / "results/runs/cranfield"


@pytest.fixture(scope="module")
def reference(cranfield: Path, run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return a function that gives the measure of a library on its own, over the texts that the run indexed."""
    chunks = ChunkStore(manifest.load(next(run_dir.glob("chunk-*"))))
    documents = chunks.column("doc_id")
    queries = [json.loads(line) for line in (cranfield / "queries.jsonl").read_text().split("\n") if line]
    qrels: dict[str, dict[str, int]] = {}
    for line in (cranfield / "qrels/test.tsv").read_text().split("\n")[1:]:
        if line:
            query, document, grade = line.split("\t")
            qrels.setdefault(query, {})[document] = int(grade)

    def judge(kind: str) -> float:
        folder = tmp_path_factory.mktemp(kind)
        (folder / "texts.json").write_text(json.dumps(chunks.indexed_texts(0, len(chunks))))
        (folder / "queries.json").write_text(json.dumps([q["text"] for q in queries]))
        script = Path(__file__).with_name("reference.py")
        subprocess.run([sys.executable, str(script), kind, str(folder)], check=True, timeout=500,
                       env={**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), "HF_HUB_OFFLINE": "1"})
        hits = json.loads((folder / "hits.json").read_text())
        run: dict[str, dict[str, float]] = {}
        for query, found in zip(queries, hits, strict=True):
            best = dict.fromkeys(documents[number] for number in found)  # a document stands where its best passage does
            run[query["_id"]] = {document: float(-rank) for rank, document in enumerate(best)}
        return float(ir_measures.calc_aggregate([MEASURE], qrels, run)[MEASURE])

    return judge


def measured(run_dir: Path, part: str) -> float:
    """Return the measure as the run's own evaluation has it."""
    found = [json.loads(path.read_bytes()) for path in run_dir.glob("evaluate-*/units/*/metrics.json")]
    return float(next(value["metrics"][str(MEASURE)] for value in found if value["part"] == part))


@pytest.mark.parametrize(("part", "library"), [("bm25", "Pyserini, one index"),
                                               ("dense", "sentence-transformers, float32")])
def test_rankings_are_as_good_as_those_of_the_library_on_its_own(
        run_dir: Path, reference: Judge, part: str, library: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = measured(run_dir, part), reference(part)
    with capsys.disabled():
        print(f"\nCranfield {MEASURE} {part}: {ours:.4f}, {library}: {theirs:.4f}")
    assert abs(ours - theirs) < 0.001
    assert ours > 0.3


def test_the_baseline_gives_the_same_answers(cli: Cli, cranfield: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, run_dir.parent / "cranbase")  # what both pipelines share is not done again
    done = cli("run", "run=cranbase", "pipeline=baseline", "corpus=beir", f"corpus.path={cranfield}")
    assert done.returncode == 0, done.stderr
    done = cli("verify", "cranbase", "cranfield")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "differs" not in done.stdout


def test_the_vector_index_finds_what_exact_search_finds(run_dir: Path) -> None:
    found = [json.loads(path.read_bytes()) for path in run_dir.glob("evaluate-*/units/*/metrics.json")]
    assert next(v["metrics"]["recall@10_vs_exact"] for v in found if v["part"] == "ann") >= 0.99
