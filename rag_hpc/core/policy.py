"""What a run does about units that fail or lag: carried whole from the config through the request to every plan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rag_hpc.errors import ConfigError


@dataclass(kw_only=True)
class Policy:
    """Settings of a run as a whole; never part of a fingerprint."""

    max_attempts: int = 3
    allow_failed_units: int = 0
    backup_after_s: float = 60.0  # a begun unit older than this (and 3 x the median) is backed up by an idle worker

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.allow_failed_units < 0:
            raise ConfigError("max_attempts >= 1 and allow_failed_units >= 0 are needed")


def take_policy(values: dict[str, Any]) -> Policy:
    """Return the policy that a stored file holds, and take it out; runs of version 0.1 have its fields one by one."""
    flat = {f.name: values.pop(f.name) for f in dataclasses.fields(Policy) if f.name in values}
    return Policy(**values.pop("policy", flat))
