"""`rag-hpc VERB [overrides]`: each verb is a thin call into the package that does the work."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc import __version__
from rag_hpc.errors import ConfigError, RagHpcError

VERBS = {  # verb -> (module:function, what it does)
    "run": ("rag_hpc.launchers.verbs:run", "run the pipeline; the same command again resumes it"),
    "plan": ("rag_hpc.launchers.verbs:plan", "show the scripts and units of a run, and submit nothing"),
    "status": ("rag_hpc.launchers.status:status", "how far a run is, from its committed units"),
    "logs": ("rag_hpc.launchers.status:logs", "the log of a stage: rag-hpc logs [STAGE] run=NAME"),
    "why": ("rag_hpc.launchers.status:why", "one screen: state, reason, traceback, end of the log, what to do"),
    "retry": ("rag_hpc.launchers.verbs:retry", "go on where a run stopped, quarantined units included"),
    "cancel": ("rag_hpc.launchers.verbs:cancel", "stop a run's jobs; what is committed stays"),
    "verify": ("rag_hpc.eval.verify:verify", "compare two runs stage by stage: rag-hpc verify A B"),
    "scaling": ("rag_hpc.eval.sweep:scaling", "T, S and E by stage and workers: rag-hpc scaling RUN-w1 RUN-w2 ..."),
    "milestones": ("rag_hpc.eval.milestones:milestones", "predictions against results; the exit code is the verdict"),
    "report": ("rag_hpc.eval.report:report", "write a run's report.html"),
    "bench": ("rag_hpc.eval.bench.registry:bench", "measure beside the peers: rag-hpc bench crawl|extract|dedup|chunk"),
    "ask": ("rag_hpc.ask:ask", 'answer a question from a finished run: rag-hpc ask "QUESTION"'),
    "devcluster": ("rag_hpc.slurm.devcluster.verbs:devcluster", "four-node Slurm on this machine: up | down | status"),
    "clean": ("rag_hpc.launchers.verbs:clean", "remove a run's drafts and stale stages, or all of it with --all"),
    "completion": ("rag_hpc.completion:completion", "print shell completion: eval \"$(rag-hpc completion bash)\""),
}
STARTS = ("run", "plan")  # these take every setting
FLAGS = {"--json": ("status", "verify", "scaling", "milestones", "report", "bench", "ask"), "--watch": ("run",),
         "--dry-run": STARTS, "--all": ("clean",), "--resolve": STARTS, "-m": STARTS, "--multirun": STARTS}
VALUES = {"--config-dir": tuple(VERBS), "--cfg": STARTS, "--lines": ("logs",), "--out": ("report", "scaling"),
          "--baseline": ("verify", "milestones", "report")}
FINDERS = {"status": 1, "logs": 1, "why": 1, "retry": 1, "cancel": 1, "clean": 1, "milestones": 1, "report": 1,
           "verify": 2, "scaling": 1000}  # verbs that look for runs, and how many words they take
KEYS = {"retry": ("workers", "allow_failed_units")}  # of a finder, beside run, cluster and cluster.*


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


def usage() -> str:
    """Return the help text."""
    lines = [f"  {verb:<11} {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join([
        f"rag-hpc {__version__}: scale a RAG pipeline out on a Slurm cluster, with the baseline's answers",
        "", "usage: rag-hpc VERB [WORDS] [key=value ...] [--json] [--config-dir DIR]", "", *lines, "",
        "Overrides are Hydra's: corpus=files corpus.path=DIR workers=4 cluster=slurm cluster.partition=gpu",
        "  rag-hpc run --cfg job          all keys with their values        rag-hpc run workers=1,2,4   a sweep",
        "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 incomplete (the command to go on is printed)",
    ])


def parse(argv: Sequence[str]) -> Arguments:
    """Return the parsed command line. Raises ConfigError for an unknown verb or flag, naming the known ones."""
    if argv[0] not in VERBS:
        raise ConfigError(f"no verb {argv[0]!r}; known: {', '.join(VERBS)}")
    parsed, rest = Arguments(argv[0]), list(argv[1:])
    while rest:
        word = rest.pop(0)
        name, _, value = word.partition("=")
        if word in FLAGS:
            parsed.flags.add(word)
        elif name in VALUES:
            if not value and not rest:
                raise ConfigError(f"{name} needs a value")
            parsed.values[name] = value or rest.pop(0)
        elif word.startswith("-"):
            raise ConfigError(f"no option {word!r}; known: {', '.join((*FLAGS, *VALUES))}")
        elif _is_override(parsed.verb, word):
            parsed.overrides.append(word)
        else:
            parsed.words.append(word)
    check_use(parsed)
    return parsed


def check_use(arguments: Arguments) -> None:
    """Raise ConfigError for what the verb would not look at: a misspelt or misplaced setting is not lost in silence."""
    verb = arguments.verb
    for option in (*sorted(arguments.flags), *arguments.values):
        takers = FLAGS.get(option) or VALUES[option]
        if verb not in takers:
            raise ConfigError(f"{verb} takes no {option}; it is for: {', '.join(takers)}")
    if verb not in FINDERS:
        return
    keys = ("run", "cluster", *KEYS.get(verb, ()))
    for override in arguments.overrides:
        key = override.split("=", 1)[0]
        if key not in keys and not key.startswith("cluster."):
            raise ConfigError(f"{verb} does not look at {override}; it takes {'=, '.join(keys)}= and cluster.KEY=; "
                              "other settings are for: rag-hpc run")
    if len(arguments.words) > FINDERS[verb]:
        raise ConfigError(f"{verb} takes {FINDERS[verb]} name{'s' * (FINDERS[verb] > 1)}, not "
                          f"{len(arguments.words)}: {' '.join(arguments.words)}")


def _is_override(verb: str, word: str) -> bool:
    """A question may hold an equals sign, so `ask` takes only the keys that it needs."""
    name, _, value = word.partition("=")
    if verb == "ask":
        return bool(value) and name in ("run", "cluster", "cluster.root")
    return "=" in word or (verb in STARTS and word.startswith(("+", "~")))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    head: list[str] = []
    while argv and argv[0].partition("=")[0] == "--config-dir":  # before the verb is as good as after it
        size = 1 if "=" in argv[0] else 2
        head, argv = head + argv[:size], argv[size:]
    try:
        if {"-h", "--help"} & set(argv):
            print(usage())
            return 0
        if not argv:
            raise ConfigError(f"no verb after {' '.join(head)}; known: {', '.join(VERBS)}")
        arguments = parse([*argv, *head])
        module, function = VERBS[arguments.verb][0].split(":")
        return int(getattr(importlib.import_module(module), function)(arguments) or 0)
    except RagHpcError as error:
        print(f"rag-hpc {argv[0] if argv else ''}: {error}", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        print(f"rag-hpc {argv[0]}: {error.filename}: permission denied; ask its owner, or work in another folder "
              "(runs lie in results/runs of the current one, or in cluster.root)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is committed stays, the same command goes on", file=sys.stderr)
        return 3
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
