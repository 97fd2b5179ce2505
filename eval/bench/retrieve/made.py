"""What the retrieval benchmark searches: passages with vectors, indexed by our own stages, and questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.core.commit import UNITS
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context
from rag_hpc.eval.bench.lexical import corpora
from rag_hpc.eval.bench.vectors.data import tiled
from rag_hpc.eval.bench.vectors.ranks import manifest_of
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.chunks import open_chunks
from rag_hpc.stores.questions import write_questions
from rag_hpc.stores.vectors import write_vectors

DIMS = 384
REGIONS = {"few": 0.01, "some": 0.1, "half": 0.5}  # a value of a field, which titles are, and its share of passages
_REST = 1 - sum(REGIONS.values())


def make(data: Path, folder: Path, num_passages: int, num_questions: int) -> dict[str, Manifest]:
    """Return the inputs of indexes by stage: passages of documentation, and beside each a vector that is not its own
    (encodings of other texts and points between them): what both find together means nothing, what it costs does."""
    texts = corpora.texts("passages", data, num_passages)
    rows, asked = tiled(data, len(texts), DIMS)
    regions = np.random.default_rng(0).choice([*REGIONS, "rest"], len(texts), p=[*REGIONS.values(), _REST]).tolist()
    questions = corpora.questions(data, min(num_questions, len(asked)))
    with open_chunks(_unit(folder, "chunk")) as chunks:
        for number, text in enumerate(texts):
            chunks.add(f"c{number:07d}", f"d{number // 8:06d}", "", regions[number], "en", "", text, 0, len(text), 80)
    write_vectors(_unit(folder, "encode"), rows)
    named = [{"id": f"q{number}", "text": text} for number, text in enumerate(questions)]
    write_questions(_unit(folder, "retrieve.queries"), named, asked[: len(named)].astype(np.float16))
    return {name: manifest_of(name, folder / name) for name in ("chunk", "encode", "retrieve.queries")}


def indexed(made: Mapping[str, Manifest], settings: Mapping[str, Any], folder: Path) -> dict[str, Manifest]:
    """Return the inputs with a vector index of such settings, which lies in a folder, and a query's effort as half of
    the questions chose it."""
    found = dict(made)
    for stage in ("vectors.train", "vectors.build", "vectors.check"):
        found[stage] = run(stage, settings, found, folder)
    return found


def run(name: str, settings: Mapping[str, Any], inputs: Mapping[str, Manifest], folder: Path) -> Manifest:
    """Return the output of a stage that one process ran."""
    stage, scratch = make_stage(name, dict(settings)), folder / "scratch" / name
    scratch.mkdir(parents=True)
    ctx = Context(inputs=inputs, shared=folder, scratch=scratch, seed=1)
    units = stage.plan(inputs, folder)
    stage.setup(ctx)
    for unit in units:
        out = folder / name / UNITS / unit.name
        out.mkdir(parents=True)
        stage.run(unit, out, ctx)
    return dataclasses.replace(manifest_of(name, folder / name), config=dict(settings))


def _unit(folder: Path, stage: str) -> Path:
    made = folder / stage / UNITS / "unit-00000"
    made.mkdir(parents=True)
    return made
