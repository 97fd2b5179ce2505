from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_hpc.algo.extract.trees import probability
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.extract import train
from rag_hpc.eval.bench.extract.data import Sample, score
from rag_hpc.eval.bench.extract.extract import run
from rag_hpc.eval.bench.extract.trees import fit


def test_score_is_the_mean_of_pages_shares_of_shingles() -> None:
    assert score([("a b c d e", "a b c d e")]) == (1.0, 1.0, 1.0)
    precision, recall, f1 = score([("a b c d e", "a b c d e f g"), ("one two", "")])
    assert precision == 0.5  # of four shingles two are right; the page without any is no part of the mean
    assert recall == 0.5  # all of the first page, none of the second
    assert f1 == 0.5


def test_trees_learn_what_depends_on_two_columns_and_are_the_same_again() -> None:
    x = np.random.default_rng(1).random((4000, 6)).astype(np.float32)
    y = ((x[:, 1] > 0.3) ^ (x[:, 4] > 0.6)).astype(float)
    trees = fit(x[:3000], y[:3000], np.ones(3000))
    assert ((probability(trees, x[3000:]) > 0.5) == y[3000:]).mean() > 0.97
    again = fit(x[:3000], y[:3000], np.ones(3000))
    assert all(np.array_equal(a, b) for a, b in zip(trees, again, strict=True))


def test_trees_give_the_sum_of_the_leaves_that_a_walk_reaches() -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 5, (700, 6)).astype(np.float32)  # many values are thresholds
    trees = fit(x, ((x[:, 0] > 2) ^ (x[:, 1] > x[:, 2])).astype(float), np.ones(700))
    for rows in (x, x[:1], x[:0], np.asfortranarray(x)):
        scores = np.full(len(rows), trees.bias)
        for root in trees.roots:
            for i, row in enumerate(rows):
                at = int(root)
                while trees.left[at] != at:
                    at = int(trees.left[at]) + int(row[trees.feature[at]] > trees.threshold[at])
                scores[i] += float(trees.value[at])
        assert probability(trees, rows).tolist() == (np.round(4096 / (1 + np.exp(-scores))) / 4096).tolist()


def test_blocks_of_the_gold_text_are_labelled_and_weights_survive_writing() -> None:
    body = b"<nav><a href=/>Home page</a></nav><p>some words of gold</p><p>then more gold words here</p>"
    gold = "some words of gold then more gold words here"
    page = train.labelled(Sample("n", "site", body, "http://site/", gold))
    assert page.y_B.tolist() == [0, 1, 1]
    x = np.random.default_rng(2).random((500, 4)).astype(np.float32)
    rounds = tuple(fit(x, (x[:, k] > 0.5).astype(float), np.ones(500)) for k in (0, 1))
    names: dict[str, object] = {}
    exec(compile(train.written(rounds), "weights", "exec"), names)
    for mine, theirs in zip(rounds, (names["FIRST"], names["SECOND"]), strict=True):
        assert probability(theirs, x).tolist() == probability(mine, x).tolist()


def test_missing_pages_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_HPC_DATA", raising=False)
    with pytest.raises(InputError, match="set RAG_HPC_DATA"):
        run({})
    with pytest.raises(InputError, match="extract_scrapinghub"):
        run({"data": str(tmp_path)})
