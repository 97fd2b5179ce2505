"""Attention over packed texts, each of which sees itself alone.

Texts of equal length are done at once; they stand together where a batch is sorted. Three ways: on a GPU torch's
attention of packed texts; on one CPU thread in bfloat16 two products by oneDNN with kernels of our own around them,
twice as fast as torch's attention, which networks in eight bits take too; else torch's.

Shapes: T tokens of all texts of a batch one after another, B texts, D dimensions, H heads, N texts of equal length.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import numpy as np

from rag_hpc.algo.types import I64
from rag_hpc.models.packed import Packed, bits_of

_MAX_DISTANCE = 128  # MPNet's attention knows no farther
_WORTH = 256  # tokens that are worth the start of numba, as those of a lone question are not


class Attention:
    """What all layers of a network have in common."""

    def __init__(self, num_heads: int, num_buckets: int, bias: Any, device: str, dtype: Any, *, half: bool) -> None:
        """bias: MPNet's, by bucket of distance and head; None for all others. dtype: of the network. half: attend in
        bfloat16, whatever that is."""
        import torch

        self._torch, self._heads, self._num_buckets, self._bias = torch, num_heads, num_buckets, bias
        self._device, self._is_half, self._attends_in_half = device, dtype is torch.bfloat16, half
        self._varlen = None
        if device != "cpu" and bias is None and dtype is not torch.float32:
            self._varlen = _varlen()

    def over(self, texts: Packed) -> Attending:
        """Return the attention over the texts of a batch."""
        torch = self._torch
        if self._varlen is not None:
            return _Varlen(self._varlen, self._heads, self._on_device(_bounds(texts)), int(texts.lengths_B.max()))
        groups, at = [], 0
        for length, same in groupby(texts.lengths_B.tolist()):
            num = len(list(same))
            groups.append((at, num, length, self._distances(length)))
            at += num * length
        is_own = self._attends_in_half and self._bias is None and self._is_worth(at)
        return (_Half if is_own else Attending)(torch, self._heads, groups)

    def has_kernels(self, num_tokens: int) -> bool:
        """Return whether what stands between the layers' products is done by kernels of ours."""
        return self._is_half and self._is_worth(num_tokens)

    def _is_worth(self, num_tokens: int) -> bool:
        return self._device == "cpu" and num_tokens >= _WORTH and self._torch.get_num_threads() == 1

    def _distances(self, length: int) -> Any:
        """Return the bias of attention by distance, [1, H, length, length]; None where there is none."""
        if self._bias is None:
            return None
        buckets = self._on_device(_buckets(length, self._num_buckets))
        return self._bias[buckets].permute(2, 0, 1)[None].contiguous()

    def _on_device(self, array: Any) -> Any:
        return self._torch.from_numpy(array).to(self._device)


class Attending:
    """Attention over the texts of one batch, by torch."""

    def __init__(self, torch: Any, heads: int, groups: list[tuple[int, int, int, Any]]) -> None:
        """groups: of (first token, texts, tokens of each, bias)."""
        self._torch, self._heads, self._groups = torch, heads, groups
        first, num, length, _ = groups[-1]
        self._num_tokens = first + num * length

    def all(self, qkv_TE: Any) -> Any:
        """Return what each token takes from its text, [T, D]; of rows behind the texts, zeros. E: 3 * D."""
        out_TD = self._out(qkv_TE, len(qkv_TE), qkv_TE.shape[1] // 3)
        for first, num, length, bias in self._groups:
            stop = first + num * length
            parts = qkv_TE[first:stop].view(num, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            self._fill(out_TD[first:stop].view(num, length, self._heads, -1), parts, bias)
        return out_TD

    def firsts(self, q_BD: Any, kv_TE: Any) -> Any:
        """Return what the first token of each text takes from it, [B, D]. E: 2 * D. q_BD may have rows behind B."""
        out_BD = self._torch.zeros_like(q_BD)
        at = 0
        for first, num, length, bias in self._groups:
            q = q_BD[at : at + num].view(num, 1, self._heads, -1).transpose(1, 2)
            kv = kv_TE[first : first + num * length].view(num, length, 2, self._heads, -1).permute(2, 0, 3, 1, 4)
            mask = None if bias is None else bias[:, :, :1]
            made = self._torch.nn.functional.scaled_dot_product_attention(q, *kv, attn_mask=mask)
            out_BD[at : at + num] = made.reshape(num, -1)
            at += num
        return out_BD

    def _out(self, like: Any, num_rows: int, width: int) -> Any:
        make = like.new_zeros if num_rows > self._num_tokens else like.new_empty
        return make((num_rows, width))

    def _fill(self, out: Any, parts: Any, bias: Any) -> None:
        """Fill out, [N, length, H, -1], from queries, keys and values, each [N, H, length, -1]."""
        made = self._torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=bias)
        out.copy_(made.transpose(1, 2))


class _Half(Attending):
    """The same on one CPU thread, in bfloat16."""

    def all(self, qkv_TE: Any) -> Any:
        """Return what each token takes from its text, [T, D], in the precision of what is given."""
        return super().all(qkv_TE.to(self._torch.bfloat16)).to(qkv_TE.dtype)

    def _fill(self, out: Any, parts: Any, bias: Any) -> None:
        from rag_hpc.algo.rank import half

        torch = self._torch
        _, num, heads, length, width = parts.shape
        q, k, v = parts.contiguous().view(3, num * heads, length, width)
        scores = torch.bmm(q, k.transpose(1, 2))
        inverse = np.empty((num, heads, length), dtype=np.float32)
        scale = np.float32(width**-0.5 / math.log(2))
        half.exp_rows(bits_of(scores.view(-1, length)), scale, inverse.reshape(-1))
        weighed = torch.bmm(scores, v).view(num, heads, length, width)
        half.put_back(bits_of(weighed), inverse, bits_of(out.view(num, length, -1)))


class _Varlen(Attending):
    """The same on a GPU, for texts of any lengths at once."""

    def __init__(self, varlen: Any, heads: int, bounds: Any, longest: int) -> None:
        self._varlen, self._heads, self._bounds, self._longest = varlen, heads, bounds, longest

    def all(self, qkv_TE: Any) -> Any:
        """Return what each token takes from its text, [T, D]."""
        q, k, v = qkv_TE.view(len(qkv_TE), 3, self._heads, -1).unbind(1)
        made = self._varlen(q, k, v, self._bounds, self._bounds, self._longest, self._longest)
        return made.reshape(len(qkv_TE), -1)

    def firsts(self, q_BD: Any, kv_TE: Any) -> Any:
        """Return what the first token of each text takes from it, [B, D]."""
        import torch

        k, v = kv_TE.view(len(kv_TE), 2, self._heads, -1).unbind(1)
        single = torch.arange(len(q_BD) + 1, dtype=torch.int32, device=q_BD.device)
        q = q_BD.view(len(q_BD), self._heads, -1)
        return self._varlen(q, k, v, single, self._bounds, 1, self._longest).reshape(len(q_BD), -1)


def _bounds(texts: Packed) -> Any:
    return np.concatenate([[0], np.cumsum(texts.lengths_B)]).astype(np.int32)


def _varlen() -> Any:
    """Return attention over packed texts where this torch has it (2.10 and later)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _buckets(length: int, num_buckets: int) -> I64:
    """Return the bucket of each pair of places, as T5 has them. Source: Raffel et al. 2020; Song et al. 2020."""
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = num_buckets // 2
    exact = half // 2
    far = np.abs(distance)
    scaled = np.log(np.maximum(far, 1).astype(np.float32) / exact) / math.log(_MAX_DISTANCE / exact) * (half - exact)
    nearest: I64 = np.where(far < exact, far, np.minimum(exact + scaled.astype(np.int64), half - 1))
    return nearest + half * (distance > 0)
