"""`rag-hpc verify A B`: are the outputs of two runs the same, stage by stage? The baseline is usually A.

Where the layout of a stage is a choice (number of shards), what it answers is compared at retrieve and evaluate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json
from rag_hpc.core.fs import read_json
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.ledger import mend
from rag_hpc.core.log import shown
from rag_hpc.core.manifest import EVERY, NEVER, Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.eval import quality
from rag_hpc.eval.results import Results, choose_baseline, named, named_once
from rag_hpc.eval.text import aligned, share
from rag_hpc.stores.hits import HITS, SEARCHED_EXACTLY, all_exact
from rag_hpc.stores.metrics import METRICS

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

SAME, DIFFERS, LAYOUT = "same", "differs", "layout"
MAX_RECALL_LOSS = 0.01  # of the approximate search against the exact one
SHOWN = 5  # hits of a list that differs


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A stage's output in two runs. Hashes are of what must agree, None where a run has no finished output."""

    stage: str
    a: str | None
    b: str | None
    verdict: str  # same, differs, layout, only in A or B, unfinished in A or B

    @property
    def unfinished(self) -> bool:
        """Whether the verdict is still to come."""
        return self.verdict.startswith("unfinished")


def verify(arguments: Arguments) -> int:
    """Print the comparison; exit 0 when all that is comparable is the same, 1 when not, 3 when a run is unfinished.

    A file that is not what its manifest promises makes it 1 too: by its size, with `--files` by every byte.
    """
    a, b = _two_runs(arguments)
    if a is b:
        return _whole(b, arguments)
    damaged = list(damage(a, b, every_byte="--files" in arguments.flags))
    if damaged:  # what else there is to say would be said of other bytes
        told = {"a": a.name, "b": b.name, "damaged": damaged, "same": False}
        print(as_json(told) if "--json" in arguments.flags else "\n".join([*damaged, f"{len(damaged)} damaged files"]))
        return 1
    rows = compare(a, b)
    recall, notes = quality.ann_recall(b) or quality.ann_recall(a), [*explain(a, b, rows), *of_the_old_kind(a, b)]
    code = exit_code(rows, recall[1] if recall else None)
    if "--json" in arguments.flags:
        print(
            as_json(
                {
                    "a": a.name,
                    "b": b.name,
                    "stages": [dataclasses.asdict(row) for row in rows],
                    "notes": notes,
                    "ann_recall": recall[1] if recall else None,
                    "damaged": damaged,
                    "same": code == 0,
                }
            )
        )
        return code
    print(f"A  {a.name}\nB  {b.name}\n")
    print(aligned(("stage", "A", "B", "verdict"), [(r.stage, short(r.a), short(r.b), r.verdict) for r in rows]))
    if recall:
        verdict = "within" if recall[1] >= 1 - MAX_RECALL_LOSS else "NOT within"
        value = " ".join([share(recall[1], 4), quality.ann_judged(b) or quality.ann_judged(a)]).rstrip()
        print(f"\n{recall[0]} of the vector index against exact search: {value}, {verdict} {MAX_RECALL_LOSS:g} of it")
    print("\n".join(["", *notes, summary(rows)]))
    return code


def _whole(run: Results, arguments: Arguments) -> int:
    """Print whether a run that nothing is compared with is as its manifests promise, by every byte."""
    damaged = list(damage(run, every_byte=True))
    if "--json" in arguments.flags:
        print(as_json({"a": None, "b": run.name, "damaged": damaged, "same": None}))
    else:
        stages = len(run.manifests)
        whole = f"{run.name}: all bytes of its {stages} finished stages are as promised; no baseline to compare with"
        print("\n".join([*damaged, f"{len(damaged)} damaged files"] if damaged else [whole]))
    return 1 if damaged else 3 if run.unfinished else 0


def damage(*runs: Results, every_byte: bool) -> Iterator[str]:
    """Yield a line for each file of the finished stages that is not as promised."""
    for run in runs:
        for stage, found in run.manifests.items():
            for flaw in found.flaws(EVERY if every_byte else NEVER):
                yield f"{run.name} {stage}: {flaw}; {mend(run.run_dir)}"


def of_the_old_kind(*runs: Results) -> Iterator[str]:
    """Yield a line for each run with manifests whose hashes leave out their rows, items, versions and settings."""
    for run in runs:
        num = sum(found.seal is None for found in run.manifests.values())
        if num:
            yield f"{run.name}: hashes of the old kind in {num} manifests: of the files alone, not of all that they say"


def compare(a: Results, b: Results) -> list[Comparison]:
    """Return one row a stage that either run has, in pipeline order."""
    longer, other = sorted((a.stages, b.stages), key=len, reverse=True)
    rows: dict[str, Comparison] = {}
    for stage in [*longer, *[stage for stage in other if stage not in longer]]:
        row = _compare_stage(stage, a, b)
        read = a.plans[stage].inputs if row.verdict == LAYOUT else {}
        if any(rows[name].verdict == DIFFERS for name in read if name in rows):  # not the layout alone
            row = dataclasses.replace(row, verdict=DIFFERS)
        rows[stage] = row
    return [*rows.values()]


def exit_code(rows: list[Comparison], recall: float | None) -> int:
    """Return the verdict on all rows as an exit code; a difference weighs more than a stage still to come."""
    if any(row.verdict == DIFFERS for row in rows) or (recall is not None and recall < 1 - MAX_RECALL_LOSS):
        return 1
    return 3 if any(row.unfinished for row in rows) else 0


def summary(rows: list[Comparison]) -> str:
    """Return one line on all rows."""
    judged = [row for row in rows if row.verdict in (SAME, DIFFERS)]
    same = sum(row.verdict == SAME for row in judged)
    waiting = [row.stage for row in rows if row.unfinished]
    text = f"{same} of {len(judged)} comparable stages are the same"
    return text + (f"; {len(waiting)} unfinished, go on: rag-hpc retry run=NAME" if waiting else "")


def explain(a: Results, b: Results, rows: list[Comparison]) -> Iterator[str]:
    """Yield lines that say where the runs part: the first stage that differs, its settings, and a query's hits."""
    differing = [row.stage for row in rows if row.verdict == DIFFERS]
    if differing:
        stage = differing[0]
        changed = _changed_settings(a.manifests[stage], b.manifests[stage])
        why = (
            f"settings that differ: {', '.join(changed)}"
            if changed
            else "same settings and version: did its code change?"
        )
        yield f"the runs part at {stage}; {why}"
    for run in (a, b):
        found = run.manifests.get("retrieve.search")
        if "retrieve.search" in differing and found is not None and not all_exact(found):
            yield (
                f"{run.name}: the hits of its vector index were fused, and {found.extra()[SEARCHED_EXACTLY]:.0f} of "
                f"{found.total('items_out')} questions searched exactly; to compare all: stage.retrieve.exact=always"
            )
    if "retrieve.search" in differing:
        yield from _first_difference(a, b)


def short(digest: str | None) -> str:
    """Return what people see of a hash."""
    return digest[:12] if digest else "–"


def _two_runs(arguments: Arguments) -> tuple[Results, Results]:
    """Return the baseline and the run; the run twice where it has none, and every byte of it is to be read."""
    words = arguments.words
    if len(words) == 2:
        a, b = named_once(arguments, words)
        return a, b
    if len(words) == 1:
        run = named(arguments, words[0])
        baseline = choose_baseline(arguments, run)
        if baseline is not None:
            return baseline, run
        if "--files" in arguments.flags:
            return run, run
        raise ConfigError(
            f"{run.name}: no baseline of its documents lies beside it; name two runs: rag-hpc verify A B, or read "
            f"every byte of this one: rag-hpc verify {run.name} --files"
        )
    raise ConfigError("verify takes two runs: rag-hpc verify A B")


def _compare_stage(stage: str, a: Results, b: Results) -> Comparison:
    in_a, in_b = a.manifests.get(stage), b.manifests.get(stage)
    hash_a, hash_b = (
        identity_hash(found, _common_parts(stage, in_a, in_b)) if found else None for found in (in_a, in_b)
    )
    if stage not in a.stages or stage not in b.stages:
        verdict = "only in A" if stage in a.stages else "only in B"
    elif in_a is None or in_b is None:
        verdict = "unfinished in A" if in_a is None else "unfinished in B"
    elif hash_a == hash_b:
        verdict = SAME
    else:
        verdict = LAYOUT if in_b.identity == [] else DIFFERS
    return Comparison(stage=stage, a=hash_a, b=hash_b, verdict=verdict)


def identity_hash(found: Manifest, parts: set[str] | None = None) -> str:
    """Return the hash of what another layout of the same stage must reproduce; of evaluate, only the given parts."""
    if found.stage == "evaluate":
        hashes = _part_hashes(found)
        return hash_value({part: hashes[part] for part in (parts if parts is not None else set(hashes) - {"ann"})})
    if not found.identity:
        return found.output_hash
    return hash_value([found.file_hash(name) for name in found.identity])


def _common_parts(stage: str, a: Manifest | None, b: Manifest | None) -> set[str] | None:
    """Return the evaluated parts that both runs have; the approximate ranking is judged by its recall instead."""
    if stage != "evaluate" or a is None or b is None:
        return None
    return (set(_part_hashes(a)) & set(_part_hashes(b))) - {"ann"}


def _part_hashes(evaluated: Manifest) -> dict[str, str]:
    units = [(evaluated.file(u["index"], METRICS), u["files"][METRICS]["sha256"]) for u in evaluated.units]
    return {read_json(path)["part"]: digest for path, digest in units}


def _changed_settings(a: Manifest, b: Manifest) -> list[str]:
    keys = sorted({*a.config, *b.config})
    changed = [
        f"{key}={a.config.get(key)!r} | {b.config.get(key)!r}" for key in keys if a.config.get(key) != b.config.get(key)
    ]
    return changed + ([f"code version {a.version} | {b.version}"] if a.version != b.version else [])


def _first_difference(a: Results, b: Results) -> Iterator[str]:
    """Yield the best hits of both runs for the first query and method whose lists differ."""
    lists_a, lists_b = _lists(a), _lists(b)
    for key in [*lists_a, *[key for key in lists_b if key not in lists_a]]:
        top_a, top_b = lists_a.get(key, []), lists_b.get(key, [])
        if top_a != top_b:
            ranks = [n for n in range(max(len(top_a), len(top_b))) if top_a[n : n + 1] != top_b[n : n + 1]]
            first = max(0, ranks[0] - 1)
            query, method = map(shown, key)
            yield f"first list that differs: query {query}, {method}, from rank {ranks[0] + 1} on (ordinal score)"
            yield f"  A  {_shown(top_a[first : first + SHOWN])}"
            yield f"  B  {_shown(top_b[first : first + SHOWN])}"
            return
    yield "the lists of hits agree, the bytes of their files do not: was one written by other versions of a library?"


def _lists(results: Results) -> dict[tuple[str, str], list[tuple[int, float]]]:
    columns = ["query_id", "method", "rank", "ordinal", "score"]
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    rows: list[dict[str, Any]] = results.rows("retrieve.search", HITS, columns)
    for row in sorted(rows, key=lambda r: r["rank"]):
        found.setdefault((row["query_id"], row["method"]), []).append((row["ordinal"], row["score"]))
    return found


def _shown(hits: list[tuple[int, float]]) -> str:
    return "  ".join(f"{ordinal} {score:.6g}" for ordinal, score in hits) or "(no more hits)"
