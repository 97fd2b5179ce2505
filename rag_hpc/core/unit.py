"""The smallest planned piece of a stage's work, and what is counted of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Unit:
    """The smallest planned piece of a stage's work."""

    index: int
    inputs: dict[str, Any]  # JSON-able: what this unit reads, relative to nothing but the input manifests

    @property
    def name(self) -> str:
        """The unit's folder name."""
        return f"unit-{self.index:05d}"


@dataclass
class Counts:
    """What went in, what came out, and what was dropped for which reason: in = out + dropped."""

    items_in: int = 0
    items_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)  # further figures, summed over units in the manifest
    timings: dict[str, float] = field(default_factory=dict)  # seconds by name; kept in the record, never in a manifest

    @property
    def balance(self) -> int:
        """Items unaccounted for; zero when the counts add up."""
        return self.items_in - self.items_out - sum(self.dropped.values())
