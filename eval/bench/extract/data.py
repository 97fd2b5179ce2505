"""Pages with their main text as people marked it, and the score of the article extraction benchmark."""

from __future__ import annotations

import io
import json
import re
import statistics
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import zstandard

from rag_hpc.algo.extract.decode import decode
from rag_hpc.algo.extract.density import scan_page
from rag_hpc.algo.extract.html_page import END, START
from rag_hpc.errors import InputError

_TOKEN = re.compile(r"\w+")
_SIZE = 4  # tokens in a shingle
_DOCS_OF = 19  # one page in so many of the documentation is used


@dataclass(frozen=True)
class Sample:
    """A page and its main text; pages of one site are never in two folds."""

    name: str
    site: str
    body: bytes
    url: str
    gold: str


def scrapinghub(data: Path) -> list[Sample]:
    """Return the 181 news pages of the article extraction benchmark. Raises InputError."""
    folder = _folder(data, "extract_scrapinghub")
    gold = json.loads(_unpacked(folder / "ground-truth.json.zst"))
    found = []
    for name, body in _members(folder / "html.tar.zst"):
        page = gold.get(Path(name).stem)
        if page is not None:
            found.append(Sample(Path(name).stem, urlsplit(page["url"]).netloc, body, page["url"], page["articleBody"]))
    return sorted(found, key=lambda sample: sample.name)


def readability(data: Path) -> list[Sample]:
    """Return the 130 test pages of Mozilla's readability; gold: the text of expected.html. Raises InputError."""
    files = {
        Path(name).parent.name + "/" + Path(name).name: body
        for name, body in _members(_folder(data, "extract_readability") / "test-pages.tar.zst")
    }
    url = "http://fakehost/test/page.html"
    names = sorted(name.split("/")[0] for name in files if name.endswith("/source.html"))
    return [
        Sample(
            name,
            "readability/" + name.rstrip("0123456789-"),
            files[f"{name}/source.html"],
            url,
            all_text(files[f"{name}/expected.html"]),
        )
        for name in names
    ]


def documentation(data: Path) -> list[Sample]:
    """Return a fixed choice of the IPython pages, one site, with the text of their Sphinx body. Raises InputError."""
    folder = _folder(data, "html_ipython")
    gold = {doc["id"]: doc for doc in map(json.loads, _unpacked(folder / "docs.jsonl.zst").split(b"\n")[:-1])}
    found = []
    for name, body in _members(folder / "ipython-doc-1-2-3.tar.zst"):
        key = name.split("ipython-doc/", 1)[-1]
        if key in gold and zlib.crc32(key.encode()) % _DOCS_OF == 0 and gold[key]["title"]:
            found.append(Sample(key, "ipython.org", body, gold[key]["url"], gold[key]["text"]))
    return sorted(found, key=lambda sample: sample.name)


def all_text(body: bytes) -> str:
    """Return all text of an HTML page, a line for each block."""
    import html

    page = scan_page(decode(body, None, "").encode("utf-8", "replace"), "")
    raw = page.out.tobytes()
    return html.unescape(b"\n".join(raw[row[START] : row[END]] for row in page.blocks).decode("utf-8", "replace"))


def score(pairs: Iterable[tuple[str, str]]) -> tuple[float, float, float]:
    """Return precision, recall and F1 over (gold, found) texts: means over pages of their shares of 4-token shingles.

    Source: evaluate.py of github.com/scrapinghub/article-extraction-benchmark, whose figures this reproduces.
    """
    counts = [_counts(gold, found) for gold, found in pairs]
    precision = statistics.fmean(_share(tp, fp, fn) for tp, fp, fn in counts if tp + fp > 0)
    recall = statistics.fmean(_share(tp, fn, fp) for tp, fp, fn in counts if tp + fn > 0)
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(hits: int, misses: int, others: int) -> float:
    if misses == others == 0:
        return 1.0
    return hits / (hits + misses)


def _counts(gold: str, found: str) -> tuple[int, int, int]:
    wanted, given = _shingles(gold), _shingles(found)
    hits = (wanted & given).total()
    return hits, given.total() - hits, wanted.total() - hits


def _shingles(text: str) -> Counter[tuple[str, ...]]:
    tokens = tokenize(text)
    return Counter(tuple(tokens[i : i + _SIZE]) for i in range(max(1, len(tokens) - _SIZE + 1)) if tokens)


def tokenize(text: str) -> list[str]:
    """Return the words of a text as the benchmark counts them."""
    return _TOKEN.findall(text)


def _folder(data: Path, name: str) -> Path:
    if not (data / name).is_dir():
        raise InputError(
            f"the extract benchmark needs {data / name}, which is not there; set RAG_HPC_DATA to the "
            "folder that holds extract_scrapinghub, extract_readability and html_ipython"
        )
    return data / name


def _unpacked(path: Path) -> bytes:
    with open(path, "rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(_unpacked(path))) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content.read()
