"""Questions with one thing changed, so that another answer is asked for: made by rule from real ones."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from rag_hpc.core.hashing import seed_of

AUXILIARY = re.compile(r"\b(is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|might|must)\b", re.I)
CONTRACTED = {"can": "can't", "will": "won't", "might": "might not", "must": "must not"}
NEGATION = re.compile(r"\b(?:not|never)\s+|\bwithout\b", re.I)
ANTONYMS = dict(
    pair
    for one, other in (
        pair.split("/")
        for pair in (
            "first/last most/least largest/smallest larger/smaller large/small highest/lowest higher/lower high/low "
            "oldest/newest older/younger old/new earliest/latest early/late before/after more/less increase/decrease "
            "increased/decreased begin/end began/ended start/stop started/stopped north/south northern/southern "
            "east/west eastern/western above/below good/bad best/worst positive/negative major/minor public/private "
            "internal/external long/short longest/shortest wide/narrow open/closed create/destroy created/destroyed "
            "strong/weak common/rare same/different maximum/minimum win/lose won/lost built/demolished born/killed "
            "accept/reject accepted/rejected allow/forbid allowed/forbidden always/never many/few rich/poor "
            "inside/outside upper/lower male/female men/women cause/prevent true/false support/oppose "
            "supported/opposed gain/loss gained/lost top/bottom left/right up/down hot/cold modern/ancient "
            "primary/secondary greater/lesser greatest/least simple/complex easy/difficult fast/slow "
            "successful/unsuccessful legal/illegal known/unknown formal/informal direct/indirect buy/sell bought/sold "
            "arrive/leave arrived/left attack/defend attacked/defended urban/rural king/queen son/daughter "
            "father/mother brother/sister friend/enemy war/peace life/death beginning/end import/export rise/fall "
            "rose/fell add/remove heavy/light near/far join/leave joined/left victory/defeat"
        ).split()
    )
    for pair in ((one, other), (other, one))
)
ENTITY = re.compile(r"(?<=[a-z,] )[A-Z][\w'-]*(?: (?:of (?:the )?)?[A-Z][\w'-]*)*")
NUMBER = re.compile(r"\b\d+(?:,\d{3})*\b")
WORDS = "one two three four five six seven eight nine ten".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
NUMBER_WORD = re.compile(rf"\b({'|'.join(WORDS + ORDINALS)})\b", re.I)
TURNED = (("before", "after"), ("above", "below"), ("over", "under"), ("into", "out of"), ("from", "to"))
JOINED = re.compile(r"^,?\s*(?:and|or|,|&)\s", re.I)
OBJECT = re.compile(r"^(Who|What|Which \w+) did (.+) (\w+)\?$")
KINDS = ("negation", "antonym", "entity", "number", "direction")


def changed(kind: str, question: str, entities: Sequence[str]) -> Iterator[str]:
    """Yield the question with one thing changed, the likeliest way first, by a seed of its words.

    entities: names that occur in questions on the same article.
    """
    draw = random.Random(seed_of(kind, question))
    ways = {"negation": _negated, "antonym": _opposite, "number": _renumbered, "direction": _turned}
    made = _renamed(question, entities, draw) if kind == "entity" else ways[kind](question, draw)
    seen = {_plain(question)}
    for other in made:
        if _plain(other) not in seen:
            seen.add(_plain(other))
            yield other


def entities_of(questions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the names in the questions of each article."""
    return {title: sorted({name for q in qs for name in ENTITY.findall(q)}) for title, qs in questions.items()}


def _negated(question: str, draw: random.Random) -> Iterator[str]:
    if NEGATION.search(question):
        yield NEGATION.sub(lambda found: "with" if found[0].lower() == "without" else "", question, count=1)
    elif found := AUXILIARY.search(question):
        word = found[0]
        short = draw.random() < 0.5
        negative = CONTRACTED.get(word.lower(), f"{word}n't") if short else f"{word} not"
        yield question[: found.start()] + negative + question[found.end() :]


def _opposite(question: str, draw: random.Random) -> Iterator[str]:
    words = [found for found in re.finditer(r"[A-Za-z]+", question) if found[0].lower() in ANTONYMS]
    draw.shuffle(words)
    for found in words[:1]:
        yield _with_case(question, found, ANTONYMS[found[0].lower()])


def _renamed(question: str, entities: Sequence[str], draw: random.Random) -> Iterator[str]:
    names = list(ENTITY.finditer(question))
    if names:
        found = draw.choice(names)
        others = [name for name in entities if name.lower() not in question.lower()]
        alike = [name for name in others if len(name.split()) == len(found[0].split())] or others
        if alike:
            yield question[: found.start()] + draw.choice(alike) + question[found.end() :]


def _renumbered(question: str, draw: random.Random) -> Iterator[str]:
    for found in NUMBER.finditer(question):
        value = int(found[0].replace(",", ""))
        for step in draw.sample((1, 2, 3, 10, 100, -1, -2), 2):
            new = abs(value + step)
            yield question[: found.start()] + (f"{new:,}" if "," in found[0] else str(new)) + question[found.end() :]
    for found in NUMBER_WORD.finditer(question):
        row = WORDS if found[0].lower() in WORDS else ORDINALS
        for word in draw.sample([word for word in row if word != found[0].lower()], 2):
            yield _with_case(question, found, word)


def _turned(question: str, draw: random.Random) -> Iterator[str]:
    names = list(ENTITY.finditer(question))
    for one, other in pairwise(names):
        between = question[one.end() : other.start()]
        if not JOINED.match(between) and between.strip() and one[0] != other[0]:
            yield question[: one.start()] + other[0] + between + one[0] + question[other.end() :]
            break
    if found := OBJECT.match(question):
        yield f"{found[1]} {found[3]}{'d' if found[3].endswith('e') else 'ed'} {found[2]}?"
    for pair in TURNED:
        for word, opposite in (pair, pair[::-1]):
            if hit := re.search(rf"\b{word}\b", question):
                yield question[: hit.start()] + opposite + question[hit.end() :]


def _with_case(question: str, found: re.Match[str], word: str) -> str:
    return question[: found.start()] + (word.capitalize() if found[0][0].isupper() else word) + question[found.end() :]


def _plain(question: str) -> str:
    return " ".join(question.lower().split())
