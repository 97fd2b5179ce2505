"""One side of the encode benchmark in a process of its own: INTERPRETER sides.py SIDE MODEL TEXTS.json OUT.npy BATCH

Peers may have an environment of their own, so nothing of this package is imported but by our own sides. The process
loads its model, handles all texts once, writes what it made of them, and prints a line of JSON; each line that it then
reads is a round: a JSON list of texts, empty for all of them, which it handles again, and prints what that took. One
thread, from raw text to vectors (of pairs: to scores).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
LIMIT = 256
Texts = list[Any]
Handle = Callable[[Texts], Any]


def ours(model: str, batch: int, precision: str) -> Handle:
    """Return this package's encoder; batch: tokens."""
    from rag_hpc.models.device import Precision
    from rag_hpc.models.encoder import Encoder

    encoder = Encoder(model, Precision[precision], threads=1)
    return lambda texts: encoder.encode(texts, batch, allow_truncate=True)


def our_reranker(model: str, batch: int, precision: str) -> Handle:
    """Return this package's reranker; batch: tokens."""
    from rag_hpc.models.device import Precision
    from rag_hpc.models.encoder import Reranker

    reranker = Reranker(model, Precision[precision], threads=1)
    return lambda pairs: reranker.score([(q, p) for q, p in pairs], batch, allow_truncate=True)


def sentence_transformers(model: str, batch: int, dtype: str) -> Handle:
    """Return the library's encoder; batch: texts."""
    torch, library = import_module("torch"), import_module("sentence_transformers")
    torch.set_num_threads(1)
    kwargs = {"dtype": getattr(torch, dtype)}
    encoder = library.SentenceTransformer(model, device="cpu", local_files_only=True, model_kwargs=kwargs)
    return lambda texts: encoder.encode(texts, batch_size=batch, show_progress_bar=False, normalize_embeddings=True)


def cross_encoder(model: str, batch: int, dtype: str) -> Handle:
    """Return the library's reranker; batch: pairs."""
    torch, library = import_module("torch"), import_module("sentence_transformers")
    torch.set_num_threads(1)
    kwargs = {"dtype": getattr(torch, dtype)}
    reranker = library.CrossEncoder(
        model, device="cpu", local_files_only=True, model_kwargs=kwargs, activation_fn=torch.nn.Identity()
    )
    return lambda pairs: reranker.predict(
        [(q, p) for q, p in pairs], batch_size=batch, show_progress_bar=False
    )  # it takes tuples only


def onnxruntime(model: str, batch: int, kind: str) -> Handle:
    """Return bare ONNX Runtime on the exported network; int8: its dynamic quantization, per channel."""
    ort, torch = import_module("onnxruntime"), import_module("torch")
    folder = Path(tempfile.mkdtemp())
    path = folder / "model.onnx"
    axes, names = {0: "batch", 1: "tokens"}, ["input_ids", "attention_mask"]
    network, example = _network(model)
    with torch.inference_mode():
        torch.onnx.export(
            network,
            example,
            str(path),
            input_names=names,
            output_names=["hidden"],
            dynamic_axes={**dict.fromkeys(names, axes), "hidden": axes},
            dynamo=False,
            opset_version=17,
        )
    if kind == "int8":
        quantization, small = import_module("onnxruntime.quantization"), folder / "small.onnx"
        quantization.quantize_dynamic(path, small, weight_type=quantization.QuantType.QInt8, per_channel=True)
        path = small
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return _padded(model, batch, lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0])


def openvino(model: str, batch: int, kind: str) -> Handle:
    """Return OpenVINO on the network; kind: its hint of the arithmetic."""
    library = import_module("openvino")
    network, example = _network(model)
    converted = library.convert_model(network, example_input=example)
    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": kind}
    request = library.Core().compile_model(converted, "CPU", config).create_infer_request()
    return _padded(model, batch, lambda ids, mask: request.infer([ids, mask])[request.model_outputs[0]])


def ctranslate2(model: str, batch: int, kind: str) -> Handle:
    """Return CTranslate2 on the converted network; kind: one of its compute types."""
    library, np = import_module("ctranslate2"), import_module("numpy")
    folder = str(Path(tempfile.mkdtemp()) / "model")
    import_module("ctranslate2.converters").TransformersConverter(model).convert(folder)
    encoder = library.Encoder(folder, device="cpu", compute_type=kind, inter_threads=1, intra_threads=1)

    def forward(ids: Any, mask: Any) -> Any:
        rows = [row[:length].tolist() for row, length in zip(ids, mask.sum(1), strict=True)]
        return np.array(encoder.forward_batch(rows).last_hidden_state.to(library.DataType.float32))

    return _padded(model, batch, forward)


def _network(model: str) -> tuple[Any, Any]:
    """Return (torch module from ids and mask to token vectors, example inputs)."""
    torch, transformers = import_module("torch"), import_module("transformers")
    network = transformers.AutoModel.from_pretrained(model, local_files_only=True, attn_implementation="eager").eval()

    def forward(self: Any, input_ids: Any, attention_mask: Any) -> Any:
        return self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    plain = type("Plain", (torch.nn.Module,), {"forward": forward})()
    plain.network = network
    example = torch.ones((2, 16), dtype=torch.int64)
    return plain, (example, example.clone())


def _padded(model: str, batch: int, forward: Callable[[Any, Any], Any]) -> Handle:
    """Return mean pooling and normalization behind an engine that takes padded (ids, mask)."""
    np, tokenizer = import_module("numpy"), import_module("tokenizers").Tokenizer
    made = tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    made.no_padding()
    made.enable_truncation(LIMIT)

    def batches(texts: Texts) -> Iterator[tuple[list[int], Any, Any]]:
        encoded = [one.ids for one in made.encode_batch(texts)]
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            ids = np.zeros((len(rows), len(encoded[rows[0]])), dtype=np.int64)
            mask = np.zeros_like(ids)
            for at, row in enumerate(rows):
                ids[at, : len(encoded[row])], mask[at, : len(encoded[row])] = encoded[row], 1
            yield rows, ids, mask

    def encode(texts: Texts) -> Any:
        vectors: list[Any] = [None] * len(texts)
        for rows, ids, mask in batches(texts):
            summed = (forward(ids, mask) * mask[..., None]).sum(1)
            for row, vector in zip(rows, summed / np.linalg.norm(summed, axis=1, keepdims=True), strict=True):
                vectors[row] = vector
        return np.stack(vectors)

    return encode


SIDES: dict[str, tuple[Callable[[str, int, str], Handle], str]] = {
    "ours": (ours, "auto"),
    "ours, float32": (ours, "float32"),
    "ours, int8": (ours, "int8"),
    "sentence-transformers": (sentence_transformers, "float32"),
    "sentence-transformers, bfloat16": (sentence_transformers, "bfloat16"),
    "ONNX Runtime": (onnxruntime, "float32"),
    "ONNX Runtime, int8": (onnxruntime, "int8"),
    "OpenVINO": (openvino, "f32"),
    "OpenVINO, bf16": (openvino, "bf16"),
    "CTranslate2": (ctranslate2, "float32"),
    "CTranslate2, bfloat16": (ctranslate2, "bfloat16"),
    "CTranslate2, int8": (ctranslate2, "int8"),
    "our reranker": (our_reranker, "float32"),
    "our reranker, bfloat16": (our_reranker, "auto"),
    "CrossEncoder": (cross_encoder, "float32"),
    "CrossEncoder, bfloat16": (cross_encoder, "bfloat16"),
}


def main(side: str, model: str, texts: str, out: str, batch: str) -> None:
    """Serve rounds until the input ends."""
    said, sys.stdout = sys.stdout, sys.stderr  # what libraries print is not for our reader
    make, kind = SIDES[side]
    handle = make(model, int(batch), kind)
    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    handle(given[:1])
    start_s = time.process_time()

    np = import_module("numpy")
    with Path(out).open("wb") as stream:
        np.save(stream, np.asarray(handle(given), dtype=np.float32))
    print(json.dumps({"start_cpu_s": start_s}), file=said, flush=True)
    for line in sys.stdin:
        part = json.loads(line) or given
        wall, cpu = time.perf_counter(), time.process_time()
        handle(part)
        spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        print(json.dumps(spent), file=said, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
