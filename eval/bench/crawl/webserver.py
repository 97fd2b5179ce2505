"""A web of many hosts on one local port, cheap to serve and the same for a seed, that logs when each request came.

`python -m rag_hpc.eval.bench.crawl.webserver --hosts 500 --pages-per-host 10 --log FILE` prints its port, then serves
the hosts h000.web.test, h001.web.test, ... by Host header until SIGTERM, and then writes its log: one line a request,
time.monotonic() of its arrival, host and path, separated by tabs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_hpc.errors import ClusterError

MIN_BYTES, MAX_BYTES, TAIL = 5_000, 200_000, 1.1  # Pareto of these bounds: 17 KB in the mean
LINKS = (30, 60)
FAN_OUT = 8  # page i links to its children 8i+1 .. 8i+8 among others, so that all are reachable from page 0
NUM_PARAGRAPHS = 4000
ROBOTS = "/robots.txt"
SITEMAP = "/sitemap.xml"
PRIVATE = "/private/"  # each page links into it, robots.txt forbids it
Arrival = tuple[float, str, str]  # time.monotonic(), host, path


@dataclass(kw_only=True)
class WebOptions:
    """What is served, and how slowly; each field is an option of the command line."""

    hosts: int = 500
    pages_per_host: int = 10
    latency: float = 0.05  # seconds from a request's arrival to the reply
    seed: int = 1
    port: int = 0  # 0: any free one
    address: str = "127.0.0.1"
    crawl_delay: float = 0.0  # in robots.txt, when not 0
    sitemap: bool = False  # page 0 then links to nothing, a sitemap names all pages
    log: str = ""
    gap: float = 0.0  # seconds; at the end it is said how many requests came sooner after the host's one before
    corpus: str = ""  # DIR/corpus/NAME.yaml to write, which `rag-hpc --config-dir DIR run corpus=NAME` crawls


def host_names(num_hosts: int) -> list[str]:
    """Return the names of the hosts."""
    return [f"h{number:03d}.web.test" for number in range(num_hosts)]


def seeds(num_hosts: int, port: int | None = None) -> list[str]:
    """Return each host's first URL; without `port` for clients that map names to an address and port themselves."""
    return [f"http://{name}{f':{port}' if port else ''}/" for name in host_names(num_hosts)]


def page_path(number: int) -> str:
    """Return the path of a host's page."""
    return "/" if number == 0 else f"/docs/section-{number % 7}/page-{number}.html"


def read_log(path: Path) -> list[Arrival]:
    """Return the arrivals in order."""
    rows = (line.split("\t") for line in path.read_text(encoding="latin-1").splitlines())
    return [(float(row[0]), row[1], row[2]) for row in rows]


def violations(arrivals: Sequence[Arrival], gap_s: float) -> list[Arrival]:
    """Return the requests that came less than `gap_s` after the host's one before, or that robots.txt forbids."""
    last: dict[str, float] = {}
    found = []
    for arrival in sorted(arrivals):
        when, host, path = arrival
        if when - last.get(host, float("-inf")) < gap_s or path.startswith(PRIVATE):
            found.append(arrival)
        last[host] = when
    return found


@dataclass(kw_only=True)
class Web:
    """A running server."""

    port: int
    arrivals: list[Arrival] = dataclasses.field(default_factory=list)  # filled when it has stopped


@contextlib.contextmanager
def serving(options: WebOptions) -> Iterator[Web]:
    """Yield a server in a process of its own; its log is there after the `with`."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        words = [
            f"--{key.replace('_', '-')}={value}"
            for key, value in vars(options).items()
            if value != "" and not isinstance(value, bool)
        ] + ["--sitemap"] * options.sitemap
        command = [sys.executable, "-m", __name__, *words, f"--log={log}"]  # the last of two logs counts
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                if not line:
                    raise ClusterError(
                        f"the web server could not start on {options.address}:{options.port}; its words stand above"
                    )
                web = Web(port=int(line))
                yield web
            finally:
                process.terminate()
        web.arrivals = read_log(log)


def corpus_text(options: WebOptions, port: int) -> str:
    """Return the configuration of a corpus of all the hosts, for Hydra's group `corpus`."""
    urls = "".join(f"\n  - {url}" for url in seeds(options.hosts))
    return (
        f"defaults: [site]\nname: web\nseeds:{urls}\nresolve: {{'*.web.test': '{options.address}:{port}'}}\n"
        "allow_private: true\nuser_agent: rag-hpc-bench/1.0 (bench@web.test)\n"
    )


def make_pages(options: WebOptions, host_number: int) -> dict[str, bytes]:
    """Return path -> whole reply of one host."""
    rng = random.Random(f"{options.seed}:{host_number}")
    num, paragraphs = options.pages_per_host, _paragraphs(options.seed)
    robots = ["User-agent: *", f"Disallow: {PRIVATE}"]
    robots += [f"Crawl-delay: {options.crawl_delay:g}"] * bool(options.crawl_delay)
    replies = {}
    if options.sitemap:
        base = f"http://{host_names(host_number + 1)[-1]}"
        robots.append(f"Sitemap: {base}{SITEMAP}")
        locs = "".join(f"<url><loc>{base}{page_path(number)}</loc></url>" for number in range(num))
        xml = f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locs}</urlset>'
        replies[SITEMAP] = _reply("200 OK", "application/xml", xml)
    replies[ROBOTS] = _reply("200 OK", "text/plain", "\n".join(robots) + "\n")
    for number in range(num):
        replies[page_path(number)] = _reply(
            "200 OK", "text/html; charset=utf-8", _html(options, host_number, number, rng, paragraphs)
        )
    return replies


def _html(options: WebOptions, host: int, number: int, rng: random.Random, paragraphs: list[str]) -> str:
    """Return a page: navigation, links of every kind among paragraphs, and a footer."""
    num, title = options.pages_per_host, f"Page {number} of host {host}"
    size = min(MAX_BYTES, int(MIN_BYTES / max(rng.random(), 1e-9) ** (1 / TAIL)))
    first = FAN_OUT * number + 1
    children = [] if options.sitemap else range(min(first, num), min(first + FAN_OUT, num))
    others = (
        []
        if options.sitemap and number == 0
        else [f"{page_path(rng.randrange(num))}#part-{rng.randrange(9)}" for _ in range(rng.randint(*LINKS))]
    )
    inside = [page_path(child) for child in children] + others + [f"{PRIVATE}{number}.html"]
    links = [f'<a class="ref" href="{href}">{rng.choice(_WORDS)} {rng.choice(_WORDS)}</a>' for href in inside]
    off = [
        f'<a rel="external" href="http://h{rng.randrange(options.hosts):03d}.web.test/">a neighbour</a>',
        f'<a rel="external" href="https://example.org/{rng.randrange(1000)}">elsewhere</a>',
    ]
    num_nav = min(12, len(links))
    nav = "".join(f"<li>{link}</li>" for link in links[:num_nav])
    text: list[str] = []
    rest = size - 100 * len(links) - 600
    while rest > 0 or not text:
        picked = rng.choice(paragraphs)
        rest -= len(picked)
        text.append(picked)
    for place, link in enumerate(links[num_nav:]):
        text[place % len(text)] += f"\n<p>See also {link}.</p>"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="description" content="{title}"></head><body><nav class="main"><ul>{nav}</ul></nav>'
        f"<main><article><h1>{title}</h1>\n{chr(10).join(text)}\n</article></main>"
        f"<footer>{' '.join(off)} <span>served for measurements</span></footer></body></html>"
    )


_ENGLISH = (  # so that filters by language keep the pages
    "the of and to in is that it was for on are as with they be at one have this from by hot word but what some we "
    "can out other were all there when use your how said an each she which do their time if will way about many "
    "then them write would like so these her long make thing see him two has look more day could go come did number "
    "sound no most people my over know water than call first who may down side been now find head stand own page "
    "should country found answer school grow study still learn plant cover food sun four between state keep eye "
    "never last let thought city tree cross farm hard start might story saw far sea draw left late run while press "
    "close night real life few north open seem together next"
)
_WORDS = _ENGLISH.split()


def _paragraphs(seed: int) -> list[str]:
    if seed not in _BANK:
        rng = random.Random(seed)
        _BANK[seed] = [f"<p>{_sentences(rng)}</p>" for _ in range(NUM_PARAGRAPHS)]
    return _BANK[seed]


_BANK: dict[int, list[str]] = {}


def _sentences(rng: random.Random) -> str:
    return " ".join(
        " ".join(rng.choices(_WORDS, k=rng.randint(6, 20))).capitalize() + "." for _ in range(rng.randint(3, 9))
    )


def _reply(status: str, content_type: str, body: str) -> bytes:
    data = body.encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


_MISSING = _reply("404 Not Found", "text/plain", "no such page\n")


Replies = dict[bytes, dict[str, bytes]]  # host -> path -> reply


class _Connection(asyncio.Protocol):
    """Answers one client's requests; GET without a body is all that it understands."""

    def __init__(self, web: Replies, latency: float, log: list[tuple[float, bytes, bytes]]) -> None:
        self._web, self._latency, self._log, self._held = web, latency, log, b""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        *heads, self._held = (self._held + data).split(b"\r\n\r\n")
        for head in heads:
            path = head.split(b" ", 2)[1]
            lowered = head.lower()
            start = lowered.find(b"\r\nhost:") + 7
            host = lowered[start:].split(b"\r\n", 1)[0].strip().split(b":", 1)[0]
            self._log.append((now, host, path))
            reply = self._web.get(host, {}).get(path.decode("latin-1"), _MISSING)
            self._loop.call_later(self._latency, self._answer, reply, b"\r\nconnection: close" in lowered)

    def _answer(self, reply: bytes, last: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)
            if last:
                self._transport.close()


async def _serve(options: WebOptions) -> list[tuple[float, bytes, bytes]]:
    web = {name.encode(): make_pages(options, number) for number, name in enumerate(host_names(options.hosts))}
    log: list[tuple[float, bytes, bytes]] = []
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(
        lambda: _Connection(web, options.latency, log), options.address, options.port, backlog=4096
    )
    port = server.sockets[0].getsockname()[1]
    if options.corpus:
        Path(options.corpus).parent.mkdir(parents=True, exist_ok=True)
        Path(options.corpus).write_text(corpus_text(options, port), encoding="utf-8")
    print(port, flush=True)
    await stopped.wait()
    server.close()
    return log


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, then write the log."""
    parser = argparse.ArgumentParser(prog="python -m rag_hpc.eval.bench.crawl.webserver", description=__doc__)
    for field in dataclasses.fields(WebOptions):
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    options = WebOptions(**vars(parser.parse_args(argv)))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        log = asyncio.run(_serve(options))
    except OSError as error:
        print(f"{options.address}:{options.port}: {error}", file=sys.stderr)
        return 1
    arrivals = [(when, host.decode("latin-1"), path.decode("latin-1")) for when, host, path in log]
    if options.log:
        lines = [f"{when:.6f}\t{host}\t{path}\n" for when, host, path in arrivals]
        Path(options.log).write_text("".join(lines), encoding="latin-1")
    if options.gap:
        num = len(violations(arrivals, options.gap))
        print(
            f"{len(arrivals)} requests, {num} of them less than {options.gap:g} s after the host's one before, or "
            "forbidden by robots.txt"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
