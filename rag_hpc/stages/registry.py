"""The stages by name. A new stage adds one line here and one to a pipeline."""

from __future__ import annotations

import importlib
from typing import Any

from rag_hpc.core.stage import Stage
from rag_hpc.errors import ConfigError

STAGES = {
    "crawl": "rag_hpc.stages.crawl:Crawl",
    "clean": "rag_hpc.stages.clean:Clean",
    "dedup.sign": "rag_hpc.stages.dedup_sign:Sign",
    "dedup.group": "rag_hpc.stages.dedup_group:Group",
    "dedup.verify": "rag_hpc.stages.dedup_verify:Verify",
    "dedup.link": "rag_hpc.stages.dedup_link:Link",
    "dedup.drop": "rag_hpc.stages.dedup_drop:Drop",
    "chunk": "rag_hpc.stages.chunk:Chunk",
    "lexical": "rag_hpc.stages.lexical:Lexical",
    "encode": "rag_hpc.stages.encode:Encode",
    "vectors.train": "rag_hpc.stages.vectors:Train",
    "vectors.build": "rag_hpc.stages.vectors:Build",
    "retrieve.queries": "rag_hpc.stages.queries:Queries",
    "retrieve.search": "rag_hpc.stages.retrieve:Retrieve",
    "rerank": "rag_hpc.stages.rerank:Rerank",
    "generate": "rag_hpc.stages.generate:Generate",
    "evaluate": "rag_hpc.stages.evaluate:Evaluate",
}
ROUNDS = {f"crawl.{number}": f"rag_hpc.stages.crawl:Crawl{number}" for number in range(2, 9)}  # corpus.rounds adds them


def stage_class(name: str) -> type[Stage]:
    """Return the class of the stage called `name`; ConfigError lists the known ones."""
    path = STAGES.get(name) or ROUNDS.get(name)
    if path is None:
        raise ConfigError(f"no stage is called {name!r}; known: {', '.join(STAGES)}")
    module, attribute = path.split(":")
    found: type[Stage] = getattr(importlib.import_module(module), attribute)
    return found


def make_stage(name: str, config: dict[str, Any]) -> Stage:
    """Return the stage built from plain values, checked against its config dataclass."""
    from rag_hpc.schema import from_plain

    cls = stage_class(name)
    return cls(from_plain(cls.Config, config))
