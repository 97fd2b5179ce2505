"""A crawl whose worker is killed at random points: equal bytes in the end, polite all the way, nothing asked twice.

RAG_HPC_KILLS=50 kills as often; a few times are the default.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crawlsite import Site, html, serving

from rag_hpc.core.commit import CARRY
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan, plan_path
from rag_hpc.launchers.advance import advance
from rag_hpc.schema import to_plain
from rag_hpc.stages.registry import make_stage

KILLS = int(os.environ.get("RAG_HPC_KILLS", "3"))
HOSTS, PAGES, DELAY_S = 6, 10 + 2 * KILLS, 0.08
STAGES = ["crawl", "crawl.2"]


def request(site: Site) -> Request:
    settings: dict[str, Any] = {
        "name": "web",
        "source": "site",
        "seeds": [f"http://h{n}.web.test/" for n in range(HOSTS)],
        "rounds": 2,
        "resolve": site.resolve,
        "delay_s": DELAY_S,
        "allow_private": True,
        "hosts_per_unit": 3,
        "scope": "any",
        "user_agent": "test (me@x.org)",
    }
    plain = to_plain(make_stage("crawl", settings).config)
    return Request(
        run="run",
        number=0,
        stages=STAGES,
        settings=dict.fromkeys(STAGES, plain),
        workers=2,
        cluster={"launcher": "local"},
    )


def start(ledger: Ledger, plan: Plan, index: int) -> subprocess.Popen[bytes]:
    with (ledger.run_dir / "log").open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "rag_hpc.worker",
                str(plan_path(ledger.run_dir, plan.submission, plan.stage)),
                str(index),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "RAG_HPC_NUM_WORKERS": "2"},
        )


def silent_after(site: Site, num_requests: int) -> threading.Event:
    """Let the site answer nothing from that many requests on until the event is set."""
    over = threading.Event()
    site.hold = lambda: len(site.arrivals) < num_requests or over.wait()
    return over


def crawl(run_dir: Path, site: Site, dice: random.Random, kills: int) -> tuple[dict[str, str], int]:
    """Return the hashes of the rounds, and how many workers were killed while they worked."""
    ledger, killed, done = Ledger(run_dir), 0, dict[str, str]()
    ledger.create({})

    def keep(found: Manifest) -> None:
        done[found.stage] = found.output_hash

    while (plan := advance(ledger.submit(request(site)), keep).open_plan) is not None:
        target = len(site.arrivals) + dice.randrange(HOSTS * 8)
        over = silent_after(site, target)  # so that no worker ends before
        workers = [start(ledger, plan, index) for index in range(2)]
        while killed < kills and len(site.arrivals) < target and any(w.poll() is None for w in workers):
            time.sleep(0.001)
        for worker in workers:
            if killed < kills and worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                killed += 1
        over.set()
        for worker in workers:
            worker.wait()
    return done, killed


@pytest.mark.timeout(300 + 20 * KILLS)
def test_killed_crawls_end_alike_and_ask_no_url_twice(tmp_path: Path) -> None:
    dice = random.Random(7)
    links = {n: (f"/{n + 1}", f"/{dice.randrange(PAGES)}", f"http://h{n % 9}.web.test/far{n}") for n in range(PAGES)}
    routes = {f"/{n}": html(*targets, text="x" * 999) for n, targets in links.items()}
    with serving({"/": html("/0"), **routes, **{f"/far{n}": html() for n in range(PAGES)}}) as site:
        whole, _ = crawl(tmp_path / "whole", site, dice, 0)
        site.arrivals.clear()
        hashes, killed = crawl(tmp_path / "killed", site, dice, KILLS)
        arrivals = list(site.arrivals)
    assert hashes == whole and sorted(whole) == STAGES
    assert killed == KILLS
    pages = Counter((host, path) for _, host, path in arrivals if path not in ("/robots.txt", "/sitemap.xml"))
    in_flight = 3 * killed  # a killed worker had three hosts
    assert sum(pages.values()) - len(pages) <= in_flight
    last: dict[str, float] = {}
    for when, host, path in arrivals:
        assert when - last.get(host, 0.0) >= DELAY_S - 0.02, f"{host}{path}"  # a busy server's log may be late
        last[host] = when
    for folder in (tmp_path / "killed").glob(f"crawl*/{CARRY}"):
        assert list(folder.iterdir()) == []
