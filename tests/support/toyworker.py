"""The entry of worker processes in tests: the real worker, after the toy stages were added to the registry."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import toystages

from rag_hpc import worker
from rag_hpc.stages import registry

registry.STAGES.update(toystages.ENTRIES)

if __name__ == "__main__":
    sys.exit(worker.main())
