"""`bench serve part=calibrate vllm=PYTHON`: what a step of a real vLLM takes, for replicas in virtual time.

A Llama with random weights; prompts of several lengths that no cache holds, the same again once it does, and answers
alone and several at a time. The seconds of a step, of a prompt token and of an answer's token are fitted to medians.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.answers.tinyllama import make_tiny_llama
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.serve.load import Sample, Target, ask
from rag_hpc.eval.bench.serve.process import free_port, started
from rag_hpc.eval.bench.serve.replica import Costs

UP_S = 400.0
LENGTHS = (256, 768, 1536, 3072)  # tokens of a prompt
AT_ONCE = (1, 4, 16)
ANSWER = 48  # tokens
REPEATS = 5
VOCABULARY = 200  # ids that prompts are drawn from; its tokenizer has some more


def run(given: dict[str, str]) -> list[Row]:
    """Return the costs as rows, and how much sooner a prompt that is in the cache is answered."""
    if not given["vllm"]:
        raise ConfigError("vllm=: give the interpreter of an environment that has vLLM, e.g. vllm=/tmp/vllm/bin/python")
    with tempfile.TemporaryDirectory(prefix="rag-hpc-") as folder:
        model = make_tiny_llama(Path(folder, "model"), layers=int(given["layers"]), hidden=int(given["hidden"]))
        port = free_port()
        with started(_command(given["vllm"], model, port), port, UP_S, env=_environment(), cwd=folder):
            target = Target(socket=f"127.0.0.1:{port}", path="/v1/completions", kept=True)
            cold, warm = prompts(target)
            answers = {num: answering(target, num) for num in AT_ONCE}
    costs = fitted(cold, answers)
    note = f"{given['layers']} layers, {given['hidden']} dimensions; {cpu_class()}"
    saved = cold[LENGTHS[-1]] / warm[LENGTHS[-1]]
    values = {
        "step": (1e3 * costs.step_s, "ms a step"),
        "prefill": (1e6 * costs.prefill_s, "us a prompt token"),
        "decode": (1e6 * costs.decode_s, "us an answer's token"),
        "cached": (saved, f"times sooner the first token of {LENGTHS[-1]} that are in the cache"),
    }
    return [
        Row(name=f"serve.calibrate.{name}", ours=value, unit=unit, contention=pressure_cpu(), note=note)
        for name, (value, unit) in values.items()
    ]


def prompts(target: Target) -> tuple[dict[int, float], dict[int, float]]:
    """Return the median seconds to one token by the prompt's length: of new prompts, and of the same again."""
    rng, cold, warm = random.Random(0), dict[int, list[float]](), dict[int, list[float]]()
    for turn in range(REPEATS + 1):
        for length in LENGTHS:
            tokens = [rng.randrange(3, VOCABULARY) for _ in range(length)]
            for side in (cold, warm):
                (one,) = _asked(target, [_body(tokens, 1)])
                if turn:  # the first turn compiles
                    side.setdefault(length, []).append(one.whole_s)
    cold_s, warm_s = ({at: statistics.median(values) for at, values in side.items()} for side in (cold, warm))
    return cold_s, warm_s


def answering(target: Target, num: int) -> float:
    """Return the median seconds of so many answers at once, their short prompts included."""
    rng, found = random.Random(num), []
    for _ in range(REPEATS):
        bodies = [_body([rng.randrange(3, VOCABULARY) for _ in range(16)], ANSWER) for _ in range(num)]
        found.append(max(one.whole_s for one in _asked(target, bodies)))
    return statistics.median(found)


def fitted(cold_s: dict[int, float], answers_s: dict[int, float]) -> Costs:
    """Return the costs that the seconds of prompts and of answers follow, by least squares of relative errors."""
    rows = [[1.0, length, 1.0] for length in cold_s] + [[ANSWER, 16.0 * num, ANSWER * num] for num in answers_s]
    seconds = np.array([*cold_s.values(), *answers_s.values()])
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    found, _ = nnls(np.array(rows) / seconds[:, None], np.ones(len(rows)))
    step, prefill, decode = (float(value) for value in found)
    return Costs(step_s=step, prefill_s=prefill, decode_s=decode)


def _asked(target: Target, bodies: Sequence[dict[str, Any]]) -> list[Sample]:
    samples = ask(target, [Sample(due_s=0.0, body=body) for body in bodies])
    if failed := [one for one in samples if not one.good]:
        raise ConfigError(f"vLLM: {failed[0].status} {failed[0].error}")
    return samples


def _body(tokens: list[int], answer: int) -> dict[str, Any]:
    return {"model": "model", "prompt": tokens, "max_tokens": answer, "min_tokens": answer, "temperature": 0}


def _command(python: str, model: Path, port: int) -> list[str]:
    words = [python, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name"]
    words += ["model", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "4096"]
    return [*words, "--enforce-eager", "--enable-prefix-caching", "--disable-uvicorn-access-log"]


def _environment() -> dict[str, str]:
    core = max(os.sched_getaffinity(0))
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": str(core), "VLLM_HOST_IP": "127.0.0.1"}
    return os.environ | own | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
