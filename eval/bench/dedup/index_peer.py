"""What users keep in memory today: datasketch's index of all documents in one process, fed from disk.

python -m rag_hpc.eval.bench.dedup.index_peer FOLDER looks up and adds the documents of a clean stage's units.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rag_hpc.eval.bench.dedup.peers import NUM_PERM, datasketch_hashes
from rag_hpc.stores.documents import DOCUMENTS
from rag_hpc.stores.tables import read_column

THRESHOLD = 0.8


def main(folder: str) -> int:
    """Index the documents; return 0.

    Its cheapest way: keys of bands hashed to 8 bytes, as its documentation offers, numbers in place of names, and
    signatures that go as soon as their bands are in.
    """
    import xxhash
    from datasketch import MinHashLSH  # type: ignore[import-untyped]

    index, number = MinHashLSH(threshold=THRESHOLD, num_perm=NUM_PERM, hashfunc=xxhash.xxh3_64_digest), 0
    for path in sorted(Path(folder).glob(f"units/*/{DOCUMENTS}")):
        for signature in datasketch_hashes(read_column(path, "text")):
            index.query(signature)
            index.insert(number, signature)
            number += 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
