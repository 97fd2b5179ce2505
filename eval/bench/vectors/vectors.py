"""`rag-hpc bench vectors`: every kind of index beside hnswlib, usearch and exact search, and what `auto` chooses.

Each index sits in a process of its own and answers batches of questions. How hard it searches is chosen on one half of
the questions; recall and speed are judged on the other, the sides taking turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.rank import kmeans
from rag_hpc.algo.rank.topk import canonical_scores, exact_topk, merge_topk, rescore
from rag_hpc.algo.types import F32, Array
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.pairs import MIN_PAIRS, Timed, take_turns
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.vectors import million, workers
from rag_hpc.eval.bench.vectors.data import array_path, tiled
from rag_hpc.eval.bench.vectors.plot import drawn
from rag_hpc.search import indexes
from rag_hpc.search.choose import GIB, choose, default_lists
from rag_hpc.stores.shards import Effort, IndexName, Kind

DEFAULTS = {
    "data": "",
    "rows": "100000",
    "threads": "2",
    "recall": "0.95",
    "peers": "",
    "sides": "",
    "out": "",
    "keep": "",
    "part": "all",
    "ranks": "4",
}
PEERS = ("hnswlib", "usearch", "usearch_i8")
MARGIN = 0.005  # of recall, on the half that the effort is chosen on
_PROBES, _SHORTLISTS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192), (30, 50, 100, 200, 400)
_EFS = (10, 15, 20, 25, 30, 40, 50, 60, 80, 120, 160, 240, 320, 480, 800)
_K = 10
Setting = dict[str, int]


@dataclass
class Point:
    """What a setting gives."""

    setting: Setting
    recall: float
    rate: float  # questions a second


@dataclass
class Process:
    """A side: an index in a process that answers commands."""

    name: str
    command: list[str]
    folder: Path
    truth_Q: F32  # the tenth best score of each question
    points: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") if self.name != "exact" else {}
        self._child = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **one}
        )
        told = self._told()
        self.num_bytes, self.built_s = int(told["bytes"]), float(told["built_s"])

    def ask(self, setting: Setting, half: int) -> Point:
        """Return recall and rate over a half of the questions."""
        out = self.folder / f"{self.name}.npy"
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({**setting, "half": half, "out": str(out)}) + "\n")
        self._child.stdin.flush()
        seconds = float(self._told()["seconds"])
        ids = np.load(out)
        rows = np.load(array_path(self.folder, "rows"), mmap_mode="r")
        queries = np.load(array_path(self.folder, "queries"))[half::2]
        found = np.take(rows, ids.reshape(-1), axis=0)
        scores = canonical_scores(np.repeat(queries, ids.shape[1], axis=0), found).reshape(ids.shape)
        return Point(setting, float((scores >= self.truth_Q[half::2, None]).mean()), len(ids) / seconds)

    def sweep(self, settings: list[Setting]) -> None:
        """Measure every setting on the half that efforts are chosen on."""
        self.ask(settings[0], 0)
        self.points = [self.ask(setting, 0) for setting in settings]

    def chosen(self, recall: float) -> Setting | None:
        """Return the fastest setting that reaches the recall, None where none does."""
        enough = [point for point in self.points if point.recall >= recall + MARGIN]
        enough = enough or [point for point in self.points if point.recall >= 1]
        return max(enough, key=lambda point: point.rate).setting if enough else None

    def end(self) -> None:
        """End the process."""
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()
        self._child.wait(timeout=60)

    def _told(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise InputError(f"bench vectors: {' '.join(self.command)} ended with {self._child.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told


def run(options: Options) -> list[Row]:
    """Return rows of speed at a recall, of training, and of answers that change with the shards.

    Options: data, the folder with ann_bge_base (RAG_HPC_DATA); rows; threads; recall; peers=PYTHON, one that has
    hnswlib and usearch; sides=NAMES, only those, with commas between; out=FILE.svg, the frontier; keep=FOLDER for the
    measured points as JSON, written after each side;
    part=all|frontier|train|shards|workers|million: `workers` simulates up to 256 of them from measured shares, the last
    builds and serves 1,000,000 vectors by `ranks` ranks.
    """
    given = known(options, DEFAULTS)
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError("the vectors benchmark needs encodings; set RAG_HPC_DATA or data=FOLDER")
    if given["part"] == "million":
        return million.run(Path(place), int(given["ranks"]))
    rows, queries = tiled(Path(place), int(given["rows"]))
    found: list[Row] = []
    if given["part"] in ("all", "train"):
        found.append(_training(rows))
    if given["part"] in ("all", "frontier", "shards", "workers"):
        centroids = _centroids(rows)
    if given["part"] in ("all", "shards"):
        found += [_sharded(kind, rows, queries, centroids) for kind in (Kind.ivf_pq_fastscan, Kind.ivf_rabitq)]
    if given["part"] in ("all", "workers"):
        found += workers.run(rows, queries, centroids)
    if given["part"] in ("all", "frontier"):
        found += _frontier(given, rows, queries, centroids)
    return found


def _frontier(given: Options, rows: Array, queries: F32, centroids: F32) -> list[Row]:
    target = float(given["recall"])
    about = f"at recall@10 {target:g} on {len(rows):,} x {rows.shape[1]}, {given['threads']} threads, {cpu_class()}"
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as made:
        folder = Path(made)
        for name, array in {"rows": rows, "queries": queries, "centroids": centroids}.items():
            np.save(array_path(folder, name), array)
        truth = exact_topk(queries, rows, _K)[0][:, -1]
        sides: dict[str, Process] = {}
        for side in _sides(given, folder, truth):
            sides[side.name] = side
            _write(given, sides)
        chosen = {name: side.chosen(target) for name, side in sides.items()}
        able = {name: setting for name, setting in chosen.items() if setting is not None}
        judged = {name: sides[name].ask(setting, 1).recall for name, setting in able.items()}
        turns = {name: _rate(sides[name], setting) for name, setting in able.items()}
        timed = take_turns(turns, num_pairs=MIN_PAIRS)
        for side in sides.values():
            side.end()
    if given["out"]:
        points = {name: [(point.recall, point.rate) for point in side.points] for name, side in sides.items()}
        drawn(Path(given["out"]), points, about)
    memory = {name: side.num_bytes for name, side in sides.items()}
    limits = {"no limit": 0.0, "of 2.5 bytes a number": 2.5 * rows.size / GIB, "of 4 bytes": 4.0 * rows.size / GIB}
    found = []
    for name, limit in limits.items():
        ours = choose(IndexName.auto, *rows.shape, num_shards=1, mem_gib=limit, recall=target).kind.value
        fits = [side for side in able if not limit or memory[side] <= limit * GIB]
        note = f"recall {judged.get(ours, 0.0):.4f} as judged; {about}"
        found.append(_auto(f"vectors.auto, memory {name}", ours, fits, timed, note))
    for name, setting in able.items():
        share = f"{memory[name] / rows.size:.2f} bytes a number, built in {sides[name].built_s:.0f} s"
        note = f"{setting}; recall {judged[name]:.4f} on the questions that did not choose it; {share}; {about}"
        found.append(Row(name=f"vectors.{name}", ours=timed.median(name), unit="q/s", note=note))
    missing = sorted(set(sides) - set(able))
    if missing:
        found.append(
            Row(name="vectors.below", ours=len(missing), unit="kinds", note=f"never at it: {missing}; {about}")
        )
    return found


def _auto(name: str, ours: str, fits: list[str], timed: Timed, note: str) -> Row:
    """Return auto's choice beside everything that fits into the same memory, exact search included."""
    others = {side: timed.median(side) for side in fits if side != ours}
    best = max(others, key=lambda side: others[side], default=ours)
    ratio, interval = timed.ratio(best, ours) if ours in timed.values else (0.0, (0.0, 0.0))
    return Row(
        name=name,
        ours=timed.median(ours) if ours in timed.values else 0.0,
        unit="q/s",
        peers=others,
        ratio=ratio,
        interval=interval,
        bar=0.95,
        contention=timed.contention,
        note=f"auto takes {ours}, the best other is {best}; {note}",
    )


def _sides(given: Options, folder: Path, truth: F32) -> Iterator[Process]:
    """Yield the sides, built and swept one after another."""
    wanted = [name for name in given["sides"].split(",") if name]
    for name in ("exact", *Kind.__members__, *(PEERS if given["peers"] else ())):
        if name == Kind.flat.value or (wanted and name not in wanted):
            continue  # flat: exact search is FAISS's own of the same rows
        if name in PEERS:
            command = [given["peers"], str(Path(__file__).with_name("peer.py"))]
        else:
            command = [sys.executable, "-m", "rag_hpc.eval.bench.vectors.side"]
        side = Process(name, [*command, name, str(folder), given["threads"]], folder, truth)
        side.sweep([{"ef": ef} for ef in _EFS] if name in PEERS else _settings(name))
        yield side


def _settings(name: str) -> list[Setting]:
    if name == "exact":
        return [{}]
    kind = Kind[name]
    if kind is Kind.hnsw:
        return [{"ef_search": ef} for ef in _EFS]
    shortlists = _SHORTLISTS if kind.has_codes else (0,)
    return [{"num_probes": probes, "shortlist": num} for probes, num in product(_PROBES, shortlists)]


def _rate(side: Process, setting: Setting) -> Any:
    return lambda: side.ask(setting, 1).rate


def _write(given: Options, sides: Mapping[str, Process]) -> None:
    if given["keep"]:
        told = {name: [vars(point) for point in side.points] for name, side in sides.items()}
        Path(given["keep"]).mkdir(parents=True, exist_ok=True)
        (Path(given["keep"]) / "frontier.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def _sample(rows: Array) -> Array:
    return rows[np.linspace(0, len(rows) - 1, min(1 << 16, len(rows))).astype(np.int64)]


def _centroids(rows: Array) -> F32:
    sample = _sample(rows)
    config = kmeans.KMeansConfig(num_centroids=default_lists(len(sample)), seed=1)
    return kmeans.train(sample, np.arange(len(sample)), config, indexes.nearest, lambda mine: mine)


def _training(rows: Array, num: int = 20_000, lists: int = 512, num_iters: int = 10) -> Row:
    """Return the time of our k-means beside FAISS's, of as many iterations, on one thread."""
    import faiss

    sample = np.ascontiguousarray(rows[:: max(1, len(rows) // num)][:num])
    single = sample.astype(np.float32)
    products: dict[str, float] = {}

    def ours() -> float:
        config = kmeans.KMeansConfig(num_centroids=lists, num_iters=num_iters, seed=1)
        begun = time.process_time()
        found = kmeans.train(sample, np.arange(len(sample)), config, indexes.nearest, lambda mine: mine)
        return done("ours", found, time.process_time() - begun)

    def theirs() -> float:
        faiss.omp_set_num_threads(1)
        begun = time.process_time()
        parameters = faiss.ClusteringParameters()
        parameters.niter, parameters.seed, parameters.spherical = num_iters, 1, True
        parameters.max_points_per_centroid = len(sample)
        clustering = faiss.Clustering(sample.shape[1], lists, parameters)
        clustering.train(single, faiss.IndexFlatIP(sample.shape[1]))
        seconds = time.process_time() - begun
        return done("faiss", faiss.vector_to_array(clustering.centroids).reshape(lists, -1), seconds)

    def done(side: str, centroids: F32, seconds: float) -> float:
        flat = faiss.IndexFlatIP(sample.shape[1])
        flat.add(centroids)
        products[side] = float(flat.search(single, 1)[0].mean())
        return 1 / seconds

    timed = take_turns({"ours": ours, "faiss": theirs})
    ratio, interval = timed.ratio("faiss")
    return Row(
        name="vectors.train",
        ours=timed.median("ours"),
        unit="trainings/CPU-s",
        peers={"faiss.Clustering": timed.median("faiss")},
        ratio=ratio,
        interval=interval,
        bar=1.0,
        contention=timed.contention,
        note=f"mean product with the nearest centroid {products['ours']:.5f}, FAISS {products['faiss']:.5f}; "
        f"{len(sample):,} x {sample.shape[1]}, {lists} centroids, {num_iters} iterations, one thread, {cpu_class()}",
    )


def _sharded(kind: Kind, rows: Array, queries: F32, centroids: F32, num_shards: int = 4, shortlist: int = 100) -> Row:
    """Return the share of questions whose ten best are others in shards than in one index."""
    trained = indexes.template(kind, centroids, _sample(rows))
    assert trained is not None
    effort = Effort(kind=kind, num_probes=64, shortlist=shortlist)
    edges = np.linspace(0, len(rows), num_shards + 1).astype(np.int64)
    held = []
    for first, stop in pairwise(edges.tolist()):
        index = indexes.empty_index(kind, trained)
        indexes.add(index, rows[first:stop], np.arange(first, stop))
        held.append(indexes.Shards([index], effort))
    parts = [shard.shortlist(queries, shortlist) for shard in held]
    whole = indexes.empty_index(kind, trained)
    indexes.add(whole, rows, np.arange(len(rows)))

    def ranked(ids: Array) -> Any:
        return rescore(queries, rows, ids, _K, longest_row=1.01)

    one = ranked(indexes.Shards([whole], effort).shortlist(queries, shortlist)[1])[1]
    cut = ranked(merge_topk(parts, shortlist)[1])[1]
    inside = merge_topk([ranked(ids) for _, ids in parts], _K)[1]
    return Row(
        name=f"vectors.shards, {kind.value}",
        ours=float((cut != one).any(1).mean()),
        unit="of the questions get another top ten",
        peers={"refined in each shard": float((inside != one).any(1).mean())},
        bar=0.0,
        less_is_better=True,
        note=f"{num_shards} shards against one index, shortlist {shortlist}, {len(queries)} questions, {cpu_class()}",
    )
