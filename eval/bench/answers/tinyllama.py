"""A Llama with random weights and a tokenizer of its own: what it says is nonsense, all around it is real."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_TEXT = "The quick brown fox jumps over the lazy dog; [1] and [2] say so. Not found in the passages."
_SPECIAL = ["<unk>", "<s>", "</s>"]


def make_tiny_llama(
    folder: Path,
    *,
    texts: Iterable[str] = (_TEXT,),
    chat: bool = True,
    positions: int = 8192,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
) -> Path:
    """Write a model of few layers and dimensions, with heads for two tensor-parallel ranks; return its folder.

    texts: what the byte-level BPE tokenizer is trained on. chat: with a chat template, or without any.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token=_SPECIAL[0]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=1024, special_tokens=_SPECIAL, initial_alphabet=alphabet)
    )
    make_tokenizer: Any = PreTrainedTokenizerFast  # transformers leaves both untyped
    make_model: Any = LlamaForCausalLM
    tokenizer = make_tokenizer(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        make_model(config).save_pretrained(folder, safe_serialization=True)
    return folder
