"""What is searched for when a question leans on the one before it, as in "And of a folder?" or "Does it sort?".

The rule: a question leans on another when it begins as one that goes on ("And", "What about"), has a word that points
back (both of English, German, French, Spanish), or has fewer than three content words and no auxiliary verb ("Why?",
"Symbolic links?", but not "What is a deque?"). It then takes over the content words of what was searched for before, as
far as it has not said them itself. What was searched for before is found by the same rule, so that a chain of such
questions keeps its subject.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_hpc.algo.text.words import content_words, words

FEWEST = 3  # content words of a question that stands by itself
MOST = 12  # words that are taken over, the first ones: what the talk is about
_BACK = frozenset(
    "it its itself this that these those they them their theirs he him his she her hers former latter same "
    "er sie es ihn ihm ihr ihre seine dieser diese dieses denen deren dessen dasselbe "
    "il elle ils elles celui celle ceux celles cela lui leur leurs "
    "él ella ello ellos ellas esto eso este esta estos estas ese esa esos esas".split()
)


_ON = re.compile(r"\W*(?:and|or|but|also|(?:what|how) about|und|oder|aber|auch|et|ou|mais|y|o|pero)\b", re.IGNORECASE)
_VERBS = frozenset(
    "am is are was were do does did has have had can could may might must shall should will would".split()
)


def leans(question: str) -> bool:
    """Return whether a question can hardly be understood by itself."""
    said = {*words(question.lower())}
    short = len(content_words(question)) < FEWEST and said.isdisjoint(_VERBS)
    return short or not said.isdisjoint(_BACK) or _ON.match(question) is not None


def searched_for(question: str, before: Sequence[str]) -> str:
    """Return what is searched for. before: the questions that were asked until then, oldest first."""
    found = ""
    for asked in (*before, question):
        own = {word.lower() for word in words(asked)}
        taken = [word for word in dict.fromkeys(content_words(found)) if word not in own | _BACK][:MOST]
        found = " ".join([asked, *taken]) if taken and leans(asked) else asked
    return found
