"""The embedded corpus: this interpreter's own library documentation, crawled from a site on loopback addresses."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rag_hpc.core.settings import DAY_S, bounded
from rag_hpc.demo.render import PROGRESS, RENDER_VERSION
from rag_hpc.demo.site import MANIFEST, host_name, url_of
from rag_hpc.errors import InputError
from rag_hpc.sources.base import ReadContext, SourceName
from rag_hpc.sources.crawl.config import CrawlConfig, SiteConfig
from rag_hpc.stores.page import Page, Reject

log = logging.getLogger(__name__)

RENDER_LIMIT_S = 180.0
MAX_CRASHES = 5  # modules that may take the renderer down before we give up
BOOT = "import sys; sys.path.append(sys.argv[1]); from rag_hpc.demo.render import main; sys.exit(main(sys.argv[2:]))"
Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(kw_only=True)
class PydocConfig(CrawlConfig):
    """Settings of `corpus=pydoc`."""

    source: SourceName = SourceName.pydoc
    num_hosts: int = bounded(8, 1, 200)  # loopback addresses that serve the site
    latency_s: float = bounded(0.0, 0, DAY_S)  # that the server adds to each reply


class PydocSource:
    """Source of the library's pages: one part per virtual host."""

    def split(self, corpus: PydocConfig, shared: Path) -> list[dict[str, Any]]:
        """Return the hosts of the `max_pages` most important pages, each capped at its number of them."""
        site = shared / site_name(corpus.num_hosts)
        render_site(site, corpus.num_hosts)
        pages: list[str] = json.loads((site / MANIFEST).read_text(encoding="utf-8"))
        capped = 0 < corpus.max_pages < len(pages)
        share = Counter(page.partition("/")[0] for page in (pages[: corpus.max_pages] if capped else pages))
        parts = []
        for host in range(corpus.num_hosts):
            if num_pages := share[f"host-{host:02d}"]:
                parts.append(
                    {
                        "host": host_name(host),
                        "seeds": [f"http://{host_name(host)}/index.html"],
                        "max_pages": num_pages if capped else 0,
                        "site": site.name,
                    }
                )
        return parts

    def read(self, part: dict[str, Any], corpus: PydocConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield what a crawl of the part's host finds; the pages are served by this process, on any node."""
        from rag_hpc.demo.server import PydocServer  # http.server, which planning a run does without
        from rag_hpc.sources.crawl.site import crawl_host

        site = ctx.shared / str(part["site"])
        if not site.is_dir() and site.name == site_name(corpus.num_hosts):
            render_site(site, corpus.num_hosts)
        if not site.is_dir():
            raise InputError(
                f"pydoc: {site} is missing and was made by another Python than this one "
                f"({sys.version.split()[0]}); start the run again under a new name"
            )
        with PydocServer(site, corpus.num_hosts, corpus.latency_s) as server:
            common = {each.name: getattr(corpus, each.name) for each in fields(CrawlConfig) if each.name != "source"}
            yield from crawl_host(part, SiteConfig(**common), ctx, server.resolve)


def site_name(num_hosts: int) -> str:
    """Return the name of the folder that holds this interpreter's pages for so many hosts."""
    key = f"{RENDER_VERSION}|{sys.implementation.name}|{sys.version}|{sys.platform}|{num_hosts}"
    return f"pydoc-site-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def render_site(out: Path, num_hosts: int, *, run: Runner = subprocess.run) -> None:
    """Write the site to `out` (host-00/ ... and the manifest), or do nothing when it is there.

    Safe when several workers call it at once: the folder appears complete, by one rename, and the losers remove theirs.
    """
    if (out / MANIFEST).is_file():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _render(draft, num_hosts, run)
        try:
            os.rename(draft, out)
        except OSError:
            if not (out / MANIFEST).is_file():
                raise
            log.info("%s: another worker was first", out)
    except OSError as error:
        raise InputError(f"pydoc: cannot write {out}: {error.strerror}; free the folder or choose another") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _render(draft: Path, num_hosts: int, run: Runner) -> None:
    """Run the renderer in an isolated process; one that crashes or hangs is run again without the module at fault."""
    root = str(Path(__file__).resolve().parents[2])
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"TZ": "UTC", "LC_ALL": "C"}
    skipped: list[str] = []
    for _ in range(MAX_CRASHES + 1):
        command = [sys.executable, "-I", "-S", "-B", "-c", BOOT, root, str(draft), str(num_hosts), *skipped]
        try:
            done = run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=RENDER_LIMIT_S,
                env=env,
                cwd=draft,
                check=False,
            )
            code, notes = str(done.returncode), done.stderr
        except subprocess.TimeoutExpired:
            code, notes = f"no end after {RENDER_LIMIT_S:.0f} s", ""
        for line in notes.splitlines():
            log.debug("renderer: %s", line)
        if code == "0":
            return
        progress = draft / PROGRESS
        if not progress.is_file():
            break
        skipped.append(progress.read_text(encoding="utf-8"))
        progress.unlink()
        log.warning("pydoc: %s took the renderer down (exit %s); going on without it", skipped[-1], code)
    raise InputError(
        f"pydoc: the renderer failed (exit {code}): {notes.strip()[-400:]}; try another interpreter or another corpus"
    )


def load_questions(path: str | Path, num_hosts: int) -> list[dict[str, Any]]:
    """Return the questions as {id, text, answers, relevant: {doc_id: 1}, held_out}, in the file's order.

    Raises InputError on a line that is no such question.
    """
    questions = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"questions: cannot read {path}: {error.strerror}; check corpus.questions") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            relevant = {url_of(page, num_hosts): 1 for page in row["pages"]}
            questions.append(
                {
                    "id": row["id"],
                    "text": row["text"],
                    "answers": row["answers"],
                    "relevant": relevant,
                    "held_out": row["held_out"],
                }
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"questions: {path}, line {number}: {type(error).__name__} {error}; each line needs id, "
                "text, pages, answers and held_out"
            ) from error
    return questions
