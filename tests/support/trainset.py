"""A small training set as a BEIR folder, and models of random weights that learn from it in a second."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

WORDS = "cat dog fish bird tree house river stone cloud fire road ship moon star wind grass".split()
NUM = 40


def write_beir(folder: Path, num: int = NUM, grade: int = 1) -> Path:
    """Write documents of eight words, each asked for by its first four."""
    draw = random.Random(0)
    texts = [f"{' '.join(draw.sample(WORDS, 8))} number {i}" for i in range(num)]
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": f"T{i}", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": " ".join(text.split()[:4])} for i, text in enumerate(texts)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grades = "".join(f"q{i}\td{i}\t{grade}\n" for i in range(num))
    (folder / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{grades}")
    return folder


def write_model(folder: Path, *, head: bool = False, dropout: float = 0.0) -> Path:
    """Write a random BERT of 16 dimensions with MiniLM's tokenizer; `head`: a cross-encoder."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    from rag_hpc.models.folder import tokenizer_file

    folder.mkdir(parents=True)
    shutil.copy(tokenizer_file("minilm"), folder / "tokenizer.json")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"num_labels": 1} if head else {}
    config = BertConfig(
        vocab_size=30522,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **sizes,
        **more,
    )
    (BertForSequenceClassification if head else BertModel)(config).save_pretrained(folder)
    return folder
