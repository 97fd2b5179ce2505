"""`rag-hpc train encoder|reranker`: a run of the stages of training, and the folder of the model at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.core import manifest
from rag_hpc.core.fs import publish_dir
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.manifest import MANIFEST
from rag_hpc.core.plan import read_plan
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError
from rag_hpc.launchers import run as runs
from rag_hpc.launchers.request import sweep_points, sweep_requests
from rag_hpc.stores.trained import unpack_model
from rag_hpc.train.config import check_batch

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

SETTING = {"encoder": "stage.encode.model", "reranker": "stage.rerank.model"}


def train(arguments: Arguments) -> int:
    """Train, or go on training; where it is finished, write the model's folder, and say how to use it."""
    from rag_hpc.config import compose

    kind = arguments.words[0]
    if any(override.split("=")[0] == "pipeline" for override in arguments.overrides):
        raise ConfigError(f"pipeline=: rag-hpc train {kind} has one of its own; for another: rag-hpc run")
    arguments.overrides.insert(0, f"pipeline=train-{kind}")
    if "--cfg" in arguments.values:
        return runs.run(arguments)
    configs = [compose(overrides, arguments.config_dir) for overrides in sweep_points(arguments.overrides)]
    for config in configs:
        check_batch(config.train, config.num_workers)
    code = runs.run(arguments)
    if code or runs.is_dry(configs[0], arguments):
        return code
    for config, request in zip(configs, sweep_requests(configs), strict=True):
        folder = write_model(runs.ledger_of(config, request), f"train.{kind}")
        if folder:
            print(f"the model: {SETTING[kind]}={folder}")
        else:
            print("the same command again, when it has ended, writes the model's folder and names it")
    return code


def write_model(ledger: Ledger, stage: str) -> Path | None:
    """Return the folder of a run's trained model, unpacked where it is not there yet; None when it is not trained."""
    submission = ledger.submission()
    plan_file = submission.plan_path(stage)
    stage_dir = ledger.run_dir / read_plan(plan_file).folder if plan_file.exists() else None
    if stage_dir is None or not (stage_dir / MANIFEST).exists():
        return None
    trained = manifest.load(stage_dir)
    folder = ledger.run_dir / "models" / stage_dir.name
    if not folder.exists():
        with private_files(ledger.run_dir):
            folder.parent.mkdir(exist_ok=True)
            draft = folder.with_name(f".draft-{folder.name}")
            unpack_model(trained, draft)
            publish_dir(draft, folder)
    return folder
