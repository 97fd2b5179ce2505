"""The corpora of the bench as runs that end with retrieval, made by the command that users run; their questions."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rag_hpc.errors import RagHpcError
from rag_hpc.eval.bench.chunk.quality import json_lines
from rag_hpc.eval.results import Results
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.hits import HITS
from rag_hpc.stores.questions import read_questions

STAGES = (
    "pipeline.stages=[crawl,clean,dedup.sign,dedup.group,dedup.verify,dedup.link,dedup.drop,chunk,lexical,encode,"
    "retrieve.queries,retrieve.search]"
)
WHOLE = ("stage.clean.min_chars=0", "stage.clean.languages=[]", "stage.dedup.threshold=1.0")  # no document is dropped


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with the ordinals of its best passages."""

    query_id: str
    text: str
    answers: list[str]
    relevant: list[str]  # documents
    ordinals: list[int]


class Corpus:
    """A finished run with its questions, ranked by the method that its answers are made from."""

    def __init__(self, run_dir: Path, method: str = "") -> None:
        """method: of the ranking; by default the run's own."""
        self.results = Results(run_dir)
        self.chunks = ChunkStore(self.results.manifests["chunk"])
        self.doc_ids: list[str] = self.chunks.column("doc_id")
        self.method: str = method or self.results.submission["settings"]["retrieve.search"].get("method", "dense")

    @cached_property
    def asked(self) -> list[Asked]:
        """The questions in the run's order."""
        best: dict[str, list[tuple[int, int]]] = {}
        for row in self.results.rows("retrieve.search", HITS, ["query_id", "method", "rank", "ordinal"]):
            if row["method"] == self.method:
                best.setdefault(row["query_id"], []).append((row["rank"], row["ordinal"]))
        return [
            Asked(
                query_id=row["query_id"],
                text=row["text"],
                answers=json.loads(row["answers"]),
                relevant=sorted(json.loads(row["relevant"])),
                ordinals=[ordinal for _, ordinal in sorted(best.get(row["query_id"], []))],
            )
            for row in read_questions(self.results.manifests["retrieve.queries"])
        ]


def make(work: Path, name: str, *settings: str, method: str = "") -> Corpus:
    """Return the corpus of a baseline run in the working folder; a run that is there already is gone on with."""
    command = [
        sys.executable,
        "-m",
        "rag_hpc.cli",
        "run",
        "pipeline=baseline",
        f"run={name}",
        f"cluster.root={work}",
        STAGES,
    ]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RagHpcError(f"bench: {name} could not be made: {done.stderr.strip()[-2000:]}")
    return Corpus(work / name, method)


def written(work: Path, folder: Path, data: str, most: int, lang: str = "") -> list[str]:
    """Write the passages of a set and some of its questions as files; return the settings that make a corpus of them.

    most: questions of a kind that are judged; of two kinds and two halves as many are drawn.
    """
    for kind in ("passages", "questions"):
        rows = [row for row in json_lines(folder / data / f"{kind}.jsonl.zst") if row.get("lang", "") == lang]
        rows = random.Random(0).sample(rows, min(len(rows), 4 * most)) if kind == "questions" else rows
        lines = [_record(row, kind) for row in rows]
        path = work / f"{data}{lang and f'_{lang}'}_{kind}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    stem = work / f"{data}{lang and f'_{lang}'}"
    return ["corpus=files", f"corpus.path={stem}_passages.jsonl", f"corpus.questions={stem}_questions.jsonl", *WHOLE]


def _record(row: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == "passages":
        return {"id": row["id"], "title": row["title"].replace("_", " "), "text": row["text"]}
    relevant = {row["passage_id"]: 1}
    return {"id": row["id"], "text": row["question"], "answers": row["answers"], "relevant": relevant}


def halves(keys: Sequence[str]) -> dict[str, set[str]]:
    """Return two random halves of the distinct keys: the one that settings were chosen by, and the one to judge."""
    order = sorted(set(keys))
    random.Random(0).shuffle(order)
    return {"chosen_by": set(order[: len(order) // 2]), "judged": set(order[len(order) // 2 :])}
