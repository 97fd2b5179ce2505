"""One rank of a collective test: python ranks.py OUT. Writes what it saw to OUT/RANK.json."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from rag_hpc.core import comm
from rag_hpc.errors import RagHpcError


def main(out: Path) -> None:
    """Go through every collective with arrays of several types, and with rows that differ in number by rank."""
    comm.MESSAGE_BYTES = int(os.environ.get("TEST_MESSAGE_BYTES", comm.MESSAGE_BYTES))
    group = comm.make_comm(os.environ["RAG_HPC_LAUNCH"])
    if os.environ.get("TEST_ABORT_RANK") == str(group.rank):
        group.abort(5)
    read_only = np.arange(5, dtype=np.float32)
    read_only.flags.writeable = False
    arrays = [np.arange(6, dtype=np.float16).reshape(2, 3), np.array(7), np.zeros((0, 4), dtype=np.uint8), read_only]
    got = [group.broadcast(array if group.rank == 0 else None) for array in arrays]
    rows = np.array([[group.rank, i] for i in range(group.rank * 3)], dtype=np.float32).reshape(-1, 2)
    joined = group.gather_rows(rows) if isinstance(group, comm.MpiComm) else None
    pair = np.array([[group.rank, 1]], dtype=np.int64)
    folded = group.fold(pair, lambda left, right: left * 10 + right) if isinstance(group, comm.MpiComm) else None
    total = group.sum(np.array([group.rank, 1]))
    sent = [
        np.array([[group.rank, to]] * (group.rank + 2 * to), dtype=np.int32).reshape(-1, 2)
        for to in range(group.world_size)
    ]
    exchanged = group.exchange(sent) if isinstance(group, comm.MpiComm) else []
    group.barrier()
    value = {
        "rank": group.rank,
        "world_size": group.world_size,
        "sum": total.tolist(),
        "broadcast": [[a.dtype.str, list(a.shape), float(a.sum())] for a in got],
        "exchanged": [part.tolist() for part in exchanged],
        "folded": None if folded is None else folded.tolist(),
        "gathered": None if joined is None else joined.tolist(),
    }
    (out / f"{group.rank}.json").write_text(json.dumps(value))
    group.close()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except RagHpcError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
