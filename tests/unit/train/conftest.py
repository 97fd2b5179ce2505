from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trainset

pytest.importorskip("torch")


@pytest.fixture(scope="session")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainset.write_beir(tmp_path_factory.mktemp("set") / "beir")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("sentence_transformers")
    folder = tmp_path_factory.mktemp("models")
    return {
        "encoder": str(trainset.write_model(folder / "encoder")),
        "dropout": str(trainset.write_model(folder / "dropout", dropout=0.2)),
        "reranker": str(trainset.write_model(folder / "reranker", head=True)),
    }


@pytest.fixture
def settings(beir: Path, models: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The settings of a training of ten steps."""
    yield {"data": str(beir), "model": models["encoder"], "batch_size": 8, "epochs": 2, "threads": 1}
