"""Title and main text of a fetched page: HTML, Markdown or plain text, from bytes."""

from __future__ import annotations

import codecs
import enum
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_hpc.errors import InputError, MissingDependency

if TYPE_CHECKING:
    from resiliparse.parse.html import DocumentNode, HTMLTree

_HTML_TYPES = ("text/html", "application/xhtml+xml", "application/xml", "text/xml")
_MARKDOWN_TYPES = ("text/markdown", "text/x-markdown")
_LOOKS_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_META_BYTES = 4096  # browsers read 1024; some generators put a long comment first
_MAX_BROKEN = 0.001  # share of replacement characters up to which a declared charset is still believed
_MAX_JUNK = 0.01  # share of replacement and control characters above which bytes are no text
_MAX_DEPTH = 300  # extraction is quadratic in depth: 20,000 nested elements take 5 s; real pages stay below 60
_MAX_TAG, _MAX_ATTRIBUTES = 20_000, 2_000  # parsing is quadratic in attributes: 50,000 in one tag take 4 s
_LONG_TAG = re.compile(rf"<[a-zA-Z][\w:-]*[\s/][^<>]{{{_MAX_TAG},}}")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_LANDMARKS = ("div.documentwrapper div.body", "[role=main]")
_SKIP = ["nav", "footer", "button", "[role=navigation]", ".sphinxsidebar", ".related", ".headerlink"]
_NEWLINES = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_DROPPED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ud800-\udfff\ufffe\uffff]")
_JUNK = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd]")
_BLANKS = re.compile(r"\n{3,}")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+")
_LANG = re.compile(r"([a-zA-Z]{2,3})(?:[-_].*)?\Z")


class Extractor(enum.Enum):
    """How main text is taken from HTML. resiliparse: fast, keeps code; trafilatura: best on news; plain: all text."""

    trafilatura = "trafilatura"
    resiliparse = "resiliparse"
    plain = "plain"


@dataclass(frozen=True)
class Extracted:
    """The text of a page; title and lang_hint are empty where the page states none."""

    title: str
    text: str
    lang_hint: str = ""


class ExtractError(InputError):
    """A page without usable text; `reason` is the slug for the rejects."""

    def __init__(self, reason: str, url: str, detail: str) -> None:
        super().__init__(f"{url}: {reason}: {detail}")
        self.reason = reason
        self.detail = detail


def extract(body: bytes, content_type: str, charset: str | None, url: str, extractor: Extractor) -> Extracted:
    """Return title and cleaned text of a page; the same bytes give the same text.

    Code blocks keep their lines and indents, headings and list items their own lines. Markdown and plain text pass
    through. Raises ExtractError with the reason: empty, binary, undecodable, unsupported-type, too-deep,
    too-many-attributes, no-text; MissingDependency when the extractor is not installed.
    """
    if not body.strip():
        raise ExtractError("empty", url, "the body has no bytes but spaces")
    kind = content_type.split(";")[0].strip().lower()
    if kind and not kind.startswith("text/") and kind not in _HTML_TYPES:
        raise ExtractError("unsupported-type", url, f"content type {kind!r} is neither HTML nor text")
    raw = decode(body, charset, url)
    if kind in _HTML_TYPES or (not kind and _looks_html(raw)):
        found = _from_html(raw, url, extractor)
    else:
        text = clean_text(raw)
        found = Extracted(markdown_title(text) if kind in _MARKDOWN_TYPES else "", text)
    if not found.text:
        raise ExtractError("no-text", url, "nothing is left once markup is removed")
    return found


def decode(body: bytes, charset: str | None, url: str) -> str:
    """Return the body as text: by its byte order mark, the given charset, the one in <meta>, UTF-8, or by detection.

    The first that decodes without error wins; then the first declared one with few errors; detection comes last.
    Raises ExtractError: binary, undecodable.
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            return _checked(body[len(mark) :].decode(name, errors="replace"), url)
    meta = _META_CHARSET.search(body, 0, _META_BYTES)
    declared = [name for name in (charset, meta[1].decode("ascii") if meta else None) if name]
    names = [codec for codec in map(_codec, declared) if codec] + ["utf-8"]
    for name in names:
        try:
            return _checked(body.decode(name), url)
        except UnicodeDecodeError:
            continue
    for name in names:
        text = body.decode(name, errors="replace")
        if text.count("\ufffd") <= _MAX_BROKEN * len(text):
            return _checked(text, url)
    return _checked(body.decode(_detected(body), errors="replace"), url)


def clean_text(text: str) -> str:
    """Return the text in NFC with `\\n` line ends, no control or invisible characters, no trailing spaces and at most
    one blank line in a row. Cleaning twice changes nothing."""
    text = _DROPPED.sub("", _NEWLINES.sub("\n", text)).replace("\u00a0", " ")
    text = unicodedata.normalize("NFC", text)
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return _BLANKS.sub("\n\n", text).strip("\n")


def markdown_title(text: str) -> str:
    """Return the first heading (`# x`, or a line underlined with = or -) outside code fences, else the title of the
    YAML front matter, else ""."""
    front, lines = _front_matter(text.split("\n"))
    fence = before = ""
    for line in lines:
        mark = _FENCE.match(line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence:
            heading = _HEADING.match(line)
            if heading and line[heading.end() :].strip("# \t"):
                return line[heading.end() :].strip().rstrip("#").rstrip()
            if before.strip() and len(line) > 2 and set(line) in ({"="}, {"-"}):
                return before.strip()
        before = "" if fence or mark else line
    titles = [line[6:].strip().strip("\"'") for line in front if line.startswith("title:")]
    return titles[0] if titles else ""


def _front_matter(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines of the front matter and those after it."""
    if lines[0] == "---" and "---" in lines[1:]:
        end = lines.index("---", 1)
        return lines[1:end], lines[end + 1 :]
    return [], lines


def _looks_html(text: str) -> bool:
    head = text[:_META_BYTES].lstrip()
    return head.startswith("<") and _LOOKS_HTML.search(head) is not None


def _codec(label: str) -> str | None:
    """Return Python's codec for a charset label by the WHATWG table, which leaves out dangerous ones; or None."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    name = map_encoding_to_html5(label.strip().lower(), fallback_utf8=False)
    try:
        return codecs.lookup(name).name if name else None
    except LookupError:
        return None


def _detected(body: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    return _codec(detect_encoding(body) or "") or "cp1252"


def _checked(text: str, url: str) -> str:
    junk = _JUNK.findall(text)
    if len(junk) > max(1, _MAX_JUNK * len(text)):
        reason = "undecodable" if junk.count("\ufffd") * 2 > len(junk) else "binary"
        raise ExtractError(reason, url, f"{len(junk)} of {len(text)} characters are control or broken ones")
    return text


def _from_html(html: str, url: str, extractor: Extractor) -> Extracted:
    from resiliparse.parse.html import HTMLTree

    _check_tags(html, url)
    tree = HTMLTree.parse(html)
    document = tree.document
    if document is None:
        raise ExtractError("no-text", url, "the parser found no document")
    if document.query_selector(">".join(["*"] * _MAX_DEPTH)) is not None:
        raise ExtractError("too-deep", url, f"elements are nested {_MAX_DEPTH} deep or more")
    root, heading = document.query_selector("html"), document.query_selector("h1")
    lang = _LANG.match((root.getattr("lang") or "").strip()) if root else None
    title = clean_text(tree.title or "") or clean_text(str(heading.text or "") if heading else "")
    text = clean_text(_trafilatura(html, url)) if extractor is Extractor.trafilatura else ""
    if not text:
        text = clean_text(_all_text(tree) if extractor is Extractor.plain else _resiliparse(tree, document))
    return Extracted(" ".join(title.split()), text, lang[1].lower() if lang else "")


def _check_tags(html: str, url: str) -> None:
    """Raise ExtractError for a tag with absurdly many attributes (the plain form: quotes may hide a crafted one)."""
    for match in _LONG_TAG.finditer(html):
        before = html[: match.start()].lower()
        in_script = before.rfind("<script") > before.rfind("</script")
        if not in_script and len(_QUOTED.sub(" ", match[0]).split()) > _MAX_ATTRIBUTES:
            raise ExtractError("too-many-attributes", url, f"a tag has more than {_MAX_ATTRIBUTES} attributes")


def _resiliparse(tree: HTMLTree, document: DocumentNode) -> str:
    """Return the main text: of the page's own landmark where it states one, else by resiliparse's rules.

    The rules drop some lists of documentation pages (5 % of the items on Slurm's site), a landmark taken whole
    does not. A landmark that holds less than half of what the rules find is not the page's body.
    """
    main = _plain_text(tree, main_content=True)
    for selector in _LANDMARKS:
        marked = document.query_selector_all(selector)
        if len(marked) == 1:
            text = _plain_text(marked[0].html, main_content=False)
            if 2 * len(text) >= len(main):
                return text
    return main if main.strip() else _all_text(tree)


def _all_text(tree: HTMLTree) -> str:
    return _plain_text(tree, main_content=False)


def _plain_text(html: str | HTMLTree, *, main_content: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(
        html,
        preserve_formatting=True,
        main_content=main_content,
        alt_texts=False,
        comments=False,
        post_meta=False,
        skip_elements=_SKIP,
    )
    return text


def _trafilatura(html: str, url: str) -> str:
    """Return trafilatura's text, empty when it finds none. As plain text: its Markdown loses code on some pages."""
    try:
        from trafilatura import extract as extract_main
    except ImportError as error:  # lxml_html_clean is not pulled in by every pip
        raise MissingDependency(
            f"trafilatura cannot be imported ({error}); run: pip install trafilatura lxml_html_clean,"
            " or set extractor=resiliparse"
        ) from error
    return extract_main(html, url=url, include_comments=False) or ""
