from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.quality.pii import pii_edits
from rag_hpc.algo.text.edits import apply_edits

KEY = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEpAIBAAKCAQEA\nabc=\n-----END RSA PRIVATE KEY-----"


def masked(text: str) -> str:
    return apply_edits(text, pii_edits(text)[0])


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Ask john.doe+x@mail.example.co.uk.", "Ask <EMAIL>."),
        ("from 93.184.216.34, to [2606:2800:21f:cb07::1]: ok", "from <IP>, to [<IP>]: ok"),
        ("call +49 (0)30 901820-12 or (212) 555-0123 or 212-555-0123", "call <PHONE> or <PHONE> or <PHONE>"),
        ("pay 4111 1111 1111 1111 or 378282246310005 now", "pay <CARD> or <CARD> now"),
        ("IBAN DE89 3704 0044 0532 0130 00 IS MINE, GB82WEST12345698765432", "IBAN <IBAN> IS MINE, <IBAN>"),
        ("key AKIAIOSFODNN7EXAMPLE.", "key <SECRET>."),
        ("Authorization: Bearer abcDEF0123456789.-_abcd==", "Authorization: Bearer <SECRET>"),
        (f"a\n{KEY}\nb", "a\n<SECRET>\nb"),
        ("ghp_" + "a1" * 18, "<SECRET>"),
        ("t=eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2Q", "t=<SECRET>"),
    ],
)
def test_each_kind_is_masked(text: str, after: str) -> None:
    assert masked(text) == after


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1, 192.168.1.1, 127.0.0.1, fe80::1, ::1, 2001:db8::1, 255.255.255.0",  # not public
        "see section 3.1.3.4 of version 6.1.0.0, or 1.2.3.4.5, or v12.13.14.15",
        "at 12:30:45 std::vector<a::b> add::dead 2023:",
        "4111 1111 1111 1112, 1234567890123456, 0000000000000000, 5555 5555 5555 5555",  # Luhn, issuer, all the same
        "2 3 4 5 6 7 8 9 10 11 12 13 14 15 16, 3.141592653589793",
        "DE89 3704 0044 0532 0130 01 and XX89370400440532013000",
        "@param a@b user@host decorator @app.route 2024-10-01 12345-6789 1-800",
        "a bearer of good news; AKIA; -----BEGIN PRIVATE KEY----- and so on",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert masked(text) == text


def test_kinds_are_counted() -> None:
    _, counts = pii_edits("a@b.de c@d.de 93.184.216.34")
    assert counts == {"email": 2, "ip": 1}


PIECES = [
    "a@b.de",
    "93.184.216.34",
    "+49 30 901820",
    "4111111111111111",
    "DE89370400440532013000",
    "x",
    "1",
    "-",
    "@",
    ".",
    ":",
    KEY,
    "<EMAIL>",
    "bearer",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from([" ", "\n", ", "]))
@settings(deadline=None, max_examples=300)
def test_edits_are_in_order_and_masking_twice_changes_nothing(pieces: list[str], gap: str) -> None:
    text = gap.join(pieces)
    edits, counts = pii_edits(text)
    assert all(edit[1] <= after[0] for edit, after in pairwise(edits))
    assert sum(counts.values()) == len(edits)
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a@",
        "a@b.",
        "a.",
        "@",
        "1",
        "4 ",
        "4111-",
        "1.1.1.",
        "2001:",
        "2606::",
        "AA00 ",
        "DE00",
        "Bearer ",
        "%",
        "-",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nA: b\n",
        "-----BEGIN RSA PRIVATE KEY-----AAAA ",
        "eyJaaaaaaaa.",
        "eyJaaaaaaaaaa.bbbbbbbbbb",
        "+1(2)-3 ",
        "212-555-",
        "a+%.-_",
        "ghp_A",
        "AKIA",
        "bearer abcdefgh.",
        "a@" + "b" * 62 + ".",
    ],
)
def test_time_is_linear_whatever_the_text(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    pii_edits(text)
    assert time.process_time() - start < 1.0
