"""`rag-hpc plan tier=medium run=PILOT`: nodes, memory, p95 and cost a month of serving retrieval, from a pilot's rates.

What is assumed: CPU seconds of a search grow linearly with passages, by a line through the pilots' where there are two
sizes, and through 0 for one, which is too much where an index finds faster; memory and building grow with documents;
queries come at random (Poisson) and vary in length as an exponential does, on nodes with as many servers as cores.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rag_hpc.arguments import as_json, group_values, number_between
from rag_hpc.errors import ConfigError, InputError, did_you_mean
from rag_hpc.eval.cost import APART, ASKING, KWH_J, Prices, stage_costs
from rag_hpc.eval.results import Results, named, stage_of
from rag_hpc.eval.size import FREE, GB
from rag_hpc.eval.text import aligned, amount, count, duration
from rag_hpc.schema import from_plain

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

TIERS = {  # documents, queries a second
    "small": (10_000, 10.0),
    "medium": (100_000, 100.0),
    "large": (1_000_000, 1_000.0),
    "enterprise": (10_000_000, 10_000.0),
}
KEYS = ("tier", "run", "documents", "qps", "cores", "mem_gb", "busy", "cost", "cluster")
HELD = ("lexical", "vectors.build")  # what searching nodes keep in memory; the vectors themselves without an index
MONTH_S = 730 * 3600
REACH = 100  # times the documents of pilots of one size
BUSY = 0.6  # share of a node's cores that queries may take


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """Rates of a finished run. Seconds are of one core."""

    run: str
    documents: int  # that can be found
    passages: int
    held_bytes: int
    encode_s: float  # of a question
    search_s: float  # of a query, its reranking included
    build_s: float  # of all stages before searching, for one document
    build_cost: float  # of the same
    cores: int  # of the machines that searched; 0 in runs of before it was recorded
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What serving takes. A copy is a node for each shard of the index; each copy answers its share of the queries."""

    documents: int
    passages: int
    qps: float
    cores: int  # of a node
    mem_gb: float
    held_bytes: int
    shards: int
    copies: int
    query_s: float  # of one core, over all shards
    busy: float  # share of the cores that queries take
    p95_s: float
    build_core_h: float
    build_cost: float
    month_cost: float

    @property
    def nodes(self) -> int:
        """All nodes."""
        return self.shards * self.copies


def plan(arguments: Arguments) -> int:
    """Print what a tier takes, at the rates of the runs named. Raises ConfigError and InputError."""
    for override in arguments.overrides:
        key = override.split("=")[0].split(".")[0]
        if key not in KEYS:
            meant = did_you_mean(key, KEYS)
            raise ConfigError(f"plan tier=: it does not look at {override}; {meant}it takes: {', '.join(KEYS)}")
    tier = arguments.override("tier") or ""
    if tier not in TIERS:
        raise ConfigError(f"tier={tier}: {did_you_mean(tier, TIERS)}known: {', '.join(TIERS)}")
    names = (arguments.override("run") or "").split(",")
    if names == [""]:
        raise ConfigError(f"plan tier={tier}: name finished runs, best of two sizes, for their rates: run=NAME,NAME")
    prices = from_plain(Prices, group_values(arguments, "cost", "example"))
    pilots = [pilot_of(named(arguments, name), prices) for name in names]
    documents, qps = TIERS[tier]
    largest = max(pilots, key=lambda pilot: pilot.documents)

    if not largest.cores and not {"cores", "mem_gb"} <= {override.split("=")[0] for override in arguments.overrides}:
        raise InputError(f"{largest.run}: its records tell no hardware; say what a node has: cores=32 mem_gb=128")

    def number(key: str, otherwise: float, low: float, high: float = 1e12) -> float:
        return number_between(key, arguments.override(key) or f"{otherwise:.12g}", low, high)

    found = planned(
        pilots,
        prices,
        documents=int(number("documents", documents, 1)),
        qps=number("qps", qps, 1e-6),
        cores=int(number("cores", largest.cores, 1)),
        mem_gb=number("mem_gb", largest.memory_bytes / GB, 1e-3),
        busy=number("busy", BUSY, 0.01, 0.95),
    )
    if _one_size(pilots) and found.documents > REACH * largest.documents:
        raise InputError(
            f"{largest.run}: {largest.documents} documents do not tell how search over {found.documents} grows; "
            f"name two runs of different sizes, run=NAME,NAME, or one of at least {found.documents // REACH} documents"
        )
    if "--json" in arguments.flags:
        told = {**dataclasses.asdict(found), "nodes": found.nodes, "tier": tier, "prices": dataclasses.asdict(prices)}
        print(as_json({**told, "pilots": [dataclasses.asdict(pilot) for pilot in pilots]}))
    else:
        print(as_text(tier, found, pilots, prices))
    return 0


def pilot_of(run: Results, prices: Prices) -> Pilot:
    """Return the rates of a run. Raises InputError for one that has not searched."""
    done = run.manifests
    if missing := [stage for stage in ("chunk", "lexical", "retrieve.queries", "retrieve.search") if stage not in done]:
        raise InputError(f"{run.name}: {', '.join(missing)} not finished; its rates are needed: rag-hpc retry")
    records = {step: rows for step in run.stages if (rows := run.records(step))}
    hardware = records["retrieve.search"][0]["hardware"]
    queries = done["retrieve.queries"].total("items_out")
    documents, passages = done["chunk"].total("items_in"), int(done["chunk"].extra().get("chunks", 0))
    if not (queries and documents and passages):
        raise InputError(f"{run.name}: without queries or passages it has no rates; name another run")
    held = [*HELD] if "vectors.build" in done else ["lexical", "encode"]
    building = stage_costs(
        {step: rows for step, rows in records.items() if stage_of(step) not in (*ASKING, *APART)}, prices, {}
    )
    searching = [row for step in ("retrieve.search", "rerank") for row in records.get(step, [])]
    return Pilot(
        run=run.name,
        documents=documents,
        passages=passages,
        held_bytes=sum(file["bytes"] for step in held for row in records[step] for file in row["files"].values()),
        encode_s=sum(row["cpu_s"] for row in records["retrieve.queries"]) / queries,
        search_s=sum(row["cpu_s"] for row in searching) / queries,
        build_s=sum(row.usage.core_s for row in building) / documents,
        build_cost=sum(row.cost for row in building) / documents,
        cores=int(hardware.get("cores", 0)),
        memory_bytes=int(hardware.get("memory_bytes", 0)),
    )


def planned(
    pilots: Sequence[Pilot], prices: Prices, *, documents: int, qps: float, cores: int, mem_gb: float, busy: float
) -> Plan:
    """Return what serving takes; `busy` is the share of a node's cores that queries may take at most."""
    largest = max(pilots, key=lambda pilot: pilot.documents)
    factor = documents / largest.documents
    passages, held = round(largest.passages * factor), round(largest.held_bytes * factor)
    shards = max(1, math.ceil(held / (mem_gb * GB * (1 - FREE))))
    fixed_s, each_s = line([(pilot.passages, pilot.search_s) for pilot in pilots])
    query_s = largest.encode_s + fixed_s + each_s * passages
    shard_s = largest.encode_s + fixed_s + each_s * passages / shards  # what does not grow is done by every shard
    copies = max(1, math.ceil(qps * shard_s / (cores * busy)))
    nodes = shards * copies
    busy_cores = qps * shard_s * shards
    watts = busy_cores * prices.core_watts * prices.pue
    hourly = nodes * (prices.node_hour + cores * prices.core_hour)
    return Plan(
        documents=documents,
        passages=passages,
        qps=qps,
        cores=cores,
        mem_gb=mem_gb,
        held_bytes=held,
        shards=shards,
        copies=copies,
        query_s=query_s,
        busy=busy_cores / (nodes * cores),
        p95_s=slowest(qps / copies, shard_s, cores, shards),
        build_core_h=largest.build_s * documents / 3600,
        build_cost=largest.build_cost * documents,
        month_cost=hourly * MONTH_S / 3600 + watts * MONTH_S / KWH_J * prices.kwh,
    )


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the intercept and slope of least squares, neither below 0; of one x, the line through 0."""
    xs, ys = (np.array(values, dtype=np.float64) for values in zip(*points, strict=True))
    through_0 = 0.0, float((xs @ ys) / (xs @ xs))
    if len(set(xs.tolist())) == 1:
        return through_0
    slope = float(((xs - xs.mean()) @ (ys - ys.mean())) / ((xs - xs.mean()) @ (xs - xs.mean())))
    intercept = float(ys.mean() - slope * xs.mean())
    return through_0 if intercept < 0 else (intercept, slope) if slope >= 0 else (float(ys.mean()), 0.0)


def slowest(rate: float, service_s: float, servers: int, shards: int = 1, share: float = 0.95) -> float:
    """Return the seconds within which that share of queries has its answer from every shard.

    Each shard is a queue M/M/c (Erlang 1917). Raises ConfigError where more comes in than it can serve.
    """
    load = rate * service_s
    if load >= servers:
        raise ConfigError(f"{rate:g} queries a second of {service_s:.3g} s need more than {servers} cores; raise cores")
    waits = _erlang_c(load, servers)

    def later(t: float) -> float:
        """P(T > t): the wait is 0, or exponential with rate (c - load) / service; the service is exponential."""
        spare, at = servers - load - 1, t / service_s
        if abs(spare) < 1e-9:
            return math.exp(-at) * (1 + waits * at)
        return math.exp(-at) * (1 + waits * (1 - math.exp(-spare * at)) / spare)

    target, low, high = 1 - share ** (1 / shards), 0.0, service_s
    while later(high) > target:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if later(middle) > target else (low, middle)
    return high


def as_text(tier: str, found: Plan, pilots: Sequence[Pilot], prices: Prices) -> str:
    """Return the lines for people, with what stands behind them."""
    sizes = ", ".join(f"{pilot.run} ({count(pilot.documents)} documents)" for pilot in pilots)
    memory = f"{amount(found.held_bytes)} of indexes; {FREE:.0%} of {found.mem_gb:.3g} GB a node kept free"
    rows = [
        (
            "tier",
            tier,
            f"{count(found.documents)} documents, {count(found.passages)} passages, {found.qps:g} queries/s",
        ),
        ("nodes", str(found.nodes), f"of {found.cores} cores: {found.copies} copies of {found.shards} shards"),
        ("memory", amount(found.held_bytes / found.shards), f"a node, {memory}"),
        ("query", duration(found.query_s), f"of one core; {100 * found.busy:.0f} % of the cores are busy"),
        ("p95", duration(found.p95_s), "waiting included, the network not"),
        ("build", f"{found.build_cost:.3g} {prices.currency}", f"once, {found.build_core_h:.3g} core-hours"),
        ("month", f"{found.month_cost:.3g} {prices.currency}", f"prices {prices.name}: {prices.source}"),
    ]
    basis = "through 0, as the pilots have one size: an upper bound" if _one_size(pilots) else "with what never grows"
    grown = f"{found.passages / max(pilot.passages for pilot in pilots):.3g} times the largest"
    lines = [aligned(("", "", ""), rows).lstrip("\n"), "", f"rates of {sizes}; {grown}"]
    return "\n".join([*lines, f"CPU seconds of a search over passages: a line {basis}"])


def _one_size(pilots: Sequence[Pilot]) -> bool:
    return len({pilot.passages for pilot in pilots}) == 1


def _erlang_c(load: float, servers: int) -> float:
    """Return the probability that a query waits, by Erlang B's recursion."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))
