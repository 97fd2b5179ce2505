"""Learned sparse vectors as whole numbers: how much each term of the vocabulary counts in a text.

L tokens of a text, V terms of the vocabulary. Source: SPLADE (Formal et al. 2021, max pooling of the second version);
the numbers are Pyserini's, a weight of 5 in 256 steps.
"""

from __future__ import annotations

import numpy as np

from rag_hpc.algo.types import F32, I64

STEPS, SPAN = 256, 5.0
MOST = STEPS - 1  # an impact is one byte


def pooled(logits_LV: F32) -> F32:
    """Return each term's weight, the largest of log(1 + max(0, logit)) over the tokens."""
    weights_V: F32 = np.log1p(np.maximum(logits_LV.max(axis=0), np.float32(0)))
    return weights_V


def quantized(weights_V: F32) -> I64:
    """Return weights as impacts of 0 to MOST."""
    scaled_V = np.rint(weights_V.astype(np.float64) * (STEPS / SPAN))
    impacts_V: I64 = np.minimum(scaled_V, MOST).astype(np.int64)
    return impacts_V
