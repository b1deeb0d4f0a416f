"""The op spec: every primitive operation as one row of a table. `docs/opspec.md` is generated from it.

A backend implements these rows and nothing else; everything else in petaflop is composed from them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["COMPUTE", "OP_SPEC_VERSION", "SPEC", "VIEWS", "Leaf", "Native", "Op", "OpSpec"]

OP_SPEC_VERSION = 1


class Op(enum.Enum):
    """The primitive operations, by family."""

    # compute: elementwise, all sources of one shape
    ADD, MUL, DIV, MAX, LT, NE, AND = "ADD", "MUL", "DIV", "MAX", "LT", "NE", "AND"
    WHERE, SQRT, EXP2, LOG2, SIN = "WHERE", "SQRT", "EXP2", "LOG2", "SIN"
    # compute along axes
    REDUCE, SCAN = "REDUCE", "SCAN"
    # type
    CAST, BITCAST = "CAST", "BITCAST"
    # leaves
    CONST, BUFFER, VAR, IOTA = "CONST", "BUFFER", "VAR", "IOTA"
    # views: never computed, they become index arithmetic
    RESHAPE, PERMUTE, EXPAND, PAD = "RESHAPE", "PERMUTE", "EXPAND", "PAD"
    SHRINK, FLIP, WINDOW = "SHRINK", "FLIP", "WINDOW"
    # indexed
    GATHER, SCATTER = "GATHER", "SCATTER"
    # effects
    ASSIGN, COPY, REALIZE, DETACH, CUSTOM = "ASSIGN", "COPY", "REALIZE", "DETACH", "CUSTOM"

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__
    __hash__ = object.__hash__  # enum's own hashes the name: 5 x slower, and graphs hash millions of these


class Leaf:
    """The leaves that only kernels have; `Expr.op` is one of these strings, an `Op` or a `Native`."""

    AXIS = "AXIS"  # arg: name, args: (size,)
    LOAD = "LOAD"  # arg: (buffer name, fill), args: (valid, *index)
    STATE = "STATE"  # arg: name of a reduction's running state


class Native(enum.Enum):
    """Extras that a backend may declare and that lowering then uses; each is derivable from `Op`."""

    SUB, NEG, MIN, MOD, FMA, RECIP, TRUNC, FLOOR = (
        "SUB",
        "NEG",
        "MIN",
        "MOD",
        "FMA",
        "RECIP",
        "TRUNC",
        "FLOOR",
    )
    OR, XOR, SHL, SHR = "OR", "XOR", "SHL", "SHR"

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One row: `dtypes` names what the op takes, `result` its dtype rule, `ulp` the error allowed in float32."""

    op: Op
    family: str
    arity: int | None  # None: any number of sources
    dtypes: str
    result: str
    meaning: str
    gradient: str
    ulp: float | None = 0.0  # None: stated in the meaning
    numpy: Callable[..., Any] | None = None
    c: str | None = None
    llvm: str | None = None


def _divide(a: Any, b: Any) -> Any:
    """Correctly rounded on floats; floor on integers, where dividing by zero gives 0 (unspecified, never a trap)."""
    if np.asarray(a).dtype.kind in "iu":
        return np.where(b == 0, 0, np.floor_divide(a, np.where(b == 0, 1, b)))
    return np.divide(a, b)


def _add(a: Any, b: Any) -> Any:
    return np.logical_or(a, b) if np.asarray(a).dtype.kind == "b" else np.add(a, b)


def _multiply(a: Any, b: Any) -> Any:
    return np.logical_and(a, b) if np.asarray(a).dtype.kind == "b" else np.multiply(a, b)


_ROWS = (
    OpSpec(Op.ADD, "compute", 2, "any", "same", "a + b; integers wrap; `or` on bool", "g, g", 0.5, _add,
           "a + b", "fadd/add"),
    OpSpec(Op.MUL, "compute", 2, "any", "same", "a · b; integers wrap; `and` on bool", "g·b, g·a", 0.5, _multiply,
           "a * b", "fmul/mul"),
    OpSpec(Op.DIV, "compute", 2, "not bool", "same", "a / b correctly rounded on floats, ⌊a / b⌋ on integers; "
           "an integer divided by zero is unspecified and never traps", "g/b, −g·a/b²", 0.5, _divide,
           "a / b", "fdiv/sdiv"),
    OpSpec(Op.MAX, "compute", 2, "any", "same", "the larger; NaN if either is NaN; `or` on bool",
           "g to the larger, g/2 to each at a tie", 0.0, np.maximum, "max", "fcmp+select"),
    OpSpec(Op.LT, "compute", 2, "any", "bool", "a < b; false if either is NaN", "none", 0.0, np.less,
           "a < b", "fcmp olt"),
    OpSpec(Op.NE, "compute", 2, "any", "bool", "a ≠ b; true if either is NaN", "none", 0.0, np.not_equal,
           "a != b", "fcmp une"),
    OpSpec(Op.AND, "compute", 2, "integer or bool", "same", "bitwise and", "none", 0.0, np.bitwise_and,
           "a & b", "and"),
    OpSpec(Op.WHERE, "compute", 3, "bool, any, any", "same as the last two",
           "b where a else c; a load that is not selected is not performed", "none, g·a, g·¬a", 0.0, np.where,
           "a ? b : c", "select"),
    OpSpec(Op.SQRT, "compute", 1, "float", "same", "√a, correctly rounded; NaN below 0", "g/(2·√a)", 0.5, np.sqrt,
           "sqrt(a)", "llvm.sqrt"),
    OpSpec(Op.EXP2, "compute", 1, "float", "same", "2ᵃ", "g·2ᵃ·ln 2", 3.0, np.exp2, "exp2(a)", "polynomial"),
    OpSpec(Op.LOG2, "compute", 1, "float", "same", "log₂ a; −inf at 0, NaN below", "g/(a·ln 2)", 3.0, np.log2,
           "log2(a)", "polynomial"),
    OpSpec(Op.SIN, "compute", 1, "float", "same", "sin a, a in radians over the whole range", "g·sin(π/2 − a)",
           4.0, np.sin, "sin(a)", "polynomial"),
    OpSpec(Op.REDUCE, "compute along axes", 1, "any", "arg.dtype", "ADD, MUL or MAX along `arg.axes`, accumulated in "
           "`arg.dtype`; reduced axes keep size 1; the order is fixed by shape and dtype alone",
           "ADD: expand g; MAX: g to each maximum, divided by their number; MUL: g·(product of the others)", None),
    OpSpec(Op.SCAN, "compute along axes", 1, "any", "arg.dtype", "inclusive running ADD, MUL or MAX along `arg.axis`",
           "ADD: reversed scan of g; others by the definition", None),
    OpSpec(Op.CAST, "type", 1, "any", "arg", "value conversion: to float round to nearest even, past its largest "
           "value infinity (NaN for float8_e4m3, which has none), float to integer truncates and saturates with NaN giving 0, integer to integer wraps, to bool a ≠ 0", "cast g back"),
    OpSpec(Op.BITCAST, "type", 1, "any", "arg", "the same bits as another dtype; the last axis is scaled when the "
           "sizes differ", "none"),
    OpSpec(Op.CONST, "leaf", 0, "any", "arg", "one value in every element", "none"),
    OpSpec(Op.BUFFER, "leaf", 0, "any", "arg", "memory of a device, with an identity of its own", "the target"),
    OpSpec(Op.VAR, "leaf", 0, "integer", "int32", "a symbolic integer, bound at launch", "none"),
    OpSpec(Op.IOTA, "leaf", 0, "integer", "arg", "the index along `arg` axis: 0, 1, 2, …", "none"),
    OpSpec(Op.RESHAPE, "view", 1, "any", "same", "another shape, same row-major order", "reshape g back"),
    OpSpec(Op.PERMUTE, "view", 1, "any", "same", "axes in another order", "inverse permute"),
    OpSpec(Op.EXPAND, "view", 1, "any", "same", "axes of size 1 repeated", "sum over the repeated axes"),
    OpSpec(Op.PAD, "view", 1, "any", "same", "zeros before and after each axis", "shrink g"),
    OpSpec(Op.SHRINK, "view", 1, "any", "same", "start ≤ i < stop of each axis", "pad g"),
    OpSpec(Op.FLIP, "view", 1, "any", "same", "the named axes reversed", "flip g"),
    OpSpec(Op.WINDOW, "view", 1, "any", "same", "sliding window: axis i becomes ((n − d·(k−1) − 1)//s + 1) positions, "
           "with a new last axis of k taps at i·s + tap·d", "a gather: Σ over taps of g[(i − tap·d)/s] where divisible"),
    OpSpec(Op.GATHER, "indexed", 2, "any, integer", "same as the first", "out[…, i, …] = a[…, index[…, i, …], …] along "
           "`arg` axis; out of range reads 0", "SCATTER(ADD) of g"),
    OpSpec(Op.SCATTER, "indexed", 3, "any, integer, any", "same as the first", "a copy of a with "
           "out[…, index[…, i, …], …] op= values[…, i, …] along `arg.axis`, in index order; out of range is dropped; "
           "op None sets, and the last wins", "ADD: g, none, gather of g"),
    OpSpec(Op.ASSIGN, "effect", 2, "any", "same as the first", "a with the region `arg` replaced by the second; in the "
           "memory of a where nobody else can see it", "g outside the region, g inside it"),
    OpSpec(Op.COPY, "effect", 1, "any", "same", "the same values on device `arg`", "copy g back"),
    OpSpec(Op.REALIZE, "effect", 1, "any", "same", "the same values in row-major memory of their own", "g"),
    OpSpec(Op.DETACH, "effect", 1, "any", "same", "the same values; gradients stop here", "none"),
    OpSpec(Op.CUSTOM, "effect", None, "any", "arg", "a kernel written by the user", "given by the user"),
)  # fmt: skip

SPEC: dict[Op, OpSpec] = {row.op: row for row in _ROWS}
COMPUTE: frozenset[Op] = frozenset(op for op, row in SPEC.items() if row.family == "compute")
VIEWS: frozenset[Op] = frozenset(op for op, row in SPEC.items() if row.family == "view")
