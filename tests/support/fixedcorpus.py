"""The fixed corpus: documents on eight topics, and those that some stage has a reason to drop, as files and as BEIR.

Every word is chosen by a hash of its place, so the same text comes out on every machine and Python; golden hashes are
held against it. Change it, and `python -m tests.golden.update --same-version` is due.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

TOPICS = {
    "queues": ["a deque", "the maxlen argument", "both ends", "older items", "a bounded queue", "the rotate method"],
    "copying": ["the copytree function", "a whole folder", "file times", "the copy2 function", "symbolic links"],
    "caching": ["the lru_cache decorator", "results of calls", "the maxsize argument", "cached values", "a hit ratio"],
    "paths": ["a Path object", "the glob method", "a file pattern", "the parent folder", "a relative path"],
    "sorting": ["the sorted function", "a key function", "equal items", "a stable sort", "reverse order"],
    "threads": ["a Lock object", "shared data", "the acquire method", "a waiting thread", "a thread pool"],
    "sockets": ["a listening socket", "the bind method", "a remote address", "a timeout", "non blocking mode"],
    "hashing": ["a digest", "the sha256 function", "a block of bytes", "a checksum", "the update method"],
}
VERBS = ["keeps", "returns", "guards", "replaces", "describes", "limits", "follows", "needs", "copies", "counts"]
TAILS = [
    "in most programs",
    "when the program ends",
    "on every platform",
    "without an extra copy",
    "for large inputs",
    "before the next call",
    "as the manual says",
    "unless it is told otherwise",
    "in the same order",
    "at any time",
]
ASKED = {
    "queues": "Which argument of a deque drops older items?",
    "copying": "How do I copy a whole folder?",
    "caching": "Which decorator remembers results of calls?",
    "paths": "Which method finds files by a pattern?",
    "sorting": "Does the sorted function keep equal items in order?",
    "threads": "How do I guard shared data?",
    "sockets": "How do I bind a listening socket?",
    "hashing": "How do I compute the sha256 digest of a block?",
}


def pick(options: list[str], *place: object) -> str:
    """Return one option, chosen by a hash of the place: the same on every machine and Python."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return options[int.from_bytes(digest[:4], "big") % len(options)]


def prose(topic: str, number: int, num_sentences: int) -> str:
    """Return sentences about a topic; the first names a gold fact, so that questions have an answer."""
    facts = TOPICS[topic]
    verb, tail = pick(VERBS, topic, number), pick(TAILS, topic, number)
    lines = [f"Note {number} on {topic}: {facts[0]} {verb} {facts[1]} {tail}."]
    for at in range(1, num_sentences):
        one, two = pick(facts, topic, number, at, "a"), pick(facts, topic, number, at, "b")
        lines.append(f"{one.capitalize()} {pick(VERBS, number, at)} {two} {pick(TAILS, number, at)}.")
    return " ".join(lines)


def records() -> list[dict[str, str]]:
    """Return 64 documents, and those that some stage has a reason to drop."""
    names = list(TOPICS)
    docs = []
    for number in range(64):
        topic = names[number % len(names)]
        text = prose(topic, number, 3 + number % 4)
        docs.append({"id": f"d{number:02d}", "title": f"{topic.capitalize()} note {number}", "text": text})
    long = prose("paths", 900, 40)
    last = long.split()[-1]
    docs += [
        {"id": "exact", "title": "", "text": "  " + docs[5]["text"].upper()},
        {"id": "long", "title": "A long note", "text": long},
        {"id": "near", "title": "A long note again", "text": long[: -len(last)] + "always."},
        {"id": "nearer", "title": "", "text": "Preface. " + long[: -len(last)] + "always."},
        {"id": "short", "title": "Short", "text": "Too short to keep."},
        {"id": "digits", "title": "Digits", "text": "0123456789 " * 12},
        {"id": "lines", "title": "Lines", "text": "the same line again\n" * 20},
        {"id": "marks", "title": "Marks", "text": "\u0301" * 60},
        {"id": "empty", "title": "Empty", "text": "   "},
        {"id": "bell", "title": "Control characters", "text": "ring " * 20 + "\x07" * 40},
    ]
    docs.insert(7, {"id": "d03", "title": "A second d03", "text": prose("queues", 901, 4)})
    return docs


def write_files(folder: Path) -> Path:
    """Write the fixed corpus as a folder of HTML, Markdown, text and JSON Lines; return it."""
    folder.mkdir(parents=True)
    lines = [json.dumps(record) for record in records()]
    lines.insert(4, '{"id": "broken", "text": ')
    lines.insert(9, '{"id": "silent", "title": "No text"}')
    (folder / "notes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    body = "".join(f"<p>{prose('sockets', 700 + n, 4)}</p>" for n in range(3))
    page = (
        "<!doctype html><html lang='en'><head><title>Sockets  guide</title><script>var x = 1;</script></head>"
        f"<body><nav><a href='/'>Home</a></nav><main><h1>Sockets</h1>{body}<pre>s = socket()\n    s.bind(a)</pre>"
        "</main><footer>Imprint</footer></body></html>"
    )
    (folder / "guide.html").write_text(page, encoding="utf-8")
    (folder / "nothing.html").write_text("<html><body><script>1</script></body></html>", encoding="utf-8")
    (folder / "readme.md").write_text(
        f"---\ntitle: Read me first\n---\n# Read me\n\n{prose('hashing', 800, 5)}\n\n```python\nsha256(b'')\n```\n",
        encoding="utf-8",
    )
    (folder / "plain.txt").write_text(f"{prose('caching', 801, 5)}\n", encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"caf\xe9 " * 20)
    return folder


def write_questions(path: Path) -> Path:
    """Write the corpus's questions as JSON Lines; return the path."""
    names = list(TOPICS)
    asked = [
        {
            "id": f"q{at}",
            "text": ASKED[topic],
            "answers": [TOPICS[topic][1], TOPICS[topic][0]],
            "relevant": {f"d{at + 8 * n:02d}": 2 if n == 0 else 1 for n in range(8)},
        }
        for at, topic in enumerate(names)
    ]
    asked.append({"id": "nobody", "text": "Zyxwv qpomn?", "answers": [], "relevant": {}})
    path.write_text("".join(json.dumps(q) + "\n" for q in asked), encoding="utf-8")
    return path


def write_beir(folder: Path) -> Path:
    """Write the records as a BEIR folder with the same questions; return it."""
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": r["id"], "title": r["title"], "text": r["text"]}) for r in records()]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = list(TOPICS)
    asked = [json.dumps({"_id": f"q{at}", "text": ASKED[topic]}) for at, topic in enumerate(names)]
    (folder / "queries.jsonl").write_text("\n".join(asked) + "\n", encoding="utf-8")
    judged = [f"q{at}\td{at + 8 * n:02d}\t{1 + (n == 0)}" for at in range(len(names)) for n in range(8)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged) + "\n")
    return folder
