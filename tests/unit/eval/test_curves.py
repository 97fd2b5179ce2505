"""The curve of a training is held against its baseline's where the two have to be the same, and only there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rag_hpc.eval.curves import compare_curves
from rag_hpc.eval.milestones import _same_curves

STEPS = [{"loss": 2.0, "gradient": 3.0}, {"loss": 1.5, "gradient": 2.5}]
TRAIN = {"learning_rate": 2e-5, "strategy": "ddp", "mini_batch": 0, "precision": "auto", "dropout": 0.0}


def run(
    p: int = 1, steps: list[dict[str, float]] = STEPS, *, pairs: str = "same", dropout: float = 0.0, **train: Any
) -> Any:
    made = {
        "train.pairs": SimpleNamespace(output_hash=pairs),
        "train.encoder": SimpleNamespace(extra=lambda: {"dropout": dropout}),
    }
    return SimpleNamespace(
        name=f"p{p}",
        stages=list(made),
        manifests=made,
        config={"train": TRAIN | train},
        rows=lambda *_: steps,
        records=lambda _: [{"p": p}],
    )


def test_ranks_with_parts_of_the_batch_are_held_against_one_with_the_whole() -> None:
    near = [{"loss": 2.000001, "gradient": 3.0}, {"loss": 1.5, "gradient": 2.500002}]
    [row] = _same_curves(run(2, near, strategy="deepspeed", mini_batch=3), run())
    assert (row.name, row.verdict, row.result) == ("same curve as the baseline, train.encoder", "hit", "2 of 2 steps")
    assert row.note == "p=2 beside p=1; largest difference 8.0e-07"


@pytest.mark.parametrize(
    "steps",
    [[STEPS[0], {"loss": 1.5, "gradient": 2.6}], STEPS[:1], [STEPS[0], {"loss": float("nan"), "gradient": 2.5}]],
)
def test_a_step_that_differs_or_is_absent_is_a_miss(steps: list[dict[str, float]]) -> None:
    [row] = _same_curves(run(2, steps), run())
    assert (row.verdict, row.value, row.bound) == ("missed", 1, 2)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"pairs": "other"}, "learnt from other pairs"),
        ({"learning_rate": 1e-4}, "another train.learning_rate"),
        ({"dropout": 0.1}, "set train.dropout=0 in both"),
    ],
)
def test_what_need_not_be_the_same_is_not_judged(more: dict[str, Any], why: str) -> None:
    [row] = _same_curves(run(2, **more), run())
    assert row.verdict == "not judged" and why in row.note


def test_an_unfinished_or_absent_baseline_is_said() -> None:
    half = run()
    del half.manifests["train.encoder"]
    assert compare_curves(run(2), half, "train.encoder").unlike == "train.encoder is not finished in p1"
    [row] = _same_curves(run(2), None)
    assert row.note == "no baseline; name one: --baseline RUN"
