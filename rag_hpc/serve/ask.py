"""`rag-hpc ask`: search a finished run in this process and answer with checked citations, one question or many."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.algo.answer.cite import verdicts
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.core import manifest
from rag_hpc.core.ledger import Ledger, Request, run_handle
from rag_hpc.core.log import at_work, bare, folded
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import read_plans
from rag_hpc.errors import ConfigError, IncompleteError, InputError
from rag_hpc.eval.text import aligned
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.models.encoders import EncoderConfig, EncoderName
from rag_hpc.serve.client import Near, groups_for

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.search.answer import Answered, Asker, Searching

NEEDED = ("chunk", "lexical", "encode")
WANTED = ("retrieve.queries", "vectors.build", "vectors.check")  # how well the encoder knows the corpus; the index
SETTINGS = ("retrieve.queries", "retrieve.search", "generate")  # stages whose settings are used
PROMPT = "? "
PageOf = Callable[[Passage, int], int | None]


def ask(arguments: Arguments) -> int:
    """Print answers and the passages they cite: searched as the run did, by the kind of generator that it used.

    The question is in the words; else `--file` has many, and JSON lines are printed; else whoever sits at the terminal
    is asked for them, and what is no terminal is read line by line.
    """
    from rag_hpc.arguments import as_json, reads_shared, root_of
    from rag_hpc.core.ledger import find_run

    question = _readable(" ".join(arguments.words))
    batch, file = "--json" in arguments.flags, arguments.values.get("--file")
    if file and question:
        raise ConfigError(f"ask: the questions of --file {file}, or {question!r}? Give one of the two")
    asked = read_questions(file) if file else [] if question or sys.stdin.isatty() else _lines()
    if not (question or asked or sys.stdin.isatty()):
        raise ConfigError('ask: give a question, e.g. rag-hpc ask "How do I copy a folder?", or --file FILE')
    ledger = find_run(root_of(arguments), arguments.override("run"), shared=reads_shared(arguments))
    request = ledger.request()
    check_pipeline(ledger.name, request)
    generator = generator_of(arguments, request.settings["generate"].get("generator", {}))

    def show(found: dict[str, Any]) -> str:
        return "\n\n".join([as_text(found), *([explained(found)] if "--explain" in arguments.flags else [])])

    def busy() -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if question or asked else at_work("rag-hpc ask", bare(sys.stderr))

    remote = encoder_of(arguments, request.settings["retrieve.queries"].get("encoder", {}))
    with contextlib.ExitStack() as stack:
        with busy():
            asker, near = stack.enter_context(
                opened(ledger, request, generator, arguments.values.get("--filter"), remote)
            )
            if not (question or asked) and generator.name is GeneratorName.extractive:
                asker.answer("What is this?")  # the first question need not wait for what is compiled and read once

        def answer(text: str) -> dict[str, Any]:
            with busy():
                return {**plain(ledger.name, text, asker.answer(text), page_of), "coverage": near.coverage}

        page_of = pages_of(ledger)
        if question:
            found = answer(question)
            hint = f"\na whole page, as it is stored: rag-hpc page ID run={ledger.name}" if found["citations"] else ""
            print(as_json(found) if batch else folded(show(found) + hint, sys.stdout))
            return 0
        for row in asked or _typed(ledger.name):
            found = {**row, **answer(row["question"])}
            if file or batch:
                print(json.dumps(found, sort_keys=True).replace("\x7f", "\\u007f"), flush=True)
            else:
                said = f"{'' if not asked else 'Q: ' + row['question']}\n{show(found)}\n".lstrip("\n")
                print(folded(said, sys.stdout), flush=True)
    return 0


def read_questions(name: str) -> list[dict[str, str]]:
    """Return the questions of a file as {"question"} and, where it has ids, {"id"}: JSON Lines by its name, with the
    question as `question` or `text`, else a question a line; "-" is standard input. Raises InputError naming the line.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"--file {name}: cannot be read ({error.strerror})") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_record(line, f"{name}:{number}") if name.endswith(".jsonl") else {"question": line.strip()})
    if not rows:
        raise InputError(f"--file {name}: holds no question; it takes one a line, or JSON Lines of {{id, question}}")
    return rows


def _record(line: str, place: str) -> dict[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: is no JSON ({error})") from error
    question = (record.get("question") or record.get("text")) if isinstance(record, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{place}: a `question` or `text` is needed, a string that is not blank")
    return {"question": question.strip()} | ({"id": str(record["id"])} if "id" in record else {})


def _lines() -> list[dict[str, str]]:
    return [{"question": _readable(line)} for line in sys.stdin.read().split("\n") if line.strip()]


def _typed(run: str) -> Iterator[dict[str, str]]:
    """Yield what is typed, line by line, until the end of the input (Ctrl-D) or an interrupt."""
    import readline  # noqa: F401  # input() then edits lines and recalls them

    print(f"Ask; Ctrl-D ends. A page as it is stored: rag-hpc page ID run={run}", file=sys.stderr)
    while True:
        try:
            line = _readable(input(PROMPT))
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line:
            yield {"question": line}


def _readable(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "replace").strip()  # of another charset


@contextlib.contextmanager
def opened(
    ledger: Ledger,
    request: Request,
    generator: GeneratorConfig,
    only: str | None = None,
    remote: EncoderConfig | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[tuple[Asker, Near]]:
    """Yield what answers questions from a run, and what searches for it: a group that is up for the run, else this
    process. On a terminal a line says what takes the first seconds.

    only: a filter of passages in place of the run's, which no group has. remote: as of Asker. say: told why a group is
    not used; by default whoever sits there is.
    """
    told = say or _say
    inputs, settings = manifests(ledger.run_dir, request), request.settings
    if only is not None:
        settings = settings | {"retrieve.search": settings["retrieve.search"] | {"filter": only}}
    places = groups_for(ledger.run_dir, request, inputs, told) if only is None else []
    if sys.stderr.isatty():
        loaded = "the model" if places else "the model and the indexes"
        print(f"loading {loaded} of run={ledger.name} ...", file=sys.stderr, flush=True)
    from rag_hpc.search.answer import Asker

    made: list[Near] = []

    def via(own: Callable[[], Searching]) -> Searching:
        made.append(Near(places, own, len(inputs["lexical"].units), told))
        return made[0]

    with tempfile.TemporaryDirectory(prefix="rag-hpc-") as scratch:
        with contextlib.closing(Asker(inputs, settings, generator, Path(scratch), via, remote)) as asker:
            yield asker, made[0]


def _say(text: str) -> None:
    print(f"ask: {text}", file=sys.stderr)


def as_text(found: dict[str, Any]) -> str:
    """Return an answer for people: in a few words where it has them, the sentences, and what they cite."""
    from rag_hpc.core.log import shown

    lines = [shown(found["answer"], block=True)]
    if found["found"] and not found["answer"].startswith(found["short"]):
        lines.insert(0, f"{shown(found['short'])}:")
    for passage in found["passages"]:
        if passage["cited"]:
            number = f", page {passage['page']}" if passage["page"] else ""
            place = f"{shown(passage['title'])}  {shown(passage['doc_id'])}{number}"
            lines.append(f"[{passage['number']}] {place}  ({passage['verdict']})")
    return "\n".join(lines)


def plain(run: str, question: str, answered: Answered, page_of: PageOf = lambda passage, at: None) -> dict[str, Any]:
    """Return an answer, its citations and passages as plain values.

    A citation's `start` and `end` are in the passage's text, `doc_start` and `doc_end` in the document's; -1 where it
    is no quotation. `page` is of a PDF.
    """
    said = answered.answer
    scores = {(quote.number, quote.start): quote.score for quote in said.quotes}
    citations = []
    for check in answered.checks:
        first = answered.passages[check.citation - 1].start if check.start >= 0 else 0
        offsets = {"doc_start": first + check.start, "doc_end": first + check.end}
        citations.append({**vars(check), **offsets, "score": scores.get((check.citation, check.start))})
    found, firsts = verdicts(citations), {check.citation: check.start for check in reversed(answered.checks)}
    passages = [
        {**vars(passage), "number": n, "cited": n in found, "verdict": found.get(n), "ranks": ranks_of(answered, n)}
        | {"page": page_of(passage, firsts[n]) if n in found else None}
        for n, passage in enumerate(answered.passages, 1)
    ]
    return {
        "run": run,
        "question": question,
        "answer": said.text,
        "short": said.short,
        "found": said.found,
        "score": said.score,
        "citations": citations,
        "passages": passages,
    }


def ranks_of(answered: Answered, number: int) -> dict[str, dict[str, float]]:
    """Return ranking -> {rank, score} of a passage."""
    places = answered.ranks[number - 1] if answered.ranks else {}
    return {method: {"rank": place.rank, "score": place.score} for method, place in places.items()}


def explained(found: dict[str, Any]) -> str:
    """Return a table of the passages that the answer was made from: each ranking's rank and score of each."""
    methods = list(dict.fromkeys(method for passage in found["passages"] for method in passage["ranks"]))
    rows = [
        [f"[{passage['number']}]", *(_place(passage["ranks"].get(method)) for method in methods), passage["title"]]
        for passage in found["passages"]
    ]
    return aligned(["", *(f"{method}: rank, score" for method in methods), "title"], rows)


def _place(place: dict[str, float] | None) -> str:
    return f"{place['rank']}, {place['score']:.3f}" if place else "–"


def pages_of(ledger: Ledger) -> PageOf:
    """Return what tells the page of a PDF on which a place in a passage lies, None for other documents."""
    from rag_hpc.serve.page import documents
    from rag_hpc.stores.documents import find_document, page_number

    def page_of(passage: Passage, at: int) -> int | None:
        document = find_document(documents(ledger), passage.doc_id) if ".pdf" in passage.doc_id.lower() else None
        return page_number(document, passage.start + max(at, 0)) if document else None

    return page_of


def check_pipeline(run: str, request: Request) -> None:
    """Raise ConfigError for a run that was never to be asked: it lacks stages whose settings answers are made with."""
    if absent := [stage for stage in (*NEEDED, *SETTINGS) if stage not in request.stages]:
        raise ConfigError(
            f"run={run}: its pipeline has no {', '.join(absent)}, so nothing can be asked of it; "
            "run the same corpus with pipeline=cluster, and ask that run"
        )


def manifests(run_dir: Path, request: Request) -> dict[str, Manifest]:
    """Return the manifests that a search needs. Raises IncompleteError when the run is not that far."""
    used = [stage for stage in request.stages if stage in (*NEEDED, *SETTINGS, *WANTED)]
    plans = read_plans(run_dir, request.number, used, request.settings)
    if not set(NEEDED) <= set(plans):
        raise IncompleteError(f"run={run_dir.name}: not indexed yet; run: rag-hpc retry run={run_handle(run_dir)}")
    folders = {stage: run_dir / plans[stage].folder for stage in (*NEEDED, *WANTED) if stage in plans}
    return {
        stage: manifest.load(folder)
        for stage, folder in folders.items()
        if stage not in WANTED or (folder / manifest.MANIFEST).exists()
    }


def encoder_of(arguments: Arguments, used: dict[str, Any]) -> EncoderConfig | None:
    """Return the endpoint that makes the question's vector, None where this process does.

    Where it is, and with which key, is the asker's word alone; which model, the run's, whose passages it must know.
    """
    from rag_hpc.arguments import setting
    from rag_hpc.schema import from_plain

    if used.get("name", EncoderName.local.name) == EncoderName.local.name:
        return None
    asked: dict[str, Any] = {f.name: setting(arguments, "encoder", f.name) for f in fields(EncoderConfig)}
    asked = {"model": used.get("model")} | {key: value for key, value in asked.items() if value is not None}
    if not asked.get("base_url"):
        raise ConfigError(
            f"ask: the run's vectors are of {asked['model']} behind an endpoint, and a run does not say where your "
            "question is sent. Give encoder.base_url, and a key as encoder.api_key_env or encoder.api_key_file"
        )
    return from_plain(EncoderConfig, {**asked, "name": used["name"]})


def generator_of(arguments: Arguments, used: dict[str, Any]) -> GeneratorConfig:
    """Return the generator that answers: of the run's kind, if the asker names none.

    Where it sends to, with which key and for which model, is the asker's word alone: a run may be anybody's.
    """
    from rag_hpc.arguments import setting
    from rag_hpc.schema import from_plain

    given = [override.partition("=")[0].partition(".") for override in arguments.overrides]
    keys = [key for group, _, key in given if group == "generator" and key]
    names = [field.name for field in fields(GeneratorConfig)] + [key for key in keys if not key.startswith("vllm.")]
    asked: dict[str, Any] = {name: setting(arguments, "generator", name) for name in names}
    server = [key.removeprefix("vllm.") for key in keys if key.startswith("vllm.")]
    asked["vllm"] = {key: arguments.override(f"generator.vllm.{key}") for key in server} or None
    asked["name"] = asked["name"] or ("openai" if asked["base_url"] else used.get("name", "extractive"))
    if asked["name"] == "openai" and not (asked["base_url"] and asked["model"]):
        raise ConfigError(
            f"ask: the answer would come from an endpoint (the run's model was {used.get('model') or 'none'}), and a "
            "run does not say where your question is sent. Give generator.base_url and generator.model, and a key as "
            "generator.api_key_env or generator.api_key_file; or generator=extractive, which needs no model"
        )
    if asked["name"] in ("vllm", "transformers") and not asked["model"]:
        raise ConfigError(
            f"ask: the run's answers are of generator={asked['name']}, and which model is loaded for yours is for you "
            "to say: give generator.model=FOLDER; or generator=extractive, which needs none"
        )
    asked["max_tokens"] = asked["max_tokens"] or used.get("max_tokens")
    return from_plain(GeneratorConfig, {key: value for key, value in asked.items() if value is not None})
