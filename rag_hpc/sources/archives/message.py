"""An HTTP reply as archives store it: its head, and its body without what was done to it on the way."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rag_hpc.sources.files.coding import content_codings, decoded_start

MAX_CHUNK_LINE = 1 << 14  # of a chunk's size and extensions
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"HTTP/\d(?:\.\d)? +(\d{3})")
_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;|\Z)")
_REPEATED = ("content-type", "content-encoding", "transfer-encoding")  # lists, whose fields may come one by one


@dataclass(kw_only=True)
class Body:
    """What is left of a stored body; data: None when it is over the cap. cut: its end is missing."""

    data: bytes | None
    cut: bool = False


def parse_head(block: bytes) -> tuple[int, dict[str, str], int]:
    """Return (status, headers with lower-case names, where the body starts); status 0 if there is no HTTP head.

    Lines may end in a bare newline, as in ClueWeb09, whose heads stricter parsers do not read; a line that begins with
    a blank goes on with the one before (RFC 9112, 5.2). Of a repeated name the first counts, lists are joined.
    """
    end = _HEAD_END.search(block)
    lines = (block[: end.start()] if end else block).decode("latin-1").split("\n")
    status = _STATUS.match(lines[0])
    if status is None:
        return 0, {}, 0
    headers: dict[str, str] = {}
    for line in _unfolded(lines[1:]):
        name, colon, value = line.partition(":")
        key = name.strip().lower()
        if colon and key in headers and key in _REPEATED:
            headers[key] += f", {value.strip()}"
        elif colon:
            headers.setdefault(key, value.strip())
    return int(status[1]), headers, end.end() if end else len(block)


def stored_body(body: bytes, headers: dict[str, str], cap: int) -> Body:
    """Return the body of a reply without its transfer and content codings, up to `cap` bytes.

    Archives store bodies as they were sent, or decoded under the head that was sent: what does not look as the head
    says is taken as it is. Raises CodingError.
    """
    transfer = headers.get("transfer-encoding", "").lower()
    chunked = dechunked(body, declared="chunked" in transfer)
    codings = content_codings(headers.get("content-encoding", "")) + content_codings(transfer)
    cut = chunked.cut
    if chunked.data is not None:
        body = chunked.data
    elif not codings:
        length = headers.get("content-length", "").split(",")[0].strip()
        cut = length.isdecimal() and len(length) < 16 and int(length) > len(body)
    if not codings:
        return Body(data=body if len(body) <= cap else None, cut=cut)
    decoded, is_open = decoded_start(body, codings, cap)
    return Body(data=decoded, cut=cut or is_open)


def dechunked(body: bytes, *, declared: bool = True) -> Body:
    """Return a chunked body joined (RFC 9112, 7.1); data is None where it is not chunked: many store it decoded.

    Extensions and trailers are passed over. A body that no head declares to be chunked counts as such only if it is
    whole.
    """
    pieces: list[bytes] = []
    at = 0
    while at < len(body):
        end = body.find(b"\n", at, at + MAX_CHUNK_LINE)
        size = _SIZE.match(body[at : end if end >= 0 else at + MAX_CHUNK_LINE].rstrip(b"\r\n"))
        if size is None or (end < 0 and not pieces):
            break
        if end < 0:
            at = len(body)
            break
        length, begin = int(size[1], 16), end + 1
        if length == 0:
            return Body(data=b"".join(pieces))
        stop = begin + length
        after = body[stop : stop + 2]
        if not (after[:1] == b"\n" or after == b"\r\n"[: len(after)]):  # the first is no chunk, or the sizes lie
            break
        pieces.append(body[begin:stop])
        at = stop + (1 if after[:1] == b"\n" else 2)
    if not declared or not pieces:
        return Body(data=None)
    return Body(data=b"".join([*pieces, body[at:]]), cut=True)


def _unfolded(lines: list[str]) -> list[str]:
    found: list[str] = []
    for line in lines:
        if found and line[:1] in (" ", "\t"):
            found[-1] = f"{found[-1].rstrip()} {line.strip()}"
        else:
            found.append(line)
    return found
