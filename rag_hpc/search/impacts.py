"""An index of impacts: texts as it takes them, which model made them, and questions by that model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rag_hpc.algo.rank import bm25
from rag_hpc.core.fs import canonical_json, read_json
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.search.jvm import BEFORE_IMPACT

MODEL = "impacts.json"


def as_text(impacts: Mapping[str, int]) -> str:
    """Return a text's impacts as the analyser of impacts reads them."""
    return " ".join(f"{term}{BEFORE_IMPACT}{impact}" for term, impact in sorted(impacts.items()))


def write_model(unit_dir: Path, weights: str) -> None:
    """Write the hash of the model's weights."""
    (unit_dir / MODEL).write_bytes(canonical_json({"weights": weights}))


def holds_impacts(lexical: Manifest) -> bool:
    """Return whether the index is of impacts."""
    return bool(lexical.holders(MODEL))


class ImpactQuestions:
    """Makes queries of impacts; no statistics are exchanged, as an impact says it all."""

    def __init__(self, lexical: Manifest) -> None:
        """Raises ConfigError where the model is no longer that of the passages."""
        from rag_hpc.models.sparse import SparseEncoder

        folder = lexical.config["model"]
        self._encoder = SparseEncoder(folder)
        if {read_json(path)["weights"] for path in lexical.files(MODEL)} != {self._encoder.weights}:
            raise ConfigError(
                f"stage.lexical.model={folder}: its weights are others than those that the passages' impacts were made "
                "with; put them back, or build the index again"
            )

    def queries(self, texts: Sequence[str]) -> list[bm25.Query]:
        """Return each question's query."""
        return [bm25.impact_query(self._encoder.impacts(text)) for text in texts]
