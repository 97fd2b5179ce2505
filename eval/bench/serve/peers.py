"""Proxies that pass a chat on to an engine, in environments of their own, as their documentation says to run them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rag_hpc.eval.bench.serve.engine import MODEL
from rag_hpc.eval.bench.serve.process import free_port, started

UP_S = 180.0
LITELLM = """model_list:
- model_name: {model}
  litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
litellm_settings: {{set_verbose: false, num_retries: 0, request_timeout: 60, callbacks: []}}
"""


@contextlib.contextmanager
def litellm(program: str, engine: int, key: str) -> Iterator[tuple[int, int]]:
    """Yield the port and the process of litellm's proxy, of one worker, before the engine at this port.

    key: that it asks for, without which it does not start.
    """
    own = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_MASTER_KEY": key}
    port, quiet = free_port(), os.environ | own
    with tempfile.TemporaryDirectory(prefix="rag-hpc-") as folder:
        config = Path(folder, "config.yaml")
        config.write_text(LITELLM.format(model=MODEL, port=engine))
        command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        with started(command, port, UP_S, env=quiet, cwd=folder) as pid:
            yield port, pid


@contextlib.contextmanager
def vllm_router(program: str, engines: Sequence[int], policy: str = "cache_aware") -> Iterator[tuple[int, int]]:
    """Yield the port and the process of vllm-router before the engines at these ports."""
    port = free_port()
    urls = [f"http://127.0.0.1:{engine}" for engine in engines]
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--policy", policy, "--log-level", "error"]
    command += ["--prometheus-port", str(free_port()), "--worker-urls", *urls]
    with started(command, port, UP_S) as pid:
        yield port, pid
