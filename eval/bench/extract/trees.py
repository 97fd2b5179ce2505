"""Gradient boosting of small trees by LightGBM, as the arrays that the extractor walks. Shapes: N rows, F features."""

from __future__ import annotations

import numpy as np

from rag_hpc.algo.extract.trees import DEPTH, Trees
from rag_hpc.algo.types import F32, Array

NUM_TREES = 160
SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.08,
    "num_leaves": 8,
    "max_depth": DEPTH,
    "lambda_l2": 1.0,
    "min_data_in_leaf": 20,
    "min_sum_hessian_in_leaf": 0.0,
    "max_bin": 64,
    "min_data_in_bin": 1,
    "bagging_fraction": 0.5,  # of the rows, drawn anew for each tree
    "bagging_freq": 1,
    "feature_fraction": 0.4,
    "use_missing": False,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": 0,
    "verbosity": -1,
}


def fit(x_NF: F32, y_N: Array, weight_N: Array) -> Trees:
    """Return trees that estimate the log odds of y, the first with the bias; the same rows give the same trees."""
    import lightgbm

    booster = lightgbm.train(SETTINGS, lightgbm.Dataset(x_NF, y_N, weight=weight_N), NUM_TREES)
    roots: list[int] = []
    rows: list[tuple[int, float, int, float]] = []
    for tree in booster.dump_model()["tree_info"]:
        roots.append(len(rows))
        nodes = [tree["tree_structure"]]
        for node in nodes:  # grows underway: children stand side by side
            if "leaf_value" in node:
                rows.append((0, np.inf, len(rows), node["leaf_value"]))
            else:
                rows.append((node["split_feature"], node["threshold"], roots[-1] + len(nodes), 0.0))
                nodes += [node["left_child"], node["right_child"]]
    feature, threshold, left, value = (np.array(column) for column in zip(*rows, strict=True))
    rounded = threshold.astype(np.float32)  # to the largest float32 not above: those split the same rows
    rounded = np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return Trees(
        feature.astype(np.uint16),
        rounded,
        left.astype(np.uint16),
        value.astype(np.float32),
        np.array(roots, np.uint16),
        0.0,
    )


def averaged(a: Trees, b: Trees) -> Trees:
    """Return trees whose log odds are the mean of both."""
    num = np.uint16(len(a.value))
    return Trees(
        np.concatenate([a.feature, b.feature]),
        np.concatenate([a.threshold, b.threshold]),
        np.concatenate([a.left, b.left + num]),
        (np.concatenate([a.value, b.value]) / 2).astype(np.float32),
        np.concatenate([a.roots, b.roots + num]),
        (a.bias + b.bias) / 2,
    )
