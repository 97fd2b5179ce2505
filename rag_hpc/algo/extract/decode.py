"""Bytes to text: charset, invisible characters, and the headings of Markdown."""

from __future__ import annotations

import re
import unicodedata

import numpy as np

from rag_hpc.algo.text.charset import BOMS, believed, declared_charset, decoded_leniently, is_nearly_utf8, known_charset
from rag_hpc.algo.text.edits import Heading
from rag_hpc.errors import InputError

_MAX_BROKEN = 0.001  # share of replacement characters up to which bytes are still taken for UTF-8
_MAX_JUNK = 0.01  # share of replacement and control characters above which bytes are no text, in no declared charset
_NEWLINES = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = r"\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ud800-\udfff\ufffe\uffff"
_DROPPED = re.compile(f"[{_INVISIBLE}]")
_ODD = re.compile(rf"[{_INVISIBLE}\r\x0b\x0c\x85\u2028\u2029\u00a0]")  # all that is dropped or replaced
# Ordering the marks above and below one letter takes time quadratic in their number, so so many are taken for several.
# What is no word may be marks, and looks quickest; no piece but of marks changes by it.
_MARKS = re.compile(r"[^\x00-\u02ff\w\s][^\x00-\u02ff\w\s]{127}")
_BLANKS = re.compile(r"\n{3,}")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(?=[^# \t])")


class ExtractError(InputError):
    """A page without usable text; `reason` is the slug for the rejects."""

    def __init__(self, reason: str, url: str, detail: str) -> None:
        super().__init__(f"{url}: {reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(body: bytes, charset: str | None, url: str) -> str:
    """Return the body as text: by its byte order mark, UTF-8 if its bytes prove it, the given charset, the one in
    <meta>, UTF-8, or by detection.

    The first that decodes without error wins; then UTF-8 with next to none; then the first declared one with few
    errors; detection comes last.
    Raises ExtractError: binary, undecodable.
    """
    return decode_both(body, charset, url)[0]


def decode_both(body: bytes, charset: str | None, url: str) -> tuple[str, bytes]:
    """Return the body as text, as decode does, and that text in UTF-8."""
    text, name = _decoded(body, charset)
    source = body if name == "utf-8" else text.encode("utf-8", "replace")
    broken = text.count("\ufffd") if "\ufffd" in text else 0  # a search is quicker than a count
    junk = broken + _num_controls(source)
    if junk > max(1, _MAX_JUNK * len(text)):
        reason = "undecodable" if broken * 2 > junk else "binary"
        raise ExtractError(reason, url, f"{junk} of {len(text)} characters are control or broken ones")
    return text, source


def _decoded(body: bytes, charset: str | None) -> tuple[str, str]:
    """Return the text and the codec that read it all without error, "" if none did or a byte order mark is cut off."""
    for mark, name in BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, errors="replace"), ""
    said = known_charset(charset), declared_charset(body)
    names = [name for name in (believed(body, said[0] or said[1]), *said, "utf-8") if name]
    for name in names:
        try:
            return body.decode(name), name
        except UnicodeDecodeError as error:
            whole = body[: error.start]
            if name == "utf-8" and error.reason == "unexpected end of data" and not whole.isascii():  # it was cut
                return whole.decode(name), ""
            if name == "utf-8" and is_nearly_utf8(body):
                return decoded_leniently(body, name), ""
    for name in names:
        text = decoded_leniently(body, name)
        few = _MAX_BROKEN * len(text) if name == "utf-8" else max(1, _MAX_JUNK * len(text))
        if text.count("\ufffd") <= few:
            return text, ""
    return body.decode(_detected(body), errors="replace"), ""


def _num_controls(source: bytes) -> int:
    """Return how many control characters there are but white space and ESC, which Japanese charsets use."""
    codes = np.frombuffer(source, np.uint8)
    num_low = np.count_nonzero(codes < 32)
    num_kept = np.count_nonzero(codes - np.uint8(9) < 5) + np.count_nonzero(codes == 27)
    return int(num_low - num_kept + np.count_nonzero(codes == 127))


def clean_text(text: str) -> str:
    """Return the text in NFC with `\\n` line ends, no control or invisible characters, no trailing spaces and at most
    one blank line in a row. Cleaning twice changes nothing."""
    if _ODD.search(text):  # most texts have none, and one look for any is a third of three for each
        text = _DROPPED.sub("", _NEWLINES.sub("\n", text)).replace("\u00a0", " ")
    if not text.isascii():
        text = "".join(unicodedata.normalize("NFC", piece) for piece in _MARKS.sub("\\g<0>\0", text).split("\0"))
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return (_BLANKS.sub("\n\n", text) if "\n\n\n" in text else text).strip("\n")


def markdown_title(text: str) -> str:
    """Return the first heading, else the title of the YAML front matter, else ""."""
    headings = markdown_headings(text)
    if headings:
        return headings[0][2]
    titles = [line[6:].strip().strip("\"'") for line in _front_matter(text.split("\n")) if line.startswith("title:")]
    return titles[0] if titles else ""


def markdown_headings(text: str) -> list[Heading]:
    """Return the headings (`# x`, or a line underlined with = or -) outside code fences and front matter."""
    lines, headings, at = text.split("\n"), [], 0
    fence, before, num_front = "", "", len(_front_matter(lines))
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if number < num_front:
            line = ""
        elif mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence:
            heading = _HEADING.match(line)
            if heading:
                title = line[heading.end() :].strip().rstrip("#").rstrip()
                headings.append((at + heading.end(), len(heading[1]), title))
            elif before.strip() and len(line) > 2 and set(line) in ({"="}, {"-"}):
                start = at - len(before) - 1 + len(before) - len(before.lstrip())
                headings.append((start, 1 if line[0] == "=" else 2, before.strip()))
        before = "" if fence or mark else line
        at += len(lines[number]) + 1
    return headings


def _front_matter(lines: list[str]) -> list[str]:
    """Return the lines of the front matter with its fences."""
    return lines[: lines.index("---", 1) + 1] if lines[0] == "---" and "---" in lines[1:] else []


def _detected(body: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    return known_charset(detect_encoding(body)) or "cp1252"
