"""Two of these processes race each other: python races.py files|folders|submissions FOLDER TAG COUNT.

Each waits for FOLDER/go, tries to publish 0..COUNT-1, and prints the numbers it won as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from rag_hpc.core.fs import publish_dir, publish_file
from rag_hpc.core.ledger import Ledger, Request

SIZE = 100_000


def try_file(folder: Path, tag: str, number: int) -> bool:
    return publish_file(folder / f"{number:03d}", tag.encode() * SIZE)


def try_folder(folder: Path, tag: str, number: int) -> bool:
    draft = folder / f".draft-{number:03d}-{tag}"
    draft.mkdir()
    (draft / "a").write_text(tag)
    (draft / "b").write_text(tag)
    return publish_dir(draft, folder / f"{number:03d}")


def submit(folder: Path, tag: str, number: int) -> int:
    request = Request(run="run", number=0, stages=[tag], settings={}, workers=number, cluster={})
    return Ledger(folder / "run").submit(request).number


def main(what: str, where: str, tag: str, count: str) -> None:
    folder = Path(where)
    (folder / f"ready-{tag}").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    if what == "submissions":
        print(json.dumps([submit(folder, tag, number) for number in range(int(count))]))
        return
    attempt = try_file if what == "files" else try_folder
    print(json.dumps([number for number in range(int(count)) if attempt(folder, tag, number)]))


def race(what: str, folder: Path, count: int, tags: str = "xy") -> list[list[int]]:
    """Start a process for each tag, let them go at once, and return what each won."""
    children = [
        subprocess.Popen([sys.executable, __file__, what, str(folder), tag, str(count)], stdout=subprocess.PIPE)
        for tag in tags
    ]
    while not all((folder / f"ready-{tag}").exists() for tag in tags):
        assert all(child.poll() is None for child in children)
        time.sleep(0.01)
    (folder / "go").touch()
    return [json.loads(child.communicate()[0]) for child in children]


if __name__ == "__main__":
    main(*sys.argv[1:])
