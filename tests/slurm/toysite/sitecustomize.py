"""Makes the toy stages known in every Python that a test's job starts with this folder on PYTHONPATH."""

import toystages

from rag_hpc.stages import registry

registry.STAGES.update(toystages.ENTRIES)
