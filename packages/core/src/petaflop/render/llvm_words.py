"""Stores of narrow elements that stand side by side, made one store of words: what interleaves two rows, or
turns columns of pairs round, would else move every element on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from petaflop.dtype import uint32
from petaflop.graph.symbolic import TRUE, Expr, Leaf, linear_terms
from petaflop.ir.kernel import loads_of
from petaflop.ir.loops import Statement, Store
from petaflop.render.llvm_memory import lane_pointers
from petaflop.render.llvm_ops import encode, literal, memory_type, vector

if TYPE_CHECKING:
    from petaflop.render.llvm import Function

__all__ = ["in_words", "store_words"]

WORD = uint32.itemsize


def in_words(f: Function, body: tuple[Statement, ...]) -> Iterator[Statement | tuple[Store, ...]]:
    """The statements in order, those that together store whole words in each lane as one tuple."""
    place = 0
    while place < len(body):
        run = _run(f, body, place)
        yield run or body[place]
        place += len(run) or 1


def _run(f: Function, body: tuple[Statement, ...], place: int) -> tuple[Store, ...]:
    """The stores from `place` on that fill a word; none where they do not."""
    first = body[place]
    if f.lane is None or not isinstance(first, Store):
        return ()
    itemsize = f.dtypes[first.buffer].itemsize
    count = WORD // itemsize
    run = body[place : place + count]
    if count < 2 or len(run) < count:
        return ()
    terms, start = linear_terms(first.offset)
    if terms.get(f.lane, 0) < count or any(f.varies(term) for term in terms if term is not f.lane):
        return ()
    for number, store in enumerate(run):
        if not isinstance(store, Store) or store.buffer != first.buffer or store.valid is not TRUE:
            return ()
        if linear_terms(store.offset) != (terms, start + number):
            return ()
        if any(load.arg[0] == first.buffer for load in loads_of((store.value,))):
            return ()
    return run  # type: ignore[return-value]


def store_words(f: Function, run: tuple[Store, ...]) -> None:
    """Render a run of `in_words`."""
    buffer, words = run[0].buffer, vector("i32", f.width)
    name = _copied(f, run) or _joined(f, run)
    address = f.address(run[0].offset)
    if address.stride == len(run):
        pointer = f.pointer(buffer, address, address.constant)
        f.effect(f"store {words} {name}, ptr {pointer}, align {f.dtypes[buffer].itemsize}")
        return
    for lane, pointer in enumerate(lane_pointers(f, buffer, address, f.value(TRUE))):
        one = f.line(f"extractelement {words} {name}, i64 {lane}")
        f.effect(f"store i32 {one}, ptr {pointer}, align {f.dtypes[buffer].itemsize}")


def _joined(f: Function, run: tuple[Store, ...]) -> str:
    """The values shifted to their place in a word."""
    dtype = f.dtypes[run[0].buffer]
    word, short = vector("i32", f.width), vector(f"i{dtype.bits}", f.width)
    total = ""
    for number, store in enumerate(run):
        raw = encode(f, f.widen(f.value(store.value), dtype, f.width), dtype, f.width)
        kind = memory_type(dtype, f.width)
        raw = raw if kind == short else f.line(f"bitcast {kind} {raw} to {short}")
        part = f.line(f"zext {short} {raw} to {word}")
        if number:
            part = f.line(f"shl {word} {part}, {literal(number * dtype.bits, uint32, f.width)}")
        total = f.line(f"or {word} {total}, {part}") if total else part
    return total


def _copied(f: Function, run: tuple[Store, ...]) -> str:
    """The words that the values are in memory, where they are neighbours there and lanes step further."""
    loads = [store.value for store in run]
    dtype = f.dtypes[run[0].buffer]
    first = loads[0]
    if any(load.op is not Leaf.LOAD or load.dtype is not dtype for load in loads):
        return ""
    terms, start = linear_terms(first.args[1])
    for number, load in enumerate(loads):
        same = load.arg == first.arg and load.args[0] is first.args[0] and first.arg[1] == 0
        if not same or linear_terms(load.args[1]) != (terms, start + number):
            return ""
    if f.lane is None or terms.get(f.lane, 0) < len(run):
        return ""
    return _word_lanes(f, first)


def _word_lanes(f: Function, load: Expr) -> str:
    """A word from where each lane's load begins, 0 where its condition does not hold."""
    (buffer, _), (valid, offset) = load.arg, load.args
    words, mask = vector("i32", f.width), f.value(valid)
    name = "poison"
    for lane, pointer in enumerate(lane_pointers(f, buffer, f.address(offset), mask)):
        one = f.line(f"load i32, ptr {pointer}, align {load.dtype.itemsize}")
        name = f.line(f"insertelement {words} {name}, i32 {one}, i64 {lane}")
    if mask.name == "true":
        return name
    condition = f"{vector('i1', mask.width)} {mask.name}"
    return f.line(f"select {condition}, {words} {name}, {words} zeroinitializer")
