"""What the lexical benchmark indexes and asks: pages of documentation whole, or cut into passages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rag_hpc.eval.bench.chunk.quality import json_lines

PAGES = "docs_cpp"
SOURCES = (PAGES, "docs_powershell", "html_ipython")
WORDS = 80  # of a passage
ASKED_WORDS = 16  # of a sentence that is asked
SEED = 0


def texts(name: str, data: Path, most: int) -> list[str]:
    """Return the first texts of `pages` (of the C++ documentation, whole) or `passages` (of all documentation)."""
    return list(islice(_pages(data) if name == "pages" else _passages(data), most))


def questions(data: Path, count: int) -> list[str]:
    """Return titles of pages, and the beginnings of others, in turns; drawn with a seed."""
    rows = list(json_lines(data / PAGES / "docs.jsonl.zst"))
    asked = []
    for number, row in enumerate(random.Random(SEED).sample(rows, min(count, len(rows)))):
        lines = [line for line in row["text"].split("\n") if line.strip() and not line.startswith("#")]
        first = " ".join(lines[0].split()[:ASKED_WORDS]) if lines else row["title"]
        asked.append(row["title"] if number % 2 == 0 else first)
    return asked


def _pages(data: Path) -> Iterator[str]:
    for row in json_lines(data / PAGES / "docs.jsonl.zst"):
        yield f"{row['title']}\n{row['text']}"


def _passages(data: Path) -> Iterator[str]:
    for source in SOURCES:
        for row in json_lines(data / source / "docs.jsonl.zst"):
            words = row["text"].split()
            for start in range(0, len(words), WORDS):
                yield " ".join(words[start : start + WORDS])
