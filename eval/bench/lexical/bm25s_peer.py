"""The lexical benchmark's peer: bm25s on one thread, in a process (and, if need be, an environment) of its own.

`PYTHON bm25s_peer.py FILE` reads {"texts": [...], "questions": [...]} and answers lines of JSON on its standard input:
{"do": "index"} with {"cpu_s": ...}, {"do": "search", "k": 10, "first": 0, "last": 256} with {"wall_s": ...}. It imports
nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Serve until the input ends."""
    import bm25s  # type: ignore[import-not-found]
    import Stemmer  # type: ignore[import-not-found]

    given = json.loads(Path(sys.argv[1]).read_bytes())
    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    index = None
    for line in sys.stdin:
        asked = json.loads(line)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        if asked["do"] == "index":
            index = bm25s.BM25(method="lucene", k1=0.9, b=0.4, backend="numba")
            index.index(tokens(given["texts"]), show_progress=False)
        elif index is not None:
            words = tokens(given["questions"][asked["first"] : asked["last"]])
            index.retrieve(words, k=asked["k"], show_progress=False, n_threads=1)
        told = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
        print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
