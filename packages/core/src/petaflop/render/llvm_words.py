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
from petaflop.render.llvm_memory import DUMMY_BYTES, lane_pointers
from petaflop.render.llvm_ops import encode, literal, memory_type, vector

if TYPE_CHECKING:
    from petaflop.render.llvm import Function

__all__ = ["in_words", "store_words"]

WORD = uint32.itemsize
Run = tuple[Store, ...]  # what fills a word in each lane


def in_words(f: Function, body: tuple[Statement, ...]) -> Iterator[Statement | list[Run]]:
    """The statements in order; those that together store whole words in each lane as lists of runs, one for
    each word, that fill a square of as many words as lanes, or as one run."""
    place = 0
    while place < len(body):
        runs = [_run(f, body, place)]
        if not runs[0]:
            yield body[place]
            place += 1
            continue
        count = len(runs[0])
        while len(runs) < f.width and (run := _run(f, body, place + len(runs) * count)):
            runs.append(run)
        runs = runs if len(runs) == f.width and _square(f, runs) else runs[:1]
        yield runs
        place += len(runs) * count


def _square(f: Function, runs: list[Run]) -> bool:
    """Whether turning the words round makes whole rows of them, where they come from or where they go."""
    return _goes_in_rows(f, runs) or _comes_in_rows(f, runs)


def _goes_in_rows(f: Function, runs: list[Run]) -> bool:
    count, lane = len(runs[0]), f.lane
    terms, start = linear_terms(runs[0][0].offset)
    places = [linear_terms(run[0].offset) for run in runs]
    along = all(place == (terms, start + number * count) for number, place in enumerate(places))
    return along and lane is not None and terms[lane] >= count * len(runs)


def _comes_in_rows(f: Function, runs: list[Run]) -> bool:
    loads = [_source(f, run) for run in runs]
    first = loads[0]
    if first is None or f.width * len(runs) * WORD > DUMMY_BYTES:
        return False
    terms, start = linear_terms(first.args[1])
    for number, load in enumerate(loads):
        if load is None or load.arg != first.arg or load.args[0] is not first.args[0]:
            return False
        if linear_terms(load.args[1]) != (terms, start + number * len(runs[0])):
            return False
    return True


def _run(f: Function, body: tuple[Statement, ...], place: int) -> Run:
    """The stores from `place` on that fill a word; none where they do not."""
    first = body[place] if place < len(body) else None
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


def store_words(f: Function, runs: list[Run]) -> None:
    """Render runs of `in_words`."""
    if len(runs) == 1:
        _store(f, runs[0], _copied(f, runs[0]) or _joined(f, runs[0]))
    elif _goes_in_rows(f, runs):
        words = vector("i32", f.width)
        rows = _turned(f, [_copied(f, run) or _joined(f, run) for run in runs])
        buffer = runs[0][0].buffer
        pointers = lane_pointers(f, buffer, f.address(runs[0][0].offset), f.value(TRUE))
        for row, pointer in zip(rows, pointers, strict=True):
            f.effect(f"store {words} {row}, ptr {pointer}, align {f.dtypes[buffer].itemsize}")
    else:
        for run, name in zip(runs, _turned(f, _rows(f, runs)), strict=True):
            _store(f, run, name)


def _turned(f: Function, rows: list[str]) -> list[str]:
    """Vectors as the columns of a square become its rows: halves change places, then halves of halves."""
    words, size = vector("i32", f.width), f.width
    step = 1
    while step < size:
        turned = list(rows)
        for low in (row for row in range(size) if not row & step):
            pair = f"{words} {rows[low]}, {words} {rows[low + step]}"
            first = [lane if not lane & step else size + lane - step for lane in range(size)]
            second = [lane + step if not lane & step else size + lane for lane in range(size)]
            for place, order in ((low, first), (low + step, second)):
                lanes = ", ".join(f"i32 {lane}" for lane in order)
                turned[place] = f.line(f"shufflevector {pair}, {words} <{lanes}>")
        rows, step = turned, step * 2
    return rows


def _rows(f: Function, runs: list[Run]) -> list[str]:
    """The words of all runs for each lane, which are neighbours in memory."""
    load = runs[0][0].value
    (buffer, _), (valid, offset) = load.arg, load.args
    words, mask = vector("i32", len(runs)), f.value(valid)
    rows = []
    for lane, pointer in enumerate(lane_pointers(f, buffer, f.address(offset), mask)):
        row = f.line(f"load {words}, ptr {pointer}, align {load.dtype.itemsize}")
        if mask.name != "true":
            flag = mask.name
            if mask.width > 1:
                flag = f.line(f"extractelement {vector('i1', mask.width)} {flag}, i64 {lane}")
            row = f.line(f"select i1 {flag}, {words} {row}, {words} zeroinitializer")
        rows.append(row)
    return rows


def _store(f: Function, run: Run, name: str) -> None:
    """A word in each lane."""
    buffer, words = run[0].buffer, vector("i32", f.width)
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


def _copied(f: Function, run: Run) -> str:
    """The words that the values are in memory, where they are neighbours there and lanes step further."""
    load = _source(f, run)
    return "" if load is None else _word_lanes(f, load)


def _source(f: Function, run: Run) -> Expr | None:
    """The first load, where the values are neighbours in memory and lanes step further."""
    loads = [store.value for store in run]
    dtype = f.dtypes[run[0].buffer]
    first = loads[0]
    if any(load.op is not Leaf.LOAD or load.dtype is not dtype for load in loads):
        return None
    terms, start = linear_terms(first.args[1])
    for number, load in enumerate(loads):
        same = load.arg == first.arg and load.args[0] is first.args[0] and first.arg[1] == 0
        if not same or linear_terms(load.args[1]) != (terms, start + number):
            return None
    if f.lane is None or terms.get(f.lane, 0) < len(run):
        return None
    fixed = not any(f.varies(term) for term in terms if term is not f.lane)
    return first if fixed else None


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
