"""`rag-hpc devcluster up|down|status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.errors import ConfigError
from rag_hpc.slurm import devcluster as dev

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments


def devcluster(arguments: Arguments) -> int:
    """Start, stop or describe the cluster; `status` exits 0 when it is up and 3 when it is not."""
    word = arguments.words[0] if len(arguments.words) == 1 else ""
    if word == "up":
        cluster = dev.up(share=[Path.cwd()])
        print(f"up: {', '.join(cluster.nodes)}; to use Slurm's own commands: export SLURM_CONF={cluster.slurm_conf}")
        print("run on it: rag-hpc run cluster=devcluster")
        return 0
    if word == "down":
        removed = dev.down()
        print("\n".join(removed) if removed else "nothing was up")
        return 0
    if word == "status":
        found = dev.status()
        print(json.dumps(found, indent=2, sort_keys=True, default=str))
        return 0 if found["up"] else 3
    raise ConfigError("devcluster: say up, down or status")
