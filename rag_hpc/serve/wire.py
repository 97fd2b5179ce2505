"""What passes between the processes of a resident group, and between it and who asks: frames over a stream socket.

A frame is a JSON object and raw arrays after it; nothing is ever unpickled. Both ends of a connection prove that they
hold the group's key before anything else is said, each with the other's random number, so that neither a stranger's
process at a port that was ours nor a recording passes. What follows is neither encrypted nor signed.
"""

from __future__ import annotations

import hmac
import json
import math
import secrets
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.errors import RagHpcError

MAGIC = b"rhg1"
PREFIX = struct.Struct("<4sIQ")  # magic, bytes of the JSON, bytes of the arrays
HEAD_BYTES, BODY_BYTES = 16 << 20, 1 << 30  # at the most, of a frame
GREETING_BYTES = 2048  # of a frame before the other end is known
GREETING_S = 5.0
DTYPES = ("|u1", "<i4", "<i8", "<f2", "<f4", "<f8")
Frame = tuple[dict[str, Any], list[Array]]


class Broken(RagHpcError):
    """The other end went away, was too late, or sent what is no frame."""


class Refused(RagHpcError):
    """The other end does not hold the group's key, or says that we do not."""


def send(sock: socket.socket, head: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Send one frame. Raises Broken."""
    blocks = [np.asarray(array, order="C") for array in arrays]
    kinds = [[block.dtype.str, list(block.shape)] for block in blocks]
    text = json.dumps({**head, "arrays": kinds}, separators=(",", ":")).encode("ascii")
    body = b"".join(block.tobytes() for block in blocks)
    if len(text) > HEAD_BYTES or len(body) > BODY_BYTES:
        raise Broken(f"a message of {len(text) + len(body)} bytes is more than a frame holds; ask less at a time")
    try:
        sock.sendall(PREFIX.pack(MAGIC, len(text), len(body)) + text + body)
    except OSError as error:
        raise Broken(f"the connection is gone ({error.strerror or error})") from error


def receive(sock: socket.socket, *, most: int = HEAD_BYTES, until: float | None = None) -> Frame:
    """Return one frame. `until`: on time.monotonic(). Raises Broken for anything else than a frame in time."""
    magic, head_bytes, body_bytes = PREFIX.unpack(_exactly(sock, PREFIX.size, until))
    if magic != MAGIC or head_bytes > most or body_bytes > (BODY_BYTES if most == HEAD_BYTES else 0):
        raise Broken("what came is no frame of a resident group, or too long a one")
    try:
        head = json.loads(_exactly(sock, head_bytes, until))
        kinds = [(np.dtype(_known(code)), tuple(map(_size, shape))) for code, shape in head.pop("arrays")]
        if sum(math.prod(shape) * dtype.itemsize for dtype, shape in kinds) != body_bytes:
            raise ValueError("its arrays are not of the size that is said")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise Broken(f"what came is no frame of a resident group ({error})") from error
    body, arrays, at = _exactly(sock, body_bytes, until), [], 0
    for dtype, shape in kinds:
        size = math.prod(shape) * dtype.itemsize
        arrays.append(np.frombuffer(body[at : at + size], dtype=dtype).reshape(shape))
        at += size
    return head, arrays


def greet(sock: socket.socket, key: bytes, role: str, timeout_s: float = GREETING_S) -> None:
    """Prove to the door that we hold the key, after it has; `role`: ask, or the number of a rank.

    Raises Refused, and Broken for a door that says nothing.
    """
    until, mine = time.monotonic() + timeout_s, secrets.token_hex(16)
    send(sock, {"role": role, "nonce": mine})
    said = receive(sock, most=GREETING_BYTES, until=until)[0]
    theirs = str(said.get("nonce"))
    if not hmac.compare_digest(str(said.get("proof")).encode(), _proof(key, "door", role, mine, theirs)):
        raise Refused("the door does not hold this group's key: it is not the one that the group's folder tells of")
    send(sock, {"proof": _proof(key, "guest", role, theirs, mine).decode()})
    if receive(sock, most=GREETING_BYTES, until=until)[0].get("welcome") is not True:
        raise Refused("the door does not take this group's key")


def welcome(sock: socket.socket, key: bytes, timeout_s: float = GREETING_S) -> str:
    """Return the role of a guest that holds the key. Raises Refused for another, which is told, and Broken."""
    until, mine = time.monotonic() + timeout_s, secrets.token_hex(16)
    said = receive(sock, most=GREETING_BYTES, until=until)[0]
    role, theirs = str(said.get("role")), str(said.get("nonce"))
    send(sock, {"nonce": mine, "proof": _proof(key, "door", role, theirs, mine).decode()})
    proof = str(receive(sock, most=GREETING_BYTES, until=until)[0].get("proof"))
    known = hmac.compare_digest(proof.encode(), _proof(key, "guest", role, mine, theirs))
    send(sock, {"welcome": known})
    if not known:
        raise Refused("a guest does not hold the group's key")
    return role


def _proof(key: bytes, *parts: str) -> bytes:
    return hmac.digest(key, json.dumps(parts).encode(), "sha256").hex().encode()


def _known(code: object) -> str:
    if code not in DTYPES:
        raise ValueError(f"arrays of {code!r}")
    return str(code)


def _size(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= BODY_BYTES:
        raise ValueError(f"an axis of {number!r}")
    return number


def _exactly(sock: socket.socket, size: int, until: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            sock.settimeout(None if until is None else max(0.001, until - time.monotonic()))
            part = sock.recv(min(size - len(data), 1 << 20))
        except TimeoutError as error:
            raise Broken("no answer in time") from error
        except OSError as error:
            raise Broken(f"the connection is gone ({error.strerror or error})") from error
        if not part:
            raise Broken("the connection was closed")
        if until is not None and time.monotonic() > until:
            raise Broken("no answer in time")
        data += part
    return bytes(data)
