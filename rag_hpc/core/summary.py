"""One line on what went into a run and what came out of it, from its manifests and plans."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rag_hpc.core.manifest import Manifest, add_up
from rag_hpc.core.plan import Plan

DOCUMENTS = ("chunk", "dedup.drop", "clean", "crawl")  # stages whose items are documents, the last one first
FLAW = "citations_"  # before its name, in the figures of generate
_SHOWN = 5  # reasons, and suffixes


def in_and_out(manifests: Mapping[str, Manifest], plans: Mapping[str, Plan]) -> str:
    """Return "7 documents kept, 4 rejected (bad json 1, ...), 2 files of unknown kinds passed over (.docx 2)".

    Empty before any pages are there. Stages that cut or index documents count what they drop as documents too.
    """
    last = next((stage for stage in DOCUMENTS if stage in manifests), None)
    if last is None:
        return ""
    crawls = [found for stage, found in manifests.items() if re.fullmatch(r"crawl(\.\d+)?", stage)]
    kept = sum(found.total("items_out") for found in (crawls if last == "crawl" else [manifests[last]]))
    others = [manifests[stage] for stage in DOCUMENTS[:3] if stage in manifests]
    dropped = add_up([found.dropped() for found in (*crawls, *others)])
    parts = [f"{kept:,} document{_s(kept)} kept", f"{sum(dropped.values()):,} rejected{_listed(dropped)}"]
    duplicates = sum(int(found.extra().get("duplicates_kept", 0)) for found in others)
    parts += [f"{duplicates:,} duplicate{_s(duplicates)} among those kept"] if duplicates else []
    passed_over = add_up([plan.notes.get("passed_over", {}) for plan in plans.values()])
    if passed_over:
        num = sum(passed_over.values())
        parts.append(f"{num:,} file{_s(num)} of unknown kind{_s(num)} passed over{_listed(passed_over)}")
    asked = manifests["retrieve.queries"].extra() if "retrieve.queries" in manifests else {}
    if asked.get("absent"):
        parts.append(f"{asked['absent']:,.0f} of {asked['relevant']:,.0f} documents judged relevant are not among them")
    if asked.get("stand_ins"):
        parts.append(f"{asked['stand_ins']:,.0f} titles stand in for questions")
    parts += _of_answers(manifests["generate"].extra()) if "generate" in manifests else []
    return ", ".join(parts)


def _of_answers(said: Mapping[str, float]) -> list[str]:
    """Return what is wrong with the answers' citations, and which passages the prompts had no room for."""
    flaws = {name[len(FLAW) :]: int(number) for name, number in said.items() if name.startswith(FLAW)}
    parts = []
    if flaws:
        parts.append(f"{sum(flaws.values()):,} of {said['citations']:,.0f} citations not borne out{_listed(flaws)}")
    for name, words in (
        ("sentences_uncited", "answered sentence{} without a citation"),
        ("passages_over_budget", "passage{} without room in a prompt"),
        ("passages_cut", "passage{} cut to fit a prompt"),
        ("answers_cut", "answer{} cut off at generator.max_tokens"),
    ):
        if number := int(said.get(name, 0)):
            parts.append(f"{number:,} {words.format(_s(number))}")
    if said.get("prompts_counted_by_characters"):
        parts.append("prompts measured by characters, since no tokenizer was at hand (prompt.tokenizer)")
    return parts


def _s(num: int) -> str:
    return "" if num == 1 else "s"


def _listed(counts: Mapping[str, int]) -> str:
    """Return " (most frequent 3, next 1, ...)", empty for none."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    names = [f"{name.replace('-', ' ') or 'no suffix'} {count:,}" for name, count in ordered[:_SHOWN]]
    return f" ({', '.join([*names, *['...'] * (len(ordered) > _SHOWN)])})" if names else ""
