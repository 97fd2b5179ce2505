"""A real redis-server on a Unix socket of its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


class RedisServer:
    """Up inside a with-statement, and whenever it is started again."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("redis")
        if shutil.which("redis-server") is None:
            pytest.skip("no redis-server; apt-get install redis-server")
        self.folder, self.socket = folder, folder / "r.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def __enter__(self) -> str:
        self.start()
        return self.url

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self.folder)
        until = time.monotonic() + 10
        with socket.socket(socket.AF_UNIX) as asker:  # its file is there before it listens
            while asker.connect_ex(str(self.socket)) and time.monotonic() < until:
                time.sleep(0.01)

    def hang(self) -> None:
        """Answer no more, without an end."""
        self.server.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        self.server.kill()
        self.server.wait()
        self.socket.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self.stop()
