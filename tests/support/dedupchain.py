"""Corpora for tests of dedup, and what became of their documents."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import stagerun

from rag_hpc.eval.bench.dedup.given import DEDUP, given_documents, in_units

STEPS = DEDUP


def dedup(folder: Path, texts: dict[str, str], per_unit: int = 2, **settings: Any) -> stagerun.Chain:
    """Return the chain of dedup over the texts by their ids; a text that says nothing is left out of its unit."""
    units = [[row for row in unit if row[1]] for unit in in_units(list(texts.items()), per_unit)]
    documents = given_documents(folder / "run", units)
    return stagerun.Chain(folder / "run", dict.fromkeys(STEPS, settings), {"clean": documents}).run(*STEPS)


def keepers(chain: stagerun.Chain) -> dict[str, tuple[str, str]]:
    """Return id -> (reason, the document that stays) of what was dropped."""
    return {row["id"]: (row["reason"], row["detail"]) for row in chain.table("dedup.drop", "rejects.parquet")}


def step_hashes(chain: stagerun.Chain) -> dict[str, str]:
    """Return the output hashes of the steps of dedup."""
    return {step: chain.hashes()[step] for step in STEPS}


def many_texts(num: int = 90, seed: int = 5) -> dict[str, str]:
    """Return texts of which a third are copies or near copies of earlier ones; the eight from d040 on are empty."""
    rng, texts = random.Random(seed), dict[str, str]()
    for n in range(num):
        words = [f"w{rng.randrange(2000)}" for _ in range(120)]
        if n % 3 == 2:
            words = rng.choice([text for text in texts.values() if text]).split()
            words[rng.randrange(len(words))] = "other" if n % 2 else words[0]
        texts[f"d{n:03d}"] = "" if 40 <= n < 48 else " ".join(words)
    return texts


@lru_cache(maxsize=1)
def many_chain() -> stagerun.Chain:
    """Return ninety documents in units of eight, one of them without a document, run once a process."""
    folder = Path(tempfile.mkdtemp(prefix="dedupchain-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return dedup(folder, many_texts(), per_unit=8)
