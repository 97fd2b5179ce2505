"""What tests of generators share: passages, a tiny model's folder, and an encoder that knows words only."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.answer.sentences import words_of
from rag_hpc.eval.bench.answers.tinyllama import make_tiny_llama
from rag_hpc.generators.base import Passage

# read once: no test sees RAG_HPC_* variables
VLLM_PYTHON = os.environ.get("RAG_HPC_VLLM_PYTHON") or (sys.executable if importlib.util.find_spec("vllm") else "")
NO_VLLM = "vLLM is not installed: name the python of an environment that has it in RAG_HPC_VLLM_PYTHON"


def passage(text: str, title: str = "", chunk_id: str = "c", doc_id: str = "d") -> Passage:
    return Passage(chunk_id=chunk_id, doc_id=doc_id, title=title, text=text)


FISH = passage("Fish live in water. They have gills.", "fish", "c1", "d1")
SLURM = passage(
    "The default time limit is 240 minutes. Longer jobs are killed. Use --time to ask for more.", "limits", "c2", "d2"
)


def by_words(question: str, sentences: Sequence[str]) -> Any:
    """Stand in for the encoder: texts are as near to each other as the words that they share are many."""
    vectors = np.zeros((1 + len(sentences), 512), dtype=np.float32)
    for row, text in zip(vectors, [question, *sentences], strict=True):
        row[[zlib.crc32(word.encode()) % 512 for word in sorted(words_of(text))]] = 1.0
        row /= max(1.0, float(np.linalg.norm(row)))
    return vectors


@lru_cache(maxsize=2)
def tiny_llama(chat: bool = True) -> Path:
    """Return the folder of a tiny random model, made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="tinyllama-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_tiny_llama(folder, chat=chat)
