"""Write the pages of the standard library's documentation: names, HTML blocks, and the folder that a host serves."""

from __future__ import annotations

import hashlib
import html
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "pages.json"  # paths of all pages, most important first
PAGE_CHARS = 12_000  # text of one page; what is longer goes to NAME.2.html, NAME.3.html ...
POPULAR = ("builtins", "os", "sys", "re", "json", "collections", "itertools", "functools", "pathlib", "asyncio")
CLOSED = "internal/"  # the path that robots.txt closes


def host_of(page: str, num_hosts: int) -> int:
    """Return the host (0 ... num_hosts-1) of a page such as `json.html`: a hash of its name, so that hosts are even."""
    return int.from_bytes(hashlib.sha256(page.encode()).digest()[:8], "big") % num_hosts


def host_name(host: int) -> str:
    """Return the virtual name of a host."""
    return f"py{host}.pydoc.internal"


def url_of(page: str, num_hosts: int) -> str:
    """Return the canonical URL of a page, which does not depend on the port it is served from."""
    return f"http://{host_name(host_of(page, num_hosts))}/{page}"


@dataclass(kw_only=True)
class Entry:
    """A module or class that gets pages."""

    name: str  # dotted, as the page's name
    module: str
    obj: Any
    rank: tuple[int, str]
    same_as: str = ""  # page that was first to show the same object
    blocks: list[str] = field(default_factory=list)  # HTML; links are <a data-page="NAME">
    related: list[str] = field(default_factory=list)
    summary: str = ""
    closed: bool = False  # to robots


def doc_blocks(doc: str) -> list[str]:
    """Return a docstring as <p>, <ul> and <pre> blocks: sessions and indented text keep their lines."""
    blocks: list[str] = []
    for part in re.split(r"\n[ \t]*\n", doc.expandtabs()):
        part = part.strip("\n").rstrip()
        if not part:
            continue
        if part.startswith((">>>", "  ")) or part.count("\n  ") > 1:
            if blocks and blocks[-1].startswith("<pre>") and text_chars(blocks[-1]) < PAGE_CHARS // 4:
                blocks[-1] = f"{blocks[-1][:-6]}\n\n{html.escape(part)}</pre>"
            else:
                blocks.append(f"<pre>{html.escape(part)}</pre>")
        elif re.match(r"[-*] ", part):
            items = re.split(r"\n[-*] +", part[2:])
            blocks.append("<ul>" + "".join(f"<li>{_inline(i)}</li>" for i in items) + "</ul>")
        else:
            blocks.append(f"<p>{_inline(part)}</p>")
    return blocks


def _inline(text: str) -> str:
    return html.escape(" ".join(text.split()).replace("``", "`"), quote=False)


def heading(level: int, text: str, anchor: str = "") -> str:
    """Return a heading with its anchor."""
    mark = f' id="{html.escape(anchor)}"' if anchor else ""
    return f"<h{level}{mark}>{html.escape(text)}</h{level}>"


def section(title: str, blocks: list[str]) -> list[str]:
    """Return the blocks under a heading, nothing when there are none."""
    return [heading(2, title), *blocks] if blocks else []


def lists(items: list[str]) -> list[str]:
    """Return the items, which are HTML, in lists of at most 25."""
    return ["<ul>" + "".join(f"<li>{i}</li>" for i in items[k : k + 25]) + "</ul>" for k in range(0, len(items), 25)]


def link(page: str, text: str) -> str:
    """Return a link that gets its address when all pages are known; only its text stays when that page is absent."""
    return f'<a data-page="{html.escape(page)}">{html.escape(text)}</a>'


def text_chars(block: str) -> int:
    """Return the characters of text in a piece of HTML."""
    return len(html.unescape(re.sub(r"<[^>]+>", "", block)))


def parts_of(blocks: list[str]) -> list[list[str]]:
    """Return the blocks in runs of at most PAGE_CHARS of text; a heading stays with what follows it."""
    parts: list[list[str]] = [[]]
    chars = 0
    for i, block in enumerate(blocks):
        size = text_chars(block)
        ahead = size + (text_chars(blocks[i + 1]) if block.startswith("<h") and i + 1 < len(blocks) else 0)
        if parts[-1] and chars + ahead > PAGE_CHARS:
            parts.append([])
            chars = 0
        parts[-1].append(block)
        chars += size
    return parts


TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title} | Python {version} library pages</title>
<meta name="description" content="{summary}">
<link rel="canonical" href="{url}">
<style>body{{font-family:sans-serif}} aside{{float:right;width:14em}}</style>
</head>
<body>
<header><p class="brand">Library pages</p><nav aria-label="Main"><ul>{menu}</ul></nav></header>
<aside><nav aria-label="Related"><h2>Related pages</h2><ul>{related}</ul></nav></aside>
<main><article>
{article}
</article></main>
<footer><p>Made from docstrings. <a href="/index.html">All pages of this host</a> |
<a href="/internal/about.html">How this site is made</a> | <a href="/sitemap.xml">Sitemap</a></p></footer>
<script>document.documentElement.className = "js";</script>
</body>
</html>
"""
ABOUT = (
    "<h1>How this site is made</h1>",
    "<p>Every page is written from the docstrings of one interpreter. This folder is closed to robots: a crawler that "
    "shows this text has not read robots.txt.</p>",
)


class Site:
    """Writes pages below a folder, one folder `host-NN` for each host."""

    def __init__(self, out: Path, num_hosts: int, entries: list[Entry]) -> None:
        self.out, self.num_hosts = out, num_hosts
        self.paths = {e.name: _path(e, 1) for e in entries}  # of first parts
        self.written: list[list[str]] = [[] for _ in range(num_hosts)]
        self.manifest: list[str] = []

    def add(self, entry: Entry) -> None:
        """Write an entry's page and, when it is long, those that continue it."""
        parts = parts_of(entry.blocks)
        for n, blocks in enumerate(parts, 1):
            title = entry.name if n == 1 else f"{entry.name}, part {n}"
            article = ([] if n == 1 else [f"<h1>{html.escape(title)}</h1>"]) + blocks
            related = [link(r, r) for r in entry.related]
            if n < len(parts):
                related.insert(0, f'<a data-path="{_path(entry, n + 1)}">{html.escape(entry.name)}, part {n + 1}</a>')
            path = _path(entry, n)
            host = host_of(path, self.num_hosts)
            self.write(host, path, title=title, summary=entry.summary, article=article, related=related)
            if not path.startswith(CLOSED):
                self.written[host].append(path)
                self.manifest.append(f"host-{host:02d}/{path}")

    def write(self, host: int, path: str, *, title: str, summary: str, article: list[str], related: list[str]) -> None:
        """Write one page."""
        text = TEMPLATE.format(
            title=html.escape(title),
            version=f"{sys.version_info[0]}.{sys.version_info[1]}",
            summary=html.escape(summary),
            url=f"http://{host_name(host)}/{path}",
            menu="".join(f"<li>{link(p, p)}</li>" for p in POPULAR),
            related="".join(f"<li>{r}</li>" for r in related),
            article="\n".join(article),
        )
        file = self.out / f"host-{host:02d}" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._resolve(text, host), encoding="utf-8", errors="replace")

    def _resolve(self, text: str, host: int) -> str:
        def target(match: re.Match[str]) -> str:
            kind, name, label = match.groups()
            path = html.unescape(name) if kind == "path" else self.paths.get(html.unescape(name))
            if path is None:
                return label
            other = host_of(path, self.num_hosts)
            return f'<a href="{"" if other == host else "http://" + host_name(other)}/{path}">{label}</a>'

        return re.sub(r'<a data-(page|path)="([^"]*)">(.*?)</a>', target, text)

    def finish(self) -> None:
        """Write each host's index, robots.txt, sitemap and closed folder, then the manifest of all pages."""
        closed = [n for n, p in self.paths.items() if p.startswith(CLOSED)]
        for host, paths in enumerate(self.written):
            root = f"http://{host_name(host)}/"
            rows = [f'<a data-path="{p}">{html.escape(p[:-5])}</a>' for p in paths]
            self.write(
                host,
                "index.html",
                title=host_name(host),
                summary="All pages of this host.",
                article=[f"<h1>Library pages on {host_name(host)}</h1>", *lists(rows)],
                related=[link(n, n) for n in closed],
            )
            self.write(host, f"{CLOSED}about.html", title="About", summary="", article=list(ABOUT), related=[])
            robots = f"User-agent: *\nDisallow: /{CLOSED}\n\nSitemap: {root}sitemap.xml\n"
            urls = "".join(f"<url><loc>{root}{p}</loc></url>\n" for p in ["index.html", *paths])
            folder = self.out / f"host-{host:02d}"
            (folder / "robots.txt").write_text(robots, encoding="utf-8")
            (folder / "sitemap.xml").write_text(
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n',
                encoding="utf-8",
            )
        first = [f"host-{h:02d}/index.html" for h in range(self.num_hosts)]
        (self.out / MANIFEST).write_text(json.dumps(first + self.manifest, indent=0) + "\n", encoding="utf-8")


def _path(entry: Entry, part: int) -> str:
    return f"{CLOSED if entry.closed else ''}{entry.name}{'' if part == 1 else f'.{part}'}.html"
