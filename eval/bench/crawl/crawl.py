"""`rag-hpc bench crawl`: our crawler beside Scrapy on a local web of many hosts, and against its own limits.

Every crawl here goes to `webserver`, whose log of arrivals is the judge of politeness. A crawl of ours is
`rag-hpc run` with the crawl stage alone, in a temporary folder; its CPU seconds are those of all its processes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.crawl import webserver
from rag_hpc.eval.bench.crawl.webserver import Arrival, Web, WebOptions
from rag_hpc.eval.bench.pairs import ratio_of_medians, take_turns
from rag_hpc.eval.bench.registry import Options, known, peer
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.results import Results
from rag_hpc.eval.times import StageTime, measure

DEFAULTS = {
    "parts": "cost,schedule,scaling",
    "hosts": "500",
    "latency": "0.05",  # seconds
    "pages": "6",  # of each host, for the cost
    "pairs": "7",
    "schedule_pages": "18",  # of each host, one a second
    "scaling_hosts": "128",
    "scaling_pages": "38",  # of each host, one each half second, 16 hosts a unit
    "workers": "8",
}
JITTER_S = 0.01  # a request may reach the server's log this much earlier after the one before than the delay says


@dataclass(kw_only=True)
class Crawled:
    """One crawl. CPU seconds are user and system time of all its processes, start-up included."""

    pages: int
    cpu_s: float
    arrivals: list[Arrival]
    stage: StageTime | None = None  # ours only


@dataclass(kw_only=True)
class Bench:
    """The options, and what the server has seen of our crawls so far."""

    options: Options
    bytecode: str = ""  # a folder for compiled modules
    impolite: list[Arrival] = field(default_factory=list)
    requests: int = 0

    def web(self, hosts: int, pages: int) -> WebOptions:
        """Return what is served."""
        return WebOptions(hosts=hosts, pages_per_host=pages, latency=float(self.options["latency"]))

    def ours(self, served: WebOptions, delay_s: float, *overrides: str) -> Crawled:
        """Crawl with ours; a request before the delay or the reply to the host's last one is impolite."""
        found = crawl_ours(served, f"corpus.delay_s={delay_s}", *overrides, bytecode=self.bytecode)
        self.impolite += webserver.violations(found.arrivals, max(delay_s - JITTER_S, served.latency))
        self.requests += len(found.arrivals)
        return found


def run(options: Options) -> list[Row]:
    """Return the rows: cost beside Scrapy, the schedule bound, the efficiency of many workers, and politeness."""
    with tempfile.TemporaryDirectory() as bytecode:
        return _rows(Bench(options=known(options, DEFAULTS), bytecode=bytecode))


def _rows(bench: Bench) -> list[Row]:
    parts: dict[str, Callable[[Bench], list[Row]]] = {"cost": cost, "schedule": schedule, "scaling": scaling}
    chosen = bench.options["parts"].split(",")
    if not set(chosen) <= set(parts):
        raise ConfigError(f"parts={bench.options['parts']}: some of {', '.join(parts)}")
    if "cost" in chosen:
        peer("scrapy", "Scrapy")
    rows = [row for name in chosen for row in parts[name](bench)]
    return [
        *rows,
        Row(
            name="crawl.impolite",
            ours=len(bench.impolite),
            unit="requests",
            bar=0,
            less_is_better=True,
            note=f"of {bench.requests} in the server's log: before the delay or the reply, or forbidden by robots.txt",
        ),
    ]


def cost(bench: Bench) -> list[Row]:
    """Return pages per CPU second without a delay, ours and Scrapy's in turns: without and with what starting costs."""
    served, one = bench.web(int(bench.options["hosts"]), int(bench.options["pages"])), bench.web(1, 1)
    crawls: dict[str, Callable[[WebOptions], Crawled]] = {
        "ours": lambda web: bench.ours(web, 0.0),
        "scrapy": partial(crawl_scrapy, bytecode=bench.bytecode),
    }
    for crawl in crawls.values():
        crawl(one)  # compiles the modules
    start_s = {side: statistics.median(crawl(one).cpu_s for _ in range(3)) for side, crawl in crawls.items()}
    found: dict[str, list[Crawled]] = {side: [] for side in crawls}

    def steady(side: str) -> float:
        crawled = crawls[side](served)
        found[side].append(crawled)
        return (crawled.pages - 1) / (crawled.cpu_s - start_s[side])

    timed = take_turns({side: partial(steady, side) for side in crawls}, int(bench.options["pairs"]))
    gross = {side: [crawled.pages / crawled.cpu_s for crawled in found[side]] for side in crawls}
    ratio, interval = timed.ratio("scrapy")
    gross_ratio, gross_interval = ratio_of_medians(gross["ours"], gross["scrapy"])
    early = sum(len(webserver.violations(crawled.arrivals, served.latency)) for crawled in found["scrapy"])
    pages = served.hosts * served.pages_per_host
    return [
        Row(
            name="crawl.cost",
            ours=timed.median("ours"),
            unit="pages/CPU s",
            peers={"scrapy": timed.median("scrapy")},
            ratio=ratio,
            interval=interval,
            bar=5,
            contention=timed.contention,
            note=f"{pages} pages, less what a crawl of one page costs: {start_s['ours']:.2f} CPU s of ours, "
            f"{start_s['scrapy']:.2f} of Scrapy's; Scrapy sent {early} requests before the host's last reply",
        ),
        Row(
            name="crawl.cost.with_start",
            ours=statistics.median(gross["ours"]),
            unit="pages/CPU s",
            peers={"scrapy": statistics.median(gross["scrapy"])},
            ratio=gross_ratio,
            interval=gross_interval,
            bar=5,
            contention=timed.contention,
            note="the same crawls, nothing subtracted; the modules of both were compiled before",
        ),
    ]


def schedule(bench: Bench) -> list[Row]:
    """Return the rate of requests with a second between those to a host, against what that schedule allows at most.

    Both are as the server saw them, from the first request to the last.
    """
    served = bench.web(int(bench.options["hosts"]), int(bench.options["schedule_pages"]))
    found = bench.ours(served, 1.0)
    stage, requests = _stage(found), len(found.arrivals)
    times = [when for when, _, _ in found.arrivals]
    span_s, bound_s = max(times) - min(times), bound(found.arrivals, 1.0)
    return [
        Row(
            name="crawl.schedule",
            ours=requests / span_s,
            unit="requests/s",
            peers={"bound": requests / bound_s},
            ratio=bound_s / span_s,
            bar=0.95,
            contention=stage.pressure_cpu,
            note=f"{served.hosts} hosts in one process, delay 1 s, {stage.cpu_s / stage.wall_s:.0%} of a CPU; from "
            f"the unit's start to its commit {stage.wall_s:.1f} s, the bound is {bound_s:g} s",
        )
    ]


def scaling(bench: Bench) -> list[Row]:
    """Return E(p) where waiting is all there is to do."""
    served = bench.web(int(bench.options["scaling_hosts"]), int(bench.options["scaling_pages"]))
    num = int(bench.options["workers"])
    pressure = pressure_cpu()
    alone, together = (
        _stage(bench.ours(served, 0.5, f"workers={workers}", "corpus.hosts_per_unit=16")) for workers in (1, num)
    )
    ratio = alone.wall_s / (num * together.wall_s)
    return [
        Row(
            name=f"crawl.E({num})",
            ours=ratio,
            unit="",
            bar=0.95,
            contention=pressure,
            note=f"T(1) {alone.wall_s:.1f} s, T({num}) {together.wall_s:.2f} s, {alone.num_units} units",
        )
    ]


def bound(arrivals: Sequence[Arrival], delay_s: float) -> float:
    """Return the least seconds in which these requests can be made: the longest of the hosts' own schedules."""
    requests = Counter(host for _, host, _ in arrivals)
    return (max(requests.values()) - 1) * delay_s


def crawl_ours(served: WebOptions, *overrides: str, bytecode: str = "") -> Crawled:
    """Return a crawl of all that is served by `rag-hpc run`, one worker unless the overrides say otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "conf" / "corpus" / "web.yaml"
        with webserver.serving(dataclasses.replace(served, corpus=str(corpus))) as web:
            command = [
                sys.executable,
                "-m",
                "rag_hpc.cli",
                f"--config-dir={folder}/conf",
                "run",
                "run=web",
                "corpus=web",
                "pipeline.stages=[crawl]",
                "workers=1",
                f"corpus.hosts_per_unit={served.hosts}",
                f"cluster.root={folder}/runs",
                *overrides,
            ]
            cpu_s, _ = _timed(command, bytecode)
        stage = measure("crawl", Results(Path(folder) / "runs" / "web").records("crawl"))
    return checked(served, web, Crawled(pages=stage.items_out, cpu_s=cpu_s, arrivals=web.arrivals, stage=stage))


def crawl_scrapy(served: WebOptions, bytecode: str = "") -> Crawled:
    """Return a crawl of all that is served by Scrapy."""
    with webserver.serving(served) as web:
        peer = "rag_hpc.eval.bench.crawl.scrapy_peer"
        command = [sys.executable, "-m", peer, f"--port={web.port}", f"--hosts={served.hosts}"]
        cpu_s, out = _timed(command, bytecode)
    return checked(served, web, Crawled(pages=json.loads(out)["pages"], cpu_s=cpu_s, arrivals=web.arrivals))


def _timed(command: Sequence[str], bytecode: str) -> tuple[float, str]:
    """Return the CPU seconds of a command with all its children, and its output. Raises InputError when it fails.

    With a folder for `bytecode` all modules are compiled once, into that: pip compiles those of a peer when it installs
    them, and those of a checkout would be compiled at every start where PYTHONDONTWRITEBYTECODE is set.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if bytecode:
        env |= {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}  # an empty one is as good as none
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise InputError(f"{' '.join(command[:4])} ... ended with {done.returncode}: {done.stderr[-2000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


def checked(served: WebOptions, web: Web, found: Crawled) -> Crawled:
    """Return the crawl when it fetched every page once. Raises InputError otherwise: the sides would not compare."""
    wanted = served.hosts * served.pages_per_host
    paths = {webserver.page_path(number) for number in range(served.pages_per_host)}
    asked = [(host, path) for _, host, path in web.arrivals if path in paths]
    if not found.pages == len(asked) == len(set(asked)) == wanted:
        raise InputError(
            f"{wanted} pages are served, the crawl kept {found.pages} and asked {len(asked)} times for "
            f"{len(set(asked))} of them"
        )
    return found


def _stage(found: Crawled) -> StageTime:
    if found.stage is None:
        raise InputError("the crawl left no record")
    return found.stage
