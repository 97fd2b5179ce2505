"""Vector and bit instructions that numba does not offer, as LLVM code.

A block is 64 bytes: one AVX-512 register, two of AVX2, four of NEON; LLVM splits it for the machine at hand. Where an
instruction is not for every machine, a function in Python beside it does the same, bit for bit.
Importing this imports numba; the public modules do so inside their functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types  # type: ignore[import-untyped]
from numba.core import cgutils  # type: ignore[import-untyped]
from numba.extending import intrinsic  # type: ignore[import-untyped]

BLOCK = 64
_BYTE, _I32, _I64, _I128 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.IntType(128)
_VECTOR = ir.VectorType(_BYTE, BLOCK)


@intrinsic  # type: ignore[untyped-decorator]
def block_masks(typing: Any, data: Any, at: Any) -> Any:
    """Return (space, high): bit i tells whether byte at + i is ASCII white space, or not ASCII."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _load(context, builder, signature.args[0], args, _VECTOR)
        space = builder.icmp_unsigned("==", vector, _splat(32))
        for first, count in ((9, 5), (28, 4)):  # \t \n \v \f \r and the four separators that str.split knows
            space = builder.or_(space, _within(builder, vector, first, count))
        high = builder.icmp_signed("<", vector, _splat(0))
        return context.make_tuple(builder, signature.return_type, [builder.bitcast(m, _I64) for m in (space, high)])

    return types.UniTuple(types.uint64, 2)(data, at), code


@intrinsic  # type: ignore[untyped-decorator]
def word_mask(typing: Any, data: Any, at: Any) -> Any:
    """Return the bits of the bytes that are a-z, 0-9, _ or not ASCII."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _load(context, builder, signature.args[0], args, _VECTOR)
        word = builder.icmp_signed("<", vector, _splat(0))
        for first, count in ((97, 26), (48, 10), (95, 1)):
            word = builder.or_(word, _within(builder, vector, first, count))
        return builder.bitcast(word, _I64)

    return types.uint64(data, at), code


@intrinsic  # type: ignore[untyped-decorator]
def special_mask(typing: Any, data: Any, at: Any) -> Any:
    """Return the bits of the bytes that begin a capital sigma (CE A3) or a dotted capital I (C4 B0)."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = ir.Constant(args[1].type, 1)
        lead = _load(context, builder, signature.args[0], args, _VECTOR)
        tail = _load(context, builder, signature.args[0], [args[0], builder.add(args[1], one)], _VECTOR)
        found = [
            builder.and_(builder.icmp_unsigned("==", lead, _splat(a)), builder.icmp_unsigned("==", tail, _splat(b)))
            for a, b in ((0xCE, 0xA3), (0xC4, 0xB0))
        ]
        return builder.bitcast(builder.or_(*found), _I64)

    return types.uint64(data, at), code


@intrinsic  # type: ignore[untyped-decorator]
def copy_lower(typing: Any, source: Any, at: Any, target: Any, to: Any) -> Any:
    """Copy a block with A-Z in lower case and white space as blanks."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lower = _lower(builder, _load(context, builder, signature.args[0], args[:2], _VECTOR))
        builder.store(lower, _pointer(context, builder, signature.args[2], args[2:], _VECTOR), align=1)
        return context.get_dummy_value()

    return types.void(source, at, target, to), code


@intrinsic  # type: ignore[untyped-decorator]
def pack_lower(typing: Any, source: Any, at: Any, keep: Any, target: Any, to: Any) -> Any:
    """Copy those bytes of a block that `keep` has bits for, side by side, like `copy_lower`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _can_pack(context):
            return context.compile_internal(builder, pack_runs, signature, args)
        lower = _lower(builder, _load(context, builder, signature.args[0], args[:2], _VECTOR))
        pointer = _pointer(context, builder, signature.args[3], args[3:], _VECTOR)
        builder.store(_pack(builder, lower, args[2]), pointer, align=1)
        return context.get_dummy_value()

    return types.void(source, at, types.uint64, target, to), code


def pack_runs(source: Any, at: int, keep: Any, target: Any, to: Any) -> None:
    """Do as `pack_lower` does, a run of bits at a time, where the machine has no instruction for it."""
    while keep:
        first = np.int64(lowest(keep))
        length = np.int64(lowest(~(keep >> np.uint64(first))))
        copy_lower(source, at + first, target, to)
        to += length
        if first + length >= BLOCK:
            break
        keep &= np.uint64(0xFFFFFFFFFFFFFFFF) << np.uint64(first + length)


@intrinsic  # type: ignore[untyped-decorator]
def put_places(typing: Any, bits: Any, base: Any, places: Any, to: Any) -> Any:
    """Write base + the place of each set bit; up to BLOCK numbers from `to` on are overwritten."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _can_pack(context):
            return context.compile_internal(builder, put_each, signature, args)
        half = BLOCK // 2
        kind = ir.VectorType(_I32, half)
        packed = _pack(builder, ir.Constant(_VECTOR, [ir.Constant(_BYTE, i) for i in range(BLOCK)]), args[0])
        base = _splat_value(builder, builder.trunc(args[1], _I32), half)

        def store(first: int) -> None:
            lanes = ir.Constant(kind, [ir.Constant(_I32, first + i) for i in range(half)])
            numbers = builder.add(builder.zext(builder.shuffle_vector(packed, packed, lanes), kind), base)
            to = builder.add(args[3], ir.Constant(args[3].type, first))
            builder.store(numbers, _pointer(context, builder, signature.args[2], [args[2], to], kind), align=4)

        store(0)
        with builder.if_then(builder.icmp_unsigned(">", builder.ctpop(args[0]), ir.Constant(_I64, half)), likely=False):
            store(half)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, places, to), code


def put_each(bits: Any, base: Any, places: Any, to: Any) -> None:
    """Do as `put_places` does: so many without a branch that the number of bits seldom has to be guessed."""
    for _ in range(24):
        places[to] = np.uint32(base + lowest(bits))
        bits &= bits - np.uint64(1)
        to += 1
    while bits:
        places[to] = np.uint32(base + lowest(bits))
        bits &= bits - np.uint64(1)
        to += 1


@intrinsic  # type: ignore[untyped-decorator]
def equal_mask(typing: Any, values: Any, at: Any, value: Any) -> Any:
    """Return the bits of those of BLOCK numbers that are equal to the value."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _load(context, builder, signature.args[0], args[:2], ir.VectorType(_I32, BLOCK))
        return builder.bitcast(builder.icmp_unsigned("==", vector, _splat_value(builder, args[2], BLOCK)), _I64)

    return types.uint64(values, at, types.uint32), code


@intrinsic  # type: ignore[untyped-decorator]
def popcount(typing: Any, bits: Any) -> Any:
    """Return the number of set bits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), code


@intrinsic  # type: ignore[untyped-decorator]
def load64(typing: Any, data: Any, at: Any) -> Any:
    """Return the 8 bytes at a place as a little-endian number."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(context, builder, signature.args[0], args, _I64)

    return types.uint64(data, at), code


@intrinsic  # type: ignore[untyped-decorator]
def fold(typing: Any, a: Any, b: Any) -> Any:
    """Return the two halves of the 128-bit product, xored: a strong mix in one multiplication."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
        high = builder.trunc(builder.lshr(wide, ir.Constant(_I128, 64)), _I64)
        return builder.xor(builder.trunc(wide, _I64), high)

    return types.uint64(types.uint64, types.uint64), code


@intrinsic  # type: ignore[untyped-decorator]
def lowest(typing: Any, bits: Any) -> Any:
    """Return the place of the lowest set bit, 64 when there is none."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), code


@intrinsic  # type: ignore[untyped-decorator]
def affine32(typing: Any, a: Any, value: Any, b: Any) -> Any:
    """Return a * value + b modulo 2^32: numba itself would widen 32-bit numbers, which halves the vectors' lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(builder.mul(args[0], args[1]), args[2])

    return types.uint32(types.uint32, types.uint32, types.uint32), code


@intrinsic  # type: ignore[untyped-decorator]
def mix32(typing: Any, value: Any, first: Any, shift_1: Any, factor_1: Any, shift_2: Any, factor_2: Any) -> Any:
    """Return v after v ^= v >> first, v *= factor_1, v ^= v >> shift_1, v *= factor_2, v ^= v >> shift_2, 32 bits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mixed, first, shift_1, factor_1, shift_2, factor_2 = args
        mixed = builder.xor(mixed, builder.lshr(mixed, first))
        for factor, shift in ((factor_1, shift_1), (factor_2, shift_2)):
            mixed = builder.mul(mixed, factor)
            mixed = builder.xor(mixed, builder.lshr(mixed, shift))
        return mixed

    return types.uint32(*[types.uint32] * 6), code


def _can_pack(context: Any) -> bool:
    """Return whether the machine puts chosen bytes of a vector side by side in one instruction (AVX-512 VBMI2)."""
    return "+avx512vbmi2" in context.codegen().magic_tuple()[2].split(",")


def _pack(builder: Any, vector: Any, bits: Any) -> Any:
    mask = ir.VectorType(ir.IntType(1), BLOCK)
    kind = ir.FunctionType(_VECTOR, [_VECTOR, _VECTOR, mask])
    compress = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.compress.v64i8")
    return builder.call(compress, [vector, ir.Constant(_VECTOR, None), builder.bitcast(bits, mask)])


def _lower(builder: Any, vector: Any) -> Any:
    lower = builder.or_(vector, builder.select(_within(builder, vector, 65, 26), _splat(32), _splat(0)))
    space = builder.or_(_within(builder, vector, 9, 5), _within(builder, vector, 28, 4))
    return builder.select(space, _splat(32), lower)


def _splat(value: int) -> Any:
    return ir.Constant(_VECTOR, [ir.Constant(_BYTE, value)] * BLOCK)


def _splat_value(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(_I32, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), None))


def _within(builder: Any, vector: Any, first: int, count: int) -> Any:
    return builder.icmp_unsigned("<", builder.sub(vector, _splat(first)), _splat(count))


def _pointer(context: Any, builder: Any, array_type: Any, args: Any, element: Any) -> Any:
    array = context.make_array(array_type)(context, builder, args[0])
    return builder.bitcast(builder.gep(array.data, [args[1]]), element.as_pointer())


def _load(context: Any, builder: Any, array_type: Any, args: Any, element: Any) -> Any:
    return builder.load(_pointer(context, builder, array_type, args, element), align=1)
