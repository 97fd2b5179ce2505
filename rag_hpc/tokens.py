"""The tokens of an encoder's own tokenizer: where they begin in a text, and how many a text has.

WordPiece tokenizers of the BERT kind are computed by algo.wordpiece, ten times as fast; all others, and the few texts
that it leaves, are read by the Hugging Face tokenizer.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.chunking import Tokens
from rag_hpc.algo.wordpiece import WordPiece
from rag_hpc.encoder import tokenizer_file

_BLOCK = 1 << 16  # characters that a general tokenizer reads at once: some take quadratic time for a long word


class TokenCounter:
    """Counts as the encoder will, without special tokens; `num_special` are the ones that it adds to a text."""

    def __init__(self, model: str) -> None:
        path = tokenizer_file(model)
        self._tokenizer = _load(path)
        self._lower = _lower_first(path.parent)
        spec = json.loads(path.read_text(encoding="utf-8"))
        self._reserved = [str(added["content"]) for added in spec.get("added_tokens") or []]
        self._wordpiece = None if self._lower else _wordpiece(self._tokenizer, spec)
        self.num_special: int = self._tokenizer.num_special_tokens_to_add(False)

    @property
    def is_fast(self) -> bool:
        """Whether texts are read by algo.wordpiece."""
        return self._wordpiece is not None

    def tokens(self, text: str) -> Tokens:
        """Return where the text's tokens begin."""
        return self._fast(text) or self._general(text)

    def num_tokens(self, text: str) -> int:
        """Return how many tokens the text has."""
        fast = self._fast(text)
        return len(fast.starts_T) if fast else len(self._encode([text])[0].ids)

    def _fast(self, text: str) -> Tokens | None:
        if self._wordpiece is None or any(word in text for word in self._reserved):
            return None
        return self._wordpiece.tokens(text)

    def _general(self, text: str) -> Tokens:
        """Return the tokens of blocks read one by one: near enough for a first cut, which is then counted."""
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

    def _encode(self, texts: list[str]) -> list[Any]:
        whole = [text.encode("utf-8", "replace").decode() for text in texts]  # lone surrogates, as the encoder has them
        given = [text.lower() for text in whole] if self._lower else whole
        return list(self._tokenizer.encode_batch(given, add_special_tokens=False))


def _load(path: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
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
    model = spec["model"]
    try:
        return WordPiece(
            model["vocab"], prefix=model["continuing_subword_prefix"], max_word_chars=model["max_input_chars_per_word"],
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
    return (char.isspace() or unicodedata.category(char)[0] == "P" or "\u3400" <= char <= "\u9fff"
            or "\U00020000" <= char <= "\U0002fa1f")
