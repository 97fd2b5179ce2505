"""`bench serve part=guidellm`: the load of this bench beside guidellm's, in turns, on the same replica.

Both ask the same questions, once each and in order, at the same rate; the replica's time depends on the question alone.
Times are from when a request was sent to its first words: what guidellm calls the time to the first token.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.serve import engine
from rag_hpc.eval.bench.serve.load import Sample, Target, ask, due_times
from rag_hpc.eval.bench.serve.quantiles import QUANTILES, interval, quantile

DELAY_MS, SPREAD, PIECES, PAUSE_MS = 150.0, 0.4, 4, 10.0  # of the replica
WITHIN_S = 300.0
WITHIN = 0.05  # of guidellm's


def run(given: dict[str, str]) -> list[Row]:
    """Return a row a quantile: ours, guidellm's, and by what share ours is off."""
    if not given["guidellm"]:
        raise ConfigError("guidellm=: give the program, e.g. guidellm=/tmp/guidellm/bin/guidellm")
    rate, count, pairs = float(given["qps"]), int(given["requests"]), int(given["pairs"])
    values: dict[str, list[float]] = {"ours": [], "guidellm": []}
    rng, seen = random.Random(0), [pressure_cpu()]
    playing = engine.playing(delay_ms=DELAY_MS, pieces=PIECES, pause_ms=PAUSE_MS, spread=SPREAD)
    with playing as (port, _), tempfile.TemporaryDirectory(prefix="rag-hpc-") as folder:
        sides = {
            "ours": lambda turn: _ours(port, rate, count, turn),
            "guidellm": lambda turn: _theirs(given["guidellm"], Path(folder), port, rate, count, turn),
        }
        for turn in range(pairs):
            for name in rng.sample(sorted(sides), len(sides)):
                values[name] += sides[name](turn)
                seen.append(pressure_cpu())
    rows = []
    for at in QUANTILES:
        ours, theirs = (quantile(one, at) for one in values.values())
        low, high = interval(values["ours"], at)
        rows.append(
            Row(
                name=f"serve.guidellm.first.p{round(100 * at)}",
                ours=ours,
                unit="ms from sending to the first words",
                peers={"guidellm": theirs},
                ratio=abs(ours / theirs - 1),
                bar=WITHIN if at == max(QUANTILES) else None,
                less_is_better=True,
                contention=max((one for one in seen if one is not None), default=None),
                note=f"{len(values['ours'])} requests each, ours [{low:.1f}, {high:.1f}], {rate:g} a second in {pairs} "
                f"turns; the ratio is the share that ours is off; {cpu_class()}",
            )
        )
    return rows


def questions(turn: int, count: int) -> list[str]:
    """Return the questions of a turn."""
    return [f"Question {number} of turn {turn}?" for number in range(count)]


def _ours(port: int, rate: float, count: int, turn: int) -> list[float]:
    target = Target(socket=f"127.0.0.1:{port}", path="/v1/chat/completions", kept=True)
    due = due_times(rate, 2 * count / rate + 10, turn)[:count]
    samples = [Sample(due_s=at, body=_body(text)) for at, text in zip(due, questions(turn, count), strict=True)]
    if failed := [one for one in ask(target, samples) if not one.good]:
        raise InputError(f"the replica failed: {failed[0].status} {failed[0].error}")
    return [1000 * (one.first_s - one.sent_s) for one in samples]


def _theirs(program: str, folder: Path, port: int, rate: float, count: int, turn: int) -> list[float]:
    asked, out = folder / f"questions-{turn}.jsonl", folder / f"report-{turn}.json"
    asked.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in questions(turn, count)))
    words = {
        "backend": f"kind=openai_http,target=http://127.0.0.1:{port},model={engine.MODEL}",
        "profile": f"kind=poisson,rate={rate:g}",
        "constraint": f"kind=max_requests,count={count}",
        "data": f"kind=json_file,path={asked}",
        "output": f"kind=json,path={out}",
    }
    command = [program, "run", "--disable-console", *(word for key, one in words.items() for word in (f"--{key}", one))]
    own = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, env=own, cwd=folder, check=False)
    if done.returncode:
        raise InputError(f"{program} ended with {done.returncode}: {done.stderr[-500:]}")
    return times_of(json.loads(out.read_text()), count)


def times_of(report: dict[str, Any], count: int) -> list[float]:
    """Return the milliseconds from sending to the first token of a guidellm report.

    Raises InputError where requests are missing.
    """
    timings = [one["info"]["timings"] for one in report["benchmarks"][0]["requests"]["successful"]]
    if len(timings) != count:
        raise InputError(f"guidellm counts {len(timings)} answered requests of {count}")
    return [1000 * (one["first_token_iteration"] - one["request_start"]) for one in timings]


def _body(text: str) -> dict[str, Any]:
    return {"model": engine.MODEL, "messages": [{"role": "user", "content": text}], "stream": True}
