"""The compiled classes in the package are those of the sources beside them."""

from __future__ import annotations

import javac
import pytest

from rag_hpc.errors import MissingDependency
from rag_hpc.search import jvm


def test_the_jar_was_made_of_these_sources() -> None:
    held = javac.contents(jvm.OWN_JAR.read_bytes())
    sources = {f"raghpc/{source.name}": source.read_bytes() for source in javac.SOURCES}
    assert {name: held[name] for name in held if name.endswith(".java")} == sources, "run: python -m tests.java.update"
    assert all(code.startswith(b"\xca\xfe\xba\xbe\0\0\0\x41") for name, code in held.items() if name.endswith(".class"))


def test_the_classes_are_what_the_compiler_makes_of_the_sources() -> None:
    found, held = javac.compiler(), jvm.OWN_JAR.read_bytes()
    if found is None or f"{javac.MADE_BY}{found[1]}\r\n".encode() not in held:
        pytest.skip("no javac here of the version that made the jar")
    try:
        made = javac.compiled(*found)
    except MissingDependency as error:
        pytest.skip(str(error))
    assert sorted(javac.contents(made)) == sorted(javac.contents(held))
    assert made == held, "run: python -m tests.java.update"
