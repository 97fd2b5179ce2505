"""Where the real corpora lie that some tests use: RAG_HPC_DATA, else shared/data beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("RAG_HPC_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
