"""URLs in one spelling each, and which addresses a crawl may connect to."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

MAX_URL_CHARS = 2048
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.\-]*[a-z0-9_.])?")
_BRACKETS = re.compile(r"\[[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*\](?::\d*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN = re.compile(r"/?[A-Za-z0-9_~\-][A-Za-z0-9_~\-./]*")
_WHOLE = re.compile(r"https?://[a-z0-9_](?:[a-z0-9_.\-]*[a-z0-9_])?(/[A-Za-z0-9_~\-./]*)?")
_MAX_NAME_CHARS = 253
_SAFE = "/:@!$&'()*+,;=-._~%"
_CONTROL = dict.fromkeys((9, 10, 13))
_BLANK = "".join(map(chr, range(33)))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL = [ipaddress.ip_network(net) for net in ("::/96", "64:ff9b:1::/48", "fec0::/10")]  # is_global says otherwise


def normalise_url(url: str, base: str = "") -> str | None:
    """Return the one spelling of an http(s) URL without its fragment, or None if it is not one.

    A relative `url` is taken from `base`, which is normalised already.
    Lower-case scheme and host (IDNA), no default port, no dot segments, escapes upper-case and only where needed
    (RFC 3986, 6.2.2). URLs with a user name are refused. Applying it twice changes nothing.
    """
    whole = _WHOLE.fullmatch(url) if len(url) <= _MAX_NAME_CHARS else None
    if whole and "/." not in url:  # most of those in full, on most sites
        return url if whole[1] else f"{url}/"
    text = url.strip(_BLANK).translate(_CONTROL)
    try:
        if base:
            text = _joined(base, text)
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not host or "@" in parts.netloc or port == 0:
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
    return [(root if href[0] == "/" else folder) + href if _PLAIN.fullmatch(href) and "/." not in href
            else _join(stem if href.startswith("?") else folder, href) if href else base for href in hrefs]


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
    """Return True if the IP address is reachable on the public internet; IPv4 inside IPv6 counts as the IPv4."""
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if any(ip in net for net in _LOCAL):
            return False
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


@functools.lru_cache(maxsize=1 << 16)
def _join(base: str, href: str) -> str | None:
    return normalise_url(href, base)


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
    try:
        name = host.encode("idna").decode("ascii").lower() if not host.isascii() else host.lower()
    except UnicodeError:
        return None
    name = name.rstrip(".")
    return name if _HOST.fullmatch(name) and len(name) <= _MAX_NAME_CHARS else None


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
