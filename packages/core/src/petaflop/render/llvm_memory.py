"""Loads and stores in LLVM IR: scalar, contiguous, reversed, strided and indexed, with or without a mask.

An access that is switched off goes to memory of our own; it never touches the buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petaflop.dtype import DType, index
from petaflop.graph.symbolic import Expr
from petaflop.ir.loops import Store
from petaflop.render.llvm_ops import decode, encode, literal, memory_type, register_type, vector
from petaflop.render.llvm_values import Address, Value

if TYPE_CHECKING:
    from petaflop.render.llvm import Function

__all__ = ["lane_pointers", "load", "store"]


def load(f: Function, expr: Expr) -> tuple[str, int]:
    """Render a LOAD with one flat offset; gives its name and width."""
    (buffer, fill), (valid, offset), dtype = expr.arg, expr.args, expr.dtype
    address = f.address(offset)
    mask = f.value(valid)
    width, stride = f.width, address.stride
    if stride == 0 and not address.varying:
        pointer = _guarded(f, f.pointer(buffer, address, address.constant), mask)
        name = f.line(f"load {memory_type(dtype)}, ptr {pointer}, align {dtype.itemsize}")
        return _fill(f, decode(f, name, dtype, 1), 1, mask, fill, dtype)
    kind = memory_type(dtype, width)
    if not address.varying and stride in (1, -1) and mask.width == 1:
        name = _contiguous(f, buffer, address, mask, dtype)
    elif not address.varying and stride == 1:
        pointer = f.pointer(buffer, address, address.constant)
        masks = f"{vector('i1', width)} {mask.name}"
        function = f"llvm.masked.load.{_suffix(dtype, width)}.p0"
        # LLVM 22 dropped the alignment operand and still reads this form, which older ones need
        name = f.call(
            function, kind, f"ptr {pointer}", f"i32 {dtype.itemsize}", masks, f"{kind} zeroinitializer"
        )
    else:
        element = memory_type(dtype)
        name = "poison"
        for lane, pointer in enumerate(lane_pointers(f, buffer, address, mask)):
            scalar = f.line(f"load {element}, ptr {pointer}, align {dtype.itemsize}")
            name = f.line(f"insertelement {kind} {name}, {element} {scalar}, i64 {lane}")
    return _fill(f, decode(f, name, dtype, width), width, mask, fill, dtype)


def store(f: Function, statement: Store) -> None:
    """Render a Store."""
    buffer, dtype = statement.buffer, f.dtypes[statement.buffer]
    value = f.value(statement.value)
    mask = f.value(statement.valid)
    address = f.address(statement.offset)
    if address.stride == 0 and not address.varying and value.width == 1 and mask.width == 1:
        pointer = _guarded(f, f.pointer(buffer, address, address.constant), mask)
        raw = encode(f, value.name, dtype, 1)
        f.effect(f"store {memory_type(dtype)} {raw}, ptr {pointer}, align {dtype.itemsize}")
        return
    width = f.width
    raw = encode(f, f.widen(value, dtype, width), dtype, width)
    kind = memory_type(dtype, width)
    if not address.varying and address.stride == 1:
        pointer = f.pointer(buffer, address, address.constant)
        if mask.width == 1:
            pointer = _guarded(f, pointer, mask)
            f.effect(f"store {kind} {raw}, ptr {pointer}, align {dtype.itemsize}")
            return
        masks = f"{vector('i1', width)} {mask.name}"
        function = f"llvm.masked.store.{_suffix(dtype, width)}.p0"
        operands = (f"{kind} {raw}", f"ptr {pointer}", f"i32 {dtype.itemsize}", masks)
        f.declare(function, "void", operands)
        f.effect(f"call void @{function}({', '.join(operands)})")
        return
    element = memory_type(dtype)
    for lane, pointer in enumerate(lane_pointers(f, buffer, address, mask)):
        scalar = f.line(f"extractelement {kind} {raw}, i64 {lane}")
        f.effect(f"store {element} {scalar}, ptr {pointer}, align {dtype.itemsize}")


def _suffix(dtype: DType, width: int) -> str:
    short = {"float": "f32", "double": "f64", "half": "f16"}
    element = memory_type(dtype)
    return f"v{width}{short.get(element, element)}"


def _guarded(f: Function, pointer: str, mask: Value) -> str:
    """`pointer`, or memory of our own where no lane wants it."""
    if mask.name == "true":
        return pointer
    condition = mask.name
    if mask.width > 1:
        condition = f.call(
            f"llvm.vector.reduce.or.v{mask.width}i1", "i1", f"{vector('i1', mask.width)} {mask.name}"
        )
    return f.line(f"select i1 {condition}, ptr {pointer}, ptr {f.dummy}")


def _fill(f: Function, name: str, width: int, mask: Value, fill: float, dtype: DType) -> tuple[str, int]:
    """`name` where the mask holds, else `fill`."""
    if mask.name == "true":
        return name, width
    wide = max(width, mask.width)
    kind = register_type(dtype, wide)
    lanes = f.widen(Value(name, width, len(f.levels) - 1), dtype, wide)
    condition = f"{vector('i1', mask.width)} {mask.name}"
    return f.line(f"select {condition}, {kind} {lanes}, {kind} {literal(fill, dtype, wide)}"), wide


def _contiguous(f: Function, buffer: str, address: Address, mask: Value, dtype: DType) -> str:
    """Neighbouring elements, upwards or downwards, all of them or none."""
    width, kind = f.width, memory_type(dtype, f.width)
    first = address.constant if address.stride == 1 else address.constant - (width - 1)
    pointer = _guarded(f, f.pointer(buffer, address, first), mask)
    name = f.line(f"load {kind}, ptr {pointer}, align {dtype.itemsize}")
    if address.stride == 1:
        return name
    order = ", ".join(f"i32 {width - 1 - lane}" for lane in range(width))
    return f.line(f"shufflevector {kind} {name}, {kind} poison, <{width} x i32> <{order}>")


def lane_pointers(f: Function, buffer: str, address: Address, mask: Value) -> list[str]:
    """The address of each lane's element."""
    width, element = f.width, memory_type(f.dtypes[buffer])
    pointers = [f.pointer(buffer, address, address.constant + address.stride * lane) for lane in range(width)]
    if address.varying:
        kind = register_type(index, width)
        total = ""
        for term, factor in address.varying:
            name = f.widen(f.value(term), index, width)
            if factor != 1:
                name = f.line(f"mul {kind} {name}, {literal(factor, index, width)}")
            total = name if not total else f.line(f"add {kind} {total}, {name}")
        for lane in range(width):
            position = f.line(f"extractelement {kind} {total}, i64 {lane}")
            pointers[lane] = f.line(f"getelementptr {element}, ptr {pointers[lane]}, i64 {position}")
    if mask.name != "true":
        for lane in range(width):
            condition = mask.name
            if mask.width > 1:
                condition = f.line(f"extractelement {vector('i1', width)} {mask.name}, i64 {lane}")
            pointers[lane] = f.line(f"select i1 {condition}, ptr {pointers[lane]}, ptr {f.dummy}")
    return pointers
