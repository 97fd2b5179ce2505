"""Two replicas of a real vLLM answer the demo's questions, and one of them is killed half-way: is any lost or doubled?

    python -m rag_hpc.eval.bench.answers.replicas python=/path/to/venv/bin/python work=FOLDER [tp=2] [signal=SIGTERM]
                                                  [cluster=devcluster]

The model is a tiny Llama with random weights, made here: what is measured is the plumbing. A run of its own is made in
FOLDER, up to its ranking first and then with generator=vllm; the same command again goes on with it. On a cluster each
replica is a task of a job array; the nodes have to see FOLDER and python.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rag_hpc.core import manifest
from rag_hpc.core.commit import UNITS, committed, drafts, read_record
from rag_hpc.errors import RagHpcError
from rag_hpc.eval.bench.answers.tinyllama import make_tiny_llama
from rag_hpc.eval.bench.registry import known
from rag_hpc.models.device import cpu_class
from rag_hpc.stores.answers import read_answers

DEFAULTS = {
    "python": "",
    "work": "",
    "questions": "150",
    "tp": "2",
    "workers": "2",
    "pages": "200",
    "signal": "SIGKILL",
    "cluster": "local",
}
QUESTIONS_PER_UNIT = 30
NAME = "replicas"
ENDED_S = 30.0  # a run is finished once its answers are committed, its job when its server is gone
SERVERS = (b"vllm.entrypoints", b"VLLM::", b"rag_hpc.generators.guard")


def main(words: list[str]) -> int:
    """Print what was found as JSON; the exit code says whether nothing was lost, doubled or left running."""
    given = known(dict(word.split("=", 1) for word in words), DEFAULTS)
    work = Path(given["work"]).absolute()
    work.mkdir(parents=True, exist_ok=True)
    questions = first_questions(work / "questions.jsonl", int(given["questions"]))
    model = work / "llama"
    if not (model / "config.json").is_file():
        make_tiny_llama(model, texts=questions)
    common = [
        "pipeline=baseline",
        f"run={NAME}",
        f"corpus.questions={work / 'questions.jsonl'}",
        f"corpus.max_pages={given['pages']}",
        f"stage.retrieve.queries_per_unit={QUESTIONS_PER_UNIT}",
        f"workers={given['workers']}",
    ]
    start(work, common).wait()
    vllm = {"python": given["python"], "tensor_parallel_size": given["tp"], "kv_cache_gib": 1, "enforce_eager": "true"}
    settings = [f"generator.vllm.{name}={value}" for name, value in vllm.items()]
    before, begun = servers(), time.monotonic()
    model_settings = ["generator=vllm", f"generator.model={model}", "generator.max_tokens=32", *settings]
    run = start(work, [*common, *model_settings, *on_cluster(given)])
    killed = kill_one(work, run, signal.Signals[given["signal"]]) if given["signal"] else None
    code = run.wait()
    found = {
        "exit_code": code,
        "wall_s": round(time.monotonic() - begun, 1),
        "killed": killed,
        **result(work, questions),
    }
    found |= {"processes_left": len(left_of(before)), "tensor_parallel": int(given["tp"]), "cpu": cpu_class()}
    print(json.dumps(found, indent=2))
    return 0 if found["whole"] and not code and not found["processes_left"] else 1


def on_cluster(given: dict[str, str]) -> list[str]:
    """Return the settings of where replicas run: each needs a core for each of its ranks."""
    if given["cluster"] == "local":
        return []
    return [f"cluster={given['cluster']}", f"cluster.cpus_per_task={given['tp']}", "cluster.mem_gib=0", "watch=true"]


def first_questions(path: Path, number: int) -> list[str]:
    """Write the first questions of the demo's corpus; return their texts."""
    source = importlib.resources.files("rag_hpc.conf") / "corpus" / "pydoc_questions.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines()[:number]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [json.loads(line)["text"] for line in lines]


def start(work: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """Start `rag-hpc run` in the folder."""
    return subprocess.Popen([sys.executable, "-m", "rag_hpc.cli", "run", *overrides], cwd=work, stdout=sys.stderr)


def kill_one(work: Path, run: subprocess.Popen[bytes], number: signal.Signals) -> dict[str, Any] | None:
    """Send the signal to a worker of generate once a third of its unit is answered; return what was done by then."""
    while run.poll() is None:
        for carry in (work / "results" / "runs" / NAME).glob("generate-*/carry/unit-*"):
            done = sum(path.read_bytes().count(b"\n") for path in carry.glob("answers-*.jsonl"))
            units = carry.parents[1] / UNITS
            owners = [
                int(name.rpartition("-")[2])
                for name, index in drafts(units).items()
                if carry.name[5:] == f"{index:05d}"
            ]
            if done >= QUESTIONS_PER_UNIT // 3 and owners and not (units / carry.name).exists():
                os.kill(owners[0], number)
                return {"signal": number.name, "answered_of_the_open_unit": done, "committed": len(committed(units))}
        time.sleep(0.01)
    return None


def left_of(before: set[int]) -> set[int]:
    """Return the processes of servers that are still there when those of the last job have had time to end."""
    end = time.monotonic() + ENDED_S
    while (left := servers() - before) and time.monotonic() < end:
        time.sleep(0.5)
    return left


def servers() -> set[int]:
    """Return the processes that are vLLM's or guards of one."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            found |= {int(entry.name)} if any(word in line for word in SERVERS) else set()
    return found


def result(work: Path, questions: list[str]) -> dict[str, Any]:
    """Return what the finished stage holds, and what its records say."""
    made = [path.parent for path in (work / "results" / "runs" / NAME).glob("generate-*/manifest.json")]
    try:
        outputs = [found for folder in made if (found := manifest.load(folder)).config["generator"]["name"] == "vllm"]
    except RagHpcError as error:
        return {"whole": False, "error": str(error)}
    if len(outputs) != 1:
        return {"whole": False, "error": f"{len(outputs)} finished outputs of generator=vllm"}
    rows = Counter(row["question"] for row in read_answers(outputs[0]))
    records = [read_record(outputs[0].unit_dir(unit["index"])) for unit in outputs[0].units]
    timings: Counter[str] = Counter()
    for record in records:
        timings.update(record["timings"])
    return {
        "whole": rows == Counter(questions),
        "questions": len(questions),
        "rows": rows.total(),
        "distinct": len(rows),
        "units": len(records),
        "hosts": sorted({record["host"] for record in records}),
        "jobs": sorted({record["job_id"] for record in records if record["job_id"]}),
        "replayed": int(timings["replayed"]),
        "start_s": [round(r["timings"]["start"], 1) for r in records if "start" in r["timings"]],
        "generate_s": round(timings["generate"], 1),
        "counts": outputs[0].extra(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
