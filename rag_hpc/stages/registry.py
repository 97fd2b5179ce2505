"""The stages by name. A new stage adds one line here and one to a pipeline."""

from __future__ import annotations

import importlib
from typing import Any

from rag_hpc.core.stage import Stage
from rag_hpc.errors import ConfigError
from rag_hpc.sources.base import ROUNDS

STAGES = {
    "crawl": "rag_hpc.stages.crawl:Crawl",
    "clean": "rag_hpc.stages.clean:Clean",
    "dedup.sign": "rag_hpc.stages.dedup.sign:Sign",
    "dedup.group": "rag_hpc.stages.dedup.group:Group",
    "dedup.verify": "rag_hpc.stages.dedup.verify:Verify",
    "dedup.link": "rag_hpc.stages.dedup.link:Link",
    "dedup.drop": "rag_hpc.stages.dedup.drop:Drop",
    "chunk": "rag_hpc.stages.chunk:Chunk",
    "lexical": "rag_hpc.stages.lexical:Lexical",
    "encode": "rag_hpc.stages.encode:Encode",
    "vectors.train": "rag_hpc.stages.vectors:Train",
    "vectors.build": "rag_hpc.stages.vectors:Build",
    "retrieve.queries": "rag_hpc.stages.queries:Queries",
    "vectors.check": "rag_hpc.stages.vectors:Check",
    "retrieve.search": "rag_hpc.stages.retrieve:Retrieve",
    "rerank": "rag_hpc.stages.rerank:Rerank",
    "generate": "rag_hpc.stages.generate:Generate",
    "evaluate": "rag_hpc.stages.evaluate:Evaluate",
    "judge": "rag_hpc.stages.judge:Judge",
    "train.pairs": "rag_hpc.stages.train:Pairs",
    "train.encoder": "rag_hpc.stages.train:TrainEncoder",
    "train.reranker": "rag_hpc.stages.train:TrainReranker",
}
ROUND = "rag_hpc.stages.crawl:Round"  # every further round of a crawl; corpus.rounds adds them


def stage_class(name: str) -> type[Stage]:
    """Return the class of the stage called `name`; ConfigError lists the known ones."""
    path = ROUND if name in ROUNDS[1:] else STAGES.get(name)
    if path is None:
        raise ConfigError(f"no stage is called {name!r}; known: {', '.join(STAGES)}")
    module, attribute = path.split(":")
    found: type[Stage] = getattr(importlib.import_module(module), attribute)
    return found


def make_stage(name: str, config: dict[str, Any]) -> Stage:
    """Return the stage built from plain values, checked against its config dataclass."""
    from rag_hpc.schema import from_plain
    from rag_hpc.sources.registry import config_class

    cls: Any = stage_class(name)
    settings = from_plain(config_class(config.get("source")) if name in ROUNDS else cls.Config, config)
    stage: Stage = cls(settings, ROUNDS.index(name) + 1) if name in ROUNDS[1:] else cls(settings)
    return stage
