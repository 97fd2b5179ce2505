"""Configurations of a proxy in front of a run's gateways: TLS, routing, a rate limit, and streams that are not held."""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_hpc.core.settings import bounded, check_bounds
from rag_hpc.errors import ConfigError
from rag_hpc.serve.gateway.places import Doors

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_PATH = re.compile(r"/[A-Za-z0-9._/+-]+")


class Kind(enum.Enum):
    """Known proxies."""

    nginx = "nginx"
    traefik = "traefik"


@dataclass(kw_only=True)
class EdgeConfig:
    """Settings of a proxy's configuration, `edge.KEY=VALUE`."""

    kind: Kind = Kind.nginx
    host: str = "localhost"  # the name that clients know it by, and the certificate is of
    port: int = bounded(8443, 1, 65_535)
    cert: str = ""  # a file of the certificate's chain
    key: str = ""  # of its key
    per_second: int = bounded(10, 1, 100_000)  # requests of one address; tokens have limits of their own
    burst: int = bounded(40, 1, 100_000)
    max_body_kib: int = bounded(256, 1, 65_536)  # of nginx

    def __post_init__(self) -> None:
        check_bounds(self, "edge")
        if not _HOST.fullmatch(self.host):
            raise ConfigError(f"edge.host={self.host!r}: a host's name is needed")
        for name in ("cert", "key"):
            path = str(Path(getattr(self, name)).expanduser().absolute()) if getattr(self, name) else ""
            if not _PATH.fullmatch(path):  # it stands in a configuration as it is
                raise ConfigError(f"edge.{name}={path}: the path of a PEM file, of letters, digits and ._/+- alone")
            setattr(self, name, path)


def nginx(config: EdgeConfig, doors: Sequence[Doors]) -> str:
    """Return a configuration of nginx, whole: nginx -p FOLDER -c FILE; it writes into FOLDER alone."""
    user = "user root;\n" if os.geteuid() == 0 else ""  # else workers of root's nginx are nobody, who reaches no socket
    servers = "\n".join(f"        server unix:{door.edge} max_fails=1 fail_timeout=5s;" for door in doors)
    return f"""\
# Written by `rag-hpc serve edge`; again after a gateway was started or ended.
# Run as the run's owner, whose sockets these are: nginx -p FOLDER -c THIS_FILE
{user}worker_processes auto;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;  # the gateways log requests, by id
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    limit_req_zone $binary_remote_addr zone=each:10m rate={config.per_second}r/s;
    limit_req_status 429;
    upstream gateways {{
        least_conn;
{servers}
        keepalive 64;
    }}
    server {{
        listen {config.port} ssl;
        server_name {config.host};
        ssl_certificate {config.cert};
        ssl_certificate_key {config.key};
        ssl_protocols TLSv1.2 TLSv1.3;
        server_tokens off;
        client_max_body_size {config.max_body_kib}k;
        client_body_timeout 15s;
        error_page 413 = @large;
        error_page 429 = @often;
        location / {{
            limit_req zone=each burst={config.burst} nodelay;
            proxy_pass http://gateways;
            proxy_http_version 1.1;  # buffering stays on: a stream's own header turns it off
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Request-Id $request_id;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_read_timeout 60s;  # a stream says something every 15 s
            proxy_next_upstream error timeout;  # of requests that no gateway has begun to answer
        }}
        location @large {{ {_told(413, "request_too_large", "the body is too large; send less")} }}
        location @often {{
            add_header Retry-After 1 always;
            {_told(429, "rate_limit_exceeded", "too many requests from this address; come again")}
        }}
    }}
}}
"""


def _told(status: int, code: str, said: str) -> str:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    body = json.dumps({"error": {"message": said, "type": kind, "param": None, "code": code}})
    return f"default_type application/json; return {status} '{body}';"


def traefik(config: EdgeConfig, doors: Sequence[Doors]) -> str:
    """Return a configuration of Traefik (3), static and dynamic parts in one file of YAML documents.

    It reaches gateways by ports alone, and leaves the size of bodies to them: what limits it in Traefik holds streams
    back until their end. Raises ConfigError for a gateway that has none.
    """
    if any(door.port < 0 for door in doors):
        raise ConfigError("edge.kind=traefik: it knows no Unix sockets; start the gateways with gateway.port=0")
    servers = "\n".join(f"          - url: http://127.0.0.1:{door.port}" for door in doors)
    return f"""\
# Written by `rag-hpc serve edge`; again after a gateway was started or ended.
# The part before --- is traefik.yaml, the part after it dynamic.yaml beside it: traefik --configFile=traefik.yaml
entryPoints:
  edge:
    address: ":{config.port}"
    transport:
      respondingTimeouts:
        readTimeout: 15s
        writeTimeout: 0s  # streams are as long as they are
providers:
  file:
    filename: dynamic.yaml
---
http:
  routers:
    gateways:
      rule: Host(`{config.host}`)
      entryPoints: [edge]
      service: gateways
      middlewares: [often]
      tls: {{}}
  middlewares:
    often:
      rateLimit:
        average: {config.per_second}
        burst: {config.burst}
  services:
    gateways:
      loadBalancer:
        healthCheck:
          path: /healthz
          interval: 2s
          timeout: 1s
        responseForwarding:
          flushInterval: -1ms  # at once
        servers:
{servers}
tls:
  certificates:
    - certFile: {config.cert}
      keyFile: {config.key}
"""
