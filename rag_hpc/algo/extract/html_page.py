"""What the scanner of HTML pages writes, and the registers that it works with."""

from __future__ import annotations

from typing import NamedTuple

from rag_hpc.algo.extract import html_names as names
from rag_hpc.algo.types import I32, I64, U8, U64

# Columns. Node: a block element, in document order, row 0 the page itself. Block: text that no block tag breaks.
PARENT, TAG, MASK, INHERITED, SEM, CELL, ROW, ITEM, LISTS, CLASS, NUM_NODE_COLUMNS = range(11)
NODE, START, END, CHARS, LINK_CHARS, WORDS, PUNCT, LINKS, FIRST, LAST, FLAGS, NUM_BLOCK_COLUMNS = range(12)
IN_PRE, SOFT_BREAK = 1, 2
MAX_DEPTH = 512  # open block elements; browsers stop there too
MAX_NODES, MAX_BLOCKS = 300_000, 100_000  # a thousand times what a page has; features take 2 KB a block
MAX_MARKS = 256  # tags with metadata that are noted
TOO_DEEP, TOO_MANY = 1, 2

# The scanner's state: registers of the open block, then of the tree, then what the last tag's attributes said; at last
# the bytes of the longest noscript element, and whether a formula's second copy was looked for in vain.
CH, LCH, WD, PU, LK, FST, BEGIN, OUT, SPACE, SOFT = range(10)
IN_LINK, LINK_DEPTH, DEPTH, NUM_NODES, NUM_BLOCKS, NUM_MARKS, SKIPPED, PRES, ERROR = range(10, 19)
A_MASK, A_SEM, A_HREF, A_CLOSED, A_CLASS, A_SHOWN, IN_READING, NOSCRIPT, NO_TWIN, STATE_SIZE = range(19, 29)


class Tables(NamedTuple):
    """What the scanner knows of names; the last three by tag code."""

    tag_keys: U64
    tag_codes: I64
    word_keys: U64
    word_bits: I64
    kinds: I64
    sem: I64
    implied: I64


class Page(NamedTuple):
    """What the scanner writes: text bytes, rows of nodes and blocks, noted tags (code, start, end), and its state."""

    out: U8
    nodes: I32
    blocks: I32
    marks: I64
    stack: I64
    opened: I64  # open elements by tag code; -1: no end tag of this raw element follows
    state: I64

    def noted(self) -> list[tuple[str, int, int]]:
        """Return the noted tags by name, with begin and end in the source."""
        return [(names.TAGS[code], begin, end) for code, begin, end in self.marks.tolist()]
