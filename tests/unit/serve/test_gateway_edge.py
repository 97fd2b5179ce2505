"""A proxy in front of gateways: a real nginx with the configuration that is written, and what both kinds hold."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import certificate
import fixedcorpus
import gateways
import httpx
import pytest
from chatserver import ChatServer
from omegaconf import OmegaConf

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import ConfigError
from rag_hpc.serve.gateway.edge import EdgeConfig, nginx, traefik
from rag_hpc.serve.gateway.places import Doors

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
ASKED = fixedcorpus.ASKED["caching"]
DOORS = [Doors(host="h", pid=n, owner=f"/s/{n}/owner", edge=f"/s/{n}/edge", port=9000 + n) for n in (1, 2)]


def test_configurations_name_all_gateways_and_what_guards_them() -> None:
    config = EdgeConfig(host="rag.example.org", cert="/c/cert.pem", key="/c/key.pem", per_second=7, burst=9)
    text = nginx(config, DOORS)
    for wanted in ("server unix:/s/1/edge", "server unix:/s/2/edge", "rate=7r/s", "burst=9", "listen 8443 ssl"):
        assert wanted in text
    assert "owner" not in text.replace("owner, whose", "")  # that door asks for no token
    static, dynamic = (OmegaConf.create(part) for part in traefik(config, DOORS).split("---\n"))
    services = dynamic.http.services.gateways.loadBalancer
    assert [one.url for one in services.servers] == ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    assert (
        dynamic.http.routers.gateways.rule == "Host(`rag.example.org`)" and static.entryPoints.edge.address == ":8443"
    )
    with pytest.raises(ConfigError, match="no Unix sockets"):
        traefik(config, [Doors(host="h", pid=1, owner="/o", edge="/e", port=-1)])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": "a;}"}, "a host's name"),
        ({"cert": "/a b"}, "edge.cert"),
        ({"key": "/x;y"}, "edge.key"),
        ({"cert": ""}, "edge.cert"),
        ({"port": 0}, "between 1 and 65535"),
    ],
)
def test_what_would_break_out_of_a_configuration_is_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EdgeConfig(**{"cert": "/c", "key": "/k", **wrong})  # type: ignore[arg-type]


@pytest.mark.timeout(300)
@pytest.mark.skipif(NGINX is None, reason="no nginx on PATH; install it: apt-get install nginx-light")
def test_a_stream_passes_a_real_nginx_as_it_comes_and_floods_do_not(
    gated: Ledger, modelled: Doors, replicas: list[ChatServer], tmp_path: Path
) -> None:
    assert NGINX is not None
    _, trusted = certificate.self_signed(tmp_path, "localhost")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    written = ["edge", f"run={gated.run_dir}", f"edge.port={port}", f"edge.cert={trusted}"]
    limits = [f"edge.key={tmp_path / 'key.pem'}", "edge.per_second=1", "edge.burst=6", "edge.max_body_kib=16"]
    assert main(["serve", *written, *limits, "--out", str(tmp_path / "nginx.conf")]) == 0
    command = [NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-g", "daemon off;"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for one in replicas:
        one.statuses, one.cut, one.pause_s = [], None, 0.15
    try:
        asked_through(port, trusted, gateways.token_of(modelled, gateways.granted(gated, "edge")))
    finally:
        process.terminate()
        process.wait(20)


def asked_through(port: int, trusted: Path, token: str) -> None:
    verify, bearer = ssl.create_default_context(cafile=str(trusted)), {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"https://localhost:{port}", verify=verify, headers=bearer, timeout=60) as client:
        until_up(client)
        begun, came = time.monotonic(), list[float]()
        asked = {"question": ASKED, "stream": True}
        with client.stream("POST", "/v1/query", json=asked, headers={"Accept-Encoding": "gzip"}) as reply:
            assert reply.status_code == 200 and "content-encoding" not in reply.headers
            for line in reply.iter_lines():
                came += [time.monotonic() - begun] if line.startswith('data: {"delta') else []
        assert len(came) > 5 and came[-1] - came[0] > 0.15 * (len(came) - 2)  # one by one, not all at the end
        assert client.post("/v1/query", content=b" " * 20_000).json()["error"]["code"] == "request_too_large"
        replies = [client.get("/v1/models") for _ in range(12)]
        refused = [reply for reply in replies if reply.status_code == 429]
        assert refused and refused[0].json()["error"]["code"] == "rate_limit_exceeded"
        assert refused[0].headers["retry-after"] == "1" and replies[0].status_code == 200


def until_up(client: httpx.Client) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            reply = client.get("/readyz")
        except httpx.ConnectError:
            assert time.monotonic() < end
            time.sleep(0.1)
        else:
            assert reply.status_code == 200
            return
