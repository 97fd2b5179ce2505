"""One rank of trainings: python trainranks.py OUT TASKS. Writes the steps of each task to OUT/NAME.RANK.json.

TASKS: a JSON file, {name: settings}; the pairs come from the settings' own `data`. All are of encoders. `carry` is the
folder of checkpoints, `stop` after how many steps to stop. They share a process group, since torch.distributed.nn keeps
the first one of a process for good; a job has no second one.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

from rag_hpc.core.comm import make_comm
from rag_hpc.core.stage import Context
from rag_hpc.errors import Interrupted
from rag_hpc.inline import make_stage
from rag_hpc.stores.trained import Step
from rag_hpc.train import loop


def steps_of(settings: dict[str, Any], ctx: Context) -> list[Step]:
    """Return the steps of a training, none of one that was stopped."""
    settings = dict(settings)
    carry, stop, calls = settings.pop("carry", None), settings.pop("stop", None), count()
    ctx = dataclasses.replace(ctx, carry=Path(carry) if carry else None)
    ctx.stop_requested = lambda: stop is not None and next(calls) >= stop - 1
    pairs, _, _ = make_stage("train.pairs", settings)._made()  # type: ignore[attr-defined]
    training = loop.Training("encoder", make_stage("train.encoder", settings).config, ctx)
    try:
        steps = training.run(pairs, ctx).steps
    except Interrupted:
        return []
    if carry:
        training.save(Path(carry) / "model")
    return steps


def main(out: Path, tasks: Path) -> None:
    """Run the tasks one after another."""
    comm = make_comm("torchrun", together=True)
    ctx = Context(rank=comm.rank, world_size=comm.world_size, comm=comm)
    group = loop.Group(ctx, "cpu", 60.0)
    loop.Group = lambda *given: group  # type: ignore[assignment, misc]
    for name, settings in json.loads(tasks.read_text()).items():
        (out / f"{name}.{comm.rank}.json").write_text(json.dumps(steps_of(settings, ctx)))
    group.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
