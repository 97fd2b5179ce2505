from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import pytest

from rag_hpc.core.stage import Context, output_config, plain
from rag_hpc.core.unit import Counts
from rag_hpc.errors import Interrupted


class Colour(enum.Enum):
    red = "rouge"


@dataclass
class Inner:
    depth: int = 1
    threads: int = field(default=4, metadata={"output": False})


@dataclass
class Outer:
    colour: Colour = Colour.red
    inner: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = ("a", "b")
    by_name: dict[str, Any] = field(default_factory=lambda: {"x": Inner()})
    path: str = field(default="/tmp", metadata={"output": False})


def test_only_settings_that_affect_output_name_it_at_any_depth() -> None:
    assert output_config(Outer()) == {
        "colour": "rouge",
        "inner": {"depth": 1},
        "names": ["a", "b"],
        "by_name": {"x": {"depth": 1}},
    }


def test_plain_leaves_json_values_alone() -> None:
    assert plain({1: [None, 2.5, "x", True]}) == {"1": [None, 2.5, "x", True]}


def test_counts_balance() -> None:
    assert Counts(items_in=5, items_out=2, dropped={"short": 2, "long": 1}).balance == 0
    assert Counts(items_in=5, items_out=2).balance == 3


def test_stop_interrupts_only_when_asked() -> None:
    Context().check_stop()
    with pytest.raises(Interrupted, match="will be redone"):
        Context(stop_requested=lambda: True).check_stop()
