"""A real Slurm with four nodes on one machine, for tests and demonstrations."""

from __future__ import annotations

from .cluster import DevCluster
from .config import default_state_dir
from .control import down, status, up
from .prerequisites import APT_LINE, requirements
from .trial import snapshot, trial

__all__ = ["APT_LINE", "DevCluster", "default_state_dir", "down", "requirements", "snapshot", "status", "trial", "up"]
