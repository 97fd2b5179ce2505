"""Bench `encode`: passages a core, from raw text to vectors, ours beside the libraries one would use otherwise.

Each side is a process of its own, on one thread; the sides take turns, and a rate is of CPU seconds, whoever else is on
the machine. A peer counts in a tier when its least cosine to sentence-transformers' float32 vectors is within it: exact
0.999, int8 0.99. peers=PYTHON names the interpreter of an environment with the peers; a peer that it lacks is named in
the notes. Bars depend on the CPU's class.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import F32
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.chunk.quality import json_lines
from rag_hpc.eval.bench.encode import sides
from rag_hpc.eval.bench.encode.tiers import loss_rows
from rag_hpc.eval.bench.pairs import Timed, take_turns
from rag_hpc.eval.bench.registry import known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.models.device import cpu_class
from rag_hpc.models.folder import model_folder
from rag_hpc.models.tokens import Tokenizer

PARTS = "rates,query,start,loss"
DEFAULTS = {"data": "", "model": "minilm", "peers": "", "passages": "192", "rounds": "7", "parts": PARTS}
TIERS = {"exact": 0.999, "int8": 0.99}
BARS = {  # CPU class -> (exact, int8): ours over sentence-transformers' float32
    "amx_bf16": (2.4, 3.0),
    "avx512_bf16": (2.4, 3.0),
    "avx512_vnni": (1.3, 3.0),
    "avx512f": (1.3, 1.6),
    "avx2": (1.3, 1.6),
}
FASTEST_BAR, GEMM_BAR, QUERY_MS_BAR, QUERIES_BAR, START_BAR = 0.97, 0.75, 10.0, 0.9, 1 / 3
OURS = ("ours", "ours, float32", "ours, int8")
PEERS = {  # side -> batch sizes that are tried; the best one takes part
    "sentence-transformers": (8, 32),
    "sentence-transformers, bfloat16": (32,),
    "ONNX Runtime": (8,),
    "ONNX Runtime, int8": (8,),
    "OpenVINO": (8,),
    "OpenVINO, bf16": (8,),
    "CTranslate2": (32,),
    "CTranslate2, bfloat16": (32,),
    "CTranslate2, int8": (32,),
}
BATCH_TOKENS, NUM_QUESTIONS = 4096, 512
BASE = "sentence-transformers"


def run(options: dict[str, str]) -> list[Row]:
    """Return rows of rates by tier, of one query, of the start, and of what each precision costs in nDCG@10 (minutes).

    Options: data (the folder with qa_squad2), model, peers (a Python interpreter), passages, rounds, parts.
    """
    given = known(options, DEFAULTS)
    model, parts = str(model_folder(given["model"])), given["parts"].split(",")
    passages, questions = squad(given, int(given["passages"]))[0], squad(given, NUM_QUESTIONS)[1]
    with ExitStack() as stack:
        bench = _Bench(stack, model, passages, given["peers"] or sys.executable)
        rows: list[Row] = []
        if "rates" in parts:
            rows += bench.rates(int(given["rounds"]), questions)
        if "query" in parts:
            rows.append(bench.query(questions))
        if "start" in parts:
            rows.append(bench.start())
        if "loss" in parts:
            rows += loss_rows(_data(given), model)
        return rows


class Side:
    """A process that encodes the same texts again whenever it is asked to."""

    def __init__(self, python: str, name: str, model: str, texts: Sequence[Any], batch: int, folder: Path) -> None:
        """Raises InputError with its last words where it does not come up."""
        path, self._out = folder / "texts.json", folder / "made"
        path.write_text(json.dumps(texts), encoding="utf-8")
        words = [python, "-P", sides.__file__, name, model, str(path), str(self._out), str(batch)]
        self._log = (folder / "log").open("w+", encoding="utf-8")
        self._child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.start_cpu_s = float(self._answer()["start_cpu_s"])
        self.made: F32 = np.load(self._out, allow_pickle=False)

    def spend(self, texts: Sequence[Any] = ()) -> dict[str, float]:
        """Return the seconds, cpu_s and wall_s, that these texts take; none: all that it was given."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(list(texts)) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.communicate()
        self._log.close()

    def _answer(self) -> dict[str, float]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._log.seek(0)
            words = self._log.read().strip().splitlines() or ["it ended without a word"]
            self.close()
            raise InputError(words[-1])
        found: dict[str, float] = json.loads(line)
        return found


def open_side(
    stack: ExitStack, python: str, name: str, model: str, texts: Sequence[Any], batches: Sequence[int]
) -> Side:
    """Return the side with the batch size that takes the least CPU of those tried. Raises InputError as Side does."""
    best: tuple[float, Side] | None = None
    for batch in batches:
        side = Side(python, name, model, texts, batch, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.callback(side.close)
        spent = min(side.spend()["cpu_s"] for _ in range(2)) if len(batches) > 1 else 0.0
        if best is None or spent < best[0]:
            best = spent, side
    assert best is not None
    return best[1]


def squad(given: Mapping[str, str], number: int) -> tuple[list[str], list[str]]:
    """Return so many passages and questions of SQuAD 2, evenly spread over its articles."""
    folder = _data(given) / "qa_squad2"
    found = []
    for name, field in (("passages", "text"), ("questions", "question")):
        path = folder / f"{name}.jsonl.zst"
        if not path.is_file():
            raise InputError(f"bench encode: {path} does not exist; give data=FOLDER of the shared corpora")
        rows = json_lines(path)
        found.append([row[field] for row in rows[:: max(1, len(rows) // number)][:number]])
    return found[0], found[1]


def _data(given: Mapping[str, str]) -> Path:
    return Path(given["data"] or os.environ.get("RAG_HPC_DATA") or "../shared/data")


class _Bench:
    def __init__(self, stack: ExitStack, model: str, passages: list[str], python: str) -> None:
        self._stack, self._model, self._passages, self._python = stack, model, passages, python
        self._sides: dict[str, Side] = {}
        self._absent: list[str] = []
        tokenizer = Tokenizer(model)
        self._lengths = [min(len(ids) + tokenizer.num_special, sides.LIMIT) for ids in tokenizer.ids(passages)]

    def rates(self, rounds: int, questions: list[str]) -> list[Row]:
        """Return the rows of both tiers, and of the work per second against what the CPU could do."""
        for name in (*OURS, *PEERS):
            self._open(name)
        ran = {name: side for name, side in self._sides.items() if len(side.made) == len(self._passages)}
        timed = take_turns({name: rate_of(side, len(self._passages)) for name, side in ran.items()}, rounds)
        exact = ran[BASE].made
        cosines = {name: float((side.made * exact).sum(1).min()) for name, side in ran.items()}
        rows = [row for tier in TIERS for row in self._tier(tier, timed, cosines)]
        rows += [self._against(name, timed, cosines) for name in ran if not name.startswith("ours")]
        return [*rows, self._gemm(timed), self._queries(questions, rounds)]

    def query(self, questions: list[str]) -> Row:
        """Return what one question takes, each alone, after a warm-up."""
        side = self._open("ours")
        for question in questions[:8]:
            side.spend([question])
        spent = [side.spend([question]) for question in questions[8:72]]
        cpu, wall = ([1e3 * one[key] for one in spent] for key in ("cpu_s", "wall_s"))
        return Row(
            name="encode.query",
            ours=statistics.median(cpu),
            unit="CPU ms, median",
            bar=QUERY_MS_BAR,
            less_is_better=True,
            note=f"{len(spent)} questions one by one; wall {statistics.median(wall):.1f} ms",
        )

    def start(self) -> Row:
        """Return the CPU seconds from the process's start to the first vector."""
        ours, theirs = self._open("ours").start_cpu_s, self._open(BASE).start_cpu_s
        return Row(
            name="encode.start",
            ours=ours,
            unit="CPU s",
            peers={BASE: theirs},
            ratio=ours / theirs,
            bar=START_BAR,
            less_is_better=True,
        )

    def _open(self, name: str) -> Side:
        if name not in self._sides:
            is_ours = name.startswith("ours")
            python, batches = (sys.executable, (BATCH_TOKENS,)) if is_ours else (self._python, PEERS[name])
            try:
                self._sides[name] = open_side(self._stack, python, name, self._model, self._passages, batches)
            except InputError as error:
                if name in ("ours", BASE):
                    raise
                self._absent.append(f"{name} did not run ({str(error)[:80]})")
        return self._sides.get(name, self._sides["ours"])

    def _tier(self, tier: str, timed: Timed, cosines: Mapping[str, float]) -> Iterator[Row]:
        """Yield ours against sentence-transformers, and against the fastest peer of the tier."""
        equal = {name: timed.median(name) for name, cosine in cosines.items() if cosine >= TIERS[tier]}
        mine = max((name for name in equal if name.startswith("ours")), key=lambda name: equal[name])
        peers = {name: rate for name, rate in equal.items() if not name.startswith("ours")}
        bar = BARS.get(cpu_class(), (None, None))[list(TIERS).index(tier)]
        fastest = max(peers, key=lambda name: peers[name])
        note = f"{cpu_class()}; {mine}, least cosine {cosines[mine]:.5f}"
        note += "".join(f"; {name}" for name in self._absent if tier == "exact")
        for name, peer, wanted in ((f"encode.{tier}", BASE, bar), (f"encode.{tier}.fastest", fastest, FASTEST_BAR)):
            ratio, interval = timed.ratio(peer, mine)
            yield Row(
                name=name,
                ours=equal[mine],
                unit="passages/CPU s",
                peers={peer: peers[peer]},
                ratio=ratio,
                interval=interval,
                bar=wanted,
                contention=timed.contention,
                note=note,
            )

    def _against(self, name: str, timed: Timed, cosines: Mapping[str, float]) -> Row:
        ratio, interval = timed.ratio(name)
        return Row(
            name=f"encode / {name}",
            ours=timed.median("ours"),
            unit="passages/CPU s",
            peers={name: timed.median(name)},
            ratio=ratio,
            interval=interval,
            contention=timed.contention,
            note=f"its least cosine {cosines[name]:.5f}",
        )

    def _gemm(self, timed: Timed) -> Row:
        """Return the network's multiplications a second against those of one large product in the same arithmetic."""
        config = json.loads((Path(self._model) / "config.json").read_bytes())
        width, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        inner = int(config["intermediate_size"])
        per_token = 2 * layers * (4 * width * width + 2 * width * inner)
        flop = sum(length * (per_token + 4 * layers * width * length) for length in self._lengths)
        mine, kind = ("ours", _precision()) if _precision() else ("ours, float32", "float32")
        reached = timed.median(mine) * flop / len(self._passages) / 1e9
        ceiling = gemm_ceiling(kind)
        return Row(
            name="encode.gemm",
            ours=reached,
            unit="GFLOP/CPU s",
            peers={"one product": ceiling},
            ratio=reached / ceiling,
            bar=GEMM_BAR,
            contention=timed.contention,
            note=f"{cpu_class()}, {kind}; tokenization and pooling included",
        )

    def _queries(self, questions: list[str], rounds: int) -> Row:
        """Return the tokens a second of many questions at once against those of passages."""
        tokenizer, side = Tokenizer(self._model), self._open("ours")
        tokens = sum(len(ids) + tokenizer.num_special for ids in tokenizer.ids(questions))
        side.spend(questions)
        timed = take_turns(
            {
                "ours": lambda: tokens / side.spend(questions)["cpu_s"],
                "passages": lambda: sum(self._lengths) / side.spend()["cpu_s"],
            },
            rounds,
        )
        ratio, interval = timed.ratio("passages")
        return Row(
            name="encode.queries",
            ours=timed.median("ours"),
            unit="tokens/CPU s",
            peers={"passages": timed.median("passages")},
            ratio=ratio,
            interval=interval,
            bar=QUERIES_BAR,
            contention=timed.contention,
            note=f"{len(questions)} questions, {tokens / len(questions):.1f} tokens each",
        )


def gemm_ceiling(kind: str) -> float:
    """Return the GFLOP a CPU second of the best of some large products of two matrices, on one thread."""
    import time

    import torch

    torch.set_num_threads(1)
    best = 0.0
    for rows, inner, columns in ((4096, 384, 1536), (2048, 1024, 4096), (2048, 2048, 2048)):
        left, right = (torch.randn(shape, dtype=getattr(torch, kind)) for shape in ((rows, inner), (columns, inner)))
        for _ in range(6):
            begun = time.process_time()
            torch.nn.functional.linear(left, right)
            best = max(best, 2e-9 * rows * inner * columns / (time.process_time() - begun))
    return best


def _precision() -> str:
    from rag_hpc.models.device import Precision, resolve_precision

    return resolve_precision(Precision.auto, "cpu").value


def rate_of(side: Side, number: int) -> Callable[[], float]:
    """Return the function that runs a round and returns the items a CPU second, of so many items."""
    return lambda: number / side.spend()["cpu_s"]
