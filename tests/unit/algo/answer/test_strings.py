"""Measures of strings by other packages, where these are installed."""

from __future__ import annotations

import importlib.util

import pytest

from rag_hpc.algo.answer import strings
from rag_hpc.errors import MissingDependency


@pytest.mark.parametrize("name", strings.PACKAGES)
def test_nearest_of_several_gold_answers_counts(name: str) -> None:
    if name not in strings.installed():
        pytest.skip(f"{strings.PACKAGES[name]} is not installed: make test-ragas")
    golds = ["birds can fly very far", "fish live in deep water", " "]
    same, near, far = (
        strings.nearness(name, answer, golds) for answer in ("fish live in deep water", "fish live in water", "xyz")
    )
    assert 0 <= far < near < same == pytest.approx(1.0)


def test_what_is_not_installed_is_not_measured_and_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert strings.installed() == []
    monkeypatch.undo()
    missing = [name for name in strings.PACKAGES if name not in strings.installed()]
    for name in missing:
        with pytest.raises(MissingDependency, match=rf"{strings.PACKAGES[name]}.*pip install 'rag-hpc\[eval\]'"):
            strings.nearness(name, "a", ["b"])
