"""What a judge thinks of answers: a line of JSON a sample, with its scores and the reasons for those it lacks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json
from rag_hpc.core.manifest import Manifest

UNANSWERED, NO_REFERENCE, NO_CONTEXT = "unanswered", "no-reference", "no-context"
NOT_ASKED = (UNANSWERED, NO_REFERENCE, NO_CONTEXT)  # reasons to ask no judge: such a score is not undetermined
SCORES, LABELLED = "scores.jsonl", "labelled.jsonl"  # of the run's answers; of samples that people have judged


def write_scores(unit_dir: Path, lines: Iterable[dict[str, Any]], name: str = SCORES) -> None:
    """Write the lines: {"query_id", "scores": {metric: number or null}, "reasons": {metric: why there is none}}.

    Those of LABELLED have {"labels": {metric: 0 or 1}} too.
    """
    (unit_dir / name).write_bytes(b"".join(canonical_json(line) for line in lines))


def read_scores(judged: Manifest, name: str = SCORES) -> list[dict[str, Any]]:
    """Return the lines of all units, in order."""
    paths = judged.files(name)
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").split("\n") if line]
