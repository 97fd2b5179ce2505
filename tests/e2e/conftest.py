"""A small corpus with duplicates and questions, and a function that runs the command line in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOPICS = [
    ("Queues", "A deque keeps items at both ends. Set maxlen to keep only the last items; older ones fall off."),
    ("Copying", "The function copytree copies a whole folder. The function copy2 keeps a file's times."),
    ("Caching", "The decorator lru_cache remembers results of calls. Its argument maxsize bounds the memory."),
    ("Paths", "A Path joins parts with a slash. The method glob finds files by a pattern such as star dot txt."),
    ("Sorting", "The function sorted takes a key. A stable sort keeps equal items in their order of arrival."),
    ("Threads", "A Lock guards shared data. A thread waits in acquire until another calls release."),
]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder: 60 documents, one exact copy, one near copy, one too short, and 6 questions."""
    folder = tmp_path_factory.mktemp("beir")
    documents = []
    for number in range(60):
        title, text = TOPICS[number % len(TOPICS)]
        body = [f"{text} Example {number} shows case {number * 7 % 61} of {title.lower()} in detail number {j * number}."
                for j in range(1 + number % 5)]
        documents.append({"_id": f"d{number:02d}", "title": f"{title} {number}", "text": "\n\n".join(body)})
    long = " ".join(f"word{n} of the long document" for n in range(300))
    documents += [{"_id": "copy", "title": "", "text": documents[3]["text"]},
                  {"_id": "long", "title": "Long words", "text": long},
                  {"_id": "near", "title": "Near words", "text": "Preface. " + long},
                  {"_id": "short", "title": "Short one", "text": "Too short."}]
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
    def run(*args: str, env: dict[str, str] | None = None, cwd: Path | None = None,
            timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rag_hpc.cli", *args]
        return subprocess.run(command, cwd=cwd or workdir, env={**os.environ, **(env or {})}, capture_output=True,
                              text=True, timeout=timeout, check=False)

    return run
