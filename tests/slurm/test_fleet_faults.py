"""A fleet on a real Slurm: parts of it are killed under load, replicas come and go with it, and no request fails."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fleetload
import gateways
import httpx
import pytest
import redis
import servedrun
import stagerun
from chatserver import fake_vllm, model_like
from redisserver import RedisServer

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.launchers import gateway, group, resident
from rag_hpc.serve.cache.scope import SECRET
from rag_hpc.serve.gateway.places import Doors, GatewayPlace
from rag_hpc.serve.places import Place, groups_of
from rag_hpc.serve.replicas import Notice, Roll, asked, jobs_of, places_of, slot_of
from rag_hpc.slurm import devcluster as dc

SOAK = os.environ.get("RAG_HPC_SOAK", "")  # read once: no test sees RAG_HPC_* variables
pytestmark = [
    pytest.mark.timeout(590),
    pytest.mark.skipif(not SOAK, reason="a soak, for a machine that does nothing else: make test-fleet"),
]
SUPPORT = Path(__file__).parents[1] / "support"
LIMIT_S = 90.0
GIVEN_UP_S = 240.0  # Slurm gives up a node that is silent (SlurmdTimeout), and lets its jobs wait before they start
SHARDS, IDLE_S = "4/4", 25
PAGE = "import httpx, sys; t = httpx.HTTPTransport(uds=sys.argv[1]); c = httpx.Client(transport=t); "
PAGE += "print(c.get('http://localhost/').text)"
GATE = ["gateway.listen=node", "gateway.port=0", "gateway.search_ms=20000", "gateway.wait_ms=15000"]
Sh = Callable[..., str]


class Watch:
    """Waits for replicas, and keeps how long that took."""

    def __init__(self, place: Place) -> None:
        self._place, self._roll = place, Roll(place)
        self.took_s: dict[str, float] = {}

    def ready(self) -> dict[int, Notice]:
        """Return the replicas that are ready, by slot."""
        return {slot_of(one.name)[0]: one for one in self._roll.live() if one.state == "ready"}

    def until(
        self, what: str, holds: Callable[[dict[int, Notice]], bool], within_s: float = LIMIT_S
    ) -> dict[int, Notice]:
        """Return the replicas once they are as wanted."""
        begun = time.monotonic()
        while not holds(found := self.ready()):
            assert time.monotonic() - begun < within_s, f"{what}: {found}\n{fleetload.said(self._place)}"
            time.sleep(0.1)
        self.took_s[what] = round(time.monotonic() - begun, 1)
        return found


def test_no_request_fails_whatever_of_a_fleet_is_killed(
    shared_tmp: Path, faulty: dc.DevCluster, sh: Sh, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = servedrun.make_copied_run(stagerun.chain_or_skip(stagerun.searched_chain), shared_tmp)
    run = f"run={ledger.run_dir}"
    where = [run, "cluster=devcluster", f"cluster.slurm_conf={faulty.slurm_conf}", "cluster.interface=eth0"]
    where.append("cluster.cpus_per_task=1")
    store = RedisServer(shared_tmp)  # reached from all nodes: its socket is a file, and the kernel is one
    shared = ["cache.second=redis", f"cache.redis_url={store.url}"]
    store.start()
    try:
        assert main(["serve", "up", *where, "workers=2", "serve.deadline_ms=20000"]) == 0
        for name in ("1", "2"):
            assert main(["serve", "gateway", *where, f"gateway.name={name}", "gateway.fleet=1", *shared, *GATE]) == 0
        assert main(["serve", "replicas", *where, *engine(shared_tmp), "workers=1"]) == 0
        (place,) = places_of(ledger.run_dir)
        watch = Watch(place)
        watch.until("first start", lambda ready: len(ready) == 1)
        gates = [GatewayPlace(ledger.run_dir, name) for name in ("1", "2")]
        doors, _ = [doors_of(gate) for gate in gates]
        told(ledger, doors, faulty, capsys)
        token = gateways.token_of(doors, gateways.granted(ledger, "alice"))
        with fleetload.Load(gates, ledger.name, token) as load:
            assert main(["serve", "replicas", run, "workers=2"]) == 0
            ready = watch.until("one more asked for", lambda ready: len(ready) == 2)

            os.kill(ready[0].pid, signal.SIGKILL)
            ready = watch.until("replica killed", came_again(ready, 0))

            before = engines(ready[1])
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            watch.until("engine started again", lambda found: bool(engines(ready[1]) - before))
            ready = watch.until("engine ready again", lambda found: len(found) == 2)

            pid = gates[0].doors().pid
            os.kill(pid, signal.SIGKILL)
            watch.until("gateway killed", lambda found: answers(gates[0], pid))
            whole = not load.partial

            (shards,) = groups_of(ledger.run_dir)
            for number in (1, 0):
                pid = whole_group(shards)[number]
                os.kill(pid, signal.SIGKILL)
                watch.until(
                    f"rank {number} killed", lambda found, gone=(number, pid): came_back(whole_group(shards), *gone)
                )

            assert kept(store)
            store.stop()
            time.sleep(5)
            store.start()
            watch.until("Redis killed, away for 5 s", lambda found: kept(store) > 0)

            os.kill(parent(ready[0].pid), signal.SIGKILL)
            ready = watch.until("attendant killed", came_again(ready, 0))

            sh("scontrol", "update", f"NodeName={ready[1].host}", "State=DRAIN", "Reason=test")
            old = ready[1]
            os.killpg(os.getpgid(old.pid), signal.SIGKILL)  # with the job's script, so that Slurm sees it fail
            ready = watch.until("job killed whole, node drained", came_again(ready, 1))
            assert ready[1].host != old.host and ready[1].job != old.job
            sh("scontrol", "update", f"NodeName={old.host}", "State=RESUME")

            old = ready[1]
            assert old.host not in {ready[0].host, *(gate.doors().host for gate in gates)}
            faulty.kill_slurmd(old.host, steps=True)
            ready = watch.until("node of a replica killed, its slurmd too", came_again(ready, 1), GIVEN_UP_S)
            assert ready[1].host != old.host
            faulty.start_slurmd(old.host)

            assert main(["serve", "replicas", run, "workers=1"]) == 0
            watch.until("one less asked for", lambda found: set(found) == {0})
            time.sleep(1)
        watch.until("nobody asks", lambda found: not found)
        later = httpx.post(
            f"{gateways.url(gates[0].doors())}/v1/chat/completions",
            json={"model": ledger.name, **fleetload.ASKED},
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        rests = asked(place).resting
        logs = f"{rests}\n{later.text}\n{fleetload.said(place)}\n{resident.said(gates[0], 40)}"
        watch.until("asked while all had gone", lambda found: set(found) == {0})
        with capsys.disabled():
            why = {"why": sorted({*load.failed, *load.cut, *load.partial})}
            told_later = {"asked_of_none": later.status_code, "retry_after_s": later.headers.get("Retry-After")}
            fleetload.keep(SOAK, "faults", {**load.told, "seconds": watch.took_s, **told_later, **why})
        assert not load.failed and load.whole > 50 < load.streamed and load.cached
        assert whole and {*load.partial} <= {"2/4"}
        assert later.status_code == 503 and later.json()["error"]["code"] == "no_replica", logs
        assert 1 <= int(later.headers["Retry-After"]) < LIMIT_S
    finally:
        store.stop()
        assert main(["serve", "down", run]) == 0
    assert not [name for name in (".replicas", ".gateways") if (ledger.run_dir / name).exists()]
    assert [path.name for path in (ledger.run_dir / ".serve").iterdir()] == [SECRET]  # Redis has entries under it yet
    assert not sh("squeue", "-h").strip()


def test_replicas_on_slurm_come_and_go_with_the_load_and_no_request_fails(
    shared_tmp: Path, slurm_env: dc.DevCluster, sh: Sh, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = servedrun.make_copied_run(stagerun.chain_or_skip(stagerun.searched_chain), shared_tmp)
    run, gate = f"run={ledger.run_dir}", GatewayPlace(ledger.run_dir, "1")
    site = [run, "cluster=devcluster", f"cluster.slurm_conf={slurm_env.slurm_conf}", "cluster.interface=eth0"]
    scaled = {"max_replicas": 3, "target_ongoing_requests": 1, "upscale_delay_s": 5, "downscale_delay_s": 10}
    given = [f"serve.replica.{key}={value}" for key, value in scaled.items()]
    try:
        assert main(["serve", "up", run, "workers=1", "serve.deadline_ms=20000"]) == 0
        assert main(["serve", "replicas", *site, *engine(shared_tmp, 0.3), *given, "workers=1"]) == 0
        (place,) = places_of(ledger.run_dir)
        watch, loads = Watch(place), list[fleetload.Load]()
        assert main(["serve", "gateway", run, *GATE[1:], "gateway.cache=false"]) == 0
        watch.until("first start", lambda ready: len(ready) == 1)
        token = gateways.token_of(gate.doors(), gateways.granted(ledger, "alice"))
        for num_guests, num in ((12, 3), (1, 1)):
            with fleetload.Load([gate], ledger.name, token, num_guests) as load:
                watch.until(f"{num_guests} guests", lambda ready, num=num: set(ready) == {*range(num)})
                time.sleep(1)
            loads.append(load)
        with capsys.disabled():
            fleetload.keep(SOAK, "scale", {"seconds": watch.took_s, "loads": [load.told for load in loads]})
        assert not any(load.failed or load.cut for load in loads)
        jobs = [(job.slot, job.generation) for job in jobs_of(place)]
        assert jobs == [(0, 0), (1, 0), (2, 0)], fleetload.said(place)
    finally:
        assert main(["serve", "down", run]) == 0
    assert not sh("squeue", "-h").strip()


def engine(folder: Path, pause_s: float = 0.0) -> list[str]:
    """Return what asks for replicas with the fake engine. pause_s: after each word of an answer."""
    program = shutil.copy(SUPPORT / "chatserver.py", folder)
    python = fake_vllm(folder, program=Path(program), delay_s=0.2, pause_s=pause_s, start_s=1)
    model = model_like(folder / "model")
    watch = ["serve.replica.canary_s=1", "serve.replica.drain_s=5", f"serve.replica.idle_s={IDLE_S}"]
    return ["generator=vllm", f"generator.model={model}", f"generator.vllm.python={python}", *watch]


def doors_of(place: GatewayPlace) -> Doors:
    """Return the doors of a gateway, once it and the group are up."""
    end = time.monotonic() + LIMIT_S
    while (found := gateway.state_of(place)).get("groups") != SHARDS:
        assert time.monotonic() < end, f"{found}\n{resident.said(place)}"
        time.sleep(0.2)
    doors: Doors = found["doors"]
    return doors


def told(ledger: Ledger, doors: Doors, cluster: dc.DevCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Check who reaches the gateway from where."""
    assert doors.host in cluster.nodes and re.fullmatch(r"10\.77\.0\.\d", doors.address)
    assert httpx.post(f"{gateways.url(doors)}/v1/query", json={"question": "deque"}).status_code == 401
    assert not Path(doors.owner).exists()  # it is of the node
    capsys.readouterr()
    assert main(["serve", "tunnel", f"run={ledger.run_dir}"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    matched = re.match(rf"ssh -N -L 8080:(\S+) -J {os.uname().nodename} (\S+) ", line)
    assert matched is not None
    page = cluster.run_on(matched[2], [sys.executable, "-c", PAGE, matched[1]])
    assert "<html" in page.stdout, page.stderr


def came_again(before: dict[int, Notice], slot: int) -> Callable[[dict[int, Notice]], bool]:
    """Return what tells whether all are ready, and that slot's replica is another process."""
    return lambda ready: len(ready) == len(before) and ready[slot].pid != before[slot].pid


def came_back(pids: dict[int, int], rank: int, before: int) -> bool:
    """Return whether all ranks are there, that one as another process."""
    return bool(pids) and pids[rank] != before


def answers(place: GatewayPlace, before: int) -> bool:
    """Return whether a gateway answers, and is another process than before."""
    found = gateway.state_of(place)
    return "doors" in found and found["doors"].pid != before and covers(place)


def kept(store: RedisServer) -> int:
    """Return how much the gateways keep in the store."""
    with redis.Redis.from_url(store.url) as client:
        return len(client.keys())


def covers(place: GatewayPlace) -> bool:
    """Return whether a gateway says that all shards are there."""
    return bool(gateway.state_of(place).get("groups") == SHARDS)


def whole_group(place: Place) -> dict[int, int]:
    """Return the processes of a group by rank, as rank 0 tells; none until all shards are there."""
    found = group.state_of(place)
    return {row["rank"]: row["pid"] for row in found["ranks"]} if found["state"] == "up" else {}


def engines(replica: Notice) -> set[int]:
    """Return the engine's processes, which a guard of the replica started."""
    found = set[int]().union(*(children(guard) for guard in children(replica.pid)))
    return {pid for pid in found if b"chatserver" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def children(pid: int) -> set[int]:
    """Return the processes that a process started and that live."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if f"PPid:\t{pid}\n" in text and "State:\tZ" not in text:
            found.add(int(status.parent.name))
    return found


def parent(pid: int) -> int:
    """Return the process that started one."""
    matched = re.search(r"PPid:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert matched is not None
    return int(matched[1])
