"""`rag-hpc bench serve run=RUN`: a gateway that is up, asked as many people ask; latencies held against predictions.

Parts: `steps`, the steps of an answer; `overhead`, what the gateway adds to one that it keeps, beside other proxies;
`streams`, many of them open at once; `policy`, which replica answers, in virtual time, as `calibrate` measures it;
`guidellm`, whether its load generator says the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from rag_hpc.core import manifest
from rag_hpc.core.ledger import Ledger, find_run, runs_root
from rag_hpc.core.plan import read_plans
from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError
from rag_hpc.eval import loads
from rag_hpc.eval.bench.registry import Options, known
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.serve import calibrate, doors, guidellm, overhead, policy, streams
from rag_hpc.eval.bench.serve.load import Sample, Target, load
from rag_hpc.eval.bench.serve.quantiles import ENOUGH, QUANTILES, interval, quantile
from rag_hpc.schema import from_plain
from rag_hpc.stores.answers import read_answers
from rag_hpc.stores.questions import read_questions

PARTS: dict[str, dict[str, str]] = {
    "steps": {"qps": "1", "seconds": "60", "warmup": "10", "route": "query"},
    "streams": {"streams": "1000", "qps": "50", "seconds": "20"},
    "calibrate": {"vllm": "", "layers": "8", "hidden": "512"},
    "policy": {
        "step_ms": "15.2",
        "prefill_us": "584",
        "decode_us": "1196",
        "blocks": "512",
        "replicas": "8",
        "requests": "1200",
        "vllm_router": "",
    },  # as part=calibrate measured it: results/serve/calibrate.json
    "guidellm": {"guidellm": "", "qps": "20", "requests": "200", "pairs": "7"},
    "overhead": {"qps": "200", "seconds": "10", "pairs": "7", "litellm": "", "vllm_router": ""},
}
DEFAULTS = {"part": "steps", "run": "", "slo": "", "seed": "0"}
ROUTES = {"query": "/v1/query", "retrieve": "/v1/retrieve"}
STEPS = ("embed", "queue", "search", "rerank", "read", "generate")


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
    """Return the rows of a part.

    Options: run, whose gateway on this machine is asked (its owner's door); qps, requests a second on average;
    slo=FILE; seed.
    part=steps: seconds of load after `warmup` seconds that do not count; route=query or retrieve.
    part=overhead: seconds of each turn; pairs of turns; litellm and vllm_router, the programs of peers beside it.
    part=calibrate: vllm, an interpreter that has vLLM; layers and hidden, of the model that is made.
    part=policy: step_ms, prefill_us, decode_us and blocks of a replica; replicas; requests a seed; vllm_router,
    a program to hold the rule called cache_aware against. Needs no run.
    part=guidellm: guidellm, its program; qps; requests of each of so many pairs of turns. Needs no run.
    part=streams: how many; qps, how many more a second; seconds for which all of them are open.
    """
    part = options.get("part", DEFAULTS["part"])
    if part not in PARTS:
        raise ConfigError(f"part={part}: known: {', '.join(PARTS)}")
    given = known(options, DEFAULTS | PARTS[part])
    if given.get("route", "query") not in ROUTES:
        raise ConfigError(f"route={given['route']}: known: {', '.join(ROUTES)}")
    alone = {"calibrate": calibrate.run, "policy": policy.run, "guidellm": guidellm.run}
    if part in alone:
        return alone[part](given)
    ledger, slo = find_run(runs_root(None), given["run"] or None), slo_of(given["slo"])
    if part == "streams":
        return streams.run(ledger, given)
    return overhead.run(ledger, given, slo.overhead_ms) if part == "overhead" else steps(ledger, given, slo)


def steps(ledger: Ledger, given: Options, slo: Slo) -> list[Row]:
    """Return rows of latencies, of failures and of answers that are not the batch job's."""
    place = doors.gateway_of(ledger, caches=False)
    target = Target(socket=place.doors().owner, path=ROUTES[given["route"]])
    questions, answers = asked_of(ledger)
    streamed = {"stream": True} if given["route"] == "query" else {}
    bodies = [{"question": question, "deadline_ms": 60_000, **streamed} for question in questions]
    rate, seed = float(given["qps"]), int(given["seed"])
    load(target, bodies, rate, float(given["warmup"]), seed + 100)
    before = pressure_cpu()
    samples = load(target, bodies, rate, float(given["seconds"]), seed)
    seen = [one for one in (before, pressure_cpu()) if one is not None]
    note = f"{len(samples)} requests of run {ledger.name}, {given['qps']} a second, {cpu_class()}"
    if not samples:
        raise ConfigError(f"qps={given['qps']} seconds={given['seconds']}: no request fell due; more of either")
    contention = max(seen, default=None)
    rows = latencies(given["route"], samples, slo, note, contention)
    loads.write(ledger.run_dir, measured(given, samples, answers, contention))
    return [*rows, failures(samples, note), *same(samples, answers)]


def measured(
    given: Options, samples: Sequence[Sample], answers: dict[str, str], contention: float | None
) -> loads.Load:
    """Return the load as the run keeps it, for `rag-hpc milestones`."""
    streamed = given["route"] == "query"
    values = [1000 * (one.first_s if streamed else one.whole_s) if one.good else float("inf") for one in samples]
    figures = (quantile(values, 0.99), *interval(values, 0.99))
    p99, low, high = (value if math.isfinite(value) else None for value in figures)
    pairs = pairs_of(samples, answers)
    return loads.Load(
        route=given["route"],
        qps=float(given["qps"]),
        seconds=float(given["seconds"]),
        requests=len(samples),
        failed=sum(not one.good for one in samples),
        until=loads.FIRST_WORDS if streamed else loads.WHOLE,
        p99_ms=p99,
        low_ms=low,
        high_ms=high,
        compared=len(pairs),
        same=sum(mine == batch for mine, batch in pairs),
        processor=cpu_class(),
        contention=contention,
        unix=time.time(),
    )


def latencies(route: str, samples: Sequence[Sample], slo: Slo, note: str, contention: float | None) -> list[Row]:
    """Return a row a step and quantile; a request that failed took for ever, and its steps are nobody's."""
    good = [sample for sample in samples if sample.good]
    told = [step for step in STEPS if any(step in sample.told["timings_ms"] for sample in good)]
    steps: dict[str, tuple[Callable[[Sample], float], float | None, Sequence[Sample]]] = {
        step: (partial(of_step, step), getattr(slo, f"{step}_ms", None), good) for step in told
    }
    if route == "query":
        steps["first"] = lambda sample: 1000 * sample.first_s, slo.first_ms, samples
    steps["whole"] = lambda sample: 1000 * sample.whole_s, None, samples
    steps["overhead"] = overhead_ms, slo.overhead_ms, good
    rows = []
    for step, (figure, bar, of) in steps.items():
        values = [figure(sample) if sample.good else float("inf") for sample in of]
        for at in QUANTILES if len(values) else ():
            judged = bar if len(values) >= ENOUGH[at] else None
            name = f"serve.{route}.{step}.p{round(100 * at)}"
            few = "" if judged is not None or bar is None else f"; {ENOUGH[at]} samples are needed to judge it"
            rows.append(
                Row(
                    name=name,
                    ours=quantile(values, at),
                    unit="ms",
                    interval=interval(values, at),
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
    pairs = pairs_of(samples, answers)
    if not pairs:
        return []
    equal = sum(mine == batch for mine, batch in pairs) / len(pairs)
    return [Row(name="serve.same", ours=equal, unit="of answers", bar=1.0, note=f"{len(pairs)} beside the run's own")]


def pairs_of(samples: Sequence[Sample], answers: dict[str, str]) -> list[tuple[str, str]]:
    """Return (what was answered, what the batch job answered) where it did."""
    return [
        (sample.told["answer"], answers[sample.body["question"]])
        for sample in samples
        if sample.good and "answer" in sample.told and sample.body["question"] in answers
    ]


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
