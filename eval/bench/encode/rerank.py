"""Bench `rerank`: (question, passage) pairs a core beside sentence-transformers' CrossEncoder; do scores agree?

No reranker comes with the package, and weights do not change what a product costs: without model=FOLDER the network is
the default encoder's with a random classifier, so that there is a rate and an order to compare, but no lift.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from rag_hpc.algo.types import F32
from rag_hpc.eval.bench.encode.encode import BATCH_TOKENS, Side, open_side, rate_of, squad
from rag_hpc.eval.bench.pairs import take_turns
from rag_hpc.eval.bench.registry import known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.models.device import Precision, cpu_class, resolve_precision
from rag_hpc.models.folder import model_folder

DEFAULTS = {"data": "", "model": "", "peers": "", "questions": "4", "depth": "20", "rounds": "7"}
RATE_BAR, SCORE_BAR, ORDER_BAR, LATENCY_MS = 3.0, 1e-2, 1.0, 100.0
DEPTHS = (10, 25, 100)
BASE = "CrossEncoder"


def run(options: dict[str, str]) -> list[Row]:
    """Return rows of rates, of agreement, and of one question's latency at several depths.

    Options: data (the folder with qa_squad2), model, peers (a Python interpreter), questions, depth, rounds.
    """
    given = known(options, DEFAULTS)
    num_questions, depth = int(given["questions"]), int(given["depth"])
    passages, questions = squad(given, max(num_questions, depth, max(DEPTHS)))
    pairs = [[question, passage] for question in questions[:num_questions] for passage in passages[:depth]]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rag-hpc-bench-")))
        model = str(model_folder(given["model"])) if given["model"] else str(random_reranker(folder / "model"))
        peers = {BASE: (given["peers"] or sys.executable, (8, 32))}
        ours = {"our reranker": (sys.executable, (BATCH_TOKENS,))}
        if resolve_precision(Precision.auto, "cpu") is Precision.bfloat16:
            peers[f"{BASE}, bfloat16"] = peers[BASE]
            ours["our reranker, bfloat16"] = ours["our reranker"]
        sides = {
            name: open_side(stack, python, name, model, pairs, batches)
            for name, (python, batches) in (ours | peers).items()
        }
        rows = list(_rates(sides, len(pairs), int(given["rounds"])))
        rows += [row for name in ours for row in _agreement(name, sides[name].made, sides[BASE].made, depth)]
        best = next(reversed(ours))
        return rows + [_latency(sides[best], best, questions, passages, k) for k in DEPTHS]


def random_reranker(folder: Path) -> Path:
    """Return the folder of the default encoder's network with a random classifier of one label over it."""
    import torch
    from safetensors.torch import load_file, save_file

    source = model_folder("minilm")
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(source / name, folder)
    config = json.loads((source / "config.json").read_bytes())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "score"}, "label2id": {"score": 0}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    width, made = int(config["hidden_size"]), torch.Generator().manual_seed(7)
    weights = {f"bert.{name}": tensor for name, tensor in load_file(source / "model.safetensors").items()}
    weights["bert.pooler.dense.weight"] = torch.randn((width, width), generator=made) / width**0.5
    weights["bert.pooler.dense.bias"] = torch.zeros(width)
    weights["classifier.weight"] = torch.randn((1, width), generator=made) / 5
    weights["classifier.bias"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _rates(sides: dict[str, Side], num_pairs: int, rounds: int) -> Iterator[Row]:
    timed = take_turns({name: rate_of(side, num_pairs) for name, side in sides.items()}, rounds)
    for name in sides:
        if name.startswith(BASE):
            continue
        ratio, interval = timed.ratio(BASE, name)
        yield Row(
            name=f"rerank.rate: {name}",
            ours=timed.median(name),
            unit="pairs/CPU s",
            peers={peer: timed.median(peer) for peer in sides if peer.startswith(BASE)},
            ratio=ratio,
            interval=interval,
            bar=RATE_BAR,
            contention=timed.contention,
            note=f"{cpu_class()}; ratio to {BASE} in float32, its best batch of 8 and 32",
        )


def _agreement(name: str, ours_N: F32, theirs_N: F32, depth: int) -> Iterator[Row]:
    ours_QK, theirs_QK = ours_N.reshape(-1, depth), theirs_N.reshape(-1, depth)
    yield Row(
        name=f"rerank.score: {name}",
        ours=float(np.abs(ours_QK - theirs_QK).max()),
        unit="largest difference of a score",
        bar=SCORE_BAR,
        less_is_better=True,
        note=f"scores from {theirs_N.min():.2f} to {theirs_N.max():.2f}",
    )
    heads = [np.argsort(-scores_QK, axis=1, kind="stable")[:, :10] for scores_QK in (ours_QK, theirs_QK)]
    yield Row(
        name=f"rerank.top10: {name}",
        ours=float((heads[0] == heads[1]).all(axis=1).mean()),
        unit="share of questions with the same ten in the same order",
        bar=ORDER_BAR,
    )


def _latency(side: Side, name: str, questions: list[str], passages: list[str], k: int) -> Row:
    spent = [side.spend([[q, p] for p in passages[:k]]) for q in questions[:7]]
    cpu, wall = (statistics.median(1e3 * one[key] for one in spent) for key in ("cpu_s", "wall_s"))
    return Row(
        name=f"rerank.latency, {k} passages",
        ours=cpu,
        unit="CPU ms, median",
        bar=LATENCY_MS,
        less_is_better=True,
        note=f"{name}; wall {wall:.0f} ms; no lift is claimed, the classifier is random",
    )
