"""Comparisons of lanes with a bound, in as few and as narrow vectors as they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petaflop.dtype import index
from petaflop.graph.symbolic import Expr, add, constant, multiply
from petaflop.render.llvm_ops import vector

if TYPE_CHECKING:
    from petaflop.render.llvm import Function

__all__ = ["below"]

MOST = 1 << 15  # lanes times their step, at most


def below(f: Function, expr: Expr) -> str:
    """a < b of dtype index, as lane * step < limit with one limit for all lanes; "" where it is not of that
    form.

    The limit is computed once, in 64 bits, and lanes are compared in 32: four vectors of 64 bits for 32 lanes
    would be the most of what a masked copy does.
    """
    a, b = expr.args
    if a.dtype is not index:
        return ""
    address = f.address(add(a, multiply(b, constant(-1))))
    if address.varying or not 0 < address.stride * f.width <= MOST:
        return ""
    limit = str(-address.constant)
    if address.uniform:
        limit = f.line(f"sub i64 {limit}, {f.total(address.uniform)}")
    limit = f.call("llvm.smax.i64", "i64", f"i64 {limit}", "i64 0")
    limit = f.call("llvm.smin.i64", "i64", f"i64 {limit}", f"i64 {MOST}")
    short = f.line(f"trunc i64 {limit} to i32")
    words = vector("i32", f.width)
    first = f.line(f"insertelement {words} poison, i32 {short}, i64 0")
    every = f.line(f"shufflevector {words} {first}, {words} poison, {words} zeroinitializer")
    lanes = ", ".join(f"i32 {lane * address.stride}" for lane in range(f.width))
    return f.line(f"icmp slt {words} <{lanes}>, {every}")
