"""URL spelling, addresses and charsets."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.sources.charset import declared_charset, known_charset
from rag_hpc.sources.robots import parse_sitemap
from rag_hpc.sources.urls import host_key, is_loopback_name, is_public, join_links, normalise_url

PIECES = st.lists(
    st.sampled_from(
        [
            "a",
            "B",
            "/",
            "//",
            ".",
            "..",
            "./",
            "../",
            "%",
            "%2e",
            "%2F",
            "%zz",
            "?",
            "#",
            "&",
            "=",
            "é",
            " ",
            "\\",
            ":",
            "@",
        ]
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://ExAmple.ORG:80", "http://example.org/"),
        ("https://example.org:443/a?b=1#c", "https://example.org/a?b=1"),
        ("http://example.org:8080/a/./b/../../c/..", "http://example.org:8080/"),
        ("http://example.org/a/b/..", "http://example.org/a/"),
        ("http://example.org//a//b", "http://example.org//a//b"),
        ("http://example.org/%7euser/%2e%2E/%c3%a4 ä%", "http://example.org/%C3%A4%20%C3%A4%25"),
        (" \thttp://exa\nmple.org/\r\n", "http://example.org/"),
        ("http://bücher.example./", "http://xn--bcher-kva.example/"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("http://user:pw@example.org/", None),
        ("http://good.example\\@evil.example/", None),
        ("ftp://example.org/", None),
        ("javascript:alert(1)", None),
        ("http:///path", None),
        ("http://example.org:99999/", None),
        ("http://example.org:x/", None),
        ("http://exa mple.org/", None),
        ("http://[::1/", None),
        ("http://[1.2.3.4]/", None),
        ("http://[v1.example]/", None),
        ("http://[::1].example/", None),
        ("http://a/\ud800", None),
    ],
)
def test_a_url_has_one_spelling(url: str, expected: str | None) -> None:
    assert normalise_url(url) == expected


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"https?://[a-z0-9_.\-]{1,9}(/[A-Za-z0-9_~.\-/]{0,9})?", fullmatch=True))
def test_a_url_seen_to_be_normal_at_a_glance_is_what_it_becomes_step_by_step(url: str) -> None:
    assert normalise_url(url) == normalise_url(f" {url}")  # the blank keeps it from the short way


@settings(max_examples=300, deadline=None)
@given(PIECES, PIECES)
def test_normalising_twice_changes_nothing_and_leaves_no_dots(path: str, base: str) -> None:
    url = normalise_url(path, normalise_url("http://H.example/" + base.replace("@", "")) or "")
    if url is not None:
        assert normalise_url(url) == url
        parts = urlsplit(url)
        assert parts.fragment == "" and "#" not in url
        assert not {".", ".."} & set(parts.path.split("/"))
        assert url.isascii() and url.isprintable() and " " not in url and "\\" not in url


@settings(max_examples=200, deadline=None)
@given(PIECES, PIECES)
def test_links_joined_through_the_folder_equal_those_joined_to_the_page(path: str, href: str) -> None:
    base = normalise_url("http://h/" + path.replace("@", ""))
    href = href.partition("#")[0].strip()
    if base is not None and href:
        assert join_links(base, [href]) == [normalise_url(href, base)]


@settings(max_examples=200, deadline=None)
@given(PIECES, PIECES)
def test_joining_agrees_with_the_standard_library_where_no_segment_is_empty(path: str, href: str) -> None:
    base = normalise_url("http://h/x/" + path.replace("@", ""))
    bare = href.partition("#")[0]
    # RFC 3986 has an empty query replace the base's, and a blank before # stay; to urljoin an escaped dot is a name
    differs = bare.endswith(("?", " ")) or "%2e" in href
    if base is not None and not differs and "//" not in base.partition("://")[2] + href:
        assert normalise_url(href, base) == normalise_url(urljoin(base, href))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "fec0::1",
        "not an address",
    ],
)  # fmt: skip
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_loopback_names_are_known_without_a_resolver() -> None:
    assert all(map(is_loopback_name, ["localhost", "localhost:80", "a.localhost", "127.0.0.7:1", "[::1]:8080"]))
    assert not any(map(is_loopback_name, ["localhost.org", "10.0.0.1", "example.org", "127.0.0.1.nip.io"]))


def test_empty_segments_stay_when_links_are_joined() -> None:
    links = ["a//b", "/c//d", "//other/e", "?q", "", "../..//", "//", "mailto:x", "http:f"]
    joined = ["http://h//x/a//b", "http://h/c//d", "http://other/e", "http://h//x/y?q", "http://h//x/y?z", "http://h//"]
    assert [normalise_url(link, "http://h//x/y?z") for link in links] == [*joined, None, None, None]


def test_host_key_keeps_a_port_that_is_not_the_default() -> None:
    assert host_key("http://a.org/x") == "a.org"
    assert host_key("https://a.org:8443/x") == "a.org:8443"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<meta charset='Shift_JIS'>", "shift_jis"),
        (b'<?xml version="1.0" encoding="latin-1"?>', "cp1252"),
        (b"\xef\xbb\xbf<meta charset=koi8-r>", "utf-8"),
        (b"\xff\xfe<\0", "utf-16-le"),
        (b"<meta charset=utf-16>", "utf-8"),
        (b"<meta charset=rot13>", None),
        (b"<p>charset=koi8-r", None),
        (b"", None),
    ],
)
def test_a_page_declares_its_charset(body: bytes, expected: str | None) -> None:
    assert declared_charset(body) == expected


@given(st.text(max_size=30) | st.sampled_from(["hex", "zip", "idna", "punycode", "undefined", "utf-7", "mbcs"]))
@settings(max_examples=100, deadline=None)
def test_every_known_charset_decodes_any_bytes(label: str) -> None:
    name = known_charset(label)
    if name is not None:
        bytes(range(256)).decode(name, "replace").encode("utf-8")


def test_a_broken_sitemap_keeps_what_came_before() -> None:
    body = b"<urlset><url><loc>http://h/1</loc><image><loc>http://h/i</loc></image></url><url><loc>http://h/2"
    pages, inner, problem = parse_sitemap(body)
    assert (pages, inner) == (["http://h/1"], [])
    assert problem
