"""A small corpus with duplicates and questions, two finished runs over it, and the command line in a child process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crawlsite import Handler, serving

TOPICS = [
    ("Queues", "A deque keeps items at both ends. Set maxlen to keep only the last items; older ones fall off."),
    ("Copying", "The function copytree copies a whole folder. The function copy2 keeps a file's times."),
    ("Caching", "The decorator lru_cache remembers results of calls. Its argument maxsize bounds the memory."),
    ("Paths", "A Path joins parts with a slash. The method glob finds files by a pattern such as star dot txt."),
    ("Sorting", "The function sorted takes a key. A stable sort keeps equal items in their order of arrival."),
    ("Threads", "A Lock guards shared data. A thread waits in acquire until another calls release."),
]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Copy = Callable[..., Path]
SMALL = (
    "corpus.keep_all=false",  # so that documents are dropped
    "corpus.pages_per_unit=8",
    "stage.dedup.num_groups=3",
    "stage.encode.tokens_per_unit=2000",
    "stage.vectors.num_lists=4",
    "stage.vectors.num_probes=4",
    "stage.retrieve.queries_per_unit=2",
    "stage.retrieve.depth=20",
    "backup_after_s=5",
)
Silent = tuple[tuple[str, ...], threading.Event]
TEXT_STAGES = "pipeline.stages=[crawl,clean]"


def hashes(run_dir: Path) -> dict[str, str]:
    """Return the output hash of every finished stage folder of a run."""
    return {p.parent.name: json.loads(p.read_bytes())["output_hash"] for p in sorted(run_dir.glob("*/manifest.json"))}


def by_stage(run_dir: Path) -> dict[str, str]:
    """Return the output hashes by stage: the same data under another path has other fingerprints."""
    return {folder.rsplit("-", 1)[0]: value for folder, value in hashes(run_dir).items()}


def units(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    """Return the units of a finished stage as its manifest lists them."""
    found: list[dict[str, Any]] = json.loads(next(run_dir.glob(f"{stage}-*/manifest.json")).read_bytes())["units"]
    return found


def dropped(run_dir: Path, stage: str) -> dict[str, int]:
    """Return how many items a finished stage dropped for each reason."""
    total: dict[str, int] = {}
    for unit in units(run_dir, stage):
        for reason, count in unit["dropped"].items():
            total[reason] = total.get(reason, 0) + count
    return total


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder: 60 documents, one exact copy, one near copy, one too short, and 6 questions."""
    folder = tmp_path_factory.mktemp("beir")
    documents = []
    for number in range(60):
        title, text = TOPICS[number % len(TOPICS)]
        case = f"{text} Example {number} shows case {number * 7 % 61} of {title.lower()} in detail number"
        body = [f"{case} {j * number}." for j in range(1 + number % 5)]
        documents.append({"_id": f"d{number:02d}", "title": f"{title} {number}", "text": "\n\n".join(body)})
    long = " ".join(f"word{n} of the long document" for n in range(300))
    documents += [
        {"_id": "copy", "title": "", "text": documents[3]["text"]},
        {"_id": "long", "title": "Long words", "text": long},
        {"_id": "near", "title": "Near words", "text": "Preface. " + long},
        {"_id": "short", "title": "Short one", "text": "Too short."},
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    asked = [{"_id": f"q{n}", "text": f"How does {title.lower()} work?"} for n, (title, _) in enumerate(TOPICS)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
    (folder / "qrels").mkdir()
    rows = [f"q{n}\td{n:02d}\t1\n" for n in range(len(TOPICS))]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    return folder


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that commands run in; runs land under its results/runs."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def cli(workdir: Path) -> Cli:
    """Run `rag-hpc ARGS` and return the finished process; `env` adds variables, `cwd` changes the folder."""

    def run(
        *args: str, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rag_hpc.cli", *args]
        return subprocess.run(
            command,
            cwd=cwd or workdir,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def baseline(cli: Cli, corpus: Path, workdir: Path) -> Path:
    """The folder of a finished run of the single-machine baseline."""
    done = cli("run", "pipeline=baseline", "run=base", "corpus=beir", f"corpus.path={corpus}", *SMALL)
    assert done.returncode == 0, done.stderr
    return workdir / "results/runs/base"


@pytest.fixture(scope="session")
def cluster(cli: Cli, corpus: Path, workdir: Path) -> Path:
    """The folder of a finished run of the distributed pipeline with two workers; tests change copies of it only."""
    done = cli("run", "run=p2", "workers=2", "corpus=beir", f"corpus.path={corpus}", *SMALL)
    assert done.returncode == 0, done.stderr
    return workdir / "results/runs/p2"


@pytest.fixture(scope="session")
def copy(cluster: Path) -> Copy:
    """Return a function that copies the finished run under a new name, as if the named stages had not begun."""

    def make(name: str, *without: str) -> Path:
        folder = cluster.parent / name
        shutil.copytree(cluster, folder)
        for stage in without:
            for found in folder.glob(f"{stage}-*"):
                shutil.rmtree(found)
        return folder

    return make


@pytest.fixture
def silent() -> Iterator[Silent]:
    """A corpus whose only page is not answered until the event is set: the worker that asks for it stays at work."""
    speaks, page = threading.Event(), f"<p>{TOPICS[0][1]} {TOPICS[1][1]} {TOPICS[2][1]}</p>".encode()

    def answer(handler: Handler) -> None:
        speaks.wait()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page))
        handler.wfile.write(page)

    with serving({"/": answer}) as site:
        yield (
            (
                "corpus=site",
                f"corpus.seeds=[http://{site.host}/]",
                "corpus.allow_private=true",
                "corpus.delay_s=0",
                "corpus.timeout_s=900",
                TEXT_STAGES,
            ),
            speaks,
        )
        speaks.set()
