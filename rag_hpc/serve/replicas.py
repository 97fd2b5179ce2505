"""What a fleet's replicas are asked to be, and where each is found: owner-only files in a folder of the run.

RUN/.replicas/NAME/key              32 random bytes in hex: whoever can read it may ask
RUN/.replicas/NAME/replicas.json    what was asked for (Replicas)
RUN/.replicas/NAME/replica-ID.json  how one is (Notice): anew at each change, and every few seconds while it lives
RUN/.replicas/NAME/jobs.jsonl       the jobs of Slurm that were submitted for it (Job), successors too
RUN/.replicas/NAME/claim-ID         somebody submits, or submitted, the job of that replica
RUN/.replicas/NAME/starts.jsonl     how long each waited in the queue and took to its first token
RUN/.replicas/NAME/wish             a request found no replica: whoever may submit jobs starts them again
RUN/.replicas/NAME/load-ID.json     how many requests a gateway has open (Load), where their number decides on replicas
RUN/.replicas/NAME/scaled.json      how many replicas that load needs (Scaled): written by one attendant alone
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hmac
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rag_hpc.core.settings import DAY_S, bounded, check_bounds
from rag_hpc.core.stored import sealed_json, typed
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, CorruptOutput, InputError
from rag_hpc.serve.places import Place, check_own

FOLDER, REPLICAS, JOBS, STARTS = ".replicas", "replicas.json", "jobs.jsonl", "starts.jsonl"
WISH, SCALED = "wish", "scaled.json"
BEAT_S = 2.0  # between two notices of one that lives
STALE_S = 5 * BEAT_S  # without a new notice, the process or its node is gone
GUESSED_S = 120.0  # from submission to the first token, before any was measured
KEPT = 50  # measured starts that a forecast is made from


class State(enum.Enum):
    """How a replica is."""

    starting = "starting"  # its model loads, or it is started again
    ready = "ready"
    draining = "draining"  # what it was asked is answered, and nothing new is taken


@dataclass(kw_only=True)
class ReplicaConfig:
    """Settings of each replica, `serve.replica.KEY=VALUE`."""

    canary_s: float = bounded(5.0, 0.05, 600.0)  # between two requests for one token
    canary_timeout_s: float = bounded(15.0, 0.05, 600.0)  # without that token it counts as hung
    canary_tries: int = bounded(2, 1, 100)  # that fail in a row, before the engine is started again
    max_inflight: int = bounded(64, 1, 4096)  # requests at a time; one more is told to come again
    max_body_kib: int = bounded(2048, 1, 65_536)  # of a request
    drain_s: float = bounded(30.0, 0.0, DAY_S)  # for what is in flight once it is to end
    idle_s: float = bounded(0.0, 0.0, 30 * DAY_S)  # without a request all are let go until one comes; 0 = never
    max_replicas: int = bounded(0, 0, 4096)  # so many at the most by load, workers=N at the least; 0 = always N
    target_ongoing_requests: float = bounded(16.0, 0.01, 4096.0)  # open for each replica, those that wait too
    upscale_delay_s: float = bounded(30.0, 0.0, 3600.0)  # more come by the mean load over it
    downscale_delay_s: float = bounded(600.0, 0.0, DAY_S)  # some go when fewer would have done for so long

    def __post_init__(self) -> None:
        check_bounds(self, "serve.replica")


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """What all replicas of a fleet are asked to be."""

    num: int
    generator: dict[str, Any]  # settings of GeneratorConfig
    settings: dict[str, Any] = field(default_factory=dict)  # of ReplicaConfig
    interface: str | None = None  # of the network that other nodes reach them by
    listens: str = "unix"  # or tcp, where they are on several nodes
    site: dict[str, Any] = field(default_factory=dict)  # settings of ClusterConfig, where they are jobs
    resting: str = ""  # why none is kept up for now


@dataclass(frozen=True, kw_only=True)
class Notice:
    """How one replica is, as it says itself."""

    name: str  # SLOT, or SLOT-GENERATION of those that came after the first
    state: str  # of State
    address: str  # of its relay: the path of a Unix socket on `host`, or HOST:PORT; "" while there is none
    host: str
    pid: int
    job: str = ""  # of Slurm
    model: str = ""  # its name at the endpoint
    begun_unix: float = 0.0
    ends_unix: float = 0.0  # when its walltime is over; 0 = never
    idle_s: float = 0.0  # since its last request
    beat: int = 0  # goes up with each notice


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a gateway asks of the fleet just now."""

    name: str  # the gateway's
    ongoing: int  # requests that replicas have, or that wait for one
    beat: int = 0  # goes up with each


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """How many replicas the load needs."""

    num: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job of Slurm that holds, held or will hold one replica."""

    id: str
    slot: int
    generation: int  # 0 at first; that of a successor is one more


_PREFIXES: dict[type, str] = {Notice: "replica", Load: "load"}
N = TypeVar("N", Notice, Load)


def replicas_place(run_dir: Path, name: str) -> Place:
    """Return the folder of a fleet's replicas."""
    return Place(run_dir, name, FOLDER)


def places_of(run_dir: Path) -> list[Place]:
    """Return the folders of the replicas of the run's fleets, by name. Raises ConfigError for those open to others."""
    root = run_dir / FOLDER
    if not root.is_dir():
        return []
    check_own(root)
    return [replicas_place(run_dir, path.name) for path in sorted(root.iterdir())]


def name_of(slot: int, generation: int) -> str:
    """Return the name of a replica."""
    return f"{slot}-{generation}" if generation else f"{slot}"


def slot_of(name: str) -> tuple[int, int]:
    """Return the slot and the generation that a name tells."""
    slot, _, generation = name.partition("-")
    return int(slot), int(generation or 0)


def write_notice(place: Place, notice: Notice | Load) -> None:
    """Publish how one is. It is not flushed to the disk: a crash may lose it, and the next comes in a moment."""
    path = place.folder / notice_name(notice.name, type(notice))
    draft = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    with private_files():
        draft.write_bytes(sealed_json(dataclasses.asdict(notice)))
        draft.replace(path)


def notice_name(name: str, kind: type[Notice] | type[Load] = Notice) -> str:
    """Return the file of a replica's notice, or of a gateway's load."""
    return f"{_PREFIXES[kind]}-{name}.json"


def withdraw(place: Place, name: str, kind: type[Notice] | type[Load] = Notice) -> None:
    """Remove the notice of one that ends."""
    with contextlib.suppress(FileNotFoundError):
        (place.folder / notice_name(name, kind)).unlink()


def token_of(place: Place) -> str:
    """Return the word that a relay wants to hear: made of the group's key, which is not itself sent."""
    return hmac.digest(place.key(), b"replica", "sha256").hex()


class Living(Generic[N]):
    """Who of a kind lives, by their notices. Clocks of different nodes are never compared."""

    def __init__(self, place: Place, kind: type[N], clock: Callable[[], float] = time.monotonic) -> None:
        self._place, self._clock = place, clock
        self._kind: type[N] = kind
        self._seen: dict[str, tuple[int, float]] = {}  # name -> its last beat, and when we saw that first

    def live(self) -> list[N]:
        """Return the notices of all that live, by name; one that cannot be read counts as gone."""
        found, now = [], self._clock()
        for path in sorted(self._place.folder.glob(notice_name("*", self._kind))):
            try:
                notice = self._place.read(path.name, self._kind)
            except (FileNotFoundError, CorruptOutput, InputError, ConfigError):
                continue
            beat, since = self._seen.get(notice.name, (-1, now))
            if beat != notice.beat:
                self._seen[notice.name] = (notice.beat, now)
            elif now - since > STALE_S:
                continue
            found.append(notice)
        return found


class Roll(Living[Notice]):
    """The replicas that live."""

    def __init__(self, place: Place, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(place, Notice, clock)


def rest(place: Place, why: str) -> None:
    """Let all replicas end until they are asked for again; what is asked for stays."""
    place.write(REPLICAS, dataclasses.replace(asked(place), resting=why))
    (place.folder / SCALED).unlink(missing_ok=True)


def wish(place: Place) -> None:
    """Say that a request found no replica."""
    os.close(os.open(place.folder / WISH, os.O_CREAT | os.O_WRONLY, 0o600))


def wished(place: Place) -> bool:
    """Return whether a request found no replica, and nobody did anything about it."""
    return (place.folder / WISH).exists()


def fulfilled(place: Place) -> None:
    """Take a wish back."""
    (place.folder / WISH).unlink(missing_ok=True)


def note_start(place: Place, queue_s: float | None, start_s: float) -> None:
    """Add one measured start. queue_s: None for one that no submission led to, in a job that ran before."""
    waited = None if queue_s is None else round(queue_s, 1)
    _append(place, STARTS, {"queue_s": waited, "start_s": round(start_s, 1)})


def note_job(place: Place, job: Job) -> None:
    """Write down a job before it may start, so that `down` finds it."""
    _append(place, JOBS, dataclasses.asdict(job))


def claim(place: Place, name: str) -> bool:
    """Return whether we are the first to want a job of this name submitted."""
    try:
        os.close(os.open(place.folder / f"claim-{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def unclaim(place: Place, name: str) -> None:
    """Let others submit that job."""
    (place.folder / f"claim-{name}").unlink(missing_ok=True)


def jobs_of(place: Place) -> list[Job]:
    """Return the jobs that were submitted, in their order."""
    with contextlib.suppress(FileNotFoundError):
        check_own(place.folder / JOBS)
    return [typed(Job, row) for row in _rows(place, JOBS)]


def _append(place: Place, name: str, row: dict[str, Any]) -> None:
    """Add a line. One short write, so that those of several nodes do not mix."""
    file = os.open(place.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, (json.dumps(row) + "\n").encode())
    finally:
        os.close(file)


def _rows(place: Place, name: str) -> list[dict[str, Any]]:
    """Return the lines of a file; one that a crash cut short is left out."""
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for line in (place.folder / name).read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def lead_s(place: Place) -> tuple[float, float]:
    """Return p95 of the time in the queue, and of that to the first token, over the last starts; guessed without any.

    A successor has to be submitted so long before it is needed.
    """
    rows = [(row["queue_s"], float(row["start_s"])) for row in _rows(place, STARTS)[-KEPT:]]
    if not rows:
        return 0.0, GUESSED_S
    return _p95([queue for queue, _ in rows if queue is not None]), _p95([start for _, start in rows])


def _p95(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1] if values else 0.0


def asked(place: Place) -> Replicas:
    """Return what the fleet's replicas are asked to be. Raises FileNotFoundError, ConfigError and CorruptOutput."""
    found = place.read(REPLICAS, Replicas)
    ReplicaConfig(**found.settings)
    return found


def upheld(place: Place, asked: Replicas) -> int:
    """Return how many are kept up while the fleet does not rest: as many as are asked for, or as the load needs."""
    if not asked.settings.get("max_replicas"):
        return asked.num
    try:
        return max(asked.num, place.read(SCALED, Scaled).num)
    except FileNotFoundError:
        return asked.num


def wanted(place: Place) -> int:
    """Return how many are to be up now. Raises as `asked` does."""
    found = asked(place)
    return 0 if found.resting else upheld(place, found)
