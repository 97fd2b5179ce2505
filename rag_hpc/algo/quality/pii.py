"""Personal data and secrets in a text: where they are, and what stands there instead.

Made to leave alone what only looks alike: numbers must pass their own checks (Luhn, ISO 13616), addresses must be
public, phone numbers need a country's sign or the usual grouping. Every pattern is of bounded length from where it can
begin, so the time is linear in the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from rag_hpc.algo.text.edits import Edit

_IBAN_COUNTRIES = {  # by length, from the ISO 13616 registry
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "PT",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
_IBAN_LENGTHS = {country: length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()}
_CARDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|(?:6011|65\d\d|35[2-8]\d)\d{12}"
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # the only block that is given out (RFC 4291)

_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----\s{0,4}(?:[A-Za-z-]{1,20}: [^\n]{0,200}\n){0,4}"
    r"[A-Za-z0-9+/=\s]*-----END [A-Z ]{0,40}PRIVATE KEY-----"
)
# a pattern that begins with a set of characters, and looks behind after that, is searched several times faster
_TOKEN = re.compile(
    r"[Age](?<![\w-].)(?:(?<=A)(?:KIA|SIA)[A-Z0-9]{16}(?![\w-])"
    r"|(?<=g)h[pousr]_[A-Za-z0-9]{36,255}(?!\w)|(?<=e)yJ[\w-]{8,4000}\.[\w-]{8,8000}\.[\w-]{8,4000})"
)
_BEARER = re.compile(r"(?<![\w-])[Bb]earer[ \t]{1,4}([\w.~+/-]{20,4000}={0,2})")
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9].)[A-Z]\d{2}(?= ?[A-Z0-9])")
_CARD = re.compile(
    r"[2-6](?<![\w.-].)(?:\d{12,18}"
    r"|\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{3}[ -]\d{6}[ -]\d{4,5})(?![\w-])"
)
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\.?\w)")
_IPV6 = re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{0,33}(?:[0-9A-Fa-f]|::)(?!:?\w)")
_WORLD_PHONE = re.compile(r"\+(?<![\w+]\+)[1-9](?:[ .()/-]{0,2}\d){7,14}(?![\w-])")
_US_PHONE = re.compile(r"[(2-9](?<![\w.(-].)(?:(?<=\()[2-9]\d\d\) ?|\d\d[-.])[2-9]\d\d[-.]\d{4}(?![\w-])")

Span = tuple[int, int]


def pii_edits(text: str) -> tuple[list[Edit], dict[str, int]]:
    """Return the edits that put <EMAIL>, <IP>, <PHONE>, <CARD>, <IBAN> or <SECRET> in place of what it names, in
    order, and how many there are of each kind (in small letters). Where two overlap, the one that begins first stays.
    """
    spans = sorted(
        (start, place, end, kind)
        for place, (kind, hint, finder) in enumerate(_KINDS)
        if hint in text
        for start, end in finder(text)
    )
    edits: list[Edit] = []
    counts: dict[str, int] = {}
    for start, _, end, kind in spans:
        if not edits or start >= edits[-1][1]:
            edits.append((start, end, f"<{kind.upper()}>"))
            counts[kind] = counts.get(kind, 0) + 1
    return edits, counts


def _every(
    pattern: re.Pattern[str], holds: Callable[[str], bool] = bool, group: int = 0
) -> Callable[[str], Iterator[Span]]:
    """Return a function that yields the spans of the pattern's matches which pass a check."""
    return lambda text: (match.span(group) for match in pattern.finditer(text) if holds(match[group]))


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2])
        if length:
            end, solid = match.start(), ""
            while len(solid) < length and end < len(text) and (text[end] == " " or text[end] in _IBAN_SIGNS):
                solid += text[end].strip()
                end += 1
            if len(solid) == length and not text[end : end + 1].isalnum() and _is_iban(solid):
                yield match.start(), end


def _is_iban(solid: str) -> bool:
    """Return whether an account number passes ISO 7064 (mod 97-10)."""
    return int("".join(str(int(sign, 36)) for sign in solid[4:] + solid[:4])) % 97 == 1


def _is_card(number: str) -> bool:
    """Return whether a number is of a length and range that issuers use and passes Luhn's check."""
    digits = [int(sign) for sign in number if sign.isdigit()]
    if not _CARDS.fullmatch("".join(map(str, digits))) or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_public(address: str) -> bool:
    """Return whether an address is one of a host on the internet. Versions and sections look like IPv4, too: what ends
    in .0 or has no number of two digits is none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 4 and (address.endswith(".0") or len(address) == len("1.2.3.4")):
        return False
    return parsed.is_global and not parsed.is_multicast and (parsed.version == 4 or parsed in _GLOBAL_V6)


_IBAN_SIGNS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_KINDS: tuple[tuple[str, str, Callable[[str], Iterator[Span]]], ...] = (  # kind, what such a text holds, finder
    ("secret", "PRIVATE KEY-----", _every(_KEY_BLOCK)),
    ("secret", "", _every(_TOKEN)),
    ("secret", "earer", _every(_BEARER, group=1)),
    ("email", "@", _every(_EMAIL)),
    ("iban", "", _ibans),
    ("card", "", _every(_CARD, _is_card)),
    ("ip", ".", _every(_IPV4, _is_public)),
    ("ip", ":", _every(_IPV6, _is_public)),
    ("phone", "+", _every(_WORLD_PHONE)),
    ("phone", "", _every(_US_PHONE)),
)
