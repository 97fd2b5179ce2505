"""`rag-hpc bench retrieve`: the whole of retrieve.search beside Lucene alone, and ranks beside FAISS in one process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.core.fs import read_json
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context
from rag_hpc.core.unit import Unit
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.lexical import corpora, lexical
from rag_hpc.eval.bench.lexical.lexical import Rate, Side, anserini, compared, rate_of
from rag_hpc.eval.bench.pairs import take_turns
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.retrieve import filters, made, partitions, side
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.vectors.data import array_path
from rag_hpc.search import lucene
from rag_hpc.search.shards import Shards
from rag_hpc.stages.registry import make_stage
from rag_hpc.stages.vectors import RECALL
from rag_hpc.stores.questions import read_question_vectors, read_questions
from rag_hpc.stores.shards import Effort, effort_of

DEFAULTS = {
    "data": "",
    "passages": "100000",
    "questions": "500",
    "shards": "4",
    "threads": "2",
    "pairs": "9",
    "index": "auto",
    "recall": "0.95",
    "train_rows": "16384",
    "part": "all",
}
DEPTH = 100
OF_LUCENE, OVERHEAD = 0.75, 1.10
PARTS = ("search", "ranks", "threads", "filters", "partitions")


def run(options: Options) -> list[Row]:
    """Return rows of questions a second, and of a batch's time.

    Options: data, the folder of documentation and encodings (RAG_HPC_DATA); passages; questions; shards; threads;
    pairs; index and recall, of the vector index of the whole search; train_rows; part=all, or some of search, ranks,
    threads, filters and partitions with commas between.
    """
    given = known(options, DEFAULTS)
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError("the retrieve benchmark needs documentation and encodings; set RAG_HPC_DATA or data=FOLDER")
    parts = PARTS if given["part"] == "all" else tuple(given["part"].split(","))
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as folder:
        return _rows(given, parts, Path(place), Path(folder))


def _rows(given: Options, parts: Sequence[str], data: Path, folder: Path) -> list[Row]:
    num, shards, pairs = int(given["passages"]), int(given["shards"]), int(given["pairs"])
    inputs = made.make(data, folder, num, int(given["questions"]))
    settings = {"num_shards": shards, "train_rows": int(given["train_rows"])}
    rows = []
    if {"search", "threads", "filters"} & {*parts}:
        chosen = {**settings, "index": given["index"], "min_recall": float(given["recall"])}
        inputs = made.indexed(inputs, chosen, folder)
        effort = effort_of(inputs["vectors.check"]) or Effort()
        about = f"{num:,} passages x {made.DIMS}, {effort.kind.value}, {effort.num_probes} lists probed"
        about += f", shortlist {effort.shortlist}" if effort.shortlist else ""
        told = read_json(inputs["vectors.check"].files(RECALL)[0])
        recalls = ", ".join(f"{name} {told[name]['mean']:.4f}" for name in ("recall@10", "recall@100"))
        about += f", {recalls} over {told['num_judged']} questions, {cpu_class()}"
        if "filters" in parts:
            rows += filters.rows(inputs, float(given["recall"]), about)
        if "search" in parts or "threads" in parts:
            inputs["lexical"] = made.run("lexical", {"num_shards": shards}, inputs, folder)
        if "search" in parts:
            rows += _searched(inputs, data, given, folder, about)
        if "threads" in parts:
            rows.append(_threads(inputs, pairs, folder, about))
    if "partitions" in parts:
        about = f"{num:,} passages x {made.DIMS}, {shards} even shards, {cpu_class()}"
        rows += partitions.rows(inputs, {**settings, "index": "ivf_fp16"}, folder, pairs, about)
    if "ranks" in parts:
        other = folder / "fp16"
        other.mkdir()
        (other / "encode").symlink_to(folder / "encode")
        found = made.indexed(inputs, {**settings, "index": "ivf_fp16"}, other)
        np.save(array_path(other, "queries"), read_question_vectors(inputs["retrieve.queries"]).astype(np.float32))
        rows += _ranks(found, other, int(given["threads"]), pairs, num)
    return rows


class Stage:
    """retrieve.search in this process with so many threads, from questions to files; it answers a half in a turn."""

    def __init__(self, inputs: Mapping[str, Manifest], threads: int, folder: Path, **settings: Any) -> None:
        folder.mkdir()
        self._folder = folder
        self._ctx = Context(inputs=inputs, shared=folder, scratch=folder, seed=1)
        with _environment(OMP_NUM_THREADS=str(threads)):
            self._stage = make_stage("retrieve.search", {"depth": DEPTH, "exact": "never", **settings})
            self.units = self._stage.plan(inputs, folder)
            self._stage.setup(self._ctx)
        half = len(self.units) // 2
        self._turn = cycle([self.units[:half], self.units[half : 2 * half]])
        self.questions = sum(unit.inputs["stop"] - unit.inputs["start"] for unit in self.units[: 2 * half]) // 2

    def rate(self) -> Rate:
        """Return questions a second."""
        return rate_of(self.questions, lambda: self.search(next(self._turn)))

    def wall(self) -> float:
        """Return questions a second by the clock."""
        return self.rate().wall

    def search(self, units: Sequence[Unit]) -> dict[str, float]:
        """Write the units' files; return the seconds of each method."""
        seconds: dict[str, float] = {}
        for unit in units:
            out = self._folder / unit.name
            out.mkdir(exist_ok=True)
            for name, spent in self._stage.run(unit, out, self._ctx).timings.items():
                seconds[name] = seconds.get(name, 0.0) + spent
        return seconds


def _searched(inputs: Mapping[str, Manifest], data: Path, given: Options, folder: Path, about: str) -> list[Row]:
    """Return the rows of all of retrieve.search beside Lucene's scorer in a loop, and its batch search."""
    threads, asked = int(given["threads"]), [row["text"] for row in read_questions(inputs["retrieve.queries"])]
    texts = corpora.texts("passages", data, int(given["passages"]))
    lucene.build_index(((str(number), text) for number, text in enumerate(texts)), folder / "one")
    del texts
    ours, one = Stage(inputs, threads, folder / "ours"), Shards([folder / "one"], threads=threads)
    half = len(asked) // 2
    halves = cycle([asked[:half], asked[half : 2 * half]])
    sides: dict[str, Side] = {
        "ours": ours.rate,
        "lucene": lambda: rate_of(half, lambda: lexical.search(one, next(halves), DEPTH, own=False)),
        "anserini": anserini(folder / "one", asked, DEPTH, threads),
    }
    rows = compared("retrieve.search", sides, int(given["pairs"]), f"{threads} threads, {about}", OF_LUCENE)
    spent = ours.search(ours.units)
    told = ", ".join(f"{name} {1e3 * seconds / len(asked):.2f}" for name, seconds in sorted(spent.items()))
    rows[0].note += f"; ms a question of the last turn: {told}"
    one.close()
    return rows


def _threads(inputs: Mapping[str, Manifest], pairs: int, folder: Path, about: str) -> Row:
    """Return the row of two threads beside one."""
    sides = {name: Stage(inputs, num, folder / f"threads-{num}") for name, num in {"ours": 2, "1 thread": 1}.items()}
    for one in sides.values():
        for _ in range(3):
            one.rate()
    timed = take_turns({name: one.wall for name, one in sides.items()}, pairs)
    ratio, interval = timed.ratio("1 thread")
    return Row(
        name="retrieve.threads",
        ours=timed.median("ours"),
        unit="questions/s with 2 threads",
        peers={"1 thread": timed.median("1 thread")},
        ratio=ratio,
        interval=interval,
        bar=1.0,
        contention=timed.contention,
        note=about,
    )


def _ranks(inputs: Mapping[str, Manifest], folder: Path, threads: int, pairs: int, num: int) -> list[Row]:
    """Return the rows of ranks of one thread beside FAISS with as many threads by the clock, and of one by CPU time."""
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n"]
    together = [*mpirun, str(threads)]
    starts = {"ours": ("ours", together), "lists": ("lists", together), "one": ("ours", [*mpirun, "1"])}
    starts |= {"group": ("group", []), "faiss": ("faiss", [])}
    with contextlib.ExitStack() as stack:
        asks: dict[str, Callable[[], dict[str, float]]] = {
            name: stack.enter_context(
                _process([*start, sys.executable, "-m", side.__name__, kind, str(folder), str(threads)])
            )
            for name, (kind, start) in starts.items()
        }
        for ask in asks.values():
            for _ in range(5):
                ask()
        found, theirs = (np.load(array_path(folder, name)) for name in ("ours", "faiss"))
        clock = take_turns({name: _told(asks[name], "wall") for name in ("ours", "lists", "group", "faiss")}, pairs)
        used = take_turns({"ours": _told(asks["one"], "cpu"), "faiss": _told(asks["faiss"], "cpu")}, pairs)
    same = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), theirs.tolist(), strict=True)])
    against = f"exact scores and merging with it, against FAISS's search of one ivf_fp16 with {threads} threads"
    about = f"{num:,} x {made.DIMS}, top {DEPTH}, {same:.4f} of the hits alike, {cpu_class()}"
    rows = []
    for name, side_name, timed, unit, who in (
        ("retrieve.ranks", "ours", clock, "s", f"{threads} ranks of one thread by MPI"),
        ("retrieve.ranks, by lists", "lists", clock, "s", f"{threads} ranks of one thread that hold whole lists"),
        ("retrieve.group", "group", clock, "s", "two ranks of a resident group, of one thread, by a socket"),
        ("retrieve.one_rank.cpu", "ours", used, "CPU s", "one rank with all shards"),
    ):
        ratio, interval = timed.ratio("faiss", side_name)
        rows.append(
            Row(
                name=name,
                ours=timed.median(side_name),
                unit=f"{unit} a batch of {len(found)}",
                peers={"faiss": timed.median("faiss")},
                ratio=ratio,
                interval=interval,
                bar=OVERHEAD,
                less_is_better=True,
                contention=timed.contention,
                note=f"{who}, {against}; {about}",
            )
        )
    return rows


def _told(ask: Callable[[], dict[str, float]], what: str) -> Callable[[], float]:
    return lambda: ask()[what]


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[Any]:
    """Yield what asks a side for a batch and returns its seconds."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    env = {**os.environ, **one, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    asks, answers = child.stdin, child.stdout
    assert asks is not None and answers is not None

    def ask() -> dict[str, float]:
        asks.write("\n")
        asks.flush()
        line = answers.readline()
        if not line:
            raise InputError(f"bench retrieve: {' '.join(command)} ended with {child.wait()}")
        told: dict[str, float] = json.loads(line)
        return told

    with asks, answers:
        yield ask
        asks.write(f"{side.END}\n")
    child.wait(timeout=60)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
