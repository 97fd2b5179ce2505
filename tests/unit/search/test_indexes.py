"""Which FAISS is installed is asked before anything is queued."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from types import SimpleNamespace

import pytest

from rag_hpc.config import check, compose
from rag_hpc.errors import MissingDependency
from rag_hpc.search.indexes import require_faiss

STAGES = (
    "crawl,clean,dedup.sign,dedup.group,dedup.verify,dedup.link,dedup.drop,chunk,encode,vectors.train,vectors.build"
)


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = [SimpleNamespace(metadata={"Name": name}) for name in names]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(found))


@pytest.mark.parametrize("build", ["faiss-cpu", "faiss-gpu"])
def test_either_build_will_do(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    installed(monkeypatch, build, "numpy")
    require_faiss()


def test_both_builds_are_refused_when_a_run_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    installed(monkeypatch, "faiss-cpu", "faiss-gpu")
    with pytest.raises(MissingDependency, match="pip uninstall -y faiss-cpu faiss-gpu"):
        check(compose(["pipeline=cluster", f"pipeline.stages=[{STAGES}]"]))


def test_none_is_refused_with_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"rag-hpc\[cpu\].*rag-hpc\[gpu\]"):
        require_faiss()
