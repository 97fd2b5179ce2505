"""Documents with planted duplicates, the same on every machine: real sentences where the shared data is there."""

from __future__ import annotations

import random
from pathlib import Path

from rag_hpc.eval.bench.dedup.given import Document
from rag_hpc.eval.bench.dedup.pairs import read_lines

WORDS = 220  # of a document, about
COPIES, NEAR = 0.05, 0.15  # shares of documents that are copies, or edited copies, of an earlier one
EDITS = (1, 12)  # words changed in an edited copy: from almost equal to below the threshold
NUM_SENTENCES = 60_000
CLUSTER = 200  # documents of a text, about, where all are near copies


def documents(num: int, data: Path | None, seed: int = 0) -> list[Document]:
    """Return `num` documents of sentences drawn at random, a fifth of them made from earlier ones."""
    rng = random.Random(seed)
    sentences = real_sentences(data) if data else made_sentences(rng)
    made: list[Document] = []
    for n in range(num):
        kind = rng.random()
        if made and kind < COPIES + NEAR:
            text = made[rng.randrange(len(made))][1]
            text = text if kind < COPIES else edited(text, rng)
        else:
            text = fresh(sentences, rng)
        made.append((f"doc-{n:08d}", text))
    return made


def near_copies(num: int, data: Path | None, seed: int = 0) -> list[Document]:
    """Return `num` documents of num / CLUSTER texts, each with one word of its own: two of a text are 0.9 alike."""
    rng = random.Random(seed)
    sentences = real_sentences(data) if data else made_sentences(rng)
    texts = [fresh(sentences, rng).split(" ") for _ in range(max(1, num // CLUSTER))]
    made: list[Document] = []
    for n in range(num):
        words = list(texts[rng.randrange(len(texts))])
        words[rng.randrange(len(words))] = f"edit{n}"
        made.append((f"doc-{n:08d}", " ".join(words)))
    return made


def fresh(sentences: list[str], rng: random.Random) -> str:
    """Return a text of some WORDS words."""
    picked: list[str] = []
    num_words, wanted = 0, WORDS + rng.randrange(-60, 61)
    while num_words < wanted:
        picked.append(sentences[rng.randrange(len(sentences))])
        num_words += picked[-1].count(" ") + 1
    return " ".join(picked)


def edited(text: str, rng: random.Random) -> str:
    """Return the text with some words inserted, deleted or replaced."""
    words = text.split(" ")
    for _ in range(rng.randint(*EDITS)):
        at, kind = rng.randrange(len(words)), rng.randrange(3)
        words[at : at + (kind > 0)] = [] if kind == 2 and len(words) > 1 else [f"edit{rng.randrange(10**6)}"]
    return " ".join(words)


def real_sentences(data: Path) -> list[str]:
    """Return lines of six words and more of a documentation corpus, in its order."""
    found: list[str] = []
    for row in read_lines(data / "docs_cpp" / "docs.jsonl.zst"):
        found += [line for line in row["text"].split("\n") if 6 <= line.count(" ") + 1 <= 60]
        if len(found) >= NUM_SENTENCES:
            break
    return found


def made_sentences(rng: random.Random) -> list[str]:
    """Return sentences of made-up words, frequent ones far more often than rare ones."""
    letters = "etaoinshrdlu"
    words = ["".join(rng.choice(letters) for _ in range(rng.randint(2, 9))) for _ in range(20_000)]
    return [
        " ".join(words[int(len(words) * rng.random() ** 3)] for _ in range(rng.randint(6, 30))) + "."
        for _ in range(NUM_SENTENCES)
    ]
