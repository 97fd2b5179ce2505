"""Questions that ask the same in other words: made by rule from real ones, and pairs that people wrote."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rag_hpc.core.hashing import seed_of

FRONT = re.compile(
    r"^(In|At|On|For|By|From|To|With|Of) (what|which) (.+?) (is|are|was|were|did|does|do|can|has) (.+)\?$"
)
BEGINNING = re.compile(r"^(What|Who|When|Where|How|Which|Why) (is|are|was|were|did|does|do|can|has|have) (.+)\?$")
SHORT = re.compile(r"\b(What|Who|When|Where|How|Why) is\b|\b(is|are|was|were|did|does|do|has|have) not\b")
ADVERBIAL = re.compile(r"^(.+) (in \d{4})\?$")
OTHER_WORDS = {
    "begin": "start",
    "began": "started",
    "located": "situated",
    "type": "kind",
    "types": "kinds",
    "largest": "biggest",
    "called": "named",
    "purpose": "aim",
    "people": "persons",
    "occur": "happen",
    "created": "made",
    "main": "chief",
    "important": "significant",
    "city": "town",
    "often": "frequently",
    "job": "occupation",
}
KINDS = ("typing", "opening", "contraction", "order", "synonym", "typo")


def reworded(kind: str, question: str) -> str | None:
    """Return the question in other words, None where the rule does not fit it."""
    made = _WAYS[kind](question, random.Random(seed_of(kind, question)))
    return made if made != question else None


def written_pairs(questions: Iterable[dict[str, Any]], least: float = 0.6) -> Iterator[tuple[str, str]]:
    """Yield pairs of questions of one passage with one answer and mostly the same words.

    least: shared words over all words (Jaccard). Such pairs are paraphrases but for a few; nobody has judged them.
    """
    same: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in questions:
        for answer in dict.fromkeys(answer.lower() for answer in row["answers"]):
            same[row["passage_id"], answer].append(row["question"])
    seen: set[tuple[str, str]] = set()
    for asked in same.values():
        for at, one in enumerate(asked):
            for other in asked[at + 1 :]:
                words, others = (set(re.findall(r"\w+", text.lower())) for text in (one, other))
                if one != other and (one, other) not in seen and len(words & others) >= least * len(words | others):
                    seen.add((one, other))
                    yield one, other


def _typed(question: str, draw: random.Random) -> str:
    plain = question.lower().rstrip("?").strip()
    return plain if draw.random() < 0.5 else f"{plain} ?"


def _opened(question: str, draw: random.Random) -> str:
    opening = draw.choice(("Can you tell me", "Please tell me", "Do you know"))
    return f"{opening} {question[0].lower()}{question[1:]}" if BEGINNING.match(question) else question


def _contracted(question: str, draw: random.Random) -> str:
    return SHORT.sub(lambda found: f"{found[1]}'s" if found[1] else f"{found[2]}n't", question)


def _ordered(question: str, draw: random.Random) -> str:
    if found := FRONT.match(question):
        preposition, which, noun, auxiliary, rest = found.groups()
        return f"{which.capitalize()} {noun} {auxiliary} {rest} {preposition.lower()}?"
    if found := ADVERBIAL.match(question):
        return f"{found[2].capitalize()}, {found[1][0].lower()}{found[1][1:]}?"
    return question


def _synonym(question: str, draw: random.Random) -> str:
    words = [found for found in re.finditer(r"[a-z]+", question) if found[0] in OTHER_WORDS]
    if not words:
        return question
    found = draw.choice(words)
    return question[: found.start()] + OTHER_WORDS[found[0]] + question[found.end() :]


def _mistyped(question: str, draw: random.Random) -> str:
    found = max(re.finditer(r"[a-z]{5,}", question), key=lambda word: len(word[0]), default=None)
    if found is None:
        return question
    at = draw.randrange(found.start() + 1, found.end() - 1)
    return question[:at] + question[at + 1 :]


_WAYS: dict[str, Callable[[str, random.Random], str]] = {
    "typing": _typed,
    "opening": _opened,
    "contraction": _contracted,
    "order": _ordered,
    "synonym": _synonym,
    "typo": _mistyped,
}
