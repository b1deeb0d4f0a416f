"""What expressions and phases use: for the LLVM renderer."""

from __future__ import annotations

from typing import Any

from petaflop.graph.symbolic import Expr, Leaf
from petaflop.ir.loops import Deposit, Fetch, For, If, Let, Phase, Store, walk

__all__ = ["buffers_used", "unseen"]


def unseen(root: Expr, seen: dict[Expr, Any]) -> list[Expr]:
    """Expressions below `root` that are not in `seen`, arguments first."""
    order: list[Expr] = []
    stack = [(root, False)]
    entered: set[Expr] = set()
    while stack:
        expr, ready = stack.pop()
        if ready:
            order.append(expr)
        elif expr not in seen and expr not in entered:
            entered.add(expr)
            stack.append((expr, True))
            stack.extend((arg, False) for arg in expr.args)
    return order


def buffers_used(phase: Phase) -> set[str]:
    used: set[str] = set()
    seen: dict[Expr, Any] = {}
    for segment in phase.segments:
        for statement in walk(segment.body):
            roots: tuple[Expr, ...] = ()
            if isinstance(statement, Store):
                used.add(statement.buffer)
                roots = (statement.offset, statement.value, statement.valid)
            elif isinstance(statement, (Fetch, Deposit)):
                used.add(statement.buffer)
                roots = (statement.offset,)
            elif isinstance(statement, Let):
                roots = (statement.value,)
            elif isinstance(statement, If):
                roots = (statement.condition,)
            elif isinstance(statement, For):
                roots = (statement.start, statement.stop)
            for root in roots:
                for expr in unseen(root, seen):
                    seen[expr] = True
                    if expr.op is Leaf.LOAD:
                        used.add(expr.arg[0])
    return used
