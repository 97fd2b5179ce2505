"""The small corpus of fake runs: pages of this Python's own documentation, one of them hostile, with questions."""

from __future__ import annotations

import inspect
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from rag_hpc.core.hashing import hash_value

SUBJECTS = [
    shutil.copytree,
    shutil.rmtree,
    shutil.move,
    shutil.which,
    json.dumps,
    json.loads,
    itertools.groupby,
    itertools.islice,
    itertools.chain,
    inspect.signature,
    inspect.getsource,
    inspect.cleandoc,
    sorted,
    zip,
    map,
    dict.setdefault,
    str.partition,
    str.casefold,
    bytes.fromhex,
    Path.glob,
    Path.rename,
    Path.resolve,
    open,
    sum,
]
HOSTILE_TEXT = 'Careful: <script>document.title = "owned"</script> & "quotes" stand in this passage.'
HOSTILE_TITLE = '"><img src=x onerror=alert(1)> title'
HOSTILE_URL = "javascript:alert(1)"


def documents() -> list[dict[str, str]]:
    """Return pages of this Python's own documentation, one of them hostile."""
    found = []
    for number, subject in enumerate(SUBJECTS):
        name = f"{getattr(subject, '__module__', None) or 'builtins'}.{subject.__qualname__}"
        text = inspect.getdoc(subject) or name
        found.append(
            {
                "doc_id": f"http://127.0.0.{number % 8 + 1}:8000/{name}.html",
                "url": f"http://127.0.0.1:8000/{name}.html",
                "title": name,
                "text": text,
                "lang": "en",
                "meta": "{}",
            }
        )
    found[3] |= {"text": f"{HOSTILE_TEXT} {found[3]['text']}", "title": HOSTILE_TITLE, "url": HOSTILE_URL}
    return found


def chunks(document: dict[str, str]) -> list[dict[str, Any]]:
    half = max(1, len(document["text"]) // 2)
    spans = [(0, half), (half, len(document["text"]))]
    return [
        {
            "chunk_id": hash_value([document["doc_id"], start])[:16],
            "doc_id": document["doc_id"],
            "url": document["url"],
            "title": document["title"],
            "lang": document["lang"],
            "heading": "",
            "text": document["text"][start:stop],
            "start": start,
            "end": stop,
            "num_tokens": (stop - start) // 4,
        }
        for start, stop in spans
    ]


def questions(pages: list[dict[str, str]]) -> list[dict[str, Any]]:
    asked = [
        "copies a folder",
        "removes a folder",
        "changes a file's place",
        "finds a program",
        "writes JSON text",
        "reads JSON text",
        "gathers equal neighbours",
        "takes a part of a stream",
    ]
    return [
        {
            "id": f"pydoc-{n:03d}",
            "text": f"Which function {what}, and what does it return?",
            "answers": [pages[n]["title"]],
            "relevant": {pages[n]["doc_id"]: 1},
            "held_out": n % 4 == 3,
        }
        for n, what in enumerate(asked)
    ]
