"""Bench `tier`: what `rag-hpc plan tier=NAME` foretells of retrieval, from two small pilots, beside that of its size.

Questions come with their vectors: encoding them costs the same at every size. A query is searched by itself, by BM25
and by an index of vectors, fused, in one process of one thread; its seconds are of the CPU.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from heapq import heapreplace
from pathlib import Path

import numpy as np

from rag_hpc.core.origin import hardware
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.lexical import corpora
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.retrieve import made, retrieve
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.size import GB
from rag_hpc.eval.tier import BUSY, TIERS, Pilot, Plan, planned

DEFAULTS = {"data": "", "tier": "small", "questions": "150", "shards": "4", "train_rows": "16384", "scale": "1"}
PILOTS = (8, 4)  # parts of the tier's documents that the pilots have
MOST = 8  # passages of a document, where there is text for so many
HELD = ("lexical", "vectors.build")
BAR = 1.25  # times what was foretold, either way
REPLAYED = 100_000  # queries


@dataclass(frozen=True, kw_only=True)
class Size:
    """Retrieval as it was measured. seconds: of the CPU, a query."""

    documents: int
    passages: int
    held_bytes: int
    seconds: tuple[float, ...]


def run(options: Options) -> list[Row]:
    """Return rows of a query's seconds, the indexes' bytes, and p95 under the tier's load.

    Options: data, the folder of documentation and encodings (RAG_HPC_DATA); tier; questions; shards; train_rows; scale,
    a divisor of the tier's documents, for tests.
    """
    given = known(options, DEFAULTS)
    if given["tier"] not in TIERS:
        raise ConfigError(f"tier={given['tier']}: known: {', '.join(TIERS)}")
    place = given["data"] or os.environ.get("RAG_HPC_DATA", "")
    if not place:
        raise InputError("the tier benchmark needs documentation and encodings; set RAG_HPC_DATA or data=FOLDER")
    documents, qps = TIERS[given["tier"]]
    documents //= int(given["scale"])
    each = min(MOST, len(corpora.texts("passages", Path(place), MOST * documents)) // documents)
    if not each:
        raise InputError(f"{place}: not a passage for each of {documents:,} documents; try a smaller tier")
    *small, whole = [measured(Path(place), documents // part, each, given) for part in (*PILOTS, 1)]
    machine = hardware()
    plan = planned(
        [pilot_of(size) for size in small],
        Prices(source="none: money is not compared"),
        documents=whole.documents,
        qps=qps,
        cores=int(machine["cores"]),
        mem_gb=machine["memory_bytes"] / GB,
        busy=BUSY,
    )
    return rows(given["tier"], plan, small, whole)


def measured(data: Path, documents: int, each: int, given: Options) -> Size:
    """Return what searching so many documents, of `each` passages, holds and takes."""
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as temporary:
        folder = Path(temporary)
        inputs = made.make(data, folder, documents * each, int(given["questions"]))
        settings = {"num_shards": int(given["shards"]), "train_rows": int(given["train_rows"]), "index": "ivf_fp16"}
        inputs = made.indexed(inputs, {**settings, "min_recall": 0.9}, folder)
        inputs["lexical"] = made.run("lexical", {"num_shards": int(given["shards"])}, inputs, folder)
        held = sum(path.stat().st_size for stage in HELD for path in (folder / stage).rglob("*") if path.is_file())
        stage = retrieve.Stage(inputs, 1, folder / "search", queries_per_unit=1)
        stage.search(stage.units[:10])  # what is loaded at the first query
        seconds = []
        for unit in stage.units:
            begun = time.process_time()
            stage.search([unit])
            seconds.append(time.process_time() - begun)
    return Size(documents=documents, passages=documents * each, held_bytes=held, seconds=tuple(seconds))


def pilot_of(size: Size) -> Pilot:
    """Return the rates of a measured size, as those of a run."""
    return Pilot(
        run=f"{size.documents} documents",
        documents=size.documents,
        passages=size.passages,
        held_bytes=size.held_bytes,
        encode_s=0.0,
        search_s=statistics.fmean(size.seconds),
        build_s=0.0,
        build_cost=0.0,
        cores=0,
        memory_bytes=0,
    )


def rows(tier: str, plan: Plan, small: list[Size], whole: Size) -> list[Row]:
    """Return what was foretold over what was measured; the bar is how far either may be from the other."""
    basis = ", ".join(f"{size.documents:,}" for size in small)
    note = (
        f"from pilots of {basis} documents; {whole.documents:,} documents, {whole.passages:,} passages, {cpu_class()}"
    )
    rate = plan.qps / plan.copies
    seen = {
        "query": (plan.query_s, statistics.fmean(whole.seconds), "CPU seconds of a query"),
        "held": (float(plan.held_bytes), float(whole.held_bytes), "bytes of indexes"),
        "p95": (
            plan.p95_s,
            replayed(whole.seconds, rate, plan.cores),
            f"s, p95 at {rate:.3g} queries/s on {plan.cores} cores, by times that vary as an exponential does",
        ),
    }
    return [
        Row(
            name=f"tier.{tier}.{name}",
            ours=told,
            unit=f"{unit}, foretold",
            peers={"measured": found},
            ratio=found / told if name == "p95" else max(told / found, found / told),
            bar=1.0 if name == "p95" else BAR,  # an upper bound; the others either way
            less_is_better=True,
            contention=pressure_cpu(),
            note=note,
        )
        for name, (told, found, unit) in seen.items()
    ]


def replayed(seconds: tuple[float, ...], rate: float, servers: int) -> float:
    """Return the 95th percentile of waiting and service, of Poisson arrivals with service times as measured."""
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1 / rate, REPLAYED)).tolist()
    services = rng.choice(np.array(seconds), REPLAYED).tolist()
    free, waits = [0.0] * servers, []
    for at, service in zip(arrivals, services, strict=True):
        end = max(at, free[0]) + service
        heapreplace(free, end)
        waits.append(end - at)
    return float(np.quantile(waits, 0.95))
