"""Real stages in this process, one after another, and on threads that play ranks.

The chains run over the fixed corpus; tests may read them, and never write to them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fixedcorpus import write_files, write_questions

from rag_hpc import inline
from rag_hpc.algo.types import Array
from rag_hpc.core.comm import Comm, Join, SerialComm
from rag_hpc.core.hashing import seed_of
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context
from rag_hpc.errors import MissingDependency
from rag_hpc.eval.bench.dedup.given import DEDUP
from rag_hpc.stages import registry
from rag_hpc.stages.registry import make_stage

T = TypeVar("T")
APART = (
    "rerank",
    "judge",
    "train.pairs",
    "train.encoder",
    "train.reranker",
)  # they need models, or an endpoint
STAGES = tuple(name for name in registry.STAGES if name not in APART)
TO_CHUNK = STAGES[: STAGES.index("chunk") + 1]
SEARCHED = ("lexical", "encode", "retrieve.queries")


# ---- running stages


def run_stage(
    run_dir: Path, name: str, settings: Mapping[str, Any], inputs: Mapping[str, Manifest], **how: Any
) -> Manifest:
    """Return the published manifest of a stage of that name and those settings; `how` is inline.run_stage's."""
    return inline.run_stage(make_stage(name, dict(settings)), inputs, run_dir, **how)


@dataclass
class Chain:
    """A run of stages one after another, and what they put out."""

    run_dir: Path
    settings: dict[str, dict[str, Any]]
    out: dict[str, Manifest] = field(default_factory=dict)

    def run(self, *stages: str, p: int = 1, seed: int = 0) -> Chain:
        """Run the named stages and return this chain."""
        for name in stages:
            self.out[name] = run_stage(self.run_dir, name, self.settings.get(name, {}), self.out, p=p, seed=seed)
        return self

    def again(self, name: str, run_dir: Path, *, fail: Iterable[int] = (), **changes: Any) -> Manifest:
        """Return the output of one stage over this chain's inputs with other settings, in a run of its own."""
        inputs = {n: found for n, found in self.out.items() if n != name}
        return run_stage(run_dir, name, {**self.settings.get(name, {}), **changes}, inputs, fail=fail)

    def hashes(self) -> dict[str, str]:
        """Return the output hash of each stage that ran."""
        return {name: found.output_hash for name, found in self.out.items()}

    def fork(self, run_dir: Path, upto: tuple[str, ...]) -> Chain:
        """Return a chain that goes on from the first stages of this one in another folder."""
        return Chain(run_dir, self.settings, {name: self.out[name] for name in upto})

    def table(self, stage: str, name: str) -> list[dict[str, Any]]:
        """Return the rows of all units' Parquet file `name`, in unit order."""
        return rows_of(self.out[stage], name)

    def rejects(self, stage: str) -> dict[str, str]:
        """Return id -> reason of what a stage dropped."""
        return {row["id"]: row["reason"] for row in self.table(stage, "rejects.parquet")}


def rows_of(found: Manifest, name: str) -> list[dict[str, Any]]:
    """Return the rows of all units' Parquet file `name`, in unit order."""
    from rag_hpc.stores.tables import read_table

    return [row for path in found.files(name) for row in read_table(path).to_pylist()]


def context(inputs: Mapping[str, Manifest], folder: Path, comm: Comm | None = None) -> Context:
    """Return the context of a lone worker, or of one rank, with a scratch folder of its own below `folder`."""
    comm = comm or SerialComm()
    scratch = folder / f"scratch-{comm.rank}"
    scratch.mkdir(parents=True, exist_ok=True)
    return Context(inputs=inputs, rank=comm.rank, world_size=comm.world_size, comm=comm, shared=folder, scratch=scratch)


def run_alone(
    name: str, settings: Mapping[str, Any], inputs: Mapping[str, Manifest], folder: Path, index: int = 0
) -> Path:
    """Run one unit of a stage without committing it; return the folder with its files."""
    stage = make_stage(name, dict(settings))
    ctx = context(inputs, folder)
    unit = stage.plan(inputs, folder)[index]
    stage.setup(ctx)
    out = folder / f"out-{index}"
    out.mkdir()
    stage.run(unit, out, ctx)
    return out


# ---- ranks


class Group:
    """What the threads of a group share. One rank works at a time: pyjnius calls of two threads would mix."""

    def __init__(self, world_size: int) -> None:
        self.turn, self.door = threading.Lock(), threading.Barrier(world_size)
        self.slots: list[Any] = [None] * world_size

    def wait(self) -> None:
        """Give the turn away and return once every rank has arrived, with the turn taken again."""
        self.turn.release()
        try:
            self.door.wait(timeout=300)
        finally:
            self.turn.acquire()


class ThreadComm:
    """One rank of a group of threads, with MpiComm's meaning: rows join in rank order, rank 0 holds the result."""

    def __init__(self, rank: int, world_size: int, group: Group) -> None:
        self.rank, self.world_size, self._group = rank, world_size, group

    def _exchange(self, value: Any) -> list[Any]:
        self._group.wait()
        self._group.slots[self.rank] = value
        self._group.wait()
        return list(self._group.slots)

    def broadcast(self, array: Array | None) -> Array:
        """Return a copy of rank 0's array on every rank."""
        return np.array(self._exchange(array)[0], copy=True)

    def gather_rows(self, array: Array) -> Array | None:
        """Return the ranks' rows joined on rank 0, None elsewhere."""
        parts = self._exchange(np.array(array, copy=True))
        if len({(part.dtype.str, part.shape[1:]) for part in parts}) > 1:
            raise ValueError(f"ranks gave rows of different kinds: {[(p.dtype.str, p.shape) for p in parts]}")
        return np.concatenate(parts) if self.rank == 0 else None

    def fold(self, array: Array, join: Join) -> Array | None:
        """Return the ranks' arrays joined in a binary tree on rank 0, None elsewhere."""
        parts = self._exchange(np.array(array, copy=True))
        while self.rank == 0 and len(parts) > 1:
            pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
            parts = [join(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
        return np.asarray(parts[0]) if self.rank == 0 else None

    def sum(self, array: Array) -> Array:
        """Return the sum over ranks; the last rank is added first, so that float sums betray an order they rely on."""
        parts = self._exchange(np.array(array, copy=True))
        total = parts[-1]
        for part in parts[-2::-1]:
            total = total + part
        return np.asarray(total)

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Return copies of what every rank sent to this one, in rank order."""
        return [np.array(sent[self.rank], copy=True) for sent in self._exchange(list(parts))]

    def barrier(self) -> None:
        """Return once every rank has arrived."""
        self._group.wait()

    def close(self) -> None:
        """Do nothing."""

    def abort(self, exit_code: int) -> None:
        """Break the barrier that others wait at."""
        self._group.door.abort()


def on_ranks(world_size: int, work: Callable[[Comm], T]) -> list[T]:
    """Return what `work` gives on each rank; the first rank's error is raised when any fails."""
    group = Group(world_size)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def body(rank: int) -> None:
        with group.turn:
            try:
                results[rank] = work(ThreadComm(rank, world_size, group))
            except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
                errors[rank] = error
                group.door.abort()

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [error for error in errors.values() if not isinstance(error, threading.BrokenBarrierError)]
    for error in [*real, *errors.values()]:
        raise error
    return [results[rank] for rank in range(world_size)]


def run_on_ranks(
    name: str, settings: Mapping[str, Any], inputs: Mapping[str, Manifest], folder: Path, world_size: int
) -> Path:
    """Run all units of a collective stage on threads; return the folder of rank 0's files, a subfolder a unit."""
    fingerprint = inline.open_stage(make_stage(name, dict(settings)), inputs, folder, world_size).fingerprint

    def rank(comm: Comm) -> Path:
        stage, ctx = make_stage(name, dict(settings)), context(inputs, folder, comm)
        stage.setup(ctx)
        for unit in stage.plan(inputs, folder):
            ctx.seed = seed_of(fingerprint, unit.name)
            out = folder / f"rank-{comm.rank}" / unit.name
            out.mkdir(parents=True)
            stage.run(unit, out, ctx)
        return folder / f"rank-{comm.rank}"

    return on_ranks(world_size, rank)[0]


# ---- the fixed chain


def settings_for(corpus: Path, questions: Path) -> dict[str, dict[str, Any]]:
    """Return the whole settings of every stage of the fixed chain, small enough for several units each."""
    from rag_hpc.schema import to_plain

    dedup = {"num_groups": 3}
    vectors = {"num_shards": 3, "num_lists": 4}
    small: dict[str, dict[str, Any]] = {
        "crawl": {"name": "fixed", "source": "files", "path": str(corpus), "pages_per_unit": 12},
        **dict.fromkeys(DEDUP, dedup),
        "chunk": {"max_tokens": 48, "overlap_tokens": 8, "heading_tokens": 8},
        "encode": {"tokens_per_unit": 1000},
        "vectors.train": vectors,
        "vectors.build": vectors,
        "retrieve.queries": {"source": "files", "questions": str(questions)},
        "retrieve.search": {"k": 5, "depth": 20, "queries_per_unit": 4},
        "generate": {"k": 3},
    }
    whole = {}
    for name in STAGES:
        whole[name] = to_plain(make_stage(name, small.get(name, {})).config)
    return whole


def new_chain(folder: Path) -> Chain:
    """Return a chain over the fixed corpus, written below `folder`, with no stage run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_for(write_files(folder / "corpus"), write_questions(folder / "questions.jsonl"))
    return Chain(folder / "run", settings)


@lru_cache(maxsize=1)
def front_chain() -> Chain:
    """Return the fixed corpus as far as its chunks, run once a process by one worker."""
    folder = Path(tempfile.mkdtemp(prefix="stagerun-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return new_chain(folder).run(*TO_CHUNK)


@lru_cache(maxsize=1)
def searched_chain() -> Chain:
    """Return the front chain and what a search needs of it, run once a process by one worker."""
    front = front_chain()
    return front.fork(front.run_dir, TO_CHUNK).run(*SEARCHED)


@lru_cache(maxsize=1)
def whole_chain() -> Chain:
    """Return the searched chain and all other stages, run once a process by one worker."""
    searched = searched_chain()
    upto = (*TO_CHUNK, *SEARCHED)
    return searched.fork(searched.run_dir, upto).run(*(name for name in STAGES if name not in upto))


def chain_or_skip(make: Callable[[], Chain] = whole_chain) -> Chain:
    """Return the chain, or skip the test where Java or the model is not installed."""
    import pytest

    try:
        return make()
    except MissingDependency as error:
        pytest.skip(str(error))
