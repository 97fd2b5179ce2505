"""Duplicate pairs: those that an exact comparison of all with all gives, and those that dedup found."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.core.manifest import Manifest
from rag_hpc.stages.dedup.signed import VERIFIED

LABELLED = (
    "docs_powershell",
    "docs_cpp",
    "html_ipython",
    "neardup_articles/articles_100",
    "neardup_articles/articles_1000",
)
Names = set[tuple[str, str]]  # pairs of ids, the smaller first


def labelled(data: Path, corpus: str, threshold: float) -> tuple[list[tuple[str, str]], Names]:
    """Return (id, text) of the corpus's documents and its pairs from the threshold on."""
    folder, _, name = corpus.partition("/")
    path = data / folder / f"{name or 'docs'}.jsonl.zst"
    documents = [(str(row["id"]), str(row["text"])) for row in read_lines(path)]
    if name:  # its pairs are labelled by hand, all far above or far below any threshold
        lines = (data / folder / f"{name}.truth.tsv").read_text(encoding="utf-8").splitlines()
        return documents, {_ordered(*line.split()[:2]) for line in lines}
    rows = read_lines(data / folder / "neardup_pairs.jsonl.zst")
    return documents, {_ordered(str(row["a"]), str(row["b"])) for row in rows if row["jaccard"] >= threshold}


def found_pairs(out: Mapping[str, Manifest]) -> set[tuple[int, int]]:
    """Return the verified pairs of document numbers, with each copy in the place of the document that stands for it."""
    verified = np.concatenate([np.load(path, allow_pickle=False) for path in out["dedup.verify"].files(VERIFIED)])
    copies = verified[verified["exact"]]
    members: dict[int, list[int]] = {}
    for first, second in zip(copies["first"].tolist(), copies["second"].tolist(), strict=True):
        members.setdefault(first, [first]).append(second)
    found = {pair for group in members.values() for pair in combinations(group, 2)}
    for row in verified[~verified["exact"]]:
        first, second = int(row["first"]), int(row["second"])
        sides = product(members.get(first, [first]), members.get(second, [second]))
        found |= {(min(pair), max(pair)) for pair in sides}
    return found


def precision_and_recall(found: set[tuple[int, int]], names: list[str], wanted: Names) -> tuple[float, float]:
    """Return the share of found pairs that are wanted, and of wanted pairs that were found."""
    named = {_ordered(names[a], names[b]) for a, b in found}
    right = len(named & wanted)
    return right / max(1, len(named)), right / max(1, len(wanted))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a .jsonl.zst file."""
    import zstandard

    with path.open("rb") as stream:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(stream), "utf-8", newline="\n"):
            yield json.loads(line)


def _ordered(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
