"""`python -m rag_hpc.serve.replica RUN_DIR FLEET NAME`: one replica: an engine, the relay to it, and its notice.

It is ready once its engine gave one token, and asks for one again every few seconds: an engine that hangs, or whose
tensor-parallel worker died while its process lives on, is ended and started again. SIGTERM drains it. Exit codes: 0
told to stop and drained, 1 the engine does not start, 2 it cannot run as configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rag_hpc.core.job import JobEnv
from rag_hpc.core.log import configure
from rag_hpc.core.trust import check_run
from rag_hpc.errors import Interrupted, MissingDependency, RagHpcError
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.generators.vllm import NAME, VllmGenerator
from rag_hpc.schema import from_plain
from rag_hpc.serve import replicas
from rag_hpc.serve.places import Place, listener
from rag_hpc.serve.replicas import BEAT_S, Notice, ReplicaConfig, State

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
POLL_S = 0.05


class Replica:
    """One replica's life: start, watch, drain."""

    def __init__(self, place: Place, name: str, begun: float) -> None:
        """begun: of the process, on time.monotonic(). Raises MissingDependency without the extra `gateway`."""
        try:
            import uvicorn

            from rag_hpc.serve.relay import Relay
        except ImportError as error:
            raise MissingDependency(f"a replica needs {error.name}: pip install 'rag-hpc[gateway]'") from error

        class Server(uvicorn.Server):
            """Ends by `should_exit` alone: signals are the replica's."""

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        self.place, self._begun, self._parent = place, begun, os.getppid()
        asked = replicas.asked(place)
        self._config = ReplicaConfig(**asked.settings)
        self._generator = from_plain(GeneratorConfig, asked.generator)
        self._scratch = Path(tempfile.mkdtemp(prefix="rh-replica-", dir=JobEnv.from_env().scratch))
        self._suspect, self._stopped = asyncio.Event(), asyncio.Event()
        self.relay = Relay(replicas.token_of(place), self._config, gone=self._suspect.set)
        self._socket, address = listener(asked.listens, self._scratch, asked.interface)
        options = uvicorn.Config(self.relay.app, log_config=None, lifespan="off", timeout_graceful_shutdown=5)
        self._server = Server(options)
        deadline = JobEnv.from_env().deadline(begun)
        now = time.time()
        self._notice = Notice(
            name=name,
            state=State.starting.value,
            address=address,
            host=os.uname().nodename,
            pid=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID", ""),
            model=NAME,
            begun_unix=now,
            ends_unix=0.0 if deadline is None else now + deadline - time.monotonic(),
        )
        self._engine: VllmGenerator | None = None
        # a disk of many nodes takes its time, and answers do not wait for it; one thread, so that the last word stays
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="notice")

    async def live(self) -> None:
        """Serve until a signal. Raises ClusterError when the engine does not start."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._stopped.set)
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        beating = asyncio.create_task(self._beat())
        try:
            await self._start()
            while not self._stopped.is_set():
                await self._watch()
            await self._drain()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await asyncio.to_thread(self._writer.shutdown)
            replicas.withdraw(self.place, self._notice.name)
            self._server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            await self.relay.close()
            if self._engine is not None:
                await asyncio.to_thread(self._engine.close)
            shutil.rmtree(self._scratch, ignore_errors=True)

    # ---- the engine

    async def _start(self) -> None:
        begun = time.monotonic()
        engine = await asyncio.to_thread(VllmGenerator, self._generator, self._check_stop, None, self._scratch)
        self._engine = engine
        await self._ready(engine)
        told = JobEnv.from_env().submitted_unix
        queue_s = max(0.0, self._notice.begun_unix - told) if told else None
        replicas.note_start(self.place, queue_s, time.monotonic() - self._begun)
        log.info("ready after %.1f s", time.monotonic() - begun)

    async def _ready(self, engine: VllmGenerator) -> None:
        await self.relay.point_at(engine.endpoint())
        self._suspect.clear()
        self._say(State.ready)

    async def _watch(self) -> None:
        """Ask for one token after a while, or at once when the engine broke off; start it again when it gives none."""
        engine = self._engine
        assert engine is not None
        waits = [asyncio.create_task(event.wait()) for event in (self._stopped, self._suspect)]
        await asyncio.wait(waits, timeout=self._config.canary_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for _ in range(self._config.canary_tries):
            if self._stopped.is_set():
                return
            self._suspect.clear()
            if engine.is_alive() and await self._token():
                return
            if not engine.is_alive():
                break
        log.warning("the engine gives no token, and is started again")
        self._say(State.starting)
        await self.relay.close()
        await asyncio.to_thread(engine.restart)
        await self._ready(engine)

    async def _token(self) -> bool:
        try:
            return await asyncio.wait_for(self.relay.one_token(NAME), self._config.canary_timeout_s)
        except TimeoutError:
            return False

    async def _drain(self) -> None:
        told = asyncio.wrap_future(self._tell(State.draining))
        await asyncio.wait({told}, timeout=BEAT_S)  # gateways can know before it refuses
        self._say(State.draining)
        end = time.monotonic() + self._config.drain_s
        while self.relay.inflight and time.monotonic() < end:
            await asyncio.sleep(POLL_S)
        log.info("drained, %d requests broken off", self.relay.inflight)

    def _check_stop(self) -> None:
        if self._stopped.is_set():
            raise Interrupted("told to stop")

    # ---- the notice

    def _say(self, state: State) -> Future[None]:
        """Be in that state, and let the notice be written."""
        self.relay.state = state
        self.relay.retry_after_s = sum(replicas.lead_s(self.place)) if state is State.draining else 5.0
        return self._tell(state)

    def _tell(self, state: State) -> Future[None]:
        idle_s = round(self.relay.idle_s, 1)
        self._notice = replace(self._notice, state=state.value, idle_s=idle_s, beat=self._notice.beat + 1)
        return self._writer.submit(self._write, self._notice, asyncio.get_running_loop())

    def _write(self, notice: Notice, loop: asyncio.AbstractEventLoop) -> None:
        """Write the notice. The group's folder goes with `serve down`, and this process with it."""
        try:
            replicas.write_notice(self.place, notice)
        except OSError as error:
            log.warning("the notice cannot be written: %s", error)
            if not self.place.folder.exists():
                loop.call_soon_threadsafe(self._stopped.set)

    async def _beat(self) -> None:
        while True:
            if os.getppid() != self._parent:
                self._stopped.set()  # its attendant was killed, and another may keep up one of its name
            await asyncio.wrap_future(self._say(self.relay.state))
            await asyncio.sleep(BEAT_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Be a replica; return the process's exit code."""
    begun = time.monotonic()
    run_dir, fleet, name = sys.argv[1:] if argv is None else argv
    configure(prefix=f"replica-{name}@{os.uname().nodename}")
    try:
        check_run(Path(run_dir))
        os.umask(0o077)
        asyncio.run(Replica(replicas.replicas_place(Path(run_dir), fleet), name, begun).live())
    except Interrupted:
        return 0
    except RagHpcError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
