"""EUC-JP and ISO-2022-JP as browsers read them: with the rows of NEC and IBM, which Python's codecs refuse.

Source: https://encoding.spec.whatwg.org/#index-jis0208, whose rows 13 and 89 to 92 are those of Windows' Shift_JIS.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any

CODECS = {"euc_jp": "x_eucjp_web", "iso2022_jp": "x_iso2022jp_web"}  # Python's narrow codec to the name of ours
_BASES = {"iso2022_jp": "iso2022_jp_ext"}  # with half-width kana
_ROWS = range(0x21, 0x7F)


def register() -> None:
    """Make the codecs of CODECS known to Python; a second call does no harm."""
    if _find not in _registered:
        codecs.register(_find)
        _registered.append(_find)
        codecs.register_error("x_jis_strict", _strict)
        codecs.register_error("x_jis_replace", _replace)


_registered: list[Callable[[str], codecs.CodecInfo | None]] = []


def _find(name: str) -> codecs.CodecInfo | None:
    narrow = next((narrow for narrow, ours in CODECS.items() if ours == name), None)
    if narrow is None:
        return None
    base = codecs.lookup(_BASES.get(narrow, narrow))

    def decode(data: Any, errors: str = "strict") -> tuple[str, int]:
        handler = {"strict": "x_jis_strict", "replace": "x_jis_replace"}.get(errors, errors)
        return base.decode(bytes(data), handler)

    return codecs.CodecInfo(base.encode, decode, name=name)


def _strict(error: UnicodeError) -> tuple[str, int]:
    char = _extended(error)
    if not char or not isinstance(error, UnicodeDecodeError):
        raise error
    return char, error.start + 2


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    char = _extended(error)
    return (char, error.start + 2) if char else ("\ufffd", error.end)


def _extended(error: UnicodeError) -> str:
    """Return the character of the two bytes that the narrow codec stopped at, "" if they are none."""
    pair = error.object[error.start : error.start + 2] if isinstance(error, UnicodeDecodeError) else b""
    if len(pair) < 2 or (pair[0] ^ pair[1]) & 0x80:
        return ""
    row, cell = pair[0] & 0x7F, pair[1] & 0x7F
    if row not in _ROWS or cell not in _ROWS:
        return ""
    lead = (row - 0x21 >> 1) + (0x81 if row < 0x5F else 0xC1)
    trail = cell + (0x7E if row % 2 == 0 else 0x1F if cell < 0x60 else 0x20)
    try:
        return bytes((lead, trail)).decode("cp932")
    except UnicodeDecodeError:
        return ""
