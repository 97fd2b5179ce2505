"""Shell completion: verbs, configuration groups and keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.errors import ConfigError

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments

SCRIPT = r"""_rag_hpc() {
    local IFS=$'\n'
    COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
    COMPREPLY=($(rag-hpc completion words "${COMP_WORDS[COMP_CWORD]}" "$COMP_CWORD" 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -F _rag_hpc rag-hpc"""


def completion(arguments: Arguments) -> int:
    """Print the script for a shell, or, for the script's own use, the words that continue what was typed."""
    words = [*arguments.words, *arguments.overrides]
    if words[:1] == ["bash"]:
        print(SCRIPT)
    elif words[:1] == ["zsh"]:
        print("autoload -U bashcompinit && bashcompinit\n" + SCRIPT)
    elif words[:1] == ["words"]:
        typed = next((w for w in words[1:] if not w.isdigit()), "")
        at_verb = "1" in words[1:]
        print("\n".join(candidates(typed, at_verb=at_verb)))
    else:
        raise ConfigError("completion: give a shell, bash or zsh")
    return 0


def candidates(typed: str, *, at_verb: bool) -> list[str]:
    """Return what may follow: verbs at the first place, then groups with their choices and keys."""
    from rag_hpc.cli import VERBS

    if at_verb:
        return [verb for verb in VERBS if verb.startswith(typed)]
    choices = [f"{group}={name}" for group, names in groups().items() for name in names]
    if "=" in typed:
        return [choice for choice in choices if choice.startswith(typed)]
    return sorted({word for word in [*(f"{key}=" for key in keys()), *choices] if word.startswith(typed)})


def groups() -> dict[str, list[str]]:
    """Return the configuration groups of the package with their choices."""
    import rag_hpc.conf

    root = Path(rag_hpc.conf.__path__[0])
    return {folder.name: sorted(p.stem for p in folder.glob("*.yaml")) for folder in sorted(root.iterdir())
            if folder.is_dir() and any(folder.glob("*.yaml"))}


def keys() -> list[str]:
    """Return every key that can be overridden, dotted."""
    from rag_hpc.config import RunConfig
    from rag_hpc.schema import to_plain

    return list(_leaves("", to_plain(RunConfig())))


def _leaves(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, item)]
    return [prefix]
