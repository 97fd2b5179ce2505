"""`rag-hpc devcluster up|down|status|check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.slurm import devcluster as dev

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments


def devcluster(arguments: Arguments) -> int:
    """Start, stop, describe or try the cluster; `status` exits 0 when it is up and 3 when it is not."""
    (word,) = arguments.words
    if word == "check":
        dev.trial()
        return 0
    if word == "up":
        cluster = dev.up(share=[Path.cwd()])
        print(f"up: {', '.join(cluster.nodes)}; to use Slurm's own commands: export SLURM_CONF={cluster.slurm_conf}")
        print("run on it: rag-hpc run cluster=devcluster")
        return 0
    if word == "down":
        removed = dev.down()
        print("\n".join(removed) if removed else "nothing was up")
        return 0
    found = dev.status()
    print(json.dumps(found, indent=2, sort_keys=True, default=str))
    return 0 if found["up"] else 3
