"""Plain text of wikitext, the markup of MediaWiki: one pass, time linear in the input, no template is expanded.

Markup: https://www.mediawiki.org/wiki/Specs/wikitext. Headings come out as Markdown ("## ..."), lists as "- " lines,
table rows as "a | b" lines, code and lines that begin with a space as fenced blocks. References, files, galleries and
templates are left out; those that stand for characters, numbers, names and quotations show them (templates.py), and of
a text in several scripts the page's own is taken (variants.py). What is opened and never closed counts as text, and so
does a tag that MediaWiki does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from rag_hpc.algo.extract.entities import unescape
from rag_hpc.sources.wiki.templates import expanded
from rag_hpc.sources.wiki.variants import Variants

MAX_OPEN = 40  # constructs inside one another, MediaWiki's own limit; deeper ones count as text
# Every alternative begins with a letter of its own, so that re skips text by a table of first letters.
_TOKEN = re.compile(
    r"<(?:!--|/?[a-zA-Z][^<>]*>)|\{[{|]|\}\}|\|\}(?!\})|\||\[\[|\]\]?|''+"
    r"|\[(?:https?:|ftps?:|mailto:|//)[^\s\[\]<>|]*|-\{(?!\{)|\}-"
)
_KINDS = {
    "<!--": ("", "comment"),
    "{{": ("open", "template"),
    "}}": ("close", "template"),
    "{|": ("open", "table"),
    "|}": ("close", "table"),
    "[[": ("open", "link"),
    "]]": ("close", "link"),
    "]": ("close", "ext"),
    "|": ("", "bar"),
    "[": ("open", "ext"),
    "<": ("", "tag"),
    "'": ("", "quotes"),
    "-{": ("open", "variants"),
    "}-": ("close", "variants"),
}
_DIVIDED = ("template", "link", "variants")  # by bars
_INDENT = 20  # blanks and colons that may stand before a table's marks
_RAW = {
    name: re.compile(rf"</{name}\s*>", re.IGNORECASE)
    for name in (
        "nowiki",
        "pre",
        "source",
        "syntaxhighlight",
        "math",
        "chem",
        "ce",
        "rt",
        "rp",
        "rtc",
        "gallery",
        "timeline",
        "score",
        "graph",
        "imagemap",
        "templatedata",
        "mapframe",
        "hiero",
        "includeonly",
    )
}
_CODE = {"pre", "source", "syntaxhighlight"}
_KEPT = _CODE | {"nowiki", "math", "chem", "ce"}
_BREAKS = {"br", "p", "div", "li", "tr", "hr", "ul", "ol", "dd", "dt", "center"}
_TAG_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9-]*)(?=[\s/>])")
# What MediaWiki takes for tags; others it shows. Of HTML: https://www.mediawiki.org/wiki/Help:HTML_in_wikitext
_TAGS = (
    _BREAKS
    | _RAW.keys()
    | set(
        "abbr b bdi bdo big caption cite code data del dfn dl em font h1 h2 h3 h4 h5 h6 i ins kbd link mark meta q rb"
        " ruby s samp small span strike strong sub sup table td th time tt u var wbr"
        " blockquote categorytree charinsert dynamicpagelist embedvideo html indicator inputbox langconvert languages"
        " maplink noinclude onlyinclude phonos poem ref references rss section talkpage templatestyles thread translate"
        " tvar wikitext".split()
    )
)
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*:")
_FILES = {"file", "image", "media"}
_SWITCH = re.compile(r"__[A-Z]+__")
_GONE = "\x01"  # where something was left out
_BREAK = f"\n{_GONE}"  # what follows does not begin a line of the source
_BETWEEN = r"\s,;，、；"
_EMPTY_BRACKETS = re.compile(rf" ?[(（](?=[{_BETWEEN}:：/–—-]*+{_GONE})[{_BETWEEN}:：/–—{_GONE}-]*+[)）]")
_LEFT_OVER = re.compile(rf"([(（])(?=[{_BETWEEN}]*+{_GONE})[{_BETWEEN}{_GONE}]*+")
_INDENTED = re.compile(r"(?<=\n) +")
_HEADING = re.compile(r"(#{1,6}) \S")
_BLANKS = re.compile(r"\n{3,}")
_SLOT = re.compile("\x00([0-9]+)\x00")
_OWN_MARKS = re.compile("[\x00\x01]")


class WikiText(NamedTuple):
    """The text of a page and the categories that it names."""

    text: str
    categories: list[str]


def plain_text(wikitext: str, files: Iterable[str] = (), categories: Iterable[str] = ()) -> WikiText:
    """Return the text and the categories of wikitext.

    `files` and `categories`: the wiki's own names of these namespaces, besides the English ones.
    """
    source = _OWN_MARKS.sub("", wikitext)
    page = _Page({*_FILES, *map(str.lower, files)}, {"category", *map(str.lower, categories)}, Variants(source))
    text = unescape(page.read(source))
    lines = [_line(_plain(line).strip()) for line in page.with_listings(_SWITCH.sub("", text).split("\n"))]
    text = _BLANKS.sub("\n\n", "\n".join(_without_empty_sections(lines))).strip()
    return WikiText(page.filled(text), list(dict.fromkeys(map(page.filled, page.found))))


def markdown_headings(text: str) -> str:
    """Return text whose only markup are wiki headings, as TextExtracts gives it, with these in Markdown's spelling."""
    lines = [_line(line) if line.startswith("=") else line for line in text.split("\n")]
    return _BLANKS.sub("\n\n", "\n".join(_without_empty_sections(lines))).strip()


@dataclass(slots=True)
class _Frame:
    """An open construct: how it was written, and its arguments as pieces of text."""

    kind: str
    opener: str
    args: list[list[str]] = field(default_factory=lambda: [[]])

    def texts(self) -> list[str]:
        """Return the arguments."""
        texts = ["".join(pieces) for pieces in self.args]
        return [_plain(text) if _GONE in text else text for text in texts]

    def literally(self) -> list[str]:
        """Return the pieces of the construct as it was written, for one that is never closed."""
        pieces = [self.opener]
        for number, arg in enumerate(self.args):
            pieces += ["|", *arg] if number else arg
        return pieces


class _Page:
    """The state of one conversion: a stack of open constructs, the lowest is the page's text."""

    def __init__(self, files: set[str], categories: set[str], variants: Variants) -> None:
        self.slots: list[str] = []  # code and other text that no later step may touch
        self.found: list[str] = []
        self._files = files
        self._categories = categories
        self._variants = variants
        self._stack = [_Frame("text", "")]
        self._unclosed: set[str] = set()  # raw tags that have no end in the rest of the page

    def read(self, source: str) -> str:
        """Return the page's text; called once."""
        at = 0
        while (token := _TOKEN.search(source, at)) is not None:
            begin, end = token.span()
            if begin > at:
                self._stack[-1].args[-1].append(source[at:begin])
            at = self._take(token[0], source, end)
        self._put(source[at:])
        while len(self._stack) > 1:
            self._drop()
        return "".join(self._stack[0].args[0])

    def with_listings(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the lines, those that begin with a space as the fenced block that MediaWiki shows them in."""
        block: list[str] = []
        for line in chain(lines, [""]):
            if line.startswith(" ") and (block or _plain(line).strip()):
                block.append(_plain(line[1:]).rstrip())
                continue
            if block:
                self.slots.append("```\n" + self.filled("\n".join(block).rstrip()) + "\n```")
                yield f"\x00{len(self.slots) - 1}\x00"
                block = []
            yield line

    def filled(self, text: str) -> str:
        """Return the text with what its slots stand for."""
        return _SLOT.sub(lambda slot: self.slots[int(slot[1])], text)

    def _take(self, token: str, source: str, at: int) -> int:
        """Handle one token that ends at `at`; return where to go on."""
        change, kind = _KINDS.get(token) or _KINDS[token[0]]
        if kind == "table" and not _begins_line(source, at - len(token)):
            token, at = token[0], at - 1  # a brace or a bar, and what comes after it
            change, kind = "", "bar" if token == "|" else "text"
        if change:
            (self._open if change == "open" else self._close)(kind, token)
        elif kind == "bar" and self._stack[-1].kind in _DIVIDED:
            self._stack[-1].args.append([])
        elif kind == "bar" or kind == "text":
            self._put(token)
        elif kind == "tag":
            return self._tag(token, source, at)
        elif kind == "comment":
            end = source.find("-->", at)
            return len(source) if end < 0 else end + 3
        return at

    def _put(self, text: str) -> None:
        if text:
            self._stack[-1].args[-1].append(text)

    def _open(self, kind: str, token: str) -> None:
        if len(self._stack) > MAX_OPEN:
            self._put(token)
        else:
            self._stack.append(_Frame(kind, token))

    def _close(self, kind: str, token: str) -> None:
        if self._stack[-1].kind != kind:
            if all(frame.kind != kind for frame in self._stack):
                self._put("" if kind == "ref" else token)
                return
            while self._stack[-1].kind != kind:
                self._drop()
        frame = self._stack.pop()
        if kind == "link" and "\n" in "".join(frame.args[0]):
            self._stack[-1].args[-1] += [*frame.literally(), token]
        else:
            text = self._text_of(frame) or _GONE
            self._put(f"{text}{_GONE}" if text.endswith("\n") else text)

    def _drop(self) -> None:
        """Take the innermost construct for text: it has no end."""
        frame = self._stack.pop()
        self._stack[-1].args[-1] += frame.literally() if frame.kind != "ref" else frame.args[0]

    def _tag(self, token: str, source: str, at: int) -> int:
        match = _TAG_NAME.match(token)
        name = match[1].lower() if match else ""
        if name not in _TAGS:
            self._put("<")  # what MediaWiki shows as it stands
            return at - len(token) + 1
        closing, alone = token.startswith("</"), token.endswith("/>")
        if name == "ref" and not alone:
            if closing:
                self._close("ref", token)
            else:
                self._open("ref", token)
        elif name == "ref":
            self._put(_GONE)
        elif name == "blockquote":
            (self._close if closing else self._open)(name, _BREAK)
        elif name in _RAW and not closing and not alone and name not in self._unclosed:
            end = _RAW[name].search(source, at)
            if end is None:
                self._unclosed.add(name)
                return at
            if name in _KEPT:
                self._keep(name, source[at : end.start()])
            return end.end()
        elif name in _BREAKS:
            self._put(_BREAK)
        return at

    def _keep(self, name: str, text: str) -> None:
        text = unescape(text)
        if name in _CODE:
            body = text.strip("\n")
            text = f"```\n{body}\n```" if "\n" in body else f"`{body}`"
        self.slots.append(text)
        slot = f"\x00{len(self.slots) - 1}\x00"
        self._put(f"\n{slot}{_BREAK}" if text.startswith("```") else slot)

    def _text_of(self, frame: _Frame) -> str:
        if frame.kind == "ref":
            return ""
        texts = frame.texts()
        if frame.kind == "template":
            return expanded(texts)
        if frame.kind == "variants":
            return self._variants.chosen(texts)
        if frame.kind == "link":
            return self._link(texts)
        if frame.kind == "table":
            return _table(texts[0])
        if frame.kind == "blockquote":
            return f"\n{_INDENTED.sub('', texts[0])}\n"  # there MediaWiki takes no line for a listing
        return texts[0].strip()

    def _link(self, texts: list[str]) -> str:
        target = texts[0].strip()
        prefix = target.partition(":")[0].strip().lower() if ":" in target else ""
        if prefix in self._categories:
            self.found.append(target.partition(":")[2].strip())
            return ""
        if prefix in self._files or (len(texts) == 1 and _LANGUAGE_LINK.match(target)):
            return ""
        return (texts[-1].strip() if len(texts) > 1 else "") or target.lstrip(":#")


def _begins_line(source: str, at: int) -> bool:
    before = source[max(0, at - _INDENT) : at]
    _, newline, indent = before.rpartition("\n")
    return (bool(newline) or at <= _INDENT) and not indent.strip(" \t:")


def _plain(text: str) -> str:
    """Return the text without the marks of what was left out, and without brackets that held nothing else."""
    if _GONE not in text:
        return text
    if "(" in text or "（" in text:
        text = _LEFT_OVER.sub(r"\1", _EMPTY_BRACKETS.sub("", text))
    return text.replace(_GONE, "")


def _table(text: str) -> str:
    """Return the rows of a table, its attributes left out; `text` is all between "{|" and "|}"."""
    rows: list[list[list[str]]] = [[]]  # of cells, of lines
    for line in text.split("\n")[1:]:
        line = line.strip()
        if line.startswith(("|-", "|+")):
            rows.append([[_cell(line[2:])]] if line.startswith("|+") else [])
            if line.startswith("|+"):
                rows.append([])
        elif line.startswith(("|", "!")):
            parts = line[1:].replace("!!", "||") if line.startswith("!") else line[1:]
            rows[-1] += [[_cell(part)] for part in parts.split("||")]
        elif line and rows[-1]:
            rows[-1][-1].append(line)
    texts = [" | ".join(filter(None, ("\n".join(cell).strip() for cell in row))) for row in rows]
    return "\n\n" + "\n".join(filter(None, texts)) + "\n\n"


def _cell(text: str) -> str:
    head, bar, rest = text.partition("|")
    return rest.strip() if bar and "=" in head else text.strip()


def _line(line: str) -> str:
    """Return one line with its heading or list marks in Markdown's spelling."""
    if line.startswith("=") and line.endswith("=") and line.strip("="):
        level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
        return f"{'#' * level} {line[level:-level].strip()}"
    text = line.lstrip("*#:;")
    marks = line[: len(line) - len(text)]
    text = text.strip()
    if not marks or not text or marks[-1] not in "*#":
        return text if marks else ("" if line == "----" else line)
    return f"{'  ' * (sum(mark in '*#' for mark in marks) - 1)}- {text}"


def _without_empty_sections(lines: list[str]) -> list[str]:
    """Return the lines without headings that nothing stands under: their sections were templates only."""
    kept: list[str] = []
    under = 0  # level of the heading that comes next, 7 for text
    for line in reversed(lines):
        found = _HEADING.match(line)
        level = len(found[1]) if found else 0
        if level and under <= level:
            continue
        if line:
            under = level or 7
        kept.append(line)
    return kept[::-1]
