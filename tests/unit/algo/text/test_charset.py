"""Charsets of pages as the Encoding Standard has them."""

from __future__ import annotations

import codecs

import pytest

from rag_hpc.algo.extract.decode import decode
from rag_hpc.algo.text.charset import header_charset, known_charset, page_charset

# label, bytes, text: each with a character that the narrow codec of the label's name refuses or reads otherwise
WIDER = [
    ("shift_jis", b"\x87\x40\x87\x8a\xfb\xfc", "①㈱髙"),
    ("x-sjis", b"\x81\x60\x87\x54\xfa\x40", "～Ⅰⅰ"),
    ("euc-jp", b"\xad\xa1\xad\xea\xc6\xfc\xfc\xe2", "①㈱日髙"),
    ("iso-2022-jp", b"\x1b$B\x2d\x21\x2d\x6a\x1b(B!", "①㈱!"),
    ("euc-kr", b"\x8c\x63\xb0\xa1", "똠가"),
    ("ks_c_5601-1987", b"\x94\xee", "뷁"),
    ("gb2312", b"\xe9\x46\xd6\xd0", "镕中"),
    ("gbk", b"\x81\x30\x84\x36", "¥"),
    ("big5", b"\xf9\xd6\xa4\xa4", "碁中"),
    ("big5", b"\x88\x62\x88\x64", "Ê̄Ê̌"),
    ("tis-620", b"\xa1\x85\x93", "ก…“"),
    ("iso-8859-11", b"\xa1\x80", "ก€"),
    ("iso-8859-9", b"\x80\x93\xfd", "€“ı"),
    ("iso-8859-1", b"\x80\x92\xe9", "€’é"),
    ("us-ascii", b"\x92", "’"),
    ("x-user-defined", b"\xe9", "é"),
    ("iso-8859-8-i", b"\xe0", "א"),
    ("utf-16", "日本".encode("utf-16-le") + b"<\0", "日本<"),
    ("unicode", "é<".encode("utf-16-le"), "é<"),
    ("unicodefffe", "é<".encode("utf-16-be"), "é<"),
    ("mac", b"\x8e", "é"),
    ("koi8-ru", b"\xa4", "є"),
]


@pytest.mark.parametrize(("label", "body", "text"), WIDER)
@pytest.mark.parametrize("spelt", [str.lower, str.upper, lambda label: f"  {label}\t"])
def test_a_label_means_what_browsers_read_it_as(label: str, body: bytes, text: str, spelt: object) -> None:
    assert callable(spelt)
    assert decode(body, spelt(label), "u") == text


def test_a_page_of_the_japanese_web_keeps_its_circled_numbers() -> None:
    text = "①日本の港は洪水のあとに㈱髙島屋の町で再建された。"
    page = f"<meta charset=shift_jis><p>{text}"
    assert decode(page.encode("cp932"), None, "u") == page


LENIENT = [  # bytes that the charset has no character for, in a short page
    ("gbk", "港口".encode("gbk") + b"\x80" + "5元".encode("gbk"), "港口€5元"),
    ("windows-1252", b"He said \x93hello\x94, \xe9t\xe9, and \x9d went", "He said “hello”, été, and \x9d went"),
    ("windows-874", "ท่าเรือ".encode("cp874") * 9 + b"\xdb", "ท่าเรือ" * 9 + "\ufffd"),
    ("windows-1253", "Ελλάδα".encode("cp1253") * 20 + b"\xd2", "Ελλάδα" * 20 + "\ufffd"),
    ("windows-1251", "Порт".encode("cp1251") + b"\x98", "Порт\x98"),
    ("shift_jis", "日本の港".encode("cp932") * 60 + b"\xeb\x9f", "日本の港" * 60 + "\ufffd\ufffd"),
    ("iso-2022-jp", b"\x1b$BF|K\\\x1b(I6E\x1b(B", "日本ｶﾅ"),
]


@pytest.mark.parametrize(("label", "body", "text"), LENIENT)
def test_a_byte_without_character_costs_that_byte_alone(label: str, body: bytes, text: str) -> None:
    page = f"<meta charset={label}><p>"
    assert decode(page.encode() + body, None, "u") == page + text
    assert decode(b"<p>" + body, header_charset(f"text/html; charset={label}"), "u") == f"<p>{text}"


def test_utf8_with_a_broken_character_is_utf8_whatever_is_declared() -> None:
    text = "<meta charset=windows-1251><p>" + "Порт был построен. " * 100
    assert decode(text.encode() + b"\xd0 x", "cp1251", "u") == f"{text}\ufffd x"
    latin = "<p>" + "plain words of the page " * 100 + "caf\u00e9 \u201d"
    assert decode(latin.encode("cp1252") + b"\x9d", "cp1252", "u") == f"{latin}\x9d"


@pytest.mark.parametrize(
    "comment", ["<!-- <meta charset=windows-1251> -->", "<!--\n<meta charset=shift_jis>\n-- > x-->"]
)
def test_a_charset_in_a_comment_is_none(comment: str) -> None:
    page = f"<!doctype html>{comment}<meta charset=koi8-r><p>Порт был построен"
    assert decode(page.encode("koi8-r"), None, "u") == page


@pytest.mark.parametrize("label", ["hz-gb-2312", "iso-2022-kr", "replacement", "utf-7", "rot13", "idna", "", None])
def test_labels_that_browsers_refuse_are_none(label: str | None) -> None:
    assert known_charset(label) is None


@pytest.mark.parametrize("header", ["iso-8859-1", "windows-1251", "shift_jis", "euc-kr", "gb2312", "utf-16"])
@pytest.mark.parametrize("text", ["L’été à l’hôtel près du café", "日本の漢字は中国から", "Привет, мир"])
def test_a_header_that_lies_loses_to_bytes_that_are_utf8(header: str, text: str) -> None:
    body = f"<p>{text}</p>".encode()
    assert page_charset(body, f"text/html; charset={header}") == "utf-8"
    assert decode(body, header_charset(f"text/html; charset={header}"), "u") == f"<p>{text}</p>"
    assert decode(body[:-5], header, "u") == f"<p>{text}"[: len(f"<p>{text}</p>") - 5]


def test_a_body_cut_inside_a_character_is_utf8_still() -> None:
    body = "L’été à l’hôtel".encode()[:-10]
    assert page_charset(body, "text/html; charset=iso-8859-1") == "utf-8"
    cut = "日本の漢字".encode()[:-1]
    assert decode(cut, "iso-8859-1", "u") == decode(cut, None, "u") == "日本の漢"


def test_a_header_is_believed_where_the_bytes_prove_nothing() -> None:
    assert page_charset("é".encode("cp1251", "replace") + b"\xef\xf0", "a/b; charset=windows-1251") == "cp1251"
    assert page_charset("茅".encode("gbk"), "text/html; charset=gbk") == "gb18030"  # one character that is UTF-8 too
    assert page_charset(b"plain", "text/html; charset=shift_jis") == "cp932"
    assert page_charset(b"plain", "text/html; charset=utf-16") == "utf-8"
    assert page_charset(b"<meta charset=koi8-r>", "text/html") == "koi8-r"
    assert page_charset(b"plain", "text/html") is None


@pytest.mark.parametrize(("mark", "codec"), [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_BE, "utf-16-be")])
def test_a_byte_order_mark_wins_over_all(mark: bytes, codec: str) -> None:
    body = mark + "<meta charset=gbk>é".encode(codec)
    assert page_charset(body, "text/html; charset=iso-8859-1") == codec
    assert decode(body, "iso-8859-1", "u") == "<meta charset=gbk>é"
