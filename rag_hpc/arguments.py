"""A command line as its verb sees it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.ledger import runs_root
from rag_hpc.errors import ConfigError, InputError, did_you_mean


@dataclass
class Arguments:
    """A parsed command line: overrides are `key=value`, words are what else stands there."""

    verb: str
    overrides: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)

    @property
    def config_dir(self) -> Path | None:
        """A folder with a site's own configuration groups. Raises ConfigError when it is not there."""
        given = self.values.get("--config-dir") or os.environ.get("RAG_HPC_CONFIG_DIR")
        if given and not Path(given).is_dir():
            raise ConfigError(f"--config-dir {given}: no such folder; it is to hold cluster/NAME.yaml and the like")
        return Path(given) if given else None

    def override(self, key: str) -> str | None:
        """Return the value of a `key=value` override, None when it is not given."""
        found = [o.split("=", 1)[1] for o in self.overrides if o.split("=", 1)[0] == key]
        return found[-1] if found else None


def whole_number(name: str, given: str | None, default: int, *, least: int) -> int:
    """Return the number given, or the default. Raises ConfigError for what is none, or less than `least`."""
    if given is None:
        return default
    if not given.isdecimal() or int(given) < least:
        raise ConfigError(f"{name}={given}: a whole number is needed, at least {least}")
    return int(given)


def number_between(name: str, given: str | None, low: float, high: float) -> float:
    """Return the number given. Raises ConfigError where there is none, or it lies outside."""
    try:
        value = float(given or "")
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ConfigError(f"{name}={given or ''}: a number from {low:g} to {high:g} is needed")
    return value


def root_of(arguments: Arguments) -> Path:
    """Return the folder of runs: `cluster.root`, that of the named cluster's file, or results/runs here."""
    return runs_root(setting(arguments, "cluster", "root"))


def reads_shared(arguments: Arguments) -> bool:
    """Return whether runs of others may be read that they share with a group of ours. Raises ConfigError."""
    share = setting(arguments, "cluster", "share")
    if share not in (None, "null", "group"):
        raise ConfigError(f"cluster.share={share}: group, or leave it away")
    return share == "group"


def setting(arguments: Arguments, group: str, key: str) -> str | None:
    """Return `GROUP.KEY=VALUE`, else what the file says that `GROUP=NAME` chooses, None where neither says anything."""
    given, choice = arguments.override(f"{group}.{key}"), arguments.override(group)
    return _in_file(group, choice, key, arguments.config_dir) if given is None and choice is not None else given


def group_values(arguments: Arguments, group: str, default: str) -> dict[str, Any]:
    """Return the settings of `GROUP=NAME`, by default those of the file of that name, with each `GROUP.KEY=VALUE`."""
    from omegaconf import OmegaConf

    loaded = OmegaConf.load(_file(group, arguments.override(group) or default, arguments.config_dir))
    values: Any = OmegaConf.to_container(loaded)
    given = [o.split("=", 1) for o in arguments.overrides if o.startswith(f"{group}.")]
    return {str(key): value for key, value in values.items()} | {
        key.removeprefix(f"{group}."): value for key, value in given
    }


def name_of(arguments: Arguments) -> str | None:
    """Return the run's name: `run=NAME` or the first word, None for the latest run."""
    return arguments.override("run") or (arguments.words[0] if arguments.words else None)


def out_file(arguments: Arguments) -> Path | None:
    """Return the file that `--out` names, None without it. Raises InputError when it could not be written there."""
    if "--out" not in arguments.values:
        return None
    out = Path(arguments.values["--out"])
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}; make it first")
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; name the file to write in it")
    return out


def as_json(value: Any) -> str:
    """Return what a script reads: in ASCII, so that any encoding takes it and nothing in it steers a terminal."""
    return json.dumps(value, indent=2, sort_keys=True).replace("\x7f", "\\u007f")


OWN = ("cost", "serve", "study", "tracking")  # groups that single verbs read, and no run


def choices(config_dir: Path | None = None) -> dict[str, list[str]]:
    """Return the configuration groups with their choices, a site's own among them."""
    files = [path for root in _roots(config_dir) for path in root.glob("*/*.yaml")]
    groups = sorted({path.parent.name for path in files})
    return {group: sorted({path.stem for path in files if path.parent.name == group}) for group in groups}


def _in_file(group: str, choice: str, key: str, config_dir: Path | None) -> str | None:
    from omegaconf import OmegaConf

    value = OmegaConf.select(OmegaConf.load(_file(group, choice, config_dir)), key)  # None where it leaves it open
    return str(value) if value else None


def _file(group: str, choice: str, config_dir: Path | None) -> Path:
    for root in _roots(config_dir):
        path = root / group / f"{choice}.yaml"
        if path.is_file():
            return path
    raise ConfigError(
        f"{group}={choice}: no such file in conf/{group} nor under --config-dir; "
        f"{did_you_mean(choice, choices(config_dir)[group], before=f'{group}=')}"
        + (
            f"or name cluster.root=DIR. {own_site(choice, config_dir)}"
            if group == "cluster"
            else f"known: {', '.join(choices(config_dir)[group])}"
        )
    )


def own_site(name: str, config_dir: Path | None) -> str:
    """Return where the file of a site of the user's own belongs, and where one lies that --config-dir would find."""
    beside = [path.parents[1] for path in Path().glob(f"*/cluster/{name}.yaml") if path.parents[1].name != "conf"]
    if config_dir is None and beside:
        return f"{beside[0]}/cluster/{name}.yaml is there: add --config-dir {beside[0]}"
    folder, template = config_dir or "site", _roots(None)[0] / "cluster" / "slurm.yaml"
    return (
        f"A site of your own is a file: mkdir -p {folder}/cluster && cp {template} {folder}/cluster/{name}.yaml, fill "
        f"it in, and give --config-dir {folder} (or export RAG_HPC_CONFIG_DIR={folder})"
    )


def _roots(config_dir: Path | None) -> list[Path]:
    from importlib.resources import files

    return [*([config_dir] if config_dir else []), Path(str(files("rag_hpc.conf")))]
