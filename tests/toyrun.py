"""A local run over toy stages as a process of its own, so that tests can stop and kill it.

python toyrun.py RUN_DIR '{"stages": [...], "workers": 2, ...}'   exit codes as of `rag-hpc run`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import toystages
import toyworker

from rag_hpc.core.plan import Plan
from rag_hpc.core.stage import Launch
from rag_hpc.errors import RagHpcError
from rag_hpc.launchers import local

_real_commands = local.worker_commands


def toy_commands(launch: Launch, path: Path, workers: int) -> list[list[str]]:
    """Return the launcher's commands with the tests' entry in place of the worker module."""
    entry = str(Path(toyworker.__file__).resolve())
    return [" ".join(command).replace("-m rag_hpc.worker", entry).split(" ")
            for command in _real_commands(launch, path, workers)]


def main(run_dir: str, asked: str) -> int:
    """Run and return the exit code."""
    values: dict[str, Any] = json.loads(asked)
    local.worker_commands = toy_commands
    ledger = toystages.new_ledger(Path(run_dir))
    request = ledger.submit(toystages.toy_request(ledger.name, tuple(values.pop("stages")), **values))
    say: set[str] = set()

    def on_poll(plan: Plan) -> None:
        if plan.stage not in say:
            say.add(plan.stage)
            print(f"running {plan.stage}", flush=True)

    try:
        print(" ".join(local.run_all(ledger, request, on_poll=on_poll)))
    except RagHpcError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
