"""The exceptions of rag_hpc.

    RagHpcError            exit 1
    |-- ConfigError        exit 2   wrong usage, unknown key or choice, values that do not fit together
    |   `-- MissingDependency       a program or package that the request needs is not installed
    |-- InputError         exit 1   a file, folder or model that cannot be used
    |-- ClusterError       exit 1   the scheduler refused, or could not be reached
    |-- UnitFailed         exit 1   units failed max_attempts times and are quarantined
    |-- CorruptOutput      exit 1   committed bytes do not match their manifest
    |-- DiskError          exit 1   a filesystem is full, over quota or failing
    |-- IncompleteError    exit 3   work is left; the message carries the command to go on
    `-- Interrupted        exit 3   a worker was told to stop; its open unit is dropped and will be redone

Every message says what happened, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable


class RagHpcError(Exception):
    """Base of all errors that are meant for the user."""

    exit_code = 1


class ConfigError(RagHpcError):
    """Wrong usage or configuration; nothing was started."""

    exit_code = 2


class MissingDependency(ConfigError):
    """A program or package that the request needs is absent."""


class InputError(RagHpcError):
    """A file, folder, model or corpus that cannot be used."""


class ClusterError(RagHpcError):
    """The scheduler refused a request or could not be reached."""


class UnitFailed(RagHpcError):
    """Units failed on every attempt and are quarantined."""


class CorruptOutput(RagHpcError):
    """Committed bytes do not match the manifest that vouches for them."""


class DiskError(RagHpcError):
    """A filesystem is full, over quota, read-only or failing."""


class IncompleteError(RagHpcError):
    """Work is left to do; the message names the command that goes on."""

    exit_code = 3


class Interrupted(IncompleteError):
    """The worker was told to stop (signal or deadline); the unit at hand is dropped, to be redone."""


def did_you_mean(given: str, known: Iterable[str], before: str = "") -> str:
    """Return "did you mean X? " for the known name nearest to the given one, with what stands before it; else ""."""
    from difflib import get_close_matches

    close = get_close_matches(given, list(known), n=1)
    return f"did you mean {before}{close[0]}? " if close else ""
