"""Is a training's curve that of its baseline? One rank with the whole batch has the gradient of many with its parts.

What only says how the work is shared may differ between the two: ranks, strategy, GradCache. Draws of dropout depend on
the rank, so that with dropout there is nothing to compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rag_hpc.eval.results import Results
from rag_hpc.stores.trained import DROPOUT, STEPS

STAGES = ("train.encoder", "train.reranker")
TOLERANCE = 1e-5  # relative, of each step's loss and length of gradient: float32 summed in another order
_SHARING = {  # settings that change nothing of what is learnt
    *("strategy", "zero_stage", "offload", "mini_batch", "checkpoint_steps", "timeout_s", "device", "threads"),
    *("data", "run", "split", "labels", "negatives"),  # the pairs themselves are compared
}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Two curves side by side, or why they are not compared."""

    num_steps: int = 0
    num_same: int = 0
    largest: float = 0.0  # relative difference
    ranks: tuple[int, int] = (0, 0)  # of the run, and of its baseline
    unlike: str = ""


def compare_curves(run: Results, baseline: Results, stage: str) -> Curves:
    """Return how a stage of training went in both, step by step."""
    for found in (run, baseline):
        if stage not in found.manifests:
            return Curves(unlike=f"{stage} is not finished in {found.name}")
    unlike = _unlike(run, baseline, stage)
    if unlike:
        return Curves(unlike=unlike)
    steps, theirs = (found.rows(stage, STEPS, ["loss", "gradient"]) for found in (run, baseline))
    differences = [
        max(_difference(mine[name], other[name]) for name in ("loss", "gradient"))
        for mine, other in zip(steps, theirs, strict=False)
    ]
    return Curves(
        num_steps=max(len(steps), len(theirs)),
        num_same=sum(difference <= TOLERANCE for difference in differences),
        largest=max(differences, default=0.0),
        ranks=(_ranks(run, stage), _ranks(baseline, stage)),
    )


def _unlike(run: Results, baseline: Results, stage: str) -> str:
    """Return why the two need not be the same; empty when they have to be."""
    pairs = [found.manifests["train.pairs"].output_hash for found in (run, baseline)]
    if pairs[0] != pairs[1]:
        return "the baseline learnt from other pairs"
    asked, theirs = (found.config["train"] for found in (run, baseline))
    other = sorted(key for key in asked.keys() | theirs.keys() if asked.get(key) != theirs.get(key))
    if other := [key for key in other if key not in _SHARING]:
        return f"the baseline has another train.{other[0]}"
    if asked.get("precision") == "bfloat16":
        return "bfloat16 rounds otherwise in parts of another size; set train.precision=float32 in both"
    if any(found.manifests[stage].extra().get(DROPOUT, 1.0) for found in (run, baseline)):
        return "dropout draws by rank; set train.dropout=0 in both"
    return ""


def _difference(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b)) if a != b and math.isfinite(a) and math.isfinite(b) else float(a != b)


def _ranks(found: Results, stage: str) -> int:
    return int(found.records(stage)[0]["p"])
