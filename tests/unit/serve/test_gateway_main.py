"""A gateway's process: the sockets that it listens on, and the files it may open."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path

from rag_hpc.serve.gateway import main
from rag_hpc.serve.gateway.config import GatewayConfig


def test_an_answer_s_body_does_not_wait_until_its_head_is_acknowledged(tmp_path: Path) -> None:
    sockets, doors = main.listen(GatewayConfig(port=0), tmp_path, "127.0.0.1")
    with contextlib.ExitStack() as stack:
        for one in sockets:
            stack.enter_context(one)
        stack.enter_context(socket.create_connection(("127.0.0.1", doors.port)))
        accepted = stack.enter_context(sockets[-1].accept()[0])
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_it_may_open_as_many_files_as_the_machine_lets_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    try:
        main.raise_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
