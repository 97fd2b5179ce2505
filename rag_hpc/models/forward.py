"""The forward pass of BERT-like encoders over packed texts: no padding, whatever their lengths.

Shapes: T tokens of all texts of a batch one after another, B texts, D dimensions, H heads, L labels.
Source of the packing: ByteTransformer (Zhai et al. 2023), sec. 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import I32, I64
from rag_hpc.models.device import has_vnni
from rag_hpc.models.shape import Shape, Weights

INT8 = "int8"
_ROUND, _SMALL = 256, 16  # oneDNN makes code for each number of rows: few numbers for batches, and for a lone question
_MAX_DISTANCE = 128  # MPNet's attention knows no farther


@dataclass(frozen=True)
class Packed:
    """Texts one after another, none of them empty."""

    ids_T: I32
    lengths_B: I64
    types_T: I32 | None = None  # of pairs

    @classmethod
    def of(cls, texts: Sequence[I32], types: Sequence[I32] | None = None) -> Packed:
        """Return the texts packed."""
        lengths_B = np.array([len(ids) for ids in texts], dtype=np.int64)
        return cls(np.concatenate(texts), lengths_B, np.concatenate(types) if types else None)

    @property
    def first_B(self) -> I64:
        """Where each text begins."""
        return np.cumsum(self.lengths_B) - self.lengths_B


class Forward:
    """The network with its weights on a device."""

    def __init__(self, shape: Shape, folder: Path, precision: str, device: str, *, head: bool = False) -> None:
        """head: load the classifier over the first token, too."""
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

        def norm(name: str) -> Any:
            return tuple(weights(f"{name}.{part}").to(device, self._dtype) for part in ("weight", "bias"))

        self._word = weights("embeddings.word_embeddings.weight").to(device, self._dtype)
        self._position = weights("embeddings.position_embeddings.weight").to(device, self._dtype)
        self._segment = None
        if shape.has_segments:
            self._segment = weights("embeddings.token_type_embeddings.weight").to(device, self._dtype)
        self._norm = norm("embeddings.LayerNorm")
        self._bias = None
        if shape.num_buckets:
            self._bias = weights("encoder.relative_attention_bias.weight").to(device, self._dtype)
        self._layers = []
        for number in range(shape.num_layers):
            at = {name: f"{shape.layers}.{number}.{theirs}" for name, theirs in shape.names.items()}
            self._layers.append(
                _Layer(
                    qkv=load(at["q"], at["k"], at["v"]),
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
        """Return the last layer's vectors of all tokens, [T, D]."""
        with self._torch.inference_mode():
            x_TD = self._embedded(texts)
            attend = self._attention(texts)
            for layer in self._layers:
                attended_TD = attend(layer.qkv(x_TD))
                x_TD = self._normed(layer.out(attended_TD, x_TD), layer.norm1)
                x_TD = self._normed(layer.down(layer.up(x_TD), x_TD), layer.norm2)
            return x_TD[: len(texts.ids_T)]

    def logits(self, texts: Packed) -> Any:
        """Return the classifier's logits of each text, [B, L] float32."""
        torch = self._torch
        with torch.inference_mode():
            x_BD = self.hidden(texts)[self.put(texts.first_B)].float()
            for layer in self._head:
                x_BD = layer(x_BD)
            return x_BD

    def put(self, array: Any) -> Any:
        """Return the array on the device; the copy to a GPU does not hold up what comes next."""
        tensor = self._torch.from_numpy(np.ascontiguousarray(array))
        return tensor if self.device == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _normed(self, x_TD: Any, norm: Any) -> Any:
        weight, bias = norm
        return self._torch.nn.functional.layer_norm(x_TD, (self.shape.width,), weight, bias, self.shape.epsilon)

    def _embedded(self, texts: Packed) -> Any:
        shape, ids_T = self.shape, texts.ids_T
        positions_T = np.arange(len(ids_T)) - np.repeat(texts.first_B, texts.lengths_B)
        if shape.shifted:
            positions_T = _shifted(ids_T, positions_T, shape.pad_id)
        extra = 0
        if self._round:
            extra = -len(ids_T) % (_ROUND if len(ids_T) >= _ROUND else _SMALL)
        ids_T, positions_T = np.pad(ids_T, (0, extra)), np.pad(positions_T, (0, extra))
        x_TD = self._word[self.put(ids_T)] + self._position[self.put(positions_T)]
        if self._segment is not None and texts.types_T is not None:
            x_TD += self._segment[self.put(np.pad(texts.types_T, (0, extra)))]
        elif self._segment is not None:
            x_TD += self._segment[0]
        return self._normed(x_TD, self._norm)

    def _attention(self, texts: Packed) -> Any:
        """Return the function from [T, 3 * D] to [T, D] of all layers."""
        if self.device != "cpu" and self._bias is None and self._dtype is not self._torch.float32:
            varlen = _varlen(self._torch)
            if varlen is not None:
                return self._by_varlen(texts, varlen)
        return self._by_length(texts)

    def _by_length(self, texts: Packed) -> Any:
        """Texts of equal length at once, which stand together where a batch is sorted."""
        torch, num_heads, width = self._torch, self.shape.num_heads, self.shape.width
        groups, at = [], 0
        for length, same in groupby(texts.lengths_B.tolist()):
            num = len(list(same))
            groups.append((at, num, length, self._distances(length)))
            at += num * length

        def attend(qkv_TE: Any) -> Any:
            out_TD = qkv_TE.new_zeros((len(qkv_TE), width)) if at < len(qkv_TE) else qkv_TE.new_empty((at, width))
            for first, num, length, bias in groups:
                stop = first + num * length
                parts = qkv_TE[first:stop].view(num, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
                made = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=bias)
                out_TD[first:stop].view(num, length, num_heads, -1).copy_(made.transpose(1, 2))
            return out_TD

        return attend

    def _by_varlen(self, texts: Packed, varlen: Any) -> Any:
        ends = self.put(np.concatenate([[0], np.cumsum(texts.lengths_B)]).astype(np.int32))
        longest, heads = int(texts.lengths_B.max()), self.shape.num_heads

        def attend(qkv_TE: Any) -> Any:
            q, k, v = qkv_TE.view(len(qkv_TE), 3, heads, -1).unbind(1)
            return varlen(q, k, v, ends, ends, longest, longest).reshape(len(qkv_TE), -1)

        return attend

    def _distances(self, length: int) -> Any:
        """Return MPNet's bias of attention by distance, [1, H, length, length]; None for all others."""
        if self._bias is None:
            return None
        buckets = self.put(_buckets(length, self.shape.num_buckets))
        return self._bias[buckets].permute(2, 0, 1)[None].contiguous()


@dataclass(frozen=True, kw_only=True)
class _Layer:
    qkv: Any
    out: Any
    norm1: Any
    up: Any
    down: Any
    norm2: Any


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
    """Return oneDNN's kind for half precision on the CPU, where MKL has none."""
    if precision == INT8:
        return _Int8Linear
    packs = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    return _PackedLinear if device == "cpu" and precision == "bfloat16" and packs else _Linear


def _function(torch: Any, function: tuple[str, str]) -> Any:
    functional = torch.nn.functional
    return {
        "": lambda x: x,
        "tanh": torch.tanh,
        "relu": functional.relu,
        "gelu": lambda x: functional.gelu(x, approximate=function[1]),
    }[function[0]]


def _varlen(torch: Any) -> Any:
    """Return attention over packed texts where this torch has it (2.10 and later)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _shifted(ids_T: I32, positions_T: Any, pad_id: int) -> Any:
    """Return RoBERTa's positions: those of padding tokens, should a text name one, do not count."""
    is_pad_T = ids_T == pad_id
    if is_pad_T.any():
        starts = np.flatnonzero(positions_T == 0)
        skipped_T = np.cumsum(is_pad_T)
        skipped_T = skipped_T - np.repeat((skipped_T - is_pad_T)[starts], np.diff([*starts, len(ids_T)]))
        positions_T = np.where(is_pad_T, -1, positions_T - skipped_T)
    return positions_T + pad_id + 1


def _buckets(length: int, num_buckets: int) -> I64:
    """Return the bucket of each pair of places, as T5 has them. Source: Raffel et al. 2020; Song et al. 2020."""
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = num_buckets // 2
    exact = half // 2
    far = np.abs(distance)
    scaled = np.log(np.maximum(far, 1).astype(np.float32) / exact) / math.log(_MAX_DISTANCE / exact) * (half - exact)
    nearest: I64 = np.where(far < exact, far, np.minimum(exact + scaled.astype(np.int64), half - 1))
    return nearest + half * (distance > 0)
