"""dedup finds the pairs that an exact comparison of all with all finds, and small edits do not hide a document."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dedupchain import dedup, keepers
from realdata import DATA

from rag_hpc.eval.bench.dedup.pairs import LABELLED, found_pairs, labelled, precision_and_recall


@pytest.mark.parametrize("corpus", LABELLED)
def test_pairs_of_labelled_corpora_are_found_and_no_others(corpus: str, tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    if not (DATA / corpus.split("/")[0]).is_dir():
        pytest.skip(f"no {DATA / corpus}; set RAG_HPC_DATA")
    documents, wanted = labelled(DATA, corpus, threshold=0.8)
    chain = dedup(tmp_path, dict(documents), per_unit=1000)
    precision, recall = precision_and_recall(found_pairs(chain.out), [name for name, _ in documents], wanted)
    assert precision >= 0.99 and recall >= 0.99, (precision, recall, len(wanted))


def edited(words: list[str], rng: random.Random, kind: str) -> list[str]:
    at = 0 if kind == "front" else rng.randrange(len(words))
    put = [] if kind == "deletion" else [f"new{rng.randrange(10**6)}"]
    return [*words[:at], *put, *words[at + (kind in ("deletion", "replacement")) :]]


@pytest.mark.parametrize("kind", ["front", "insertion", "deletion", "replacement"])
def test_one_word_does_not_change_the_verdict(kind: str, tmp_path: Path) -> None:
    rng, texts = random.Random(kind), dict[str, str]()
    num_pairs = 500 if kind == "front" else 100
    for n in range(num_pairs):
        words = [f"word{rng.randrange(3000)}" for _ in range(rng.randrange(60, 400))]
        texts[f"a{n}"], texts[f"b{n}"] = " ".join(words), " ".join(edited(words, rng, kind))
    chain = dedup(tmp_path, texts, per_unit=200)
    assert keepers(chain) == {f"b{n}": ("near-duplicate", f"a{n}") for n in range(num_pairs)}


def test_edits_of_every_size_get_the_verdict_of_their_exact_similarity(tmp_path: Path) -> None:
    rng, texts, exact = random.Random(3), dict[str, str](), dict[str, float]()
    for n in range(150):
        words = [f"word{rng.randrange(3000)}" for _ in range(200)]
        changed = list(words)
        for _ in range(rng.randrange(1, 16)):
            changed = edited(changed, rng, rng.choice(["front", "insertion", "deletion", "replacement"]))
        texts[f"a{n}"], texts[f"b{n}"] = " ".join(words), " ".join(changed)
        a, b = ({tuple(side[i : i + 5]) for i in range(len(side) - 4)} for side in (words, changed))
        exact[f"b{n}"] = len(a & b) / len(a | b)
    chain = dedup(tmp_path, texts, per_unit=60)
    wanted = {name for name, jaccard in exact.items() if jaccard >= 0.8}
    assert set(keepers(chain)) <= wanted and len(set(keepers(chain))) >= 0.99 * len(wanted)
    assert 30 < len(wanted) < 120
    measured: dict[str, Any] = {row["doc_id"]: row for row in chain.table("dedup.link", "keep_map.parquet")}
    np.testing.assert_allclose(
        [row["jaccard"] for row in measured.values()], [exact[name] for name in measured], rtol=1e-6
    )
