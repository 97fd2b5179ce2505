"""The studies that come with the package: each is one, and what it varies is a setting."""

from __future__ import annotations

import itertools

import pytest

from rag_hpc.arguments import Arguments, choices, group_values
from rag_hpc.config import compose
from rag_hpc.launchers.study import Asked
from rag_hpc.schema import from_plain

STUDIES = choices()["study"]


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_is_one_and_its_settings_are_known(name: str) -> None:
    asked = from_plain(Asked, group_values(Arguments("study"), "study", name))
    assert asked.name == name
    for part in asked.parts.values():
        grid = [[f"{key}={value}" for value in values] for key, values in part.vary.items()]
        source = [f"corpus={'beir' if part.collection == 'cranfield' else part.collection or 'pydoc'}"]
        for own in itertools.product(*grid):
            compose([*source, *asked.settings, *part.settings, *own])


def test_a_study_is_changed_on_the_command_line() -> None:
    values = group_values(Arguments("study", ["study.validation_runs=7"]), "study", "reference")
    assert from_plain(Asked, values).validation_runs == 7
