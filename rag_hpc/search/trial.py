"""How well an encoder knows a corpus, from the corpus alone: does it find passages again by a part of them?

An encoder that was not trained on a language ranks almost at random in it, and says nothing about that. No question
and no judgement is needed to notice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rag_hpc.algo.text.words import content_words, is_unspaced, num_words, words
from rag_hpc.algo.types import F32, Array
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.vectors import VectorStore

NUM_SAMPLED = 256
NUM_PASSAGES = 64  # that are asked for among themselves, so that the figure does not depend on the corpus's size
FEWEST, MIN_TOKENS = 16, 100  # passages, and tokens of each: a part of a short one finds it in any language
PART = (0.4, 0.6)  # of a passage's characters, which asks for it: short enough to take more than copied words
COPY = 0.5  # a passage with this share of the part's words may be a copy, and as good an answer
EQUAL = 1e-6  # scores no further apart are of equal passages
SOME_UNKNOWN, ALL_UNKNOWN = 0.1, 0.9  # shares of unknown letters: a plan warns from the one, vectors say nothing from
# the other. MiniLM has 0.94 in Thai, 0.58 in Chinese, 0.16 in Hindi, 0 in nine other languages (XQuAD)
_LONG = 50  # words of a passage of few tokens, of which unknown ones may hold a sentence each


def known_share(
    chunks: ChunkStore,
    vectors: VectorStore,
    encode: Callable[[Sequence[str]], Array],
    unknown_share: Callable[[Sequence[str]], float],
) -> float | None:
    """Return how well the encoder knows the corpus: `found_again`, but never more than the share of the letters that it
    has tokens for, and 0 where it has tokens for next to none. None where nothing tells."""
    unknown = unknown_of(chunks, unknown_share)
    if unknown >= ALL_UNKNOWN:
        return 0.0
    found = found_again(chunks, vectors, encode)
    return found if unknown < SOME_UNKNOWN else round(min(1.0 if found is None else found, 1 - unknown), 3)


def unknown_of(chunks: ChunkStore, unknown_share: Callable[[Sequence[str]], float]) -> float:
    """Return the share of letters without a token in a sample of the corpus's passages."""
    return unknown_share([str(row["text"]) for row in chunks.rows(_sample(chunks), ["text"])])


def found_again(chunks: ChunkStore, vectors: VectorStore, encode: Callable[[Sequence[str]], Array]) -> float | None:
    """Return the mean reciprocal rank of passages, spread evenly over the corpus, asked for by their middle part.

    None where too few passages are long enough to tell.
    """
    sampled = _sample(chunks)
    rows = zip(sampled, chunks.rows(sampled, ["text", "num_tokens"]), strict=True)
    long = [(ordinal, str(row["text"])) for ordinal, row in rows if _is_long(str(row["text"]), int(row["num_tokens"]))]
    if len(long) < FEWEST:
        return None
    num = min(NUM_PASSAGES, len(long))
    passages = [long[len(long) * i // num] for i in range(num)]
    passages_PD = vectors.take(np.array([ordinal for ordinal, _ in passages], dtype=np.int64)).astype(np.float32)
    parts = [text[int(PART[0] * len(text)) : int(PART[1] * len(text)) + 1] for _, text in passages]
    asked_PD: F32 = np.asarray(encode(parts), dtype=np.float32)
    scores_PP = asked_PD @ passages_PD.T
    better_PP = (scores_PP > scores_PP.diagonal()[:, None] + EQUAL) & ~_copies(parts, [text for _, text in passages])
    return round(float((1.0 / (1 + better_PP.sum(axis=1))).mean()), 3)


def _sample(chunks: ChunkStore) -> list[int]:
    return sorted({len(chunks) * i // NUM_SAMPLED for i in range(NUM_SAMPLED)}) if len(chunks) else []


def _is_long(text: str, num_tokens: int) -> bool:
    return num_tokens >= MIN_TOKENS or (is_unspaced(text) and num_words(text) >= _LONG)


def _copies(parts: Sequence[str], texts: Sequence[str]) -> Array:
    """Return for each part and passage whether the passage may be a copy of that which the part is from."""
    held = [_terms(text) for text in texts]
    asked = [_terms(part) for part in parts]
    return np.array([[len(some & each) >= COPY * max(1, len(some)) for each in held] for some in asked])


def _terms(text: str) -> set[str]:
    return set(content_words(text) if is_unspaced(text) else words(text.casefold()))
