"""A local run over toy stages as a process of its own, so that tests can stop and kill it.

python toyrun.py RUN_DIR '{"stages": [...], "workers": 2, ...}'   exit codes as of `rag-hpc run`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import toystages

from rag_hpc.core.plan import Plan
from rag_hpc.errors import RagHpcError
from rag_hpc.launchers import local
from rag_hpc.stages import registry


def main(run_dir: str, asked: str) -> int:
    """Run and return the exit code."""
    values: dict[str, Any] = json.loads(asked)
    registry.STAGES.update(toystages.ENTRIES)
    local.worker_commands = toystages.worker_commands
    ledger = toystages.new_ledger(Path(run_dir))
    submission = ledger.submit(toystages.toy_request(ledger.name, tuple(values.pop("stages")), **values))
    say: set[str] = set()

    def on_poll(plan: Plan) -> None:
        if plan.stage not in say:
            say.add(plan.stage)
            print(f"running {plan.stage}", flush=True)

    try:
        print(" ".join(local.run_all(submission, on_poll=on_poll)))
    except RagHpcError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
