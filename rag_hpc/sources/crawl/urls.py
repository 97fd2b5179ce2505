"""URLs in one spelling each, and which addresses a crawl may connect to."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, urlsplit

MAX_URL_CHARS = 2048  # of a URL that is fetched
MAX_GIVEN_CHARS = 8192  # of one as it is written; escapes and dot segments may go, so it may be longer
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.\-]*[a-z0-9_.])?")
_BRACKETS = re.compile(r"\[[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*\](?::\d*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN = re.compile(r"/?[A-Za-z0-9_~\-][A-Za-z0-9_~\-./]*")
_WHOLE = re.compile(r"https?://([a-z0-9_](?:[a-z0-9_.\-]*[a-z0-9_])?)(/[A-Za-z0-9_~\-./]*)?")
_HEAD = re.compile(r"https?://[^/?#]{1,264}(?![^/?#])", re.IGNORECASE)  # with a name or address that is not too long
_DOTS = re.compile("[.\u3002\uff0e\uff61]")  # of a name, before IDNA
_JOINER = re.compile("[\u200c\u200d]")
_MAX_NAME_CHARS, _MAX_LABEL_CHARS = 253, 63  # RFC 1035, 2.3.4
_CACHED_CHARS = 512
_IDN = re.compile(r"\s*(?:https?:)?[/\\]{2,}([^/?#]*[^\x00-\x7f/?#][^/?#]*)", re.IGNORECASE)
MAX_IDN_HOSTS = 1000  # of a page or sitemap, in letters beyond ASCII: IDNA takes about 1 ms for one
_SAFE = "/:@!$&'()*+,;=-._~%"
_BACKSLASHED = re.compile(r"[^?#]*")  # of a URL, where a backslash is a slash
_CONTROL = dict.fromkeys((9, 10, 13))
_BLANK = "".join(map(chr, range(33)))
# IANA's special-purpose address registries of 2025, and multicast, which they leave out: nobody serves pages there.
# https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry. Of IPv6 only 2000::/3
# is given out (.../ipv6-address-space), so what lies elsewhere (local and IPv4-compatible addresses, translated ones,
# segment routing) needs no line; 2001::/23 holds Teredo, 2002::/16 is 6to4.
_SPECIAL_V4 = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24
192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4
240.0.0.0/4"""
_SPECIAL_V6 = "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20"
_SPECIAL = [ipaddress.ip_network(block) for block in f"{_SPECIAL_V4} {_SPECIAL_V6}".split()]
_GIVEN_OUT = ipaddress.ip_network("2000::/3")
_OF_IPV4 = [ipaddress.ip_network(block) for block in ("::ffff:0:0/96", "64:ff9b::/96")]  # mapped; NAT64, RFC 6052


def normalise_url(url: str, base: str = "") -> str | None:
    """Return the one spelling of an http(s) URL without its fragment, or None if it is not one.

    A relative `url` is taken from `base`, which is normalised already.
    Lower-case scheme and host (UTS 46, nontransitional, as browsers have it), backslashes as slashes, no default port,
    no dot segments, escapes upper-case and only where needed (RFC 3986, 6.2.2). URLs with a user name are refused, and,
    before any work is done on them, those over MAX_GIVEN_CHARS. Applying it twice changes nothing.
    """
    if len(url) > MAX_GIVEN_CHARS:
        return None
    whole = _WHOLE.fullmatch(url) if len(url) <= _MAX_NAME_CHARS else None
    if whole and "/." not in url and (len(whole[1]) <= _MAX_LABEL_CHARS or _is_name(whole[1])):
        return url if whole[2] else f"{url}/"  # most of those in full, on most sites
    text = url.strip(_BLANK).translate(_CONTROL)
    if "\\" in text:
        text = _BACKSLASHED.sub(lambda found: found[0].replace("\\", "/"), text, count=1)
    text = _joined(base, text) if base else text
    if not _HEAD.match(text):
        return None
    try:
        parts = urlsplit(text)  # normalises, too
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if not host or "@" in parts.netloc or port == 0:
        return None
    if "[" in parts.netloc and not _BRACKETS.fullmatch(parts.netloc):  # what urlsplit lets through varies
        return None
    name = _host_name(host)
    if name is None:
        return None
    if port is not None and port != _PORTS[scheme]:
        name = f"{name}:{port}"
    try:
        path = _dotless(_escaped(parts.path, _SAFE))
        query = f"?{_escaped(parts.query, _SAFE + '?')}" if parts.query else ""
    except UnicodeEncodeError:  # lone surrogates
        return None
    return f"{scheme}://{name}{path}{query}"


def join_links(base: str, hrefs: Iterable[str]) -> list[str | None]:
    """Return each href as a normalised URL (None if it is no http(s) URL), in order; `base` is normalised."""
    stem = base.split("?", 1)[0]
    folder, root = stem[: stem.rfind("/") + 1], "/".join(base.split("/", 3)[:3])
    room = _CACHED_CHARS - len(base)  # only what is short is kept, so that the memory for it is bounded
    return [
        (root if href[0] == "/" else folder) + href
        if _PLAIN.fullmatch(href) and "/." not in href
        else (_normalised if len(href) <= room else normalise_url)(href, stem if href.startswith("?") else folder)
        if href
        else base
        for href in hrefs
    ]


def affordable(hrefs: Iterable[str]) -> Iterator[str]:
    """Yield the hrefs of one document without those on more than MAX_IDN_HOSTS hosts in letters beyond ASCII."""
    hosts: set[str] = set()
    for href in hrefs:
        found = None if href.isascii() else _IDN.match(href)
        if found and found[1] not in hosts:
            if len(hosts) == MAX_IDN_HOSTS:
                continue
            hosts.add(found[1])
        yield href


def host_key(url: str) -> str:
    """Return "name" or "name:port" of a normalised URL, whatever the scheme: whose pages one frontier holds."""
    return url.split("/", 3)[2]


def host_name(key: str) -> str:
    """Return the name or address in a host key: whose machine it is, which politeness is about, whatever the port."""
    return urlsplit(f"//{key}").hostname or ""


def is_loopback_name(key: str) -> bool:
    """Return True if a host key names this machine without asking a resolver."""
    name = host_name(key)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_public(address: str) -> bool:
    """Return True if pages may be served at the IP address: it is on the public internet and for no special purpose.

    IPv4 that is mapped or translated (NAT64) to IPv6 counts as the IPv4.
    """
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if any(ip in block for block in _OF_IPV4):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return (ip.version == 4 or ip in _GIVEN_OUT) and not any(ip in block for block in _SPECIAL)


_normalised = functools.lru_cache(maxsize=1 << 16)(normalise_url)


def _joined(base: str, text: str) -> str:
    """Return `text` in full (RFC 3986, 5.2.2, dots left in); unlike urljoin it keeps empty segments, as browsers do."""
    if _SCHEME.match(text):
        return text
    if text.startswith("//"):
        return base.partition("/")[0] + text
    if text.startswith("/"):
        return "/".join(base.split("/", 3)[:3]) + text
    stem = base.partition("?")[0]
    if not text or text.startswith("#"):
        return base
    return stem + text if text.startswith("?") else stem[: stem.rfind("/") + 1] + text


def _host_name(host: str) -> str | None:
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host).compressed}]"
        except ValueError:
            return None
    host = unquote(host)
    if not host.isascii():
        host = _ascii_name(host) if _is_name(host) else ""
    name = host.lower().rstrip(".")
    return name if _is_name(name) and _HOST.fullmatch(name) else None


def _ascii_name(host: str) -> str:
    """Return a name in ASCII by UTS 46, nontransitional (https://url.spec.whatwg.org/#idna), "" if it is none.

    Symbols, which IDNA 2008 has no place for, are encoded as browsers do.
    """
    import idna

    try:
        mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
        if not _is_name(mapped):  # 18 times as long, and what follows is not linear
            return ""
        return ".".join(_ascii_label(label) for label in mapped.split("."))
    except (idna.IDNAError, UnicodeError):
        return ""


def _ascii_label(label: str) -> str:
    import idna

    if label.isascii():
        return label
    try:
        return idna.alabel(label).decode("ascii")
    except idna.InvalidCodepointContext:
        if _JOINER.search(label):
            raise
        return _punycode(label)  # UTS 46 has no rules of context but for joiners
    except idna.InvalidCodepoint:
        return _punycode(label)


def _punycode(label: str) -> str:
    import idna

    idna.check_bidi(label)
    return f"xn--{label.encode('punycode').decode('ascii')}"


def _is_name(host: str) -> bool:
    """Return whether a host is as short as a name and its labels have to be."""
    labels = _DOTS.split(host) if len(host) <= _MAX_NAME_CHARS + 1 else ()
    return bool(labels) and max(map(len, labels)) <= _MAX_LABEL_CHARS


def _escaped(text: str, safe: str) -> str:
    quoted = quote(_STRAY_PERCENT.sub("%25", text), safe=safe)
    return _ESCAPE.sub(_plain_or_upper, quoted) if "%" in quoted else quoted


def _plain_or_upper(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else f"%{found[1].upper()}"


def _dotless(path: str) -> str:
    if "/." not in path:
        return path if path.startswith("/") else f"/{path}"
    kept: list[str] = []
    segments = path.removeprefix("/").split("/")
    for segment in segments:
        if segment == "..":
            kept[-1:] = []
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
