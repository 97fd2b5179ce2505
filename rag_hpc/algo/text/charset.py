"""Which charset a page is in: what its bytes prove, else what the transport says, else what the page says.

Labels are read as browsers do: https://encoding.spec.whatwg.org/#names-and-labels
"""

from __future__ import annotations

import codecs
import re

from rag_hpc.algo.text.eucjp import CODECS, register

HEAD_BYTES = 4096  # browsers read 1024; some generators put a long comment first
_META = re.compile(rb"""<meta[^>]{1,512}?charset\s*=\s*+["']?\s*([A-Za-z0-9_:.\-]{2,40})""", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_XML = re.compile(rb"""^\s*<\?xml[^>]{1,200}?encoding\s*=\s*["']([A-Za-z0-9_:.\-]{2,40})""", re.IGNORECASE)
_HEADER = re.compile(r"""charset\s*=\s*+["']?\s*([A-Za-z0-9_:.\-]{2,40})""", re.IGNORECASE)
BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Python's name of a charset to the standard's labels for it and its subsets, blanks between them.
_LABELS = {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
    "cp866": "866 cp866 csibm866 ibm866",
    "iso8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "iso8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e"
    " iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7"
    " iso_8859-7:1987 sun_eu_greek",
    "iso8859-8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8"
    " iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "iso8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859-14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso8859-16": "iso-8859-16",
    "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8-u": "koi8-ru koi8-u",
    "mac-roman": "csmacintosh mac macintosh x-mac-roman",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591"
    " iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252 x-user-defined",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5"
    " windows-1254 x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    CODECS["euc_jp"]: "cseucpkdfmtjapanese euc-jp x-euc-jp",
    CODECS["iso2022_jp"]: "csiso2022jp iso-2022-jp",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601"
    " windows-949",
    "utf-16-be": "unicodefffe utf-16be",
    "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
}
_BY_LABEL = {label: name for name, labels in _LABELS.items() for label in labels.split()}
# Python's names of subsets, which spellings that the standard does not list lead to
_SUPERSETS = {
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "utf-16": "utf-16-le",
    "euc_jp": CODECS["euc_jp"],
    "iso2022_jp": CODECS["iso2022_jp"],
}
# In the standard's "replacement": browsers show no character of such a page, since scripts hide in it
_REPLACED = {"csiso2022kr", "hz-gb-2312", "iso-2022-cn", "iso-2022-cn-ext", "iso-2022-kr", "replacement"}
_NOT_FOR_PAGES = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7", "charmap"}
_DOUBLE = {"gb18030", "big5hkscs", "cp932", "cp949", CODECS["euc_jp"]}
_MAX_BROKEN, _PROOF = 0.001, 10  # share of broken characters in UTF-8, and whole ones beyond ASCII to one of them
_LENIENT = "x_web_lenient"
_MIN_UTF8 = 4  # characters that are no ASCII: as many as no text of two bytes a character spells by chance
register()


def known_charset(label: str | None) -> str | None:
    """Return Python's name of the charset that browsers read `label` as, or None if it is none."""
    plain = (label or "").strip(" \t\n\f\r").lower()
    if not plain or plain in _REPLACED:
        return None
    if plain in _BY_LABEL:
        return _BY_LABEL[plain]
    try:
        info = codecs.lookup(plain)
    except (LookupError, ValueError):
        return None
    if not info._is_text_encoding or info.name in _NOT_FOR_PAGES or info.name.startswith(("iso2022_kr", "hz")):
        return None
    return _SUPERSETS.get(info.name) or _BY_LABEL.get(info.name.replace("_", "-"), info.name)


def header_charset(content_type: str) -> str | None:
    """Return the charset parameter of a Content-Type value, if it names a known charset."""
    found = _HEADER.search(content_type)
    return known_charset(found[1]) if found else None


def meta_label(body: bytes) -> str | None:
    """Return the charset label in the first meta tag of a page that has one, as it is spelt."""
    found = _META.search(_COMMENT.sub(b"", body[:HEAD_BYTES]))
    return found[1].decode("ascii") if found else None


def declared_charset(body: bytes) -> str | None:
    """Return the charset that a page declares by byte order mark, XML declaration or meta tag, or None."""
    return marked_charset(body) or _written_charset(body)


def marked_charset(body: bytes) -> str | None:
    """Return the charset of the byte order mark that the page begins with, or None."""
    return next((name for mark, name in BOMS if body.startswith(mark)), None)


def page_charset(body: bytes, content_type: str) -> str | None:
    """Return the charset of a page: of its byte order mark; UTF-8 where its bytes are that and could hardly be
    anything else, whatever header and page say; else the header's; else the page's own. None: nothing tells."""
    return marked_charset(body) or believed(body, header_charset(content_type) or _written_charset(body))


def believed(body: bytes, charset: str | None) -> str | None:
    """Return the charset that a page without byte order mark is in, of which its header or meta tag says `charset`."""
    if charset == "utf-8" or b"\0" in body:
        return charset
    if body.isascii():
        return "utf-8" if charset and charset.startswith("utf-") else charset
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        whole = body[: error.start]
        if error.reason != "unexpected end of data" or whole.isascii():  # else the body was cut inside a character
            return "utf-8" if is_nearly_utf8(body) else charset
        text = whole.decode("utf-8")
    return charset if charset in _DOUBLE and len(text) - len(text.encode("ascii", "ignore")) < _MIN_UTF8 else "utf-8"


def decoded_leniently(body: bytes, charset: str) -> str:
    """Return the text as browsers have it where the charset has no character for some bytes: control characters for
    those of the upper half's first two rows, the euro sign that early GBK had, else U+FFFD."""
    return body.decode(charset, "replace" if charset in CODECS.values() else _LENIENT)


def _lenient(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    byte = error.object[error.start]
    if error.encoding == "gb18030" and byte == 0x80:
        return "€", error.start + 1
    is_control = error.encoding == "charmap" and 0x80 <= byte <= 0x9F  # codecs of one byte a character
    return (chr(byte), error.start + 1) if is_control else ("\ufffd", error.end)


codecs.register_error(_LENIENT, _lenient)


def is_nearly_utf8(body: bytes) -> bool:
    """Return whether next to all of a body is UTF-8, by so many characters beyond ASCII that it is no other charset."""
    text = body.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return _PROOF * broken < len(text) - len(text.encode("ascii", "ignore")) and broken <= _MAX_BROKEN * len(text)


def _written_charset(body: bytes) -> str | None:
    found = _XML.search(body, 0, HEAD_BYTES)
    declared = known_charset(found[1].decode("ascii") if found else meta_label(body))
    # A meta tag that could be read as ASCII does not stand in UTF-16 text (HTML standard, prescan).
    return "utf-8" if declared and declared.startswith("utf-16") else declared
