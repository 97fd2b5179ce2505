"""A connection that http.client can use, to an address chosen beforehand, with an end to every reply."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from typing import Any

Address = tuple[str, int]
_BLOCK = 1 << 16


class PinnedConnection(http.client.HTTPConnection):
    """An HTTP(S) connection to a pinned address whose replies must end within a total time."""

    def __init__(
        self, name: str, port: int, address: Address, timeout_s: float, context: ssl.SSLContext | None
    ) -> None:
        super().__init__(name, port, timeout=timeout_s)
        self.default_port = 80 if context is None else 443  # decides whether the Host header names the port
        self.max_total_s = timeout_s
        self.deadline = 0.0
        self._address = address
        self._timeout_s = timeout_s
        self._context = context

    def start_clock(self) -> None:
        """Count the total time of a reply from now."""
        self.deadline = time.monotonic() + self.max_total_s

    def connect(self) -> None:
        """Connect to the pinned address; the certificate is checked against the host's name."""
        sock = socket.create_connection(self._address, self._timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            try:
                sock = self._context.wrap_socket(sock, server_hostname=self.host)
            except OSError:
                sock.close()
                raise
        self.sock = _TimedSocket(sock, self)

    def remaining_s(self) -> float:
        """Return the seconds that the next read may take. Raises TimeoutError when the total is spent."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"reply not complete after {self.max_total_s:g} s")
        return min(left, self._timeout_s)


class _TimedSocket:
    """The part of a socket that http.client uses, with a deadline on every read."""

    def __init__(self, sock: socket.socket, owner: PinnedConnection) -> None:
        self._sock = sock
        self._owner = owner

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        self._sock.settimeout(self._owner.remaining_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a buffered reader of the socket."""
        return io.BufferedReader(_TimedReader(self._sock, self._owner), _BLOCK)

    def close(self) -> None:
        """Close the socket once its readers are closed too."""
        self._sock.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, owner: PinnedConnection) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # holds the socket open until this reader is closed
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._owner.remaining_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
