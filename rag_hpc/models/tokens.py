"""The tokens of an encoder's own tokenizer: their numbers, where they begin in a text, and how many a text has.

WordPiece tokenizers of the BERT kind are computed by algo.wordpiece, ten times as fast; all others, and the few texts
that it leaves, are read by the Hugging Face tokenizer.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.types import I32
from rag_hpc.errors import InputError
from rag_hpc.models.folder import tokenizer_file

if TYPE_CHECKING:  # a lone question is read without: importing numba takes longer than encoding it
    from rag_hpc.algo.chunk.chunking import Tokens
    from rag_hpc.algo.chunk.wordpiece import WordPiece

_FEW = 8  # texts that are not worth the start of the fast reader
_BLOCK = 1 << 16  # characters that a general tokenizer reads at once: some take quadratic time for a long word


class Tokenizer:
    """Makes the numbers of texts' tokens, without special ones, as the encoder's own tokenizer does."""

    def __init__(self, model: str) -> None:
        path = tokenizer_file(model)
        self._tokenizer = _load(path)
        self._lower = _lower_first(path.parent)
        self._spec = json.loads(path.read_text(encoding="utf-8"))
        self._reserved = [str(added["content"]) for added in self._spec.get("added_tokens") or []]
        self.num_special: int = self._tokenizer.num_special_tokens_to_add(False)
        self.vocab_size: int = self._tokenizer.get_vocab_size()

    @property
    def is_fast(self) -> bool:
        """Whether texts are read by algo.wordpiece."""
        return self._wordpiece is not None

    def ids(self, texts: Sequence[str], each: Callable[..., Iterable[Any]] = map) -> list[I32]:
        """Return the numbers of each text's tokens. each: a pool's map, for several texts at once."""
        made: list[I32 | None] = [None] * len(texts)
        if len(texts) > _FEW:
            made = list(each(self._fast_ids, texts))
        slow = [at for at, ids in enumerate(made) if ids is None]
        for at, encoded in zip(slow, self._encode([texts[at] for at in slow]), strict=True):
            made[at] = np.array(encoded.ids, dtype=np.int32)
        return [ids for ids in made if ids is not None]

    def terms(self, num: int) -> list[str | None]:
        """Return the first `num` tokens of the vocabulary, None for a number that none has."""
        return [self._tokenizer.id_to_token(number) for number in range(num)]

    def frame(self, paired: bool = False) -> Frame:
        """Return the special tokens around a text, or around and between two."""
        encoded = self._tokenizer.encode(*(["a", "a"] if paired else ["a"]))
        parts: list[list[int]] = [[] for _ in range(3 if paired else 2)]
        kinds: list[list[int]] = [[] for _ in parts]
        at, text_kinds = 0, [0, 0]
        for token, kind, text in zip(encoded.ids, encoded.type_ids, encoded.sequence_ids, strict=True):
            if text is None:
                parts[at].append(token)
                kinds[at].append(kind)
            else:
                at, text_kinds[text] = text + 1, kind
        made = [[np.array(part, dtype=np.int32) for part in group] for group in (parts, kinds)]
        return Frame(made[0], made[1], text_kinds)

    @cached_property
    def _wordpiece(self) -> WordPiece | None:
        return None if self._lower else _wordpiece(self._tokenizer, self._spec)

    def _readable(self, text: str) -> WordPiece | None:
        return None if any(word in text for word in self._reserved) else self._wordpiece

    def _fast_ids(self, text: str) -> I32 | None:
        reader = self._readable(text)
        return reader.ids(text) if reader else None

    def _encode(self, texts: list[str]) -> list[Any]:
        whole = [text.encode("utf-8", "replace").decode() for text in texts]  # lone surrogates, which it cannot take
        given = [text.lower() for text in whole] if self._lower else whole
        return list(self._tokenizer.encode_batch(given, add_special_tokens=False)) if given else []


@dataclass(frozen=True)
class Frame:
    """The special tokens of a template: before, between and after its texts; and what segment each part is of."""

    parts: list[I32]
    kinds: list[I32]
    text_kinds: list[int]

    @property
    def num_special(self) -> int:
        """How many there are."""
        return sum(map(len, self.parts))

    def around(self, *texts: I32) -> I32:
        """Return the texts' tokens in the template."""
        rest = [piece for pair in zip(texts, self.parts[1:], strict=True) for piece in pair]
        return np.concatenate([self.parts[0], *rest])

    def segments(self, *texts: I32) -> I32:
        """Return the segment of each token that `around` gives."""
        own = [np.full(len(text), kind, dtype=np.int32) for text, kind in zip(texts, self.text_kinds, strict=False)]
        rest = [piece for pair in zip(own, self.kinds[1:], strict=True) for piece in pair]
        return np.concatenate([self.kinds[0], *rest])


class TokenCounter(Tokenizer):
    """Counts as the encoder will, without special tokens; `num_special` are the ones that it adds to a text."""

    def tokens(self, text: str) -> Tokens:
        """Return where the text's tokens begin."""
        return self._fast(text) or self._general(text)

    def num_tokens(self, text: str) -> int:
        """Return how many tokens the text has."""
        fast = self._fast(text)
        return len(fast.starts_T) if fast else len(self._encode([text])[0].ids)

    def unknown_share(self, texts: Sequence[str]) -> float:
        """Return the share of the texts' characters in tokens that stand for anything unknown, 0 to 1.

        Not the share of the tokens: one may stand for a letter or for a whole sentence.
        """
        unknown = self._unknown
        if unknown is None:
            return 0.0
        lost = size = 0
        for encoded in self._encode(list(texts)):
            for number, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
                size += end - start
                lost += (end - start) * (number == unknown)
        return lost / size if size else 0.0

    @cached_property
    def _unknown(self) -> int | None:
        """The number of the token for what is unknown; None where every character has tokens."""
        model = self._spec.get("model") or {}
        number: int | None = model.get("unk_id")
        if number is None:
            number = self._tokenizer.token_to_id(model.get("unk_token") or "")
        return number

    def _fast(self, text: str) -> Tokens | None:
        reader = self._readable(text)
        return reader.tokens(text) if reader else None

    def _general(self, text: str) -> Tokens:
        """Return the tokens of blocks read one by one: near enough for a first cut, which is then counted."""
        from rag_hpc.algo.chunk.chunking import Tokens

        starts: list[int] = []
        for first, block in _blocks(text):
            for start, end in self._encode([block])[0].offsets:
                gap = len(block[start:end]) - len(block[start:end].lstrip())
                starts.append(first + min(start + gap, end))
        places = [place for place in starts if place < len(text)]
        is_word = [place == 0 or _parts(text[place - 1]) or _parts(text[place]) for place in places]
        starts_T = np.maximum.accumulate(np.array(places, dtype=np.int64))
        is_word_T = np.array(is_word, dtype=np.bool_)
        is_word_T[1:] &= starts_T[1:] > starts_T[:-1]
        return Tokens(starts_T=starts_T, is_word_T=is_word_T, exact=False)


def _load(path: Path) -> Any:
    from tokenizers import Tokenizer as Library

    try:
        tokenizer = Library.from_file(str(path))
    except Exception as error:  # the library raises no other kind
        raise InputError(f"encoder: {path} is no tokenizer ({error}); get the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _lower_first(folder: Path) -> bool:
    """Return whether the encoder puts texts in lower case before its tokenizer sees them."""
    path = folder / "sentence_bert_config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("do_lower_case", False))


def _wordpiece(tokenizer: Any, spec: dict[str, Any]) -> WordPiece | None:
    """Return the fast reader where the tokenizer is exactly BERT's: its normalizer, its split into words, WordPiece."""
    kinds = [(spec.get(step) or {}).get("type") for step in ("normalizer", "pre_tokenizer", "model")]
    if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
        return None
    if any(added.get("normalized") for added in spec.get("added_tokens") or []):
        return None  # found in the normalized text, whose characters we do not keep
    from rag_hpc.algo.chunk.wordpiece import WordPiece

    model = spec["model"]
    try:
        return WordPiece(
            model["vocab"],
            prefix=model["continuing_subword_prefix"],
            unknown=model["unk_token"],
            max_word_chars=model["max_input_chars_per_word"],
            normalize=tokenizer.normalizer.normalize_str,
            split=lambda text: [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)],
        )
    except OverflowError:  # a vocabulary too large for it
        return None


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield the text in blocks that end before a space where there is one in their last half, and where each starts."""
    start = 0
    while start < len(text):
        end = start + _BLOCK
        if end < len(text):
            space = next((at for at in range(end, end - _BLOCK // 2, -1) if text[at].isspace()), end)
            end = space
        yield start, text[start:end]
        start = end


def _parts(char: str) -> bool:
    """Return whether words end before and begin after this character in most tokenizers."""
    if char.isascii():
        return not char.isalnum()
    return (
        char.isspace()
        or unicodedata.category(char)[0] == "P"
        or "\u3400" <= char <= "\u9fff"
        or "\U00020000" <= char <= "\U0002fa1f"
    )
