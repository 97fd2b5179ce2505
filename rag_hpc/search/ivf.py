"""IVF indexes: their size, how many lists a query probes, and the recall that this gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rag_hpc.algo.rank.topk import canonical_scores, exact_topk
from rag_hpc.algo.types import F32

GATE_QUERIES = 256
NOISE = 4.0


def new_index(centroids_LD: F32) -> Any:
    """Return an empty inverted-file index (inner product, float16 codes) over the given centroids."""
    import faiss

    faiss.omp_set_num_threads(1)  # one worker is one thread; results must not depend on more
    dimensions = centroids_LD.shape[1]
    quantizer = faiss.IndexFlatIP(dimensions)
    quantizer.add(centroids_LD)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dimensions, len(centroids_LD), faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.is_trained = True
    return index


def default_lists(num_rows: int) -> int:
    """Return the number of inverted lists for a training sample (FAISS asks for at least 39 rows a list)."""
    return max(1, min(int(4 * math.sqrt(num_rows)), num_rows // 39))


def enough_probes(centroids_LD: F32, vectors_ND: F32, recall: float) -> int:
    """Return how many lists to probe: growing by a fifth until the sample's misses are a quarter of what is allowed."""
    index = new_index(centroids_LD)
    index.add(vectors_ND)
    probes, num_lists = 1, len(centroids_LD)
    while probes < num_lists and shard_recall(index, vectors_ND, 0, probes) < (3 + recall) / 4:
        probes = min(num_lists, max(probes + 1, probes * 6 // 5))
    return probes


def shard_recall(index: Any, vectors_ND: F32, first_id: int, probes: int) -> float:
    """Return recall@10 of the shard against exact search, for distant copies of some 256 of its own vectors.

    A question lies in another direction than passages do and needs more lists than a passage would: on the demo's
    questions, recall at equal probes was that of copies with noise of 4 times a unit vector's length.
    """
    step = max(1, len(vectors_ND) // GATE_QUERIES)
    noise = np.random.default_rng(0).standard_normal(vectors_ND[::step].shape, dtype=np.float32)
    queries = vectors_ND[::step] + noise * (NOISE / math.sqrt(vectors_ND.shape[1]))
    k = min(10, len(vectors_ND))
    index.nprobe = probes
    _, ids_QK = index.search(queries, k)
    truth_QK, _ = exact_topk(queries, vectors_ND, k)
    # by score, not by id: of equal passages (a licence text in each document) any is as good as another
    rows, hits = np.nonzero(ids_QK >= 0)
    scores = np.full(ids_QK.shape, -np.inf, dtype=np.float32)
    scores[rows, hits] = canonical_scores(queries[rows], vectors_ND[ids_QK[rows, hits] - first_id])
    return float((scores >= truth_QK[:, -1:]).mean())
