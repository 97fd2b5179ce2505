"""The stage contract: what every stage offers, and what it may know while it runs."""

from __future__ import annotations

import dataclasses
import enum
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import Interrupted

Inputs = Mapping[str, Manifest]  # by stage name


class Launch(enum.Enum):
    """How the workers of a stage are started."""

    array = "array"
    torchrun = "torchrun"
    mpi = "mpi"


@dataclass(kw_only=True)
class Context:
    """What a stage may know of where it runs, and nothing else."""

    inputs: Inputs = field(default_factory=dict)  # manifests of the stages it needs
    rank: int = 0
    world_size: int = 1
    comm: Comm = field(default_factory=SerialComm)
    shared: Path = Path(".")  # folder of the run that every worker sees
    scratch: Path = Path(".")  # node-local, removed when the worker ends
    carry: Path | None = None  # of the unit: what one attempt leaves here the next one finds; made by who needs it
    seed: int = 0  # derived from the unit's name
    stop_requested: Callable[[], bool] = lambda: False  # signal came, or walltime minus margin has passed
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("rag_hpc"))

    def check_stop(self) -> None:
        """Raise Interrupted when the worker has to stop; long loops call this between items."""
        if self.stop_requested():
            raise Interrupted("stopped by a signal or the walltime; the open unit is dropped and will be redone")


class Stage(ABC):
    """One step of the pipeline: a config, a plan, and how to run one unit. All else is done for it.

    An instance lives as long as its worker, so a model loaded in `setup` serves all the worker's units.
    """

    Config: ClassVar[type]  # the stage's config dataclass
    name: str
    version: ClassVar[int]  # goes up whenever the bytes of an output change
    launch: ClassVar[Launch] = Launch.array
    needs: tuple[str, ...] = ()  # stages whose manifests are its inputs
    wants: ClassVar[tuple[str, ...]] = ()  # further inputs, taken when the pipeline has them
    counts_from: ClassVar[str | None] = None  # the input whose items_out its items_in must equal; or INPUT:FIGURE
    collective: ClassVar[bool] = False  # all ranks run each unit together; rank 0 commits it
    may_be_empty: ClassVar[bool] = False  # a plan without units is no error
    exclusive: bool = False  # no second worker may begin a unit while the first may still be at it
    identity: ClassVar[tuple[str, ...] | None] = None  # files that any layout must reproduce; None = every file

    def __init__(self, config: Any) -> None:
        self.config = config
        self.notes: dict[str, Any] = {}  # what `plan` saw and no unit does: for people, not in the fingerprint

    def setup(self, ctx: Context) -> None:  # noqa: B027  (an optional step, not an abstract one)
        """Load what all units need; every rank calls this once, so collectives are allowed here."""

    def close(self) -> None:  # noqa: B027  (an optional step, too)
        """Free what `setup` took, processes above all; called once when the worker ends, however it ends."""

    @abstractmethod
    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the units: deterministic, and the same for every number of workers."""

    @abstractmethod
    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write the unit's files into the folder `out`, nowhere else, and return its counts."""


def output_config(config: Any) -> dict[str, Any]:
    """Return the settings that affect output: a config's fields without those marked `metadata={'output': False}`."""
    kept = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata.get("output", True)}
    return {name: plain(value) for name, value in kept.items()}


def plain(value: Any) -> Any:
    """Return `value` in JSON-able terms: enums by value, dataclasses by their output settings."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return output_config(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
