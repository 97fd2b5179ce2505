"""Samples that people have judged, by which a judge is judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rag_hpc.errors import ConfigError
from rag_hpc.generators.judge import METRICS, Sample


def labelled(records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[Sample, dict[str, int]]]:
    """Return the samples that people have judged, each with its 0 or 1 by metric.

    records: (place, {"id", "question", "answer", "contexts", "reference"?, "labels": {metric: 0 or 1}}). Raises
    ConfigError that names the place.
    """
    found = []
    for place, record in records:
        labels, contexts = record.get("labels"), record.get("contexts")
        texts = [record.get(key, "") for key in ("id", "question", "answer", "reference")]
        if not all(isinstance(text, str) for text in texts) or not texts[0] or not texts[1]:
            raise ConfigError(f"{place}: `id` and `question` are needed, `answer` and `reference` are strings")
        if not isinstance(contexts, list) or not all(isinstance(text, str) for text in contexts):
            raise ConfigError(f"{place}: `contexts` must be a list of strings")
        if not isinstance(labels, dict) or not labels or any(v not in (0, 1) for v in labels.values()):
            raise ConfigError(f"{place}: `labels` must map metrics ({', '.join(METRICS)}) to 0 or 1")
        if unknown := sorted(set(labels) - set(METRICS)):
            raise ConfigError(f"{place}: no metric is called {json.dumps(unknown[0])}; known: {', '.join(METRICS)}")
        sample_id, question, answer, reference = texts
        one = Sample(sample_id=sample_id, question=question, answer=answer, contexts=contexts, reference=reference)
        found.append((one, {name: int(value) for name, value in labels.items()}))
    return found
