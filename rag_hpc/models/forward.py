"""The forward pass of BERT-like encoders over packed texts: no padding, whatever their lengths.

Shapes: T tokens of all texts of a batch one after another, B texts, D dimensions, H heads, L labels.
Source of the packing: ByteTransformer (Zhai et al. 2023), sec. 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import I32
from rag_hpc.models.attention import Attention
from rag_hpc.models.device import has_fast_bfloat16, has_vnni, is_slow_for_mkl
from rag_hpc.models.packed import Packed, bits_of
from rag_hpc.models.shape import Shape, Weights

INT8 = "int8"
_MANY, _ROUND, _SMALL = 256, 64, 16  # oneDNN makes code for each number of rows: few numbers, and fewer for batches


class Forward:
    """The network with its weights on a device."""

    def __init__(
        self, shape: Shape, folder: Path, precision: str, device: str, *, head: bool = False, firsts: bool = False
    ) -> None:
        """firsts: of each text only its first token will be asked for, which spares the last layer most of its work.
        head: so, and load the classifier over that token."""
        import torch

        self._torch, self.shape, self.device = torch, shape, device
        self._dtype = torch.float32 if precision == INT8 else getattr(torch, precision)
        weights = Weights(folder)
        linear = _linear_kind(torch, precision, device)
        self._round = linear is _PackedLinear

        def load(*names: str, function: tuple[str, str] = ("", "")) -> Any:
            parts = [(weights(f"{name}.weight"), weights(f"{name}.bias")) for name in names]
            joined = [torch.cat(part).to(device, self._dtype) for part in zip(*parts, strict=True)]
            return linear(torch, *joined, function)

        def norm(name: str) -> _Norm:
            parts = [weights(f"{name}.{part}") for part in ("weight", "bias")]
            return _Norm(*(part.to(device, self._dtype) for part in parts), *(part.numpy() for part in parts))

        self._word = weights("embeddings.word_embeddings.weight").to(device, self._dtype)
        self._position = weights("embeddings.position_embeddings.weight").to(device, self._dtype)
        self._segment = None
        if shape.has_segments:
            self._segment = weights("embeddings.token_type_embeddings.weight").to(device, self._dtype)
        self._norm = norm("embeddings.LayerNorm")
        bias = None
        if shape.num_buckets:
            bias = weights("encoder.relative_attention_bias.weight").to(device, self._dtype)
        half = precision == "bfloat16" or (precision == INT8 and has_fast_bfloat16())
        self._attention = Attention(shape.num_heads, shape.num_buckets, bias, device, self._dtype, half=half)
        self._layers = []
        for number in range(shape.num_layers):
            at = {name: f"{shape.layers}.{number}.{theirs}" for name, theirs in shape.names.items()}
            is_short = (firsts or head) and number == shape.num_layers - 1
            self._layers.append(
                _Layer(
                    q=load(at["q"]) if is_short else None,
                    kv=load(at["k"], at["v"]) if is_short else None,
                    qkv=None if is_short else load(at["q"], at["k"], at["v"]),
                    out=load(at["out"]),
                    norm1=norm(at["norm1"]),
                    up=load(at["up"], function=shape.activation),
                    down=load(at["down"]),
                    norm2=norm(at["norm2"]),
                )
            )
        self._head: list[_Linear] = []
        if head:
            for name, function in shape.head:
                weight, bias = (weights(f"{name}.{part}").to(device) for part in ("weight", "bias"))
                self._head.append(_Linear(torch, weight, bias, (function, "")))

    def hidden(self, texts: Packed) -> Any:
        """Return the last layer's vectors of all tokens, [T, D]; not of a network that is loaded for `firsts`."""
        with self._torch.inference_mode():
            x_TD, attending = self._embedded(texts), self._attention.over(texts)
            for layer in self._layers:
                x_TD = self._mixed(layer, attending.all(layer.qkv(x_TD)), x_TD)
            return x_TD[: len(texts.ids_T)]

    def firsts(self, texts: Packed) -> Any:
        """Return the last layer's vector of each text's first token, [B, D]; of a network loaded for that."""
        with self._torch.inference_mode():
            x_TD, attending = self._embedded(texts), self._attention.over(texts)
            for layer in self._layers[:-1]:
                x_TD = self._mixed(layer, attending.all(layer.qkv(x_TD)), x_TD)
            last, first_B = self._layers[-1], texts.first_B
            x_BD = x_TD[self.put(np.pad(first_B, (0, self._extra(len(first_B)))))]
            attended_BD = attending.firsts(last.q(x_BD), last.kv(x_TD))
            return self._mixed(last, attended_BD, x_BD)[: len(first_B)]

    def logits(self, texts: Packed) -> Any:
        """Return the classifier's logits of each text, [B, L] float32."""
        with self._torch.inference_mode():
            x_BD = self.firsts(texts).float()
            for layer in self._head:
                x_BD = layer(x_BD)
            return x_BD

    def put(self, array: Any) -> Any:
        """Return the array on the device; the copy to a GPU does not hold up what comes next."""
        tensor = self._torch.from_numpy(np.ascontiguousarray(array))
        return tensor if self.device == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _mixed(self, layer: _Layer, attended: Any, x: Any) -> Any:
        """Return what a layer makes of its input and of what attention made of it."""
        x = self._added(layer.out, attended, x, layer.norm1)
        return self._added(layer.down, layer.up(x), x, layer.norm2)

    def _added(self, linear: Any, given: Any, x: Any, norm: _Norm) -> Any:
        """Return the layer norm of x and what a linear layer makes of what it is given."""
        if not self._attention.has_kernels(len(x)):
            return self._normed(linear(given, x), norm)
        from rag_hpc.algo.rank import half

        made = linear(given)
        half.add_norm(bits_of(made), bits_of(x), norm.weight_D, norm.bias_D, np.float32(self.shape.epsilon))
        return made

    def _extra(self, num_rows: int) -> int:
        """Return how many unused rows make a number of which oneDNN has code already."""
        return -num_rows % (_ROUND if num_rows >= _MANY else _SMALL) if self._round else 0

    def _normed(self, x_TD: Any, norm: _Norm) -> Any:
        width, epsilon = self.shape.width, self.shape.epsilon
        return self._torch.nn.functional.layer_norm(x_TD, (width,), norm.weight, norm.bias, epsilon)

    def _embedded(self, texts: Packed) -> Any:
        shape, ids_T = self.shape, texts.ids_T
        positions_T = np.arange(len(ids_T)) - np.repeat(texts.first_B, texts.lengths_B)
        if shape.shifted:
            positions_T = _shifted(ids_T, positions_T, shape.pad_id)
        extra = self._extra(len(ids_T))
        ids_T, positions_T = np.pad(ids_T, (0, extra)), np.pad(positions_T, (0, extra))
        x_TD = self._word[self.put(ids_T)] + self._position[self.put(positions_T)]
        if self._segment is not None and texts.types_T is not None:
            x_TD += self._segment[self.put(np.pad(texts.types_T, (0, extra)))]
        elif self._segment is not None:
            x_TD += self._segment[0]
        return self._normed(x_TD, self._norm)


@dataclass(frozen=True)
class _Norm:
    """Weights of a layer norm: tensors of the network's precision, and arrays of float32."""

    weight: Any
    bias: Any
    weight_D: Any
    bias_D: Any


@dataclass(frozen=True, kw_only=True)
class _Layer:
    q: Any  # the last layer's alone, where only first tokens are asked for; else None
    kv: Any
    qkv: Any  # else
    out: Any
    norm1: _Norm
    up: Any
    down: Any
    norm2: _Norm


class _Linear:
    """x W + b, an activation behind it or another tensor added to it."""

    def __init__(self, torch: Any, weight: Any, bias: Any, function: tuple[str, str]) -> None:
        self._linear, self._weight, self._bias = torch.nn.functional.linear, weight, bias
        self._function = _function(torch, function)

    def __call__(self, x: Any, added: Any = None) -> Any:
        made = self._linear(x, self._weight, self._bias)
        return self._function(made) if added is None else made.add_(added)


class _PackedLinear:
    """The same by oneDNN, with weights in its own layout, and what comes behind made on the way."""

    def __init__(self, torch: Any, weight: Any, bias: Any, function: tuple[str, str]) -> None:
        self._ops, self._weight, self._bias = torch.ops.mkldnn._linear_pointwise, weight.to_mkldnn(), bias
        self._function = function[0] or "none", function[1]

    def __call__(self, x: Any, added: Any = None) -> Any:
        if added is None:
            return self._ops(x, self._weight, self._bias, self._function[0], [], self._function[1])
        return self._ops.binary(x, added, self._weight, self._bias, "add")


class _Int8Linear:
    """The same in eight bits: weights scaled by output, activations by token, sums exact."""

    def __init__(self, torch: Any, weight: Any, bias: Any, function: tuple[str, str]) -> None:
        from rag_hpc.algo.rank import int8

        self._torch, self._int8, self._function = torch, int8, function
        # without VNNI two products of 8 bits are added up in 16, which 127 levels of both would overflow
        levels = 127 if has_vnni() else 63
        scales = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / levels
        self._weight = (weight / scales).round().to(torch.int8).t().contiguous()
        self._scales_N, self._bias_N = scales[:, 0].numpy(), bias.numpy()

    def __call__(self, x: Any, added: Any = None) -> Any:
        torch, int8 = self._torch, self._int8
        x_TK = x.numpy()
        small_TK, scales_T = np.empty(x_TK.shape, dtype=np.int8), np.empty(len(x_TK), dtype=np.float32)
        int8.quantize_rows(x_TK, small_TK, scales_T)
        sums_TN = torch._int_mm(torch.from_numpy(small_TK), self._weight).numpy()
        out_TN = np.empty(sums_TN.shape, dtype=np.float32)
        given = sums_TN, scales_T, self._scales_N, self._bias_N
        if added is not None:
            int8.scale_back_add(*given, added.numpy(), out_TN)
        elif self._function == ("gelu", "none"):
            int8.scale_back_gelu(*given, out_TN)
        else:
            int8.scale_back(*given, out_TN)
            return _function(torch, self._function)(torch.from_numpy(out_TN))
        return torch.from_numpy(out_TN)


def _linear_kind(torch: Any, precision: str, device: str) -> Any:
    """Return oneDNN's kind on the CPU for half precision, which MKL lacks, and where MKL is the slower one."""
    if precision == INT8:
        return _Int8Linear
    packs = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    better = precision == "bfloat16" or is_slow_for_mkl()
    return _PackedLinear if device == "cpu" and better and packs else _Linear


def _function(torch: Any, function: tuple[str, str]) -> Any:
    functional = torch.nn.functional
    return {
        "": lambda x: x,
        "tanh": torch.tanh,
        "relu": functional.relu,
        "gelu": lambda x: functional.gelu(x, approximate=function[1]),
    }[function[0]]


def _shifted(ids_T: I32, positions_T: Any, pad_id: int) -> Any:
    """Return RoBERTa's positions: those of padding tokens, should a text name one, do not count."""
    is_pad_T = ids_T == pad_id
    if is_pad_T.any():
        starts = np.flatnonzero(positions_T == 0)
        skipped_T = np.cumsum(is_pad_T)
        skipped_T = skipped_T - np.repeat((skipped_T - is_pad_T)[starts], np.diff([*starts, len(ids_T)]))
        positions_T = np.where(is_pad_T, -1, positions_T - skipped_T)
    return positions_T + pad_id + 1
