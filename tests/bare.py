"""Run a command as on a machine that has the named Debian packages, what they depend on, and no others.

    unshare --mount python tests/bare.py PACKAGE... -- COMMAND...

What every other installed package put below /usr is hidden from the command, so a package that is used and not named
is missed here and not on somebody's bare machine. Needs root; the machine itself is not touched.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

FIELDS = "${binary:Package}\t${Package}\t${Essential}\t${Priority}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
CODE = re.compile(r"^/usr/s?bin/[^/]+$|\.so\b")
LAYER = Path("/media")  # there on every Debian; what is mounted on it here is seen from here only


def main(argv: list[str]) -> int:
    """Return the command's exit code; when it failed, the hidden packages that its output speaks of are named."""
    cut = argv.index("--")
    packages = installed()
    kept = closure(argv[:cut], packages)
    shown = files(kept)
    hidden = {path: package for path, package in files(set(packages) - kept).items() if path not in shown}
    hide(hidden)
    print(f"bare: {len(kept)} packages, and {len(packages) - len(kept)} hidden", flush=True)
    done = subprocess.run(argv[cut + 1 :], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    if done.returncode:
        said = set(re.findall(r"[\w.+-]+", done.stdout))
        for path in sorted(path for path in hidden if CODE.search(path) and path.rpartition("/")[2] in said):
            print(f"bare: hidden here: {path} of {hidden[path]}")
        print("bare: that fails here; if it passes without this, it uses a package that is not named")
    return done.returncode


def installed() -> dict[str, list[str]]:
    """Return name (with its architecture where dpkg says so) -> the other fields of each installed package."""
    text = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}\t" + FIELDS], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split("\t") for line in text.splitlines()]
    return {row[1]: row[2:] for row in rows if row[0] == "installed"}


def closure(named: Iterable[str], packages: dict[str, list[str]]) -> set[str]:
    """Return what `apt-get install` of the named packages brings to the smallest Debian, as far as it is here."""
    offers: dict[str, list[str]] = {}
    for full, (name, *_, provides) in packages.items():
        for offered in [name, *words(provides, ",")]:
            offers.setdefault(offered, []).append(full)
    real = {row[0]: full for full, row in packages.items()}
    absent = [name for name in named if name not in real]
    if absent:
        sys.exit(f"bare: not installed: {' '.join(absent)}; run: make slurm-packages")
    todo = [real[name] for name in named]
    todo += [full for full, row in packages.items() if row[1] == "yes" or row[2] == "required"]
    kept: set[str] = set()
    while todo:
        full = todo.pop()
        if full in kept:
            continue
        kept.add(full)
        for choice in packages[full][3].split(","):
            chosen = next((name for name in words(choice, "|") if name in offers), None)  # the first is apt's choice
            if chosen is not None:
                todo += [real[chosen]] if chosen in real else offers[chosen]
    return kept


def words(text: str, between: str) -> list[str]:
    """Return the package names in a field like "a (>= 2) | b:any"."""
    return [name for part in text.split(between) if (name := re.split(r"[ (:]", part.strip())[0])]


def files(packages: Iterable[str]) -> dict[str, str]:
    """Return path -> package of what the packages put below /usr, folders left out."""
    real: dict[str, str] = {}
    owners = {}
    for package in packages:
        for line in Path(f"/var/lib/dpkg/info/{package}.list").read_text().splitlines():
            folder, _, name = line.rpartition("/")
            if folder not in real:
                real[folder] = os.path.realpath(folder)  # /lib leads to /usr/lib
            path = f"{real[folder]}/{name}"
            if path.startswith("/usr/") and (Path(path).is_symlink() or Path(path).is_file()):
                owners[path] = package
    return owners


def hide(paths: Iterable[str]) -> None:
    """Lay over /usr a layer in which these paths do not exist, for this process and its children."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(LAYER)], check=True)
    upper, work = LAYER / "upper", LAYER / "work"
    work.mkdir()
    for path in paths:
        gone = upper / path.removeprefix("/usr/")
        gone.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(gone, stat.S_IFCHR, os.makedev(0, 0))  # how an overlay says: not here
    folders = f"lowerdir=/usr,upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", folders, "overlay", "/usr"], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
