"""When two questions ask the same: they have one signature.

A signature keeps every word, number and sign of a question in order, and forgets only what does not change the answer:
case, quotes, articles, contractions, a polite opening, a few pairs of words that mean the same, and where the words
that ask stand ("In what country is Normandy?", "Normandy is in what country?"). Questions that differ in a negation, a
number, a name, an antonym or in who does what to whom therefore have different signatures.
"""

from __future__ import annotations

import re
import unicodedata

_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "\xa0": " "})
_TOKEN = re.compile(  # a number, a word, a possessive, a sign; of punctuation what stands inside: "!=", ".py", "-v"
    r"\d+(?:[.,:/]\d+)*(?i:st|nd|rd|th)?|[^\W\d]\w*|'s\b|[^\s\w.,;:?!\"'()\[\]-]|[.:?!](?=[^\s.?!)\]\"'])|(?<!\S)-+(?=\S)|,"
)
_INITIALS = re.compile(r"\b(?:[A-Za-z]\.){2,}")
_BREAK = re.compile(r"(?:[?!]|(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z]{2})\.)\s+\S")  # no "St.", "Rev.", "J."
_NOT = {"can't": "can not", "cannot": "can not", "won't": "will not", "shan't": "shall not", "ain't": "is not"}
_ENDS = (("n't", " not"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'m", " am"))
_IS = re.compile(r"\b(what|who|when|where|why|how|which|it|that|there|here|he|she)'s\b", re.IGNORECASE)
_CONTRACTED = re.compile(r"\b(?:[a-z]+n't|[a-z]+'(?:re|ve|ll|m)|cannot)\b", re.IGNORECASE)

_WH = frozenset("what who when where why how whose".split())
_PREPOSITIONS = frozenset(
    "about above across after against along among around as at before behind below beneath beside between beyond by "
    "down during for from in inside into like near of off on onto out outside over past since than through to toward "
    "under until up upon via with within without".split()
)
_AUXILIARIES = frozenset(
    "am is are was were be been being do did have has had can could may might must shall should will would".split()
)
_ARTICLES = frozenset(("a", "an", "the"))
_AFTER_A = frozenset(("few", "little", "lot", "while"))  # "a few" is not "few"
_OPENINGS = tuple(
    tuple(text.split())
    for text in (
        "please",
        "kindly",
        "tell me",
        "can you tell me",
        "could you tell me",
        "would you tell me",
        "can you please tell me",
        "could you please tell me",
        "do you know",
        "i want to know",
        "i would like to know",
        "i wonder",
    )
)
_SAME = {
    word: group.split()[0]
    for group in (
        "what which",
        "who whom",
        "do does",
        "film movie",
        "films movies",
        "located situated",
        "type kind sort",
        "types kinds sorts",
        "large big",
        "larger bigger",
        "largest biggest",
        "start begin commence",
        "started began commenced",
        "buy purchase",
        "bought purchased",
        "until till",
        "among amongst",
        "while whilst",
        "toward towards",
        "percent %",
        "and &",
        "center centre",
        "theater theatre",
        "color colour",
        "labor labour",
        "0 zero",
        "1 one",
        "2 two",
        "3 three",
        "4 four",
        "5 five",
        "6 six",
        "7 seven",
        "8 eight",
        "9 nine",
        "10 ten",
        "11 eleven",
        "12 twelve",
        "1st first",
        "2nd second",
        "3rd third",
        "4th fourth",
        "5th fifth",
    )
    for word in group.split()
}


def signature(question: str) -> str:
    """Return the text that questions with the same meaning share; "" for one without a word."""
    text = unicodedata.normalize("NFKC", question).translate(_PLAIN).strip()
    text = _INITIALS.sub(lambda found: found[0].replace(".", ""), text)
    text = _CONTRACTED.sub(lambda found: _expanded(found[0].lower()), _IS.sub(r"\1 is", text))
    tokens = [_token(token, text) for token in _TOKEN.findall(text)]
    if _BREAK.search(text):
        return " ".join(token for token in _bare(tokens) if token != ",")
    tokens = _bare(_without_opening(tokens))
    block, rest = _asking(_fronted(tokens))
    auxiliaries = [token for token in rest if token in _AUXILIARIES]
    content = [token for token in rest if token not in _AUXILIARIES]
    if block and block[0] not in _PREPOSITIONS and len(content) > 1 and content[-1] in _PREPOSITIONS:
        block = [content.pop(), *block]  # "what is it made of": "of what is it made"
    return "\n".join(" ".join(part) for part in (block + content, auxiliaries)).strip()


def _expanded(word: str) -> str:
    if word in _NOT:
        return _NOT[word]
    return next((word.removesuffix(end) + whole for end, whole in _ENDS if word.endswith(end)), word)


def _token(token: str, text: str) -> str:
    """Return a token as it is compared; a short name in capitals, such as WHO or US, is not the word of its letters."""
    if token.isupper() and len(token) in (2, 3, 4) and not text.isupper():
        return token if token.lower() in _WH | _AUXILIARIES | _PREPOSITIONS | {"us"} else token.lower()
    plain = token.lower()
    if plain[0].isdigit() and re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", plain):
        plain = plain.replace(",", "")
    return _SAME.get(plain, plain)


def _without_opening(tokens: list[str]) -> list[str]:
    while tokens:
        long = max((one for one in _OPENINGS if tuple(tokens[: len(one)]) == one), key=len, default=())
        if not long or len(tokens) == len(long):
            return tokens
        tokens = tokens[len(long) :]
        if tokens[0] == ",":
            tokens = tokens[1:]
    return tokens


def _bare(tokens: list[str]) -> list[str]:
    return [
        token
        for token, after in zip(tokens, [*tokens, ""][1:], strict=True)
        if token not in _ARTICLES or after in _AFTER_A
    ]


def _fronted(tokens: list[str]) -> list[str]:
    """Return the tokens without commas; what stands before a comma and the words that ask goes to the end."""
    if "," in tokens:
        at = tokens.index(",")
        if at and _begins(tokens, at + 1) == at + 1:
            tokens = [*tokens[at + 1 :], *tokens[:at]]
    return [token for token in tokens if token != ","]


def _begins(tokens: list[str], start: int) -> int | None:
    """Return where the first words that ask begin from `start` on, a preposition before them included."""
    for at in range(start, len(tokens)):
        if tokens[at] in _WH:
            return at - 1 if at > start and tokens[at - 1] in _PREPOSITIONS else at
    return None


def _asking(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Return the words that ask, where they stand first before an auxiliary or last, and the rest in order."""
    begin = _begins(tokens, 0)
    if begin is None or sum(token in _WH for token in tokens) > 1:
        return [], tokens
    if begin == 0:
        stop = next((at for at, token in enumerate(tokens) if token in _AUXILIARIES), None)
        return (tokens[:stop], tokens[stop:]) if stop else ([], tokens)
    if any(token in _AUXILIARIES for token in tokens[begin:]):
        return [], tokens
    return tokens[begin:], tokens[:begin]
