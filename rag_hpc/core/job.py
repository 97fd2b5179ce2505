"""What a launcher tells its workers, through RAG_HPC_* variables: both sides spell them here and nowhere else.

And what a run's own files may set for its jobs (cluster.env): nothing that makes a program load code, nothing secret.

RAG_HPC_LOG, RAG_HPC_DATA, RAG_HPC_CONFIG_DIR and RAG_HPC_DEVCLUSTER are the user's own settings, and not of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args, get_type_hints

from rag_hpc.errors import ConfigError

PREFIX = "RAG_HPC_"
SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # what `python -P` says, for children and for submitit's own `python -m`
SECRET = re.compile(r"(^|_)(KEY|APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SETTABLE = re.compile(  # threads, communication, devices, models' caches, locale, proxies, and our own
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|NUMEXPR|NUMBA_NUM|TOKENIZERS|MALLOC|NCCL|GLOO|UCX|UCC|FI|PSM2|PSM3|RDMAV|HCOLL"
    r"|I_MPI|MPICH|OMPI_MCA|PMIX_MCA|PRTE_MCA|CUDA|NVIDIA|HIP|ROCR|ZE|PYTORCH|HF|TRANSFORMERS|LC)_\w+"
    r"|LANG|LANGUAGE|TZ|TMPDIR|((HTTPS?|ALL|FTP|NO)_PROXY)|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|TORCH_HOME"
    r"|SENTENCE_TRANSFORMERS_HOME|PYTHON(HASHSEED|UNBUFFERED|FAULTHANDLER)|RAG_HPC_(LOG|DATA)",
    re.IGNORECASE,
)
_LOADS = re.compile(r"PATH$|PLUGIN|LIB|MODULE_DIR|TOOL|AGENT|PRELOAD|EXEC|DEBUGGER", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class JobEnv:
    """How a worker was started, and what it has to keep to; None where the launcher had nothing to say."""

    launch: str = "array"
    world_size: int | None = None  # ranks that were started together
    num_workers: int | None = None  # lone processes that share the plan
    walltime_s: float | None = None
    walltime_margin_s: float | None = None
    submitted_unix: float | None = None
    scratch: str | None = None
    store: str | None = None  # file that ranks on one machine meet in, where torchrun keeps no store for them

    def to_env(self) -> dict[str, str]:
        """Return the variables to set."""
        return {variable(name): str(value) for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_env(cls) -> JobEnv:
        """Return what this process was told; a variable that is empty counts as absent."""
        kinds = {name: (*get_args(hint), hint)[0] for name, hint in get_type_hints(cls).items()}
        given = {name: os.environ.get(variable(name)) for name in kinds}
        return cls(**{name: kinds[name](value) for name, value in given.items() if value})

    def deadline(self, started: float) -> float | None:
        """Return when to stop, on the clock of `started`: the walltime less the margin, at most half of it."""
        if not self.walltime_s:
            return None
        return started + max(1.0, self.walltime_s - min(self.walltime_margin_s or 0.0, 0.5 * self.walltime_s))


def settable(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables that a run sets for its jobs. Raises ConfigError for the first that it may not set."""
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"cluster.env: {name!r} is no name of a variable; use letters, digits and '_'")
        if SECRET.search(name.upper()) or "@" in value.partition("://")[2].partition("/")[0]:
            raise ConfigError(
                f"cluster.env: {name} looks like a secret, and a run's files and scripts are no place for one; "
                "write it into cluster.secrets_file"
            )
        if not _SETTABLE.fullmatch(name) or _LOADS.search(name):
            raise ConfigError(
                f"cluster.env: {name} is none of the variables that a run may set for its jobs, since it could load "
                f"code; put `export {name}=...` into cluster.prologue of your site's file (on this machine: export it)"
            )
    return environment


def variable(name: str) -> str:
    """Return the variable of a field, for shell lines whose value is known on the node only."""
    return PREFIX + name.upper()
