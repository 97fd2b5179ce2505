"""`rag-hpc watch`: questions whose answers were frozen are asked again on schedule; a drop beyond chance is an alarm.

RUN/.serve/.watch/canaries.json   the questions with the passages found and the answers given when they were frozen
RUN/.serve/.watch/rows.jsonl      a line a round: what was found again
RUN/.serve/.watch/alarm.json      is there while the last round was an alarm

N questions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.fs import naming_disk, publish_file
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.settings import DAY_S
from rag_hpc.core.stored import check_members, read_object, sealed_json
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, InputError, RagHpcError
from rag_hpc.serve.ask import check_pipeline, generator_of, opened, plain, read_questions
from rag_hpc.serve.cache.answers import same_answer
from rag_hpc.serve.places import FOLDER, check_own

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger

WATCH, CANARIES, ROWS, ALARM = ".watch", "canaries.json", "rows.jsonl", "alarm.json"
RESAMPLES = 2000
LEAST = 10  # questions; a drop of fewer is not told from chance
KEPT = ("question", "answer", "short", "found")
Ask = Callable[[str], dict[str, Any]]  # as `plain` gives it, with coverage


@dataclass(frozen=True, kw_only=True)
class Round:
    """What came of asking all questions again."""

    time: float
    canaries: str  # which they were
    questions: int
    recall: float  # mean share of the frozen passages that were found again
    recall_high: float  # 97.5 percent quantile of that mean, by resampling the questions
    agreement: float  # share of the frozen answers that were given again
    agreement_high: float
    failed: int  # questions without an answer, for an error; they count as 0
    partial: int  # of which not all shards were asked
    p50_ms: float
    alarms: list[str] = field(default_factory=list)


def watch(arguments: Arguments) -> int:
    """Freeze the questions of `--file`, or ask the frozen ones: once, or every `every_s` seconds; 1 after an alarm."""
    from rag_hpc.arguments import as_json, number_between, root_of, whole_number
    from rag_hpc.core.ledger import find_run

    ledger = find_run(root_of(arguments), arguments.override("run"))
    folder = ledger.run_dir / FOLDER / WATCH
    baseline = whole_number("baseline", arguments.override("baseline"), 2, least=1)
    if arguments.words[0] == "freeze":
        file = arguments.values.get("--file")
        if not file:
            raise ConfigError("watch freeze: which questions? Add --file FILE, a question a line or JSON Lines")
        questions = list(dict.fromkeys(row["question"] for row in read_questions(file)))
        if len(questions) < LEAST:
            raise InputError(f"--file {file}: {len(questions)} questions; at least {LEAST} tell a drop from chance")
        frozen = _with(arguments, ledger, lambda ask: freeze(questions, ask, baseline))
        save(folder, frozen)
        print(f"{folder / CANARIES}: {len(questions)} questions")
        print(f"ask them again: rag-hpc watch check run={ledger.handle}")
        return 0
    frozen = load(folder)
    every_s = number_between("every_s", arguments.override("every_s") or "0", 0, 365 * DAY_S)
    rounds = whole_number("rounds", arguments.override("rounds"), 0 if every_s else 1, least=0)
    alarmed, number = False, 0
    while True:
        number += 1
        begun = time.monotonic()
        found = _with(arguments, ledger, lambda ask: check(frozen, ask, time.time()))
        note(folder, found)
        print(as_json(asdict(found)) if "--json" in arguments.flags else as_text(found), flush=True)
        for alarm in found.alarms:
            print(f"ALARM run={ledger.name}: {alarm}", file=sys.stderr, flush=True)
        alarmed = bool(found.alarms)
        if number == rounds:
            return int(alarmed)
        time.sleep(max(0.0, every_s - (time.monotonic() - begun)))


def freeze(questions: Sequence[str], ask: Ask, baseline: int = 2) -> dict[str, Any]:
    """Return the canaries: what was found now, and how much of it when they were asked `baseline` times more.

    A generator that does not repeat itself is then not held to what it never did. Raises RagHpcError where asking
    fails, and InputError for a question that finds nothing.
    """
    rows = []
    for question in questions:
        first = ask(question)
        passages = [passage["chunk_id"] for passage in first["passages"]]
        if not passages:
            raise InputError(f"watch: {question!r} finds no passage; leave it out")
        again = [_scores({**first, "chunk_ids": passages}, ask(question)) for _ in range(baseline)]
        recall, agreement = np.mean(np.asarray(again, dtype=np.float64), axis=0)
        kept = {key: first[key] for key in KEPT}
        rows.append({**kept, "chunk_ids": passages, "recall": float(recall), "agreement": float(agreement)})
    return {"questions": rows, "id": hash_value(rows)[:16]}


def check(frozen: dict[str, Any], ask: Ask, now: float) -> Round:
    """Return what of the frozen hits and answers is found again, and what of it is an alarm.

    An alarm: more of them was lost than resampled questions explain (the 95 percent interval of the mean's difference
    to the baseline lies below 0), or a question has no answer, or not of all shards.
    """
    rows, scores, took_ms, failed, partial = frozen["questions"], [], [], [], 0
    for row in rows:
        begun = time.monotonic()
        try:
            found = ask(row["question"])
        except (RagHpcError, OSError) as error:
            failed.append(f"{error}")
            scores.append((0.0, 0.0))
            continue
        took_ms.append(1000 * (time.monotonic() - begun))
        scores.append(_scores(row, found))
        answered, _, shards = str(found.get("coverage", "")).partition("/")
        partial += answered != shards
    base_N2 = np.asarray([(row["recall"], row["agreement"]) for row in rows], dtype=np.float64)
    scores_N2 = np.asarray(scores, dtype=np.float64)
    alarms = [f"{len(failed)} of {len(rows)} questions have no answer: {failed[0]}"] if failed else []
    alarms += [f"{partial} of {len(rows)} questions were not asked of all shards"] if partial else []
    highs = []
    for at, name in enumerate(("recall", "agreement")):
        drop = _high(scores_N2[:, at] - base_N2[:, at])
        highs.append(_high(scores_N2[:, at]))
        if drop < 0:
            was, now_is = base_N2[:, at].mean(), scores_N2[:, at].mean()
            alarms.append(f"{name} of the frozen set is {now_is:.3f}, was {was:.3f}: at least {-drop:.3f} lost")
    return Round(
        time=now,
        canaries=frozen["id"],
        questions=len(rows),
        recall=float(scores_N2[:, 0].mean()),
        recall_high=highs[0],
        agreement=float(scores_N2[:, 1].mean()),
        agreement_high=highs[1],
        failed=len(failed),
        partial=partial,
        p50_ms=float(np.median(took_ms)) if took_ms else 0.0,
        alarms=alarms,
    )


def save(folder: Path, frozen: dict[str, Any]) -> None:
    """Write the canaries; frozen ones are replaced by name only. Raises InputError where there are some."""
    with private_files(), naming_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not publish_file(folder / CANARIES, sealed_json(frozen)):
            raise InputError(f"{folder / CANARIES}: frozen already; to freeze others, remove it first")


def load(folder: Path) -> dict[str, Any]:
    """Return the canaries. Raises InputError where none are frozen, ConfigError and CorruptOutput for wrong files."""
    path = folder / CANARIES
    if not path.exists():
        raise InputError(f"{path}: nothing is frozen yet; run: rag-hpc watch freeze --file FILE")
    for part in (folder, path):
        check_own(part)

    def made(value: dict[str, Any]) -> dict[str, Any]:
        check_members(value, {"questions": list[dict[str, Any]], "id": str})
        for row in value["questions"]:
            check_members(row, {"question": str, "chunk_ids": list[str], "recall": float, "agreement": float})
        return value

    return read_object(path, "remove it, and run: rag-hpc watch freeze --file FILE", made)


def note(folder: Path, found: Round) -> None:
    """Add the round's row; make or remove the alarm's file."""
    with private_files(), naming_disk(folder):
        with (folder / ROWS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(found), sort_keys=True) + "\n")
        if found.alarms:
            publish_file(folder / ALARM, json.dumps(asdict(found), indent=1).encode(), overwrite=True)
        else:
            (folder / ALARM).unlink(missing_ok=True)


def as_text(found: Round) -> str:
    """Return a round as a line for people."""
    state = "ALARM" if found.alarms else "well"
    return (
        f"{state}: {found.questions} questions, recall {found.recall:.3f}, agreement {found.agreement:.3f}, "
        f"{found.failed} failed, {found.partial} partial, p50 {found.p50_ms:.0f} ms"
    )


def _with(arguments: Arguments, ledger: Ledger, work: Callable[[Ask], Any]) -> Any:
    """Return what `work` returns, given what asks the run: its group, if one is up, else this process."""
    request = ledger.request()
    check_pipeline(ledger.name, request)
    generator = generator_of(arguments, request.settings["generate"].get("generator", {}))
    with opened(ledger, request, generator) as (asker, near):

        def ask(question: str) -> dict[str, Any]:
            return {**plain(ledger.name, question, asker.answer(question)), "coverage": near.coverage}

        return work(ask)


def _scores(row: dict[str, Any], found: dict[str, Any]) -> tuple[float, float]:
    """Return (recall of the frozen passages, whether the answer is the frozen one)."""
    there = {passage["chunk_id"] for passage in found["passages"]}
    return len(there & set(row["chunk_ids"])) / len(set(row["chunk_ids"])), float(same_answer(row, found))


def _high(values_N: Array) -> float:
    """Return the 97.5 percent quantile of the mean by resampling (Efron, Tibshirani 1993)."""
    drawn = np.random.default_rng(0).integers(len(values_N), size=(RESAMPLES, len(values_N)))
    return float(np.quantile(values_N[drawn].mean(axis=1), 0.975))
