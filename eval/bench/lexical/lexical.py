"""`rag-hpc bench lexical`: BM25 over four shards beside one Lucene index, and beside bm25s.

Every side is given questions as text and analyses them; the two halves of the questions take turns, so that no side can
keep what it looked up.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.topk import Hits
from rag_hpc.errors import InputError, MissingDependency
from rag_hpc.eval.bench.lexical import bm25s_peer, corpora, languages
from rag_hpc.eval.bench.pairs import ratio_of_medians, take_turns
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.search import jvm, lucene
from rag_hpc.search.shards import Shards, analyze
from rag_hpc.stores.chunks import split_evenly

DEFAULTS = {
    "data": "",
    "corpora": "pages,passages,languages",
    "texts": "150000",
    "questions": "512",
    "shards": "4",
    "threads": "2",
    "pairs": "9",
    "bm25s_python": "",
}
SLOWER = 1.15  # than Lucene is allowed
WARM_UP = 40  # calls of each side, until Java has compiled them
CHECKED = 64  # questions whose every document is scored in numpy
DEPTHS = (10, 100)
CALLS = 4  # of a side in a turn


@dataclass(frozen=True)
class Rate:
    """Questions a second, and a CPU second of all threads."""

    wall: float
    cpu: float


Side = Callable[[], Rate]


def run(options: Options) -> list[Row]:
    """Return rows of questions a second and a CPU second, indexed texts a CPU second, equal hits, and recall by
    language.

    Options: data, the folder of the corpora (RAG_HPC_DATA); corpora; texts, at most; questions; shards; threads; pairs;
    bm25s_python, a Python that has bm25s, numba and PyStemmer (this one; `none` leaves bm25s out).
    """
    given = known(options, DEFAULTS)
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError("the lexical benchmark needs documentation; set RAG_HPC_DATA or data=FOLDER (docs_cpp in it)")
    rows = []
    for name in given["corpora"].split(","):
        if name == "languages":
            rows += languages.rows(Path(place), int(given["shards"]))
            continue
        texts = corpora.texts(name, Path(place), int(given["texts"]))
        asked = corpora.questions(Path(place), int(given["questions"]))
        with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as made:
            rows += _rows(name, texts, asked, given, Path(made))
    return rows


def search(shards: Shards, texts: Sequence[str], k: int, *, own: bool = True) -> Hits:
    """Return hits of questions, all in one process as `Searcher` does it over ranks; own=False by Lucene's scorer."""
    words = analyze(texts)
    whole = shards.collection({word for row in words for word in row})
    queries = [bm25.make_query(row, whole) for row in words]
    return shards.top(queries, k) if own else shards.lucene(queries, [whole], k)


def exhaustive(shards: Shards, texts: Sequence[str], k: int) -> Hits:
    """Return what `search` must: every document scored by `bm25.canonical_scores`."""
    scores = np.full((len(texts), k), -np.inf, dtype=np.float32)
    docs = np.full((len(texts), k), -1, dtype=np.int64)
    for row, words in enumerate(analyze(texts)):
        query = bm25.make_query(words, shards.collection(words))
        if query.terms:
            ((tf_NT, lengths_N),) = shards.term_freqs([query], [np.arange(shards.max_doc)])
            having = np.nonzero(tf_NT.any(axis=1))[0]
            best = bm25.rank(having, bm25.canonical_scores(tf_NT[having], lengths_N[having], query), k)
            docs[row, : len(best[0])], scores[row, : len(best[0])] = best
    return scores, docs


def _rows(name: str, texts: list[str], asked: list[str], given: Options, folder: Path) -> list[Row]:
    threads, pairs = int(given["threads"]), int(given["pairs"])
    cuts = split_evenly(len(texts), int(given["shards"]))
    parts = [_build(texts, folder / f"shard-{number}", *cut) for number, cut in enumerate(cuts)]
    _build(texts, folder / "one", 0, len(texts))
    many, one = (Shards(folders, threads=threads) for folders in (parts, [folder / "one"]))
    single = Shards([folder / "one"])
    about = f"{len(texts):,} texts, {len(asked)} questions, {cpu_class()}"
    rows = []
    for k in DEPTHS:
        sides = {
            "ours": _halves(asked, partial(search, many, k=k)),
            "lucene": _halves(asked, partial(search, one, k=k, own=False)),
            "anserini": anserini(folder / "one", asked, k, threads),
        }
        rows += compared(f"lexical.{name}.top{k}", sides, pairs, f"{threads} threads, {about}")
        rows.append(_equal(f"lexical.{name}.same{k}", many, one, asked[:CHECKED], k))
    if given["bm25s_python"] != "none":
        with _bm25s(given["bm25s_python"] or sys.executable, texts, asked, folder) as peer:
            half = len(asked) // 2
            for k in DEPTHS:
                turn = _forever((0, half), (half, 2 * half))
                sides = {
                    "ours": _halves(asked, partial(search, single, k=k)),
                    "bm25s": partial(_asked, peer, k, half, turn),
                }
                rows += compared(f"lexical.{name}.bm25s{k}", sides, pairs, f"1 thread, {about}", bar=None)
            if name == "pages":
                rows.append(_indexed(name, texts, peer, pairs, about))
    for opened in (many, one, single):
        opened.close()
    return rows


def compared(
    name: str, sides: dict[str, Side], pairs: int, note: str, bar: float | None = round(1 / SLOWER, 3)
) -> list[Row]:
    """Return the rows of sides, all warmed up, in turns: by the clock, and by the CPU time of all threads."""
    for side in sides.values():
        for _ in range(WARM_UP // CALLS):
            side()
    cpu: dict[str, list[float]] = {side: [] for side in sides}

    def turn(side: str) -> float:
        rate = sides[side]()
        cpu[side].append(rate.cpu)
        return rate.wall

    timed = take_turns({side: partial(turn, side) for side in sides}, pairs)
    rows = []
    for label, unit, values in ((name, "questions/s", timed.values), (f"{name}.cpu", "questions/CPU s", cpu)):
        medians = {side: statistics.median(values[side]) for side in sides}
        ours = medians.pop("ours")
        best = max(medians, key=lambda side: medians[side])
        ratio, interval = ratio_of_medians(values["ours"], values[best])
        rows.append(
            Row(
                name=label,
                ours=ours,
                unit=unit,
                peers=medians,
                ratio=ratio,
                interval=interval,
                bar=bar,
                contention=timed.contention,
                note=note,
            )
        )
    return rows


def _indexed(name: str, texts: list[str], peer: Callable[..., dict[str, float]], pairs: int, about: str) -> Row:
    """Return the row of texts indexed in a CPU second."""
    timed = take_turns(
        {"ours": lambda: len(texts) / _index_cpu_s(texts), "bm25s": lambda: len(texts) / peer("index")["cpu_s"]}, pairs
    )
    ratio, interval = timed.ratio("bm25s")
    return Row(
        name=f"lexical.{name}.index",
        ours=timed.median("ours"),
        unit="texts/CPU s",
        peers={"bm25s": timed.median("bm25s")},
        ratio=ratio,
        interval=interval,
        contention=timed.contention,
        note=f"with the start of Python and Java on our side, and the index on disk; {about}",
    )


def _equal(name: str, many: Shards, one: Shards, asked: list[str], k: int) -> Row:
    """Return the share of questions whose hits of all shards have the bits of every document's score in one index."""
    ours, exact, theirs = search(many, asked, k), exhaustive(one, asked, k), search(one, asked, k, own=False)
    same = [
        scores.tobytes() == true_scores.tobytes() and docs.tobytes() == true_docs.tobytes()
        for scores, docs, true_scores, true_docs in zip(*ours, *exact, strict=True)
    ]
    return Row(
        name=name,
        ours=float(np.mean(same)),
        unit="of questions",
        peers={"lucene": float((theirs[1] == exact[1]).all(axis=1).mean())},
        bar=1.0,
        note=f"the bits of {len(asked)} questions' hits; Lucene's documents, which float32 puts in another order",
    )


def _halves(asked: list[str], answer: Callable[[list[str]], Hits]) -> Side:
    """Return a side that answers the halves of the questions in turns, and tells questions a second."""
    half = len(asked) // 2
    turn = _forever(asked[:half], asked[half : 2 * half])

    def rate() -> Rate:
        return rate_of(half, lambda: answer(next(turn)))

    return rate


def rate_of(questions: int, call: Callable[[], object]) -> Rate:
    """Return the rate of a call that answers so many questions, over CALLS of it."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in range(CALLS):
        call()
    asked = CALLS * questions
    return Rate(wall=asked / (time.perf_counter() - wall_s), cpu=asked / (time.process_time() - cpu_s))


def anserini(index: Path, asked: list[str], k: int, threads: int) -> Side:
    """Return the batch search that pyserini calls, over one index."""
    searcher = jvm.java("io.anserini.search.SimpleSearcher")(
        jvm.java_string(str(index)), signature="(Ljava/lang/String;)V"
    )
    half = len(asked) // 2
    halves = []
    for part in (asked[:half], asked[half : 2 * half]):
        texts, ids = jvm.java("java.util.ArrayList")(), jvm.java("java.util.ArrayList")()
        for number, text in enumerate(part):
            texts.add(jvm.java_string(text))
            ids.add(jvm.java_string(str(number)))
        halves.append((texts, ids))
    turn = _forever(*halves)

    return lambda: rate_of(half, lambda: searcher.batch_search(*next(turn), k, threads))


def _asked(peer: Callable[..., dict[str, float]], k: int, half: int, turn: Iterator[tuple[int, int]]) -> Rate:
    """Return bm25s's rate."""
    told = [peer("search", k, *next(turn)) for _ in range(CALLS)]
    wall_s, cpu_s = (sum(one[what] for one in told) for what in ("wall_s", "cpu_s"))
    return Rate(wall=CALLS * half / wall_s, cpu=CALLS * half / cpu_s)


def _forever(*values: Any) -> Iterator[Any]:
    while True:
        yield from values


def _build(texts: list[str], folder: Path, start: int, stop: int) -> Path:
    lucene.build_index(((str(number), texts[number]) for number in range(start, stop)), folder)
    return folder


def _index_cpu_s(texts: list[str]) -> float:
    before = _cpu_s()
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as folder:
        _build(texts, Path(folder) / "index", 0, len(texts))
    return _cpu_s() - before


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextlib.contextmanager
def _bm25s(python: str, texts: list[str], asked: list[str], folder: Path) -> Iterator[Callable[..., dict[str, float]]]:
    """Yield what asks bm25s, which holds the texts' index. Raises MissingDependency where that Python lacks it."""
    given = folder / "bm25s.json"
    given.write_text(json.dumps({"texts": texts, "questions": asked}), encoding="ascii")
    env = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [python, "-P", str(Path(bm25s_peer.__file__).resolve()), str(given)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdin is not None and child.stdout is not None  # both are pipes
    pipes = child.stdin, child.stdout

    def peer(do: str, k: int = 0, first: int = 0, last: int = 0) -> dict[str, float]:
        with contextlib.suppress(BrokenPipeError):
            pipes[0].write(json.dumps({"do": do, "k": k, "first": first, "last": last}) + "\n")
            pipes[0].flush()
        answer = pipes[1].readline()
        if not answer:
            raise MissingDependency(
                f"bm25s does not run in {python}; give bm25s_python=PYTHON of an environment with: "
                "pip install bm25s numba PyStemmer; or bm25s_python=none"
            )
        told: dict[str, float] = json.loads(answer)
        return told

    try:
        peer("index")
        yield peer
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # the question that a child that is gone did not read
            child.stdin.close()
