"""`rag-hpc VERB [overrides]`: each verb is a row here, and a thin call into the package that does the work."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import click

from rag_hpc import __version__
from rag_hpc.arguments import OWN, Arguments, choices
from rag_hpc.core.log import at_work, bare, folded, terminals
from rag_hpc.errors import ConfigError, RagHpcError, did_you_mean


def _continue(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    from rag_hpc.completion import continued

    return continued(arguments_of(ctx), typed, only_runs=param.name == "baseline")


def _option(*names: str, value: str | None = None, text: str) -> click.Option:
    return click.Option(names, is_flag=value is None or None, metavar=value, help=text)


OPTIONS = {
    option.opts[-1]: option
    for option in (
        _option("--json", text="print JSON, for a script"),
        _option("--csv", text="print CSV, for a spreadsheet"),
        _option("--latex", text="print a LaTeX table (booktabs)"),
        _option("--watch", text="on a cluster, stay and show how far it is"),
        _option("--dry-run", text="show the scripts and units, and submit nothing"),
        _option("-m", "--multirun", text="a run for each point of a sweep; workers=1,2 is one without it too"),
        click.Option(["--cfg"], type=click.Choice(["job"]), help="print all settings with their values, and stop"),
        _option("--resolve", text="with --cfg, what interpolations stand for"),
        _option("--files", text="read every byte of every unit, to find what is damaged"),
        _option("--all", text="the whole run, not its drafts and stale stages only"),
        _option("--lines", value="N", text="only the last N lines"),
        _option("--out", value="FILE", text="where it is written; of publish and metrics, a folder"),
        _option("--explain", text="with each ranking's rank and score of the passages that were read"),
        _option("--file", value="FILE", text="its questions, one a line or JSON Lines; answers are JSON Lines"),
        _option("--filter", value="EXPR", text="only of these passages, such as \"lang == 'en'\""),
        click.Option(["--baseline"], metavar="RUN", shell_complete=_continue, help="the run to compare with"),
        _option("--config-dir", value="DIR", text="a site's own groups: DIR/cluster/NAME.yaml and the like"),
    )
}
START = ("--dry-run", "--multirun", "--cfg", "--resolve")
CLUSTER = ("cluster", "cluster.*")
FIND = ("run", *CLUSTER)


@dataclass(frozen=True)
class Verb:
    """A row of the command line: all that is parsed, checked, shown and completed of a verb comes from here."""

    module: str  # holds the function that is called as the verb; imported when it runs
    help: str
    examples: tuple[str, ...]  # what stands behind the verb
    words: str = "[RUN]"  # as usage shows them, one name each; a|b is a choice, "..." any number
    keys: tuple[str, ...] | None = FIND  # settings that it reads; None: all, with Hydra's grammar
    options: tuple[str, ...] = ()
    text: bool = False  # its words may hold an equals sign
    instead: tuple[str, str] | None = None  # with this setting, that module holds the function

    @property
    def choices(self) -> list[str]:
        """What the first word has to be one of; empty when it may be anything."""
        first = self.words.split(" ")[0]
        return first.split("|") if "|" in first else []

    @property
    def settings(self) -> str:
        """The keys as people write them."""
        return ", ".join(f"{key.replace('*', 'KEY')}=" for key in self.keys or ())

    def takes(self, key: str) -> bool:
        """Return whether a setting is read."""
        return self.keys is None or any(fnmatchcase(key, known) for known in self.keys)


# fmt: off
VERBS = {
    "run": Verb("rag_hpc.launchers.run", "run the pipeline; the same command again resumes it",
        ("corpus.max_pages=200", "corpus=files corpus.path=. workers=4", "workers=1,2,4 --dry-run"), "", None,
        (*START, "--watch")),
    "plan": Verb("rag_hpc.launchers.run", "show the scripts and units of a run, and submit nothing",
        ("pipeline=corpus workers=3", "corpus=files corpus.path=. cluster=devcluster",
         "tier=medium run=SMALL,LARGE"), "", None, (*START, "--json"), instead=("tier", "rag_hpc.eval.tier")),
    "train": Verb("rag_hpc.launchers.train", "train an encoder or a reranker; the same command again resumes it",
        ("encoder train.data=BEIR workers=2", "reranker train.data=BEIR train.negatives=4",
         "encoder train=zero train.zero_stage=3 train.data=BEIR workers=4"), "encoder|reranker", None,
        (*START, "--watch")),
    "list": Verb("rag_hpc.launchers.listing", "the runs here: state, corpus, date, size",
        ("", "cluster.root=results/runs --json"), "", CLUSTER, ("--json",)),
    "status": Verb("rag_hpc.launchers.status", "how far runs are, from their committed units",
        ("", "demo-baseline demo-cluster --json", "cluster.root=results/runs"), "[RUN ...]", options=("--json",)),
    "logs": Verb("rag_hpc.launchers.status", "the log of a stage, by default the latest",
        ("", "encode run=demo-cluster --lines 20"), "[STAGE]", options=("--lines",)),
    "why": Verb("rag_hpc.launchers.status", "one screen: state, reason, traceback, end of the log, what to do",
        ("", "run=demo-cluster")),
    "retry": Verb("rag_hpc.launchers.retry", "go on where a run stopped, quarantined units included",
        ("run=demo-cluster", "workers=4 allow_failed_units=2"), keys=(*FIND, "workers", "allow_failed_units"),
        options=("--files",)),
    "cancel": Verb("rag_hpc.launchers.cancel", "stop a run's jobs; what is committed stays",
        ("", "run=demo-cluster")),
    "verify": Verb("rag_hpc.eval.verify", "compare two runs stage by stage, or one with its baseline",
        ("demo-baseline demo-cluster", "demo-cluster --files"), "[BASELINE] RUN", CLUSTER,
        ("--json", "--baseline", "--files")),
    "scaling": Verb("rag_hpc.eval.scaling", "T, S and E by stage and workers",
        ("demo-baseline demo-cluster", "RUN-w1 RUN-w2 RUN-w4 --out speedup.svg"), "RUN RUN ...", CLUSTER,
        ("--json", "--out")),
    "sweep": Verb("rag_hpc.launchers.sweep", "measure how a stage scales, each p until its mean is sure",
        ("sweep=encode_strong p=1,2,4", "sweep=crawl_weak p=1,2 base=200 corpus=files corpus.path=.",
         "sweep=retrieve_strong p=1,2,4 repeats=3 most=6 half_width=0.1 --out speedup.svg"), "", None,
        ("--json", "--out", "--dry-run")),
    "study": Verb("rag_hpc.launchers.study", "measure all that conf/study/NAME.yaml lists, and tell it in one folder",
        ("reference", "reference cluster=devcluster --out results/reference", "depth stage.rerank.model=DIR --dry-run"),
        "NAME", None, ("--json", "--out", "--dry-run")),
    "publish": Verb("rag_hpc.eval.publish", "rebuild W&B runs from records, or write tables with --out FOLDER",
        ("demo-baseline demo-cluster", "SWEEP tracking.project=rag tracking.mode=online",
         "SWEEP --out tables", "results/tracking/SWEEP.jsonl"), "RUN ...",
        ("tracking", "tracking.*", "cost", "cost.*", *CLUSTER), ("--json", "--out", "--baseline")),
    "forecast": Verb("rag_hpc.eval.forecast", "T of each stage at numbers of workers that were not run, with a band",
        ("PILOT p=8,16", "RUN-w1 RUN-w2 p=8,16,32 deadline_h=4 worker_h=100 --json"), "RUN ...",
        ("p", "deadline_h", "worker_h", *CLUSTER), ("--json",)),
    "amdahl": Verb("rag_hpc.eval.predict", "what a serial share allows: S and E at each p, and the limit",
        ("serial=0.08 p=16,64", "serial=0.02 target=30 efficiency=0.8 --json"), "",
        ("serial", "p", "efficiency", "target"), ("--json",)),
    "metrics": Verb("rag_hpc.eval.metrics", "nDCG, recall, F1 of every method, with intervals over the queries",
        ("", "demo-baseline demo-cluster --csv", "demo-cluster --latex", "demo-cluster --out trec"), "[RUN ...]", FIND,
        ("--json", "--csv", "--latex", "--out")),
    "compare": Verb("rag_hpc.eval.compare", "is a run as good as another on the same queries: intervals, p, verdicts",
        ("demo-baseline demo-cluster", "base a b measure=R@10 margin=0.01 --out compare.html"), "REFERENCE RUN ...",
        ("measure", "method", "margin", *CLUSTER), ("--json", "--csv", "--out")),
    "milestones": Verb("rag_hpc.eval.milestones", "predictions against results; the exit code is the verdict",
        ("", "demo-cluster --baseline demo-baseline", "demo-cluster cost=example"), keys=("cost", "cost.*", *FIND),
        options=("--json", "--baseline")),
    "cost": Verb("rag_hpc.eval.cost", "what a run used and costs: by stage, 1,000 documents, query, correct answer",
        ("", "demo-cluster --baseline demo-baseline", "demo-cluster cost.core_hour=0.02 cost.source=site --json"),
        keys=("cost", "cost.*", *FIND), options=("--json", "--csv", "--baseline")),
    "report": Verb("rag_hpc.eval.report.report", "write report.html of a run, or of several laid over each other",
        ("", "demo-cluster --baseline demo-baseline --out report.html", "SWEEP --out FOLDER",
         "results/reference cost=example --out FOLDER"), "[RUN ...]", ("cost", "cost.*", *FIND),
        ("--json", "--out", "--baseline")),
    "size": Verb("rag_hpc.eval.size", "how many shards a collection's vectors need, before any is made",
        ("passages=1e9 dims=384 dtype=float32 mem_gb=64", "passages=2e9 dims=768 mem_gb=48 run=NAME --json"), "",
        ("passages", "dims", "dtype", "mem_gb", *FIND), ("--json",)),
    "bench": Verb("rag_hpc.eval.bench.registry", "measure beside the peers; a wrong key lists the known ones",
        ("chunk", "crawl hosts=3 --json"),
        "crawl|extract|dedup|chunk|checks|lexical|rank|encode|rerank|answers|compress|"
        "train|laws|forecast|vectors|retrieve|tier|dedup_scale|cache|serve", ("*",), ("--json",)),
    "ask": Verb("rag_hpc.serve.ask", "answer questions from a finished run; without one, ask for them",
        ('"How do I copy a folder?"', "run=demo-cluster", "--file questions.txt",
         '"What does maxlen=3 mean?" run=demo-cluster --json',
         '"Who?" generator=openai generator.base_url=http://127.0.0.1:8000/v1 generator.model=M'), "[QUESTION ...]",
        ("run", *CLUSTER, "generator", "generator.*", "encoder.*"),
        ("--json", "--file", "--filter", "--explain"), text=True),
    "golden": Verb("rag_hpc.serve.golden", "questions of a run's corpus that people review: make, look at, freeze",
        ("generate g.jsonl run=demo-cluster num=20", "review g.jsonl", "review g.jsonl approve=all reject=ID",
         "freeze g.jsonl",
         "generate g.jsonl run=R generator=openai generator.base_url=http://127.0.0.1:8000/v1 generator.model=M"),
        "generate|review|freeze FILE",
        ("run", "num", "approve", "reject", "cluster.*", "generator", "generator.*")),
    "serve": Verb("rag_hpc.launchers.serve", "keep a run's indexes open in ranks that stay up; `ask` then uses them",
        ("up run=demo-cluster workers=4", "status --json", "up run=demo-cluster group=2 serve.deadline_ms=500",
         "gateway run=demo-cluster gateway.port=0", "grant account.name=alice account.per_minute=60", "tunnel",
         "edge edge.host=rag.example.org edge.cert=cert.pem edge.key=key.pem --out nginx.conf",
         "replicas run=demo-cluster workers=2 generator=vllm generator.model=DIR",
         "warm run=demo-cluster most=500", "drain", "down"),
        "up|replicas|status|drain|down|gateway|grant|revoke|rotate|tunnel|edge|warm [RUN]",
        ("run", "workers", "group", "serve.*", "gateway.*", "generator", "generator.*", "account.*", "edge.*", "most",
         "tenant", "cache.*", *CLUSTER),
        ("--json", "--file", "--filter", "--out")),
    "watch": Verb("rag_hpc.serve.watch", "ask frozen questions again, on schedule; a drop beyond chance is an alarm",
        ("freeze --file canaries.txt run=demo-cluster", "check run=demo-cluster", "check every_s=600 --json"),
        "freeze|check", ("run", "every_s", "rounds", "baseline", "generator", "generator.*", *CLUSTER),
        ("--json", "--file")),
    "feedback": Verb("rag_hpc.serve.feedback", "votes on a served run's answers, as a BEIR folder to train on",
        ("demo-cluster --out pairs", "--out pairs test_share=0.1 --json"), keys=("test_share", *FIND),
        options=("--json", "--out")),
    "page": Verb("rag_hpc.serve.page", "print a page as it is stored: what a citation leads to",
        ("http://py5.pydoc.internal/shutil.html", "ID run=demo-cluster --json"), "ID", options=("--json",), text=True),
    "devcluster": Verb("rag_hpc.slurm.devcluster.verbs", "a Slurm of four nodes on this machine",
        ("up", "status", "check"), "up|down|status|check", ()),
    "clean": Verb("rag_hpc.launchers.clean", "remove a run's drafts and stale stages, or all of it with --all",
        ("", "run=demo-cluster --all"), options=("--all",)),
    "completion": Verb("rag_hpc.completion", 'print shell completion: eval "$(rag-hpc completion bash)"',
        ("bash", "zsh"), "bash|zsh [LINE]", (), text=True),
}
# fmt: on
EPILOG = """\b
Overrides are Hydra's: corpus=files corpus.path=DIR workers=4 cluster=slurm
  rag-hpc run --cfg job          all keys with their values
  rag-hpc run workers=1,2,4      a sweep
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration,
            3 incomplete (prints the command to go on)
Words, options, keys and examples of a verb: rag-hpc VERB --help"""


class _Command(click.Command):
    """A verb as a command that returns its Arguments, checked."""

    def __init__(self, name: str, row: Verb) -> None:
        usage = f"{row.words} [key=value ...]" if row.keys != () else row.words
        words = click.Argument(["words"], nargs=-1, metavar=usage.strip(), shell_complete=_continue)
        options = [OPTIONS[option] for option in (*row.options, "--config-dir")]
        super().__init__(name, params=[words, *options], help=row.help, short_help=row.help)
        self.row = row

    def invoke(self, ctx: click.Context) -> Arguments:
        arguments = arguments_of(ctx)
        check_use(arguments)
        return arguments

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Settings"):
            if self.row.keys is None:
                groups = choices(arguments_of(ctx).config_dir).items()
                formatter.write_dl([(f"{group}=", "|".join(names)) for group, names in groups if group not in OWN])
            formatter.write_text("all: rag-hpc run --cfg job" if self.row.keys is None else self.row.settings or "none")
        with formatter.section("Examples"):
            for example in self.row.examples:
                formatter.write(f"{'':>{formatter.current_indent}}rag-hpc {self.name} {example}".rstrip() + "\n")


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)  # in the order of the rows

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in VERBS and not ctx.resilient_parsing:
            raise ConfigError(f"no verb {args[0]!r}; {did_you_mean(args[0], VERBS)}known: {', '.join(VERBS)}")
        return super().resolve_command(ctx, args)


ROOT = _Verbs(
    "rag-hpc",
    {name: _Command(name, row) for name, row in VERBS.items()},
    params=[OPTIONS["--config-dir"]],
    help="Scale a RAG pipeline out on a Slurm cluster, with the baseline's answers.",
    epilog=EPILOG,
    subcommand_metavar="VERB [WORDS] [key=value ...]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
click.version_option(__version__, message="%(version)s")(ROOT)


def parse(argv: Sequence[str]) -> Arguments:
    """Return the parsed command line. Raises ConfigError for what is not known, naming what is meant or known."""
    try:
        with ROOT.make_context("rag-hpc", list(argv)) as ctx:
            arguments: Arguments = ROOT.invoke(ctx)
            return arguments
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx else _command(argv)
        name = getattr(error, "option_name", None)
        takers = [verb for verb, row in VERBS.items() if any(name in OPTIONS[option].opts for option in row.options)]
        if isinstance(error, click.NoSuchOption) and takers:
            raise ConfigError(f"{place.split()[-1]} takes no {name}; it is for: {', '.join(takers)}") from error
        said = error.format_message().rstrip(".")
        raise ConfigError(f"{said}{'' if said.endswith('?') else ';'} see: {place} --help") from error


def arguments_of(ctx: click.Context) -> Arguments:
    """Return what stands behind the verb of a context, not yet checked; --config-dir may stand before it."""
    verb = str(ctx.info_name)
    parsed, row = Arguments(verb), VERBS[verb]
    for word in ctx.params.get("words", ()):  # --help is served before all is parsed
        key, equals, value = word.partition("=")
        if (row.takes(key) and value) if row.text else (equals or (row.keys is None and word[:1] in ("+", "~"))):
            parsed.overrides.append(word)
        else:
            parsed.words.append(word)
    for option in (OPTIONS[name] for name in (*row.options, "--config-dir")):
        given = ctx.params.get(str(option.name))
        if given is None and ctx.parent:  # --config-dir, before the verb
            given = ctx.parent.params.get(str(option.name))
        if option.is_flag and given:
            parsed.flags.add(option.opts[-1])
        elif not option.is_flag and given is not None:
            parsed.values[option.opts[-1]] = given
    return parsed


def check_use(arguments: Arguments) -> None:
    """Raise ConfigError for what the verb would not look at: a misspelt or misplaced setting is not lost in silence."""
    verb, words, row = arguments.verb, arguments.words, VERBS[arguments.verb]
    if empty := [name for name, value in arguments.values.items() if not value]:
        raise ConfigError(f"{empty[0]} needs a value")
    for override in arguments.overrides:
        key = override.split("=", 1)[0]
        if not row.takes(key):
            raise ConfigError(
                f"{verb} does not look at {override}; {did_you_mean(key, row.keys or ())}"
                f"it takes {row.settings or 'no settings'}; other settings are for: rag-hpc run"
            )
    if row.instead and "--json" in arguments.flags and arguments.override(row.instead[0]) is None:
        raise ConfigError(f"{verb} --json is for {row.instead[0]}=; a script reads rag-hpc run --cfg job")
    most = len(words) if "..." in row.words else len(row.words.split())
    if len(words) > most or (row.choices and (not words or words[0] not in row.choices)):
        meant = did_you_mean(words[0], row.choices) if words else ""
        raise ConfigError(
            f"{verb} takes {row.words or 'key=value settings only'}, not {' '.join(words)!r}; "
            f"{meant}see: rag-hpc {verb} --help"
        )


def _command(argv: Sequence[str]) -> str:
    return " ".join(["rag-hpc", *[word for word in argv if word in VERBS][:1]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit code. What it prints does nothing to a terminal, in any encoding."""
    with terminals():
        try:
            code = _main(list(sys.argv[1:] if argv is None else argv) or ["--help"])
            print(end="", flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
    if argv is None:  # the process ends now, and would look for garbage in all that it imported: a tenth of `run`'s CPU
        gc.freeze()
    return code


def _main(argv: list[str]) -> int:
    if argv[0] == "help":
        argv = [*argv[1:], "--help"]
    try:
        arguments = parse(argv)
        given = arguments.words or "--file" in arguments.values or not sys.stdin.isatty()
        asks = arguments.verb == "ask" and not given  # and waits for what is typed: it says itself when it is at work
        with nullcontext() if asks else at_work(f"rag-hpc {arguments.verb}", bare(sys.stderr)):
            row = VERBS[arguments.verb]
            other = row.instead if row.instead and arguments.override(row.instead[0]) is not None else None
            module = importlib.import_module(other[1] if other else row.module)
            return int(getattr(module, arguments.verb)(arguments) or 0)
    except click.exceptions.Exit as done:  # --help and --version
        return done.exit_code
    except RagHpcError as error:
        print(folded(f"{_command(argv)}: {error}", sys.stderr), file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        print(
            f"{_command(argv)}: {error.filename}: permission denied; ask its owner, or work in another folder "
            "(runs lie in results/runs of the current one, or in cluster.root)",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("stopped; what is committed stays, the same command goes on", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
