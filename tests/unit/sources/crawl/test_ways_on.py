"""What browsers follow and forgive, and a crawl has to: refreshes, frames, areas, lenient sitemaps, robots, replies."""

from __future__ import annotations

import gzip

import pytest
from crawlsite import Handler, Route, context, corpus, crawl, html, paths, serving

from rag_hpc.sources.crawl import robots
from rag_hpc.sources.crawl.crawler import crawl_hosts
from rag_hpc.sources.crawl.frontier import HostPlan
from rag_hpc.sources.crawl.links import Links, extract_links, parse_refresh
from rag_hpc.sources.crawl.site import SiteSource
from rag_hpc.sources.crawl.sitemaps import parse_sitemap
from rag_hpc.sources.crawl.urls import normalise_url
from rag_hpc.stores.page import Page, Reject

HTML = {"Content-Type": "text/html; charset=utf-8"}
XML = {"Content-Type": "application/xml"}
SCHEMA = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


def markup(text: str, **headers: str) -> Route:
    return 200, {**HTML, **headers}, text.encode()


def links(text: str) -> Links:
    return extract_links(text.encode(), "utf-8", "http://h/x/y")


def test_a_page_that_is_left_at_once_is_a_redirect_and_one_that_is_left_later_a_page_that_links() -> None:
    routes: dict[str, Route] = {
        "/": markup('<meta http-equiv="refresh" content="0; url=en/index.html"><title>Redirecting</title>'),
        "/en/index.html": html("/slow", "/header", "/self", "/script"),
        "/slow": markup("<p>Words.<META content=\"30;URL='/late'\" HTTP-EQUIV=Refresh>"),
        "/late": html(),
        "/header": markup("<p>Gone.", Refresh="0;url=/moved"),
        "/moved": html(),
        "/self": markup('<meta http-equiv="refresh" content="5"><p>Scores of the day.'),
        "/script": markup('<noscript><meta http-equiv="refresh" content="0;url=/plain"></noscript><p>Words.'),
    }
    with serving(routes) as site:
        pages, rejects = crawl(site)
    assert paths(pages) == ["/en/index.html", "/slow", "/moved", "/self", "/script", "/late"]
    assert pages[0].meta["requested"] == f"http://{site.host}/"
    assert rejects == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0; url=b", (0, "http://h/x/b")),
        ("5,'b c'", (5, "http://h/x/b%20c")),
        (' 1.5 ; URL = "/b" ', (1, "http://h/b")),
        ("3 /b", (3, "http://h/b")),
        ("0;URL=http://o/", (0, "http://o/")),
        ("60", None),
        (".5;url=b", (0, "http://h/x/b")),
        ("url=/b", None),
        ("0; url=javascript:x()", None),
        ("0" + " " * 100_000 + "x" * 100_000, None),
    ],
)
def test_refresh_values_are_read_as_browsers_do(value: str, expected: tuple[int, str] | None) -> None:
    assert parse_refresh(value, "http://h/x/y") == expected


def test_areas_frames_and_backslashes_lead_on() -> None:
    assert links('<map><area shape=rect href="area.html"></map><a href="sub\\back.html?a\\b">b</a>').targets == [
        "http://h/x/area.html",
        "http://h/x/sub/back.html?a%5Cb",
    ]
    frames = '<frameset><FRAME name=a src="menu.html"><frame src=//o/body.html></frameset>'
    frames += '<iframe src="/doc/one.html"></iframe><iframe src="https://ads.test/x"></iframe>'
    assert links(frames).targets == ["http://h/x/menu.html", "http://o/body.html", "http://h/doc/one.html"]
    assert normalise_url("\\\\o\\b", "http://h/") == normalise_url("http:\\\\o\\b") == "http://o/b"


def test_a_base_counts_wherever_and_however_it_is_written() -> None:
    assert links('<base target=_top><a href=a>x</a><base href="\\docs\\"><base href=/no/>').targets == [
        "http://h/docs/a"
    ]
    assert links('<base href="javascript:x"><base href="https://o/d/e"><a href="?q">').targets == ["https://o/d/e?q"]


def test_links_after_an_odd_comment_are_found() -> None:
    page = "<!-- a --!><a href=1></a><!--><a href=2></a><!---><a href=3></a><!--!><a href=4></a>--><a href=5></a>"
    assert links(page).targets == [f"http://h/x/{n}" for n in (1, 2, 3, 5)]


def test_a_parameter_that_begins_as_a_reference_does_is_none() -> None:
    page = "<a href='?a=1&region=2&copy=3&section=4&amp;lt=5'><a href='?x&lt;y&reg&#38;z'><a href='?q=&copyx;'>"
    assert [link.partition("?")[2] for link in links(page).targets] == [
        "a=1&region=2&copy=3&section=4&lt=5",
        "x%3Cy%C2%AE&z",
        "q=&copyx;",
    ]


def urlset(*urls: str, more: str = "") -> str:
    return f"<urlset {SCHEMA}>" + "".join(f"<url><loc>{url}</loc>{more}</url>" for url in urls) + "</urlset>"


URLS = ["http://h/1", "http://h/2?a=1&b=2"]
DECLARED = '<?xml version="1.0" encoding="UTF-8"?>'


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("\n \n" + DECLARED + urlset(URLS[0], "http://h/2?a=1&amp;b=2"), ""),
        (DECLARED + urlset(*URLS), "not well-formed"),
        (DECLARED + urlset(*URLS, more="<title>Fish & chips</title>"), "not well-formed"),
        (DECLARED + urlset(URLS[0]) + urlset(URLS[1].replace("&", "&amp;")), "junk after"),
        (f"<urlset>{urlset(*URLS)[len(SCHEMA) + 9 : -9]}", "not well-formed"),
        (urlset(URLS[0], "http://h/2?a=1&amp;b=2", more="<image:loc>http://h/i</image:loc>"), "unbound prefix"),
        (f"<urlset><url><loc><![CDATA[ {URLS[0]} ]]></loc></url><url><loc>{URLS[1]}</loc></url>", "not well-formed"),
        ("<!DOCTYPE urlset SYSTEM 'x.dtd'>" + urlset(*URLS), "document type"),
        (f"<urlset><url><loc>{URLS[0]}<loc></url><url><loc>{URLS[1]}</loc></url></urlset>", "mismatched tag"),
        (f"<URLSET><URL><LOC>{URLS[0]}</LOC></URL><URL><LOC>{URLS[1].replace('&', '&amp;')}</LOC></URL></URLSET>", ""),
        ("".join(f"<rdf:li><item><link>{url}</link></item></rdf:li>" for url in URLS), "unbound prefix"),
        (
            f"<feed><entry><link rel=edit href=e /><link href='{URLS[0]}'/></entry><entry><link "
            f"rel=alternate href={URLS[1]} /></entry></feed>",
            "not well-formed",
        ),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_sitemaps_that_are_no_xml_are_read_on(body: str, problem: str, mark: str) -> None:
    pages, inner, found = parse_sitemap((mark + body).encode())
    assert (pages, inner) == (URLS, [])
    assert problem in found and bool(problem) == bool(found)


def test_feeds_and_indexes_are_sitemaps_too() -> None:
    rss = b"<rss><channel><link>http://h/</link><item><link>http://h/1</link></item></channel></rss>"
    assert parse_sitemap(rss) == (["http://h/1"], [], "")
    feed = (
        b'<feed xmlns="http://www.w3.org/2005/Atom"><entry><link rel="self" href="s"/><link href="http://h/1"/></entry>'
    )
    assert parse_sitemap(feed + b"</feed>") == (["http://h/1"], [], "")
    index = b"<sitemapindex><sitemap><loc>http://h/a.xml?x&y</loc></sitemap><sitemap><loc>http://h/b.xml</loc>"
    assert parse_sitemap(index)[1] == ["http://h/a.xml?x&y", "http://h/b.xml"]


def test_a_broken_sitemap_that_is_there_is_a_reject_and_its_pages_are_fetched() -> None:
    routes: dict[str, Route] = {"/": html(), "/1": html(), "/2": html()}
    with serving(routes) as site:
        base = f"http://{site.host}"
        routes["/sitemap.xml"] = (200, XML, urlset(f"{base}/1?", f"{base}/1", f"{base}/2&").encode())
        routes["/2&"] = html()
        pages, rejects = crawl(site)
        assert paths(pages) == ["/", "/1", "/2&"]
        assert rejects == {"/sitemap.xml": "bad-sitemap"}
        routes["/sitemap.xml"] = markup("<!doctype html><p>No such page, but that is fine.")
        assert crawl(site)[1] == {}
        for text in ("\ufeff{0}/1\n\n{0}/2\n", "\n{0}/1\r\n{0}/2"):
            for kind, packed in ((XML, False), ({"Content-Type": "application/x-gzip"}, True)):
                body = text.format(base).encode()
                routes["/sitemap.xml"] = (200, kind, gzip.compress(body) if packed else body)
                assert paths(crawl(site)[0]) == ["/", "/1", "/2"]


def test_a_sitemap_on_another_host_is_read_where_no_other_unit_can_be_asking_it() -> None:
    def offered(alone: bool, **more: Route) -> tuple[list[str], list[tuple[str, str]], list[str]]:
        routes: dict[str, Route] = {
            "/": html(),
            "/p1": html(),
            "a.web.test/robots.txt": (
                200,
                {},
                b"Sitemap: http://cdn.web.test/map.xml\nSitemap: http://no.web.test/m.xml",
            ),
            "no.web.test/robots.txt": (200, {}, b"User-agent: *\nDisallow: /"),
            "cdn.web.test/map.xml": (200, XML, urlset("http://a.web.test/p1", "http://b.web.test/p2").encode()),
        }
        with serving(routes) as site:
            plan = HostPlan(host="a.web.test", seeds=[("http://a.web.test/", 0)], alone=alone)
            items = list(crawl_hosts([plan], corpus(resolve=site.resolve), context()))
            asked = [host + path for _, host, path in site.arrivals]
        found = [item.doc_id for item in items if isinstance(item, Page)]
        return found, [(item.reason, item.id) for item in items if isinstance(item, Reject)], asked

    found, rejects, asked = offered(alone=True)
    assert found == ["http://a.web.test/", "http://a.web.test/p1"]
    assert rejects == [
        ("sitemap-offsite", "http://cdn.web.test/map.xml"),  # p2 in it
        ("robots-denied", "http://no.web.test/m.xml"),
    ]
    assert "cdn.web.test/robots.txt" in asked and "no.web.test/m.xml" not in asked
    found, rejects, asked = offered(alone=False)
    assert found == ["http://a.web.test/"]
    assert [reason for reason, _ in rejects] == ["sitemap-offsite"] * 2
    assert all(place.startswith("a.web.test") for place in asked)
    seeds = {f"http://h{n}.test/": 0 for n in range(3)}
    one, *more = SiteSource().split(corpus(seeds=list(seeds), user_agent="x (a@b.test)"), context().shared)
    assert one["alone"] and not more
    parts = SiteSource().split(corpus(seeds=list(seeds), hosts_per_unit=1, user_agent="x (a@b.test)"), context().shared)
    assert not any("alone" in part for part in parts)


@pytest.mark.parametrize(
    ("agent", "ours"),
    [
        ("rag-hpc/0.1", True),
        ("RAG-HPC", True),
        ("rag-hpc*", True),
        ("rag-hpc 0.1 (+http://x)", True),
        ("rag-hpc/", True),
        ("rag", False),
        ("rag-hpc-news", False),
        ("hpc", False),
        ("other/1.0", False),
        ("*", True),
        ("* # all", True),
        ("other, rag-hpc", True),
        ("Mozilla/5.0 (compatible; RAG-HPC/0.1)", True),
        ('"rag-hpc"', True),
        ("my-rag-hpc", False),
    ],
)
def test_groups_of_robots_are_found_by_the_product_token(agent: str, ours: bool) -> None:
    body = f"User-agent: {agent}\nDisallow: /private/\n\nUser-agent: Else\nDisallow: /\n".encode()
    assert robots.parse_robots(body, "u", "rag-hpc").allows("http://h/private/x") is not ours
    own = body + b"User-agent: *\nDisallow: /all/\n"
    assert robots.parse_robots(own, "u", "rag-hpc").allows("http://h/all/x") is (ours and "*" not in agent[:1])


def test_robots_of_the_name_without_version_goes_before_the_one_for_all() -> None:
    body = b"User-agent: *\nDisallow: /\nUser-Agent : Rag-Hpc/9.9\nUser-agent: other\nAllow: /\nDisallow: /x\n"
    found = robots.parse_robots(body, "u", "rag-hpc")
    assert found.allows("http://h/a") and not found.allows("http://h/x")
    assert not robots.parse_robots(body, "u", "third").allows("http://h/a")


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_robots_in_other_encodings_are_obeyed(codec: str) -> None:
    body = "User-agent: *\r\nDisallow: /private/\r\n".encode(codec)
    assert not robots.parse_robots(body, "u", "rag-hpc").allows("http://h/private/x")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("faß.test", "xn--fa-hia.test"),
        ("Βόλος.com", "xn--nxasmm1c.com"),
        ("Bücher。example", "xn--bcher-kva.example"),
        ("ＡＢＣ.test", "abc.test"),
        ("i❤.test", "xn--i-7iq.test"),
        ("a\u00adb.test", "ab.test"),
        ("نامه\u200cای.test", "xn--mgba3gch31f060k.test"),
        ("a\u200cb.test", None),
        ("אa.test", None),
        ("fa%C3%9F.test", "xn--fa-hia.test"),
        ("%2Fa.test", None),
        ("a·b.test", "xn--ab-0ea.test"),
        ("・.test", "xn--vek.test"),
    ],
)
def test_host_names_are_mapped_as_browsers_do(host: str, expected: str | None) -> None:
    assert normalise_url(f"http://{host}/") == (f"http://{expected}/" if expected else None)


def test_replies_with_headers_that_say_little_or_too_much_are_pages() -> None:
    def untyped(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n<!doctype html><p>Words." + b" And more." * 500)
        handler.close_connection = True

    def twice(handler: Handler) -> None:
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Type: text/html; charset=koi8-r\r\n"
            b"Content-Encoding: none\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
        )

    packed = gzip.compress(b"<p>Words.")
    routes: dict[str, Route] = {
        "/utf8": markup("<p>Words.", **{"Content-Encoding": "UTF-8"}),
        "/none": markup("<p>Words.", **{"Content-Encoding": "none"}),
        "/list": (200, {"Content-Type": "text/html, text/html; charset=utf-8"}, b"<p>Words."),
        "/plain": markup("<p>Not packed at all.", **{"Content-Encoding": "gzip"}),
        "/untyped": untyped,
        "/twice": twice,
        "/binary": (200, {"Content-Type": "application/octet-stream"}, b"\x7fELF" * 1000),
        "/download": (200, {"Content-Type": "application/octet-stream"}, b"<!DOCTYPE HTML><p>Words."),
    }
    with serving(routes) as site:
        pages, rejects = crawl(site, *routes)
    assert paths(pages) == ["/utf8", "/none", "/list", "/plain", "/untyped", "/twice", "/download"]
    found = {page.url.rpartition("/")[2]: page for page in pages}
    assert (found["twice"].body, found["twice"].charset) == (b"<p>Words.", "koi8-r")
    assert found["untyped"].content_type == found["download"].content_type == "text/html"
    assert rejects == {"/binary": "content-type"}
