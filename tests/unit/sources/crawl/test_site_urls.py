"""URL spelling, addresses and charsets."""

from __future__ import annotations

import time
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.text.charset import declared_charset, header_charset, known_charset
from rag_hpc.algo.text.headers import retry_after_s
from rag_hpc.sources.crawl.links import Links, extract_links
from rag_hpc.sources.crawl.sitemaps import parse_sitemap
from rag_hpc.sources.crawl.urls import (
    MAX_GIVEN_CHARS,
    MAX_IDN_HOSTS,
    MAX_URL_CHARS,
    affordable,
    host_key,
    is_loopback_name,
    is_public,
    join_links,
    normalise_url,
)

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
        ("http://good.example\\@evil.example/", "http://good.example/@evil.example/"),
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
        (f"http://{'a' * 63}.{'b' * 63}.example/", f"http://{'a' * 63}.{'b' * 63}.example/"),
        (f"http://{'a' * 64}.example/", None),
        (f"http://x.{'a' * 64}/?q", None),
        (f"http://{'a.' * 126}a/", f"http://{'a.' * 126}a/"),
        (f"http://{'a.' * 127}a/", None),
        (f"http://{'ü' * 64}.example/", None),
        (f"http://{'ﷺ' * 60}.example/", None),
        (f"http://a/{'b' * (MAX_GIVEN_CHARS - 9)}", f"http://a/{'b' * (MAX_GIVEN_CHARS - 9)}"),
        (f"http://a/{'b' * (MAX_GIVEN_CHARS - 8)}", None),
        (f"http://a:{'0' * 300}80/", None),
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
    differs = bare.endswith(("?", " ")) or "%2e" in href or "\\" in href
    if base is not None and not differs and "//" not in base.partition("://")[2] + href:
        assert normalise_url(href, base) == normalise_url(urljoin(base, href))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "fec0::1",
        "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "3fff::1", "3fff:fff:ffff::1", "5f00::1", "100::1", "100:0:0:1::1",
        "2001::1", "2001:1::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:30::1", "2001:db8::1", "2002:808:808::1",
        "2620:4f:8000::1", "4000::1", "1::1", "64:ff9b::10.0.0.1", "192.0.0.8", "192.0.0.9", "192.0.0.170", "192.0.2.1",
        "192.31.196.1", "192.52.193.1", "192.88.99.2", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.7",
        "203.0.113.9", "100.127.255.255", "240.0.0.1", "239.1.1.1", "172.31.255.255", "not an address",
    ],
)  # fmt: skip
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2001:4860:4860::8888",
        "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1", "198.17.255.255", "223.255.255.255", "3ffe::1",
        "2a00:1450::1", "2001:200::1",
    ],
)  # fmt: skip
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
        (b"<meta charset='Shift_JIS'>", "cp932"),
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


LIGATURE = "\ufdfa"  # one character of three bytes that NFKC makes 18 of
HREFS = {
    "480 KB of a host that grows": f"http://{LIGATURE * 160_000}/",
    "2 MiB of a host that grows": f"http://{LIGATURE * 699_000}/",
    "a host without a scheme": f"//{LIGATURE * 160_000}",
    "a user before the host": f"http://{LIGATURE * 160_000}@h/",
    "a path to be escaped": "/" + "é" * 1_000_000,
    "dots": "../" * 690_000,
    "a host of labels": f"http://{'ü.' * 600_000}",
    "a port": f"http://h:{'9' * 2_000_000}/",
    "blanks": f"http://h/{' ' * 2_000_000}x",
}


@pytest.mark.parametrize("name", HREFS)
@pytest.mark.parametrize("markup", ["<a href='{}'>", "<base href='{}'><a href=x>", "<link rel=canonical href='{}'>"])
def test_no_single_link_holds_a_crawl_up(name: str, markup: str) -> None:
    body = markup.format(HREFS[name]).encode()
    begun = time.process_time()
    found = extract_links(body, "utf-8", "http://h/x/y")
    links, canonical = found.targets, found.canonical
    for base in ("", "http://h/x/y"):  # a sitemap's <loc>, a line of robots.txt, a redirect
        assert normalise_url(HREFS[name], base) is None
    assert time.process_time() - begun < 1
    assert (links, canonical) == (["http://h/x/x"] if "base" in markup else [], None)


def test_a_long_base_is_not_repeated_in_every_link_of_a_page() -> None:
    long = f"/{'b' * (MAX_URL_CHARS + 1)}/"
    body = f"<base href='{long}'>" + "".join(f"<a href=?{number}>" for number in range(20_000))
    links = extract_links(body.encode(), "utf-8", "http://h/x/y").targets
    assert links[:2] == ["http://h/x/y?0", "http://h/x/y?1"] and len(links) == 20_000


def test_blanks_without_end_in_a_header_or_tag_take_no_quadratic_time() -> None:
    begun = time.process_time()
    assert header_charset("text/html; charset=" + " " * 65_000 + ";") is None
    assert header_charset('text/html; charset = " koi8-r') == "koi8-r"
    assert declared_charset(b"<meta" * 95 + b" charset=" + b" " * 3500) is None
    body = b"<link href=x rel=" + b" " * 2_000_000 + b">"
    assert extract_links(body, "utf-8", "http://h/") == Links()
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "value", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 2024 0:0:0 -9999999999999"]
)
def test_a_retry_after_that_no_calendar_has_is_none(value: str) -> None:
    assert retry_after_s(value, 0.0) is None


def test_hosts_in_letters_beyond_ascii_are_few_of_a_page_and_of_a_sitemap() -> None:
    hosts = [f"{chr(0x4E00 + n)}{chr(0x5E00 + n)}.example" for n in range(MAX_IDN_HOSTS + 10)]
    urls = [f"http://{host}/{n}" for n in (0, 1) for host in hosts]
    body = "".join(f"<a href='{url}'>" for url in [*urls, "/é", "http://h/ü"]).encode()
    links = extract_links(body, "utf-8", "http://h/").targets
    assert len(links) == 2 * MAX_IDN_HOSTS + 2 and links[-1] == "http://h/%C3%BC"
    assert list(affordable(iter(urls))) == [url for url in urls if url.split("/")[2] in hosts[:MAX_IDN_HOSTS]]


def test_a_page_of_nothing_but_hosts_in_other_letters_holds_no_crawl_up() -> None:
    labels = ["".join(chr(0x4E00 + (31 * n + 7 * i) % 20_000) for i in range(20)) for n in range(10_400)]
    body = "".join(f"<a href='//{label}.{label}.{label}/'>" for label in labels).encode()
    begun = time.process_time()
    extract_links(body, "utf-8", "http://h/")
    assert time.process_time() - begun < 4
