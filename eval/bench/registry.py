"""The benchmarks by name, and the verb that runs them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from rag_hpc.errors import ConfigError, MissingDependency
from rag_hpc.eval.bench.rows import Row, as_json, as_text

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

Options = dict[str, str]  # the key=value words of the command line
BENCHES = {
    "crawl": "rag_hpc.eval.bench.crawl.crawl:run",
    "extract": "rag_hpc.eval.bench.extract.extract:run",
    "dedup": "rag_hpc.eval.bench.dedup.dedup:run",
    "chunk": "rag_hpc.eval.bench.chunk.chunk:run",
    "checks": "rag_hpc.eval.bench.trust.checks:run",
    "lexical": "rag_hpc.eval.bench.lexical.lexical:run",
    "rank": "rag_hpc.eval.bench.rank.rank:run",
    "encode": "rag_hpc.eval.bench.encode.encode:run",
    "rerank": "rag_hpc.eval.bench.encode.rerank:run",
    "answers": "rag_hpc.eval.bench.answers.answers:run",
    "compress": "rag_hpc.eval.bench.answers.compress:run",
    "train": "rag_hpc.eval.bench.train.train:run",
    "laws": "rag_hpc.eval.bench.laws.laws:run",
    "forecast": "rag_hpc.eval.bench.laws.forecast:run",
    "vectors": "rag_hpc.eval.bench.vectors.vectors:run",
    "retrieve": "rag_hpc.eval.bench.retrieve.retrieve:run",
    "tier": "rag_hpc.eval.bench.retrieve.tiers:run",
    "dedup_scale": "rag_hpc.eval.bench.dedup.scale:run",
    "cache": "rag_hpc.eval.bench.cache.cache:run",
    "serve": "rag_hpc.eval.bench.serve.serve:run",
}

KINDS = {
    r"[1-9][0-9]*": "a whole number, at least 1",
    r"[0-9]*\.?[0-9]+": "a number",
    "true|false": "true or false",
}  # what an option takes that has such a default


def bench(arguments: Arguments) -> int:
    """Run the benchmark named on the command line and print its rows; exit code 1 when a bar is missed."""
    options = dict(word.split("=", 1) for word in arguments.overrides)
    rows = _function(arguments.words[0])(options)
    print(as_json(rows) if "--json" in arguments.flags else as_text(rows))
    return 1 if any(row.met is False for row in rows) else 0


def known(options: Options, defaults: Options) -> Options:
    """Return the options over their defaults.

    Raises ConfigError for a key that the benchmark does not have, or a value that is not of its default's kind.
    """
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise ConfigError(f"no option {unknown[0]!r} here; known: {', '.join(f'{k}={v}' for k, v in defaults.items())}")
    for key, value in options.items():
        for pattern, kind in KINDS.items():
            if re.fullmatch(pattern, defaults[key]) and not re.fullmatch(pattern, value):
                raise ConfigError(f"{key}={value}: {kind} is needed, such as {key}={defaults[key]}")
    return defaults | options


def peer(module: str, package: str) -> None:
    """Raise MissingDependency with the command that installs it when a peer's module is not there."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"this benchmark needs {package}, which is not installed; run: pip install 'rag-hpc[bench]'"
        ) from error


def _function(name: str) -> Callable[[Options], list[Row]]:
    module, function = BENCHES[name].split(":")
    found: Callable[[Options], list[Row]] = getattr(importlib.import_module(module), function)
    return found
