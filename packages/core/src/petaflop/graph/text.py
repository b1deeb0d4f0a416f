"""Expressions as code, for people: what `repr` of an Expr gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from petaflop.dtype import bool_
from petaflop.graph.ops import Leaf, Native, Op

__all__ = ["text_of"]

_SYMBOLS = {Op.ADD: "+", Op.MUL: "*", Op.DIV: "//", Native.MOD: "%", Op.LT: "<", Op.NE: "!=", Op.AND: "&"}


_LONG = 40  # characters from which on a shared part is named instead of repeated


def text_of(order: Sequence[Any]) -> str:
    """The last of expressions in topological order; long parts that are used more than once come as
    `… with t0 = …, t1 = …`, so that text stays linear."""
    uses: dict[Any, int] = {}
    for expr in order:
        for arg in expr.args:
            uses[arg] = uses.get(arg, 0) + 1
    done: dict[Any, str] = {}
    named: list[str] = []
    for expr in order:
        text = _one_text(expr, [done[arg] for arg in expr.args])
        if uses.get(expr, 0) > 1 and len(text) > _LONG:
            named.append(f"t{len(named)} = {_bare(text)}")
            text = f"t{len(named) - 1}"
        done[expr] = text
    text = _bare(done[order[-1]])
    return f"{text} with {', '.join(named)}" if named else text


def _one_text(expr: Any, parts: list[str]) -> str:
    if expr.op is Op.CONST:
        return str(bool(expr.arg)) if expr.dtype is bool_ else str(expr.arg)
    if expr.op is Leaf.LOAD:
        name, fill = expr.arg
        element = f"{name}[{', '.join(parts[1:])}]"
        always = expr.args[0].op is Op.CONST and expr.args[0].arg
        return element if always else f"({element} if {parts[0]} else {fill})"
    if expr.op in (Leaf.AXIS, Leaf.STATE, Op.VAR):
        return str(expr.arg)
    if expr.op is Op.WHERE:
        return f"({parts[1]} if {parts[0]} else {parts[2]})"
    if expr.op in (Op.CAST, Op.BITCAST):
        prefix = "" if expr.op is Op.CAST else "bits_"
        return f"{prefix}{expr.dtype}({parts[0]})"
    if expr.op in _SYMBOLS:
        symbol = "/" if expr.op is Op.DIV and expr.dtype.is_float else _SYMBOLS[expr.op]
        return f"({parts[0]} {symbol} {parts[1]})"
    return f"{str(expr.op).lower()}({', '.join(parts)})"


def _bare(text: str) -> str:
    """Without parentheses around all of it."""
    return text[1:-1] if text.startswith("(") and _outer(text) else text


def _outer(text: str) -> bool:
    """Whether the first parenthesis closes at the very end."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position == len(text) - 1
    return False
