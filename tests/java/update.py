"""Compile rag_hpc/search/java/*.java into the jar beside them: python -m tests.java.update (JDK 21 or later)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # as pytest's `pythonpath` does


def main() -> int:
    """Return 0 when the jar is written, 1 where no compiler is found."""
    import javac

    from rag_hpc.search import jvm

    found = javac.compiler()
    if found is None:
        print("no javac of 21 or later in JAVA_HOME, PATH or /usr/lib/jvm", file=sys.stderr)
        return 1
    jvm.OWN_JAR.write_bytes(javac.compiled(*found))
    print(f"{jvm.OWN_JAR}: {jvm.OWN_JAR.stat().st_size} bytes by javac {found[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
