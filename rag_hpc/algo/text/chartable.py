"""What a text's characters are, as numbers that compiled loops can read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rag_hpc.algo.jit import jit
from rag_hpc.algo.types import I32, U32

_CODE_POINTS = 0x110000
_UNKNOWN = np.iinfo(np.int32).min


def characters(text: str) -> U32:
    """Return the code points of a text, half pairs (lone surrogates) included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


class CharTable:
    """A number for each code point, asked for when it first occurs."""

    def __init__(self, code_of: Callable[[str], int]) -> None:
        self._code_of = code_of
        self._codes = np.full(_CODE_POINTS, _UNKNOWN, dtype=np.int32)

    def codes(self, chars: U32) -> I32:
        """Return the table by code point; it holds all of these characters."""
        if _has_unknown(chars, self._codes):
            for number in np.unique(chars[self._codes[chars] == _UNKNOWN]).tolist():
                self._codes[number] = self._code_of(chr(number))
        return self._codes


@jit
def _has_unknown(chars: U32, codes: I32) -> bool:
    unknown = 0
    for char in chars:
        unknown += codes[char] == _UNKNOWN
    return unknown > 0
