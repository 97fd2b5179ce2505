"""What a page says about itself: title, language, date and canonical address, from the tags that the scanner noted."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urljoin

from rag_hpc.algo.extract.elsewhere import article_body
from rag_hpc.algo.extract.entities import unescape, unescape_attribute

_ATTRIBUTE = re.compile(r"""(?<![\w:.-])([a-zA-Z][\w:.-]{0,60})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_LANG = re.compile(r"\s*([a-zA-Z]{2,3})(?:[-_].*)?\s*\Z", re.DOTALL)
_JSON_DATE = re.compile(rb'"datePublished"\s*:\s*"([^"]{4,40})"')
_DATE = re.compile(r"\s*(\d{4})(?:([-/])(\d{1,2})\2(\d{1,2})|(\d{2})(\d{2}))(?!\d)")
_DATE_NAMES = {  # names of <meta> that hold the date of publication, the surest first
    "article:published_time": 0,
    "og:published_time": 0,
    "og:article:published_time": 0,
    "datepublished": 1,
    "parsely-pub-date": 2,
    "sailthru.date": 2,
    "pubdate": 2,
    "publishdate": 2,
    "publish-date": 2,
    "publish_date": 2,
    "dc.date.issued": 2,
    "dcterms.issued": 2,
    "citation_publication_date": 2,
    "date": 3,
    "dc.date": 3,
    "dcterms.date": 3,
}
_JSON_RANK, _TIME_RANK, _TIME_OTHER_RANK = 1, 2, 4
_MAX_TAG = 4096  # bytes of one tag that are read


@dataclass(frozen=True)
class PageMeta:
    """Facts of a page; an empty string where it states none. date: YYYY-MM-DD."""

    title: str = ""
    lang: str = ""
    date: str = ""
    canonical: str = ""
    article: str = ""  # what it states to be the text of its article


def page_meta(source: bytes, marks: Iterable[tuple[str, int, int]], url: str) -> PageMeta:
    """Return what the noted tags say; marks: tag name, begin and end in source (content for title and script)."""
    title = lang = canonical = article = ""
    dates: list[tuple[int, str]] = []
    for tag, begin, end in marks:
        if tag == "title":
            title = title or " ".join(unescape(_text(source, begin, end)).split())
        elif tag == "html":
            found = _LANG.match(_attributes(source, begin, end).get("lang", ""))
            lang = lang or (found[1].lower() if found else "")
        elif tag == "script":
            stated = _JSON_DATE.search(source, begin, end)
            dates += [(_JSON_RANK, stated[1].decode("utf-8", "replace"))] if stated else []
            article = max(article, article_body(source, begin, end), key=len)
        elif tag == "link":
            if not canonical and b"canonical" in source[begin : min(end, begin + _MAX_TAG)].lower():
                canonical = _canonical(_attributes(source, begin, end), url)
        elif b"dat" in source[begin : min(end, begin + _MAX_TAG)].lower() or b"publi" in source[begin:end]:
            dates += _dates(tag, _attributes(source, begin, end))
    return PageMeta(title, lang, _first_date(dates), canonical, article)


def _text(source: bytes, begin: int, end: int) -> str:
    return source[begin : min(end, begin + _MAX_TAG)].decode("utf-8", "replace")


def _attributes(source: bytes, begin: int, end: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(_text(source, begin, end)):
        found.setdefault(match[1].lower(), unescape_attribute(match[2] or match[3] or match[4] or ""))
    return found


def _canonical(attributes: dict[str, str], url: str) -> str:
    if "canonical" not in attributes.get("rel", "").lower().split():
        return ""
    try:
        address = urljoin(url, attributes.get("href", "").strip())
    except ValueError:  # a malformed address in the page
        return ""
    return address if address.startswith(("http://", "https://")) and not any(c.isspace() for c in address) else ""


def _dates(tag: str, attributes: dict[str, str]) -> list[tuple[int, str]]:
    if tag == "time":
        sure = "pubdate" in attributes or attributes.get("itemprop", "").lower() == "datepublished"
        return [(_TIME_RANK if sure else _TIME_OTHER_RANK, attributes.get("datetime", ""))]
    names = (attributes.get(key, "").lower() for key in ("property", "name", "itemprop"))
    ranks = [_DATE_NAMES[name] for name in names if name in _DATE_NAMES]
    return [(min(ranks), attributes.get("content", ""))] if ranks else []


def _first_date(dates: list[tuple[int, str]]) -> str:
    """Return the first valid date of the best rank."""
    for _, text in sorted(dates, key=lambda pair: pair[0]):
        match = _DATE.match(text)
        if match:
            try:
                return datetime.date(*(int(part) for part in match.groups() if part and part.isdigit())).isoformat()
            except ValueError:  # such as the 31st of a short month
                continue
    return ""
