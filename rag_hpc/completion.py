"""Shell completion: verbs, options, configuration groups, keys and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import OWN, choices, root_of
from rag_hpc.core.ledger import known_runs
from rag_hpc.errors import ConfigError

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

# click finds what may follow, but not by its own scripts: bash cuts `corpus=files` at the equals sign, and click then
# sees three words. This one hands over the line, and takes off the part of the word that bash keeps.
SCRIPT = r"""_rag_hpc() {
    local IFS=$'\n' line=${COMP_LINE:0:$COMP_POINT}
    local typed=${line##*[[:space:]]}
    COMPREPLY=($(rag-hpc completion bash "$line" 2>/dev/null))
    [[ $COMP_WORDBREAKS == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${typed%"${typed##*=}"}"}")
}
complete -o nospace -o default -F _rag_hpc rag-hpc"""


def completion(arguments: Arguments) -> int:
    """Print the script for a shell, or, for the script's own use, what may follow a line that is being typed."""
    shell, *line = arguments.words
    if line:
        print("\n".join(candidates(line[0])))
    else:
        print("autoload -U bashcompinit && bashcompinit\n" * (shell == "zsh") + SCRIPT)
    return 0


def candidates(line: str) -> list[str]:
    """Return the words that the last one of a line may become, with a space behind those that are whole."""
    from click.shell_completion import ShellComplete, split_arg_string

    from rag_hpc.cli import ROOT

    words = split_arg_string(line)[1:]
    typed = words.pop() if words and not line[-1].isspace() else ""
    words = [item.value for item in ShellComplete(ROOT, {}, "rag-hpc", "").get_completions(words, typed)]
    return [word if word.endswith("=") else f"{word} " for word in words]


def continued(arguments: Arguments, typed: str, *, only_runs: bool) -> list[str]:
    """Return the words, settings and values of a verb that begin as typed."""
    from rag_hpc.cli import VERBS

    row, runs = VERBS[arguments.verb], run_names(arguments)
    offered = list(runs) if only_runs or "RUN" in row.words else []
    if not only_runs:
        groups = {key: names for key, names in choices(arguments.config_dir).items() if row.keys or key not in OWN}
        values = {} if row.keys == ("*",) else {**groups, "run": runs}
        offered += [] if arguments.words else row.choices
        offered += [f"{key}={value}" for key, names in values.items() if row.takes(key) for value in names]
        if "=" not in typed:
            known = (
                keys() if row.keys is None else [k.replace("cluster.*", "cluster.root") for k in row.keys if k != "*"]
            )
            offered += [f"{key}=" for key in known if not key.endswith(".*")]
    return sorted({word for word in offered if word.startswith(typed)})


def run_names(arguments: Arguments) -> list[str]:
    """Return the names of the runs where the verb would look for them."""
    try:
        return [path.name for path in known_runs(root_of(arguments))]
    except ConfigError:  # of a cluster that is half typed
        return []


def keys() -> list[str]:
    """Return every key that can be overridden, dotted."""
    from rag_hpc.config import known_settings

    return list(_leaves("", known_settings()))


def _leaves(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, item)]
    return [prefix]
