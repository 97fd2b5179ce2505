"""`rag-hpc bench serve run=RUN`: a gateway that is up, asked as many people ask; latencies held against predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.core import manifest
from rag_hpc.core.ledger import Ledger, find_run, runs_root
from rag_hpc.core.plan import read_plans
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.serve.load import Sample, Target, load
from rag_hpc.schema import from_plain
from rag_hpc.serve.gateway.config import GatewayConfig
from rag_hpc.serve.gateway.places import gateways_of
from rag_hpc.stores.answers import read_answers
from rag_hpc.stores.questions import read_questions

DEFAULTS = {"run": "", "qps": "1", "seconds": "60", "warmup": "10", "route": "query", "slo": "", "seed": "0"}
ROUTES = {"query": "/v1/query", "retrieve": "/v1/retrieve"}
STEPS = ("embed", "search", "generate")
QUANTILES = (0.5, 0.95, 0.99)
ENOUGH = {0.5: 100, 0.95: 200, 0.99: 10_000}  # samples, below which a quantile is shown and not judged
RESAMPLES = 500


@dataclass(kw_only=True)
class Slo:
    """Milliseconds that are predicted of the steps of an answer."""

    embed_ms: float
    search_ms: float
    rerank_ms: float
    generate_ms: float
    first_ms: float
    overhead_ms: float


def run(options: Options) -> list[Row]:
    """Return rows of latencies, of failures and of answers that are not the batch job's.

    Options: run, whose gateway on this machine is asked (its owner's door); qps, requests a second on average; seconds
    of load after `warmup` seconds that do not count; route=query or retrieve; slo=FILE; seed.
    """
    given = known(options, DEFAULTS)
    if given["route"] not in ROUTES:
        raise ConfigError(f"route={given['route']}: known: {', '.join(ROUTES)}")
    ledger = find_run(runs_root(None), given["run"] or None)
    target, slo = Target(socket=socket_of(ledger), path=ROUTES[given["route"]]), slo_of(given["slo"])
    questions, answers = asked_of(ledger)
    streamed = {"stream": True} if given["route"] == "query" else {}
    bodies = [{"question": question, "deadline_ms": 60_000, **streamed} for question in questions]
    rate, seed = float(given["qps"]), int(given["seed"])
    load(target, bodies, rate, float(given["warmup"]), seed + 100)
    before = pressure_cpu()
    samples = load(target, bodies, rate, float(given["seconds"]), seed)
    seen = [one for one in (before, pressure_cpu()) if one is not None]
    note = f"{len(samples)} requests of run {ledger.name}, {given['qps']} a second, {cpu_class()}"
    rows = latencies(given["route"], samples, slo, note, max(seen, default=None))
    return [*rows, failures(samples, note), *same(samples, answers)]


def latencies(route: str, samples: Sequence[Sample], slo: Slo, note: str, contention: float | None) -> list[Row]:
    """Return a row a step and quantile; a request that failed took for ever, and its steps are nobody's."""
    good = [sample for sample in samples if sample.good]
    told = [step for step in STEPS if any(step in sample.told["timings_ms"] for sample in good)]
    steps: dict[str, tuple[Callable[[Sample], float], float | None, Sequence[Sample]]] = {
        step: (partial(of_step, step), getattr(slo, f"{step}_ms"), good) for step in told
    }
    if route == "query":
        steps["first"] = lambda sample: 1000 * sample.first_s, slo.first_ms, samples
    steps["whole"] = lambda sample: 1000 * sample.whole_s, None, samples
    steps["overhead"] = overhead_ms, slo.overhead_ms, good
    rows = []
    for step, (figure, bar, of) in steps.items():
        values = np.array([figure(sample) if sample.good else np.inf for sample in of])
        for quantile in QUANTILES if len(values) else ():
            judged = bar if len(values) >= ENOUGH[quantile] else None
            name = f"serve.{route}.{step}.p{round(100 * quantile)}"
            few = "" if judged is not None or bar is None else f"; {ENOUGH[quantile]} samples are needed to judge it"
            rows.append(
                Row(
                    name=name,
                    ours=float(np.quantile(values, quantile, method="higher")),
                    unit="ms",
                    interval=interval(values, quantile),
                    bar=judged,
                    less_is_better=True,
                    contention=contention,
                    note=note + few,
                )
            )
    return rows


def of_step(step: str, sample: Sample) -> float:
    """Return the milliseconds of a step, as the gateway says."""
    return float(sample.told["timings_ms"].get(step, 0.0))


def overhead_ms(sample: Sample) -> float:
    """Return what a request took beside its steps: waiting for its turn, HTTP, JSON, and whoever asks."""
    return 1000 * sample.whole_s - float(sum(sample.told["timings_ms"].values()))


def interval(values: Any, quantile: float) -> tuple[float, float]:
    """Return the 95 percent interval of a quantile, by resampling requests."""
    rng = np.random.default_rng(0)
    drawn = [
        np.quantile(values[rng.integers(len(values), size=len(values))], quantile, method="higher")
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    return float(low), float(high)


def failures(samples: Sequence[Sample], note: str) -> Row:
    """Return the share of requests that were not answered, and the first of their errors."""
    failed = [sample for sample in samples if not sample.good]
    first = f"; {failed[0].status} {failed[0].error}"[:200] if failed else ""
    return Row(
        name="serve.failed",
        ours=len(failed) / max(1, len(samples)),
        unit="of all requests",
        bar=0.0,
        less_is_better=True,
        note=note + first,
    )


def same(samples: Sequence[Sample], answers: dict[str, str]) -> list[Row]:
    """Return the share of answers that are the batch job's, of those that it has."""
    pairs = [
        (sample.told["answer"], answers[sample.body["question"]])
        for sample in samples
        if sample.good and "answer" in sample.told and sample.body["question"] in answers
    ]
    if not pairs:
        return []
    equal = sum(mine == batch for mine, batch in pairs) / len(pairs)
    return [Row(name="serve.same", ours=equal, unit="of answers", bar=1.0, note=f"{len(pairs)} beside the run's own")]


def socket_of(ledger: Ledger) -> str:
    """Return the owner's door of a run's gateway on this machine. Raises InputError where none is up, and ConfigError
    for one that caches: what is asked again would take none of the steps."""
    for place in gateways_of(ledger.run_dir):
        try:
            owner = place.doors().owner
            if GatewayConfig(**place.asked().settings).cache:
                raise ConfigError(f"gateway {place.name} caches; start it for this with gateway.cache=false")
            return owner
        except FileNotFoundError:
            continue
    raise InputError(
        f"run={ledger.name}: no gateway is up; start one: rag-hpc serve up, then rag-hpc serve gateway "
        "gateway.cache=false"
    )


def asked_of(ledger: Ledger) -> tuple[list[str], dict[str, str]]:
    """Return the run's questions, and the answers of its generate stage to them."""
    request = ledger.request()
    names = [stage for stage in ("retrieve.queries", "generate") if stage in request.stages]
    plans = read_plans(ledger.run_dir, request.number, names, request.settings)
    folders = {stage: ledger.run_dir / plan.folder for stage, plan in plans.items()}
    rows = read_questions(manifest.load(folders["retrieve.queries"]))
    texts = {row["query_id"]: row["text"] for row in rows}
    made = read_answers(manifest.load(folders["generate"])) if "generate" in folders else []
    return list(texts.values()), {texts[row["query_id"]]: row["answer"] for row in made}


def slo_of(path: str) -> Slo:
    """Return the predictions of a file, by default those of conf/serve/slo.yaml."""
    from omegaconf import OmegaConf

    text = Path(path).read_text() if path else files("rag_hpc.conf").joinpath("serve/slo.yaml").read_text()
    values: Any = OmegaConf.to_container(OmegaConf.create(text))
    return from_plain(Slo, values)
