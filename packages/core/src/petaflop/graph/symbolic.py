"""Scalar expressions: index arithmetic and symbolic sizes, hash-consed and simplified as they are built.

An `Expr` of dtype `index` is kept in affine normal form (a sum of terms with integer factors, plus a
constant), so that views turn into clean `h*stride + kh*dilation` loads. Kernels use the same class for values
(see ir/kernel.py).
"""

from __future__ import annotations

import functools
import math
import operator
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from petaflop.dtype import DType, bool_, index
from petaflop.errors import ArgumentError
from petaflop.graph.ops import Leaf, Native, Op
from petaflop.graph.text import text_of

__all__ = [
    "FALSE",
    "TRUE",
    "Dim",
    "Expr",
    "Leaf",
    "Variable",
    "add",
    "as_expr",
    "both",
    "constant",
    "divide",
    "evaluate",
    "greater_equal",
    "is_constant",
    "less",
    "linear_terms",
    "make",
    "maximum",
    "modulo",
    "multiply",
    "product",
    "select",
    "substitute",
    "topological",
    "variables_of",
]

_BIG = 1 << 62


class Expr:
    """One scalar expression. Equal expressions are the same object, so `is`, `==` and hashing are all by
    identity."""

    __slots__ = ("__weakref__", "_sized", "_terms", "arg", "args", "dtype", "hi", "lo", "op")
    op: Any
    args: tuple[Expr, ...]
    dtype: DType
    arg: Any
    lo: int
    hi: int
    _sized: bool  # whether it is made of Variables and numbers alone
    _terms: tuple[dict[Expr, int], int] | None

    def __add__(self, other: Dim) -> Expr:
        return add(self, as_expr(other))

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Expr:
        return add(self, multiply(as_expr(other), constant(-1)))

    def __rsub__(self, other: Dim) -> Expr:
        return add(as_expr(other), multiply(self, constant(-1)))

    def __mul__(self, other: Dim) -> Expr:
        return multiply(self, as_expr(other))

    __rmul__ = __mul__

    def __neg__(self) -> Expr:
        return multiply(self, constant(-1))

    def __floordiv__(self, other: Dim) -> Expr:
        return divide(self, as_expr(other))

    def __rfloordiv__(self, other: Dim) -> Expr:
        return divide(as_expr(other), self)

    def __mod__(self, other: Dim) -> Expr:
        return modulo(self, as_expr(other))

    def __rmod__(self, other: Dim) -> Expr:
        return modulo(as_expr(other), self)

    def __lt__(self, other: Dim) -> Expr:
        return less(self, as_expr(other))

    def __ge__(self, other: Dim) -> Expr:
        return greater_equal(self, as_expr(other))

    def __bool__(self) -> bool:
        """Whether it is never 0, or always: a branch on anything between is an error, never a guess."""
        if self.op in (Op.CONST, Op.VAR) or self.dtype in (index, bool_):
            if self.lo > 0 or self.hi < 0:
                return True
            if self.lo == self.hi == 0:
                return False
        raise ArgumentError(f"bool: expected a condition that holds for every size or for none, got {self}")

    def __int__(self) -> int:
        return evaluate(self)

    __index__ = __int__

    def __repr__(self) -> str:
        return text_of(topological((self,)))

    def bind(self, value: int) -> Expr:
        """Give a `Variable` the value that the next realizations use; returns the variable.

        >>> t = Variable("t", 1, 4096).bind(5)
        """
        if self.op is not Op.VAR:
            raise ArgumentError(f"bind: expected a Variable, got {self}")
        if not self.lo <= value <= self.hi:
            raise ArgumentError(f"bind: expected {self.lo} <= {self.arg} <= {self.hi}, got {value}")
        _bound[self] = int(value)
        return self

    @property
    def value(self) -> int | None:
        """What a `Variable` is bound to; None before the first `bind`."""
        return _bound.get(self)


Dim = int | Expr
_is_size = operator.attrgetter("_sized")
_table: weakref.WeakValueDictionary[tuple[Any, ...], Expr] = weakref.WeakValueDictionary()
_bound: weakref.WeakKeyDictionary[Expr, int] = weakref.WeakKeyDictionary()


def make(
    op: Any, args: tuple[Expr, ...], dtype: DType, arg: Any = None, lo: int = -_BIG, hi: int = _BIG
) -> Expr:
    """The one expression with these parts. Does not simplify: the functions below do."""
    # repr keeps 0.0 apart from -0.0 and 1 from 1.0 from True; NaN equals itself
    key = (op, args, dtype, repr(arg) if op is Op.CONST else arg, lo, hi)
    found = _table.get(key)
    if found is None:
        found = Expr()
        found.op, found.args, found.dtype, found.arg, found.lo, found.hi = op, args, dtype, arg, lo, hi
        found._sized = not isinstance(op, str) and all(map(_is_size, args))
        found._terms = None
        found = _table.setdefault(key, found)
    return found


def constant(value: Any, dtype: DType = index) -> Expr:
    """A constant; of dtype `index` unless told."""
    if dtype is index:
        return _index_constant(int(value))
    if dtype.kind == "f":
        return make(Op.CONST, (), dtype, float(value))
    number = int(value)
    return make(Op.CONST, (), dtype, number, number, number)


@functools.lru_cache(4096)
def _index_constant(number: int) -> Expr:
    return make(Op.CONST, (), index, number, number, number)


TRUE = constant(1, bool_)
FALSE = constant(0, bool_)
_ZERO = constant(0)
_ONE = constant(1)


def as_expr(value: Dim) -> Expr:
    return value if isinstance(value, Expr) else constant(value)


def is_constant(expr: Expr, value: Any = None) -> bool:
    return expr.op is Op.CONST and (value is None or expr.arg == value)


def Variable(name: str, minimum: int, maximum: int) -> Expr:
    """A symbolic size: one compiled kernel serves every value between `minimum` and `maximum`, both included.

    A tensor whose shape has a Variable is a function of it: realizing reads the value bound at that time.

    >>> Variable("t", 1, 4096).bind(3).value
    3
    """
    if not (isinstance(minimum, int) and isinstance(maximum, int) and 0 <= minimum <= maximum < _BIG):
        raise ArgumentError(
            f"Variable {name}: expected integers 0 <= minimum <= maximum, got {minimum}, {maximum}"
        )
    if not name.isidentifier():
        raise ArgumentError(f"Variable: expected an identifier as name, got {name!r}")
    return make(Op.VAR, (), index, name, minimum, maximum)


# ---- affine normal form ----


def linear_terms(expr: Expr) -> tuple[dict[Expr, int], int]:
    """`expr` as ({term: factor}, constant); terms are neither sums nor multiples of a constant."""
    if expr._terms is None:
        expr._terms = _split(expr)
    return expr._terms


def _split(expr: Expr) -> tuple[dict[Expr, int], int]:
    if expr.op is Op.CONST:
        return {}, expr.arg
    if expr.op is Op.ADD:
        # normal form is ADD(ADD(a, b), c): walk the left spine without recursion
        terms: dict[Expr, int] = {}
        total = 0
        while expr.op is Op.ADD:
            right, offset = _factor(expr.args[1])
            total += offset
            if right is not None:
                terms[right[0]] = right[1]
            expr = expr.args[0]
        left, offset = _factor(expr)
        if left is not None:
            terms[left[0]] = left[1]
        return dict(reversed(terms.items())), total + offset
    pair, offset = _factor(expr)
    return ({pair[0]: pair[1]} if pair else {}), offset


def _factor(expr: Expr) -> tuple[tuple[Expr, int] | None, int]:
    if expr.op is Op.CONST:
        return None, expr.arg
    if expr.op is Op.MUL and expr.args[1].op is Op.CONST:
        return (expr.args[0], expr.args[1].arg), 0
    return (expr, 1), 0


def _join(terms: Mapping[Expr, int], offset: int) -> Expr:
    total: Expr | None = None
    for term, factor in terms.items():
        if factor:
            scaled = term if factor == 1 else _scaled(term, factor)
            total = (
                scaled
                if total is None
                else _binary(Op.ADD, total, scaled, total.lo + scaled.lo, total.hi + scaled.hi)
            )
    if total is None:
        return constant(offset)
    if offset:
        total = _binary(Op.ADD, total, constant(offset), total.lo + offset, total.hi + offset)
    return total


def _scaled(term: Expr, factor: int) -> Expr:
    ends = (term.lo * factor, term.hi * factor)
    return _binary(Op.MUL, term, constant(factor), min(ends), max(ends))


def _binary(op: Any, a: Expr, b: Expr, lo: int, hi: int) -> Expr:
    return make(op, (a, b), index, None, max(lo, -_BIG), min(hi, _BIG))


def _order(term: Expr) -> tuple[str, ...]:
    return (str(term.op), str(term.arg))


def add(a: Expr, b: Expr) -> Expr:
    """a + b of dtype index."""
    if is_constant(a, 0):
        return b
    if is_constant(b, 0):
        return a
    (left, left_offset), (right, right_offset) = linear_terms(a), linear_terms(b)
    terms = dict(left)
    for term, factor in right.items():
        terms[term] = terms.get(term, 0) + factor
    if len(terms) > 1 and all(map(_is_size, terms)):  # so that n + m and m + n are one size
        terms = dict(sorted(terms.items(), key=lambda item: repr(item[0])))
    return _join(_fold_div_mod(terms), left_offset + right_offset)


def _fold_div_mod(terms: dict[Expr, int]) -> dict[Expr, int]:
    """(x // c)*c*f + (x % c)*f is x*f."""
    for term, factor in list(terms.items()):
        if term.op is Native.MOD and is_constant(term.args[1]) and factor:
            base, size = term.args
            quotient = divide(base, size)
            if terms.get(quotient, 0) == factor * size.arg:
                del terms[term], terms[quotient]
                for inner, inner_factor in linear_terms(base)[0].items():
                    terms[inner] = terms.get(inner, 0) + inner_factor * factor
                # a constant inside the base would be lost: keep the pair then
                if linear_terms(base)[1]:
                    for inner, inner_factor in linear_terms(base)[0].items():
                        terms[inner] -= inner_factor * factor
                    terms[term], terms[quotient] = factor, factor * size.arg
    return terms


def multiply(a: Expr, b: Expr) -> Expr:
    """a * b of dtype index."""
    if a.op is Op.CONST:
        a, b = b, a
    if b.op is Op.CONST:
        if b.arg == 0:
            return _ZERO
        terms, offset = linear_terms(a)
        return _join({term: factor * b.arg for term, factor in terms.items()}, offset * b.arg)
    for x, y in ((a, b), (b, a)):  # distribute over sums, so that symbolic strides stay affine
        if x.op is Op.ADD:
            return add(multiply(x.args[0], y), multiply(x.args[1], y))
        if x.op is Op.MUL and x.args[1].op is Op.CONST:
            return multiply(multiply(x.args[0], y), x.args[1])
    a, b = sorted((a, b), key=_order)
    ends = (a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi)
    return _binary(Op.MUL, a, b, min(ends), max(ends))


def divide(a: Expr, b: Expr) -> Expr:
    """floor(a / b) of dtype index; b > 0."""
    if is_constant(b, 1):
        return a
    if a is b:
        return _ONE
    if b.op is not Op.CONST:
        exact, rest = _split_multiples(a, b)
        if rest.lo >= 0 and less(rest, b) is TRUE:
            return exact
        if is_constant(exact, 0):
            return _binary(Op.DIV, a, b, min(a.lo, 0), max(a.hi, 0))
        return add(exact, divide(rest, b))
    size = b.arg
    terms, offset = linear_terms(a)
    # whole multiples come out, as they do in `modulo`: so that the two still fold where they meet
    whole = {t: factor // size if factor > 0 or factor % size == 0 else 0 for t, factor in terms.items()}
    exact_terms = {term: count for term, count in whole.items() if count}
    rest_terms = {t: left for t, factor in terms.items() if (left := factor - whole[t] * size)}
    exact = _join(exact_terms, offset // size)
    rest = _join(rest_terms, offset % size)
    low, high = rest.lo // size, rest.hi // size
    if low == high:
        return add(exact, constant(low))
    if (skewed := _skewed(a, size)) is not None:
        return skewed[0]
    if (parts := _carried(rest, size)) is not None:
        coarse, step, _ = parts
        return add(exact, divide(coarse, constant(size // step)))
    if rest.op is Op.DIV and is_constant(rest.args[1]):
        return add(exact, divide(rest.args[0], constant(rest.args[1].arg * size)))
    return add(exact, _binary(Op.DIV, rest, b, low, high))


def _carried(a: Expr, size: int) -> tuple[Expr, int, Expr] | None:
    """(x, step, y) with a = step·x + y, where step divides `size` and 0 ≤ y < step never carries into x: then
    a // size is x // (size // step), and a % size is step · (x % (size // step)) + y."""
    terms, offset = linear_terms(a)
    steps = {math.gcd(size, *terms.values()), *(f for f in terms.values() if f > 1 and size % f == 0)} - {1}
    for step in sorted(steps, reverse=True):
        fine = _join({term: factor % step for term, factor in terms.items() if factor % step}, offset % step)
        if fine.lo >= 0 and fine.hi < step:
            coarse = {term: factor // step for term, factor in terms.items() if factor // step}
            return _join(coarse, offset // step), step, fine
    return None


def _skewed(a: Expr, size: int) -> tuple[Expr, Expr] | None:
    """(a // size, a % size) of a skewed index such as (m*(size - 1) + q) with small m and q, where no div
    remains."""
    terms, offset = linear_terms(a)
    for shift in (size // 2, 0):  # remainders around zero, then remainders from zero on
        quotients = {term: (factor + shift) // size for term, factor in terms.items()}
        remainders = {term: factor - quotients[term] * size for term, factor in terms.items()}
        rest = _join(remainders, offset % size)
        if rest.lo // size == rest.hi // size:
            low = rest.lo // size
            return _join(quotients, offset // size + low), _join(remainders, offset % size - low * size)
    return None


def _split_multiples(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a = exact * b + rest, for a symbolic b."""
    exact: dict[Expr, int] = {}
    rest: dict[Expr, int] = {}
    terms, offset = linear_terms(a)
    exact_offset = 0
    extra = _ZERO
    for term, factor in terms.items():
        if term is b:
            exact_offset += factor
        elif term.op is Op.MUL and b in term.args:
            other = term.args[0] if term.args[1] is b else term.args[1]
            extra = add(extra, multiply(other, constant(factor)))
        else:
            rest[term] = factor
    return add(_join(exact, exact_offset), extra), _join(rest, offset)


def modulo(a: Expr, b: Expr) -> Expr:
    """a - floor(a / b) * b of dtype index; b > 0."""
    if is_constant(b, 1) or a is b:
        return _ZERO
    if b.op is not Op.CONST:
        rest = _split_multiples(a, b)[1]
        if rest.lo >= 0 and less(rest, b) is TRUE:
            return rest
        return _binary(Native.MOD, rest, b, 0, max(b.hi - 1, 0))
    size = b.arg
    terms, offset = linear_terms(a)
    rest = _join({term: factor % size for term, factor in terms.items() if factor % size}, offset % size)
    if rest.lo // size == rest.hi // size:
        return add(rest, constant(-(rest.lo // size) * size))
    if (skewed := _skewed(a, size)) is not None:
        return skewed[1]
    if rest.op is Native.MOD and is_constant(rest.args[1]) and rest.args[1].arg % size == 0:
        return modulo(rest.args[0], b)
    if (parts := _carried(rest, size)) is not None:
        coarse, step, fine = parts
        return add(multiply(modulo(coarse, constant(size // step)), constant(step)), fine)
    return _binary(Native.MOD, rest, b, 0, min(size - 1, rest.hi) if rest.lo >= 0 else size - 1)


def maximum(a: Expr, b: Expr) -> Expr:
    """max(a, b) of dtype index."""
    if a is b or a.lo >= b.hi:
        return a
    if b.lo >= a.hi:
        return b
    return _binary(Op.MAX, a, b, max(a.lo, b.lo), max(a.hi, b.hi))


def less(a: Expr, b: Expr) -> Expr:
    """a < b on dtype index, a bool."""
    difference = add(a, multiply(b, constant(-1)))
    if difference.hi < 0:
        return TRUE
    if difference.lo >= 0:
        return FALSE
    terms, offset = linear_terms(difference)
    positive = {term: factor for term, factor in terms.items() if factor > 0}
    negative = {term: -factor for term, factor in terms.items() if factor < 0}
    if not positive:  # keep the constant on the right unless the left would be empty
        return make(Op.LT, (constant(offset), _join(negative, 0)), bool_, None, 0, 1)
    return make(Op.LT, (_join(positive, 0), _join(negative, -offset)), bool_, None, 0, 1)


def greater_equal(a: Expr, b: Expr) -> Expr:
    """a >= b on dtype index, a bool."""
    return less(b, add(a, _ONE))


def both(*conditions: Expr) -> Expr:
    """The conjunction of bools, flattened and without duplicates."""
    kept: dict[Expr, None] = {}
    for condition in conditions:
        stack = [condition]
        while stack:
            part = stack.pop()
            if part is FALSE:
                return FALSE
            if part.op is Op.AND and part.dtype is bool_:
                stack.extend(reversed(part.args))
            elif part is not TRUE:
                kept[part] = None
    result = TRUE
    for part in kept:
        result = part if result is TRUE else make(Op.AND, (result, part), bool_, None, 0, 1)
    return result


def select(condition: Expr, a: Expr, b: Expr) -> Expr:
    """a where condition else b."""
    if condition is TRUE or a is b:
        return a
    if condition is FALSE:
        return b
    return make(Op.WHERE, (condition, a, b), a.dtype, None, min(a.lo, b.lo), max(a.hi, b.hi))


def product(sizes: Iterable[Dim]) -> Dim:
    """The product of sizes; an int when all are ints.

    >>> product((2, 3))
    6
    """
    total: Dim = 1
    for size in sizes:
        total = total * size
    if isinstance(total, Expr) and total.op is Op.CONST:
        return int(total.arg)
    return total


# ---- walking ----


def topological(roots: Iterable[Expr]) -> list[Expr]:
    """Every expression below `roots`, each once, arguments before users."""
    order: list[Expr] = []
    seen: set[Expr] = set()
    pending: list[Expr] = []
    stack: list[Expr | None] = []
    stack += reversed([*roots])
    while stack:
        expr = stack.pop()
        if expr is None:
            order.append(pending.pop())
        elif expr not in seen:
            seen.add(expr)
            if expr.args:
                pending.append(expr)
                stack.append(None)
                stack += expr.args[::-1]
            else:
                order.append(expr)
    return order


_REBUILD: dict[Any, Callable[..., Expr]] = {
    Op.ADD: add,
    Op.MUL: multiply,
    Op.DIV: divide,
    Native.MOD: modulo,
    Op.MAX: maximum,
}


def rebuild(expr: Expr, args: tuple[Expr, ...]) -> Expr:
    """`expr` with other arguments, simplified again."""
    if args == expr.args:
        return expr
    if expr.dtype is index and expr.op in _REBUILD:
        return _REBUILD[expr.op](*args)
    if expr.op is Op.LT and args[0].dtype is index:
        return less(*args)
    if expr.op is Op.AND and expr.dtype is bool_:
        return both(*args)
    if expr.op is Op.WHERE:
        return select(*args)
    return make(expr.op, args, expr.dtype, expr.arg, expr.lo, expr.hi)


def substitute(
    roots: Iterable[Expr], mapping: Mapping[Expr, Expr], buffers: Mapping[str, str] | None = None
) -> list[Expr]:
    """`roots` with expressions replaced, everything above them rebuilt and simplified; loads read from
    `buffers`' new names."""
    roots = list(roots)
    done: dict[Expr, Expr] = dict(mapping)
    for expr in topological(roots):
        if expr not in done:
            args = tuple([done[arg] for arg in expr.args])
            if buffers is not None and expr.op is Leaf.LOAD:
                done[expr] = make(Leaf.LOAD, args, expr.dtype, (buffers[expr.arg[0]], expr.arg[1]))
            else:
                done[expr] = expr if args == expr.args else rebuild(expr, args)
    return [done[root] for root in roots]


def variables_of(exprs: Iterable[Dim]) -> list[Expr]:
    """The Variables below `exprs`, sorted by name."""
    found = {e for e in topological(e for e in exprs if isinstance(e, Expr)) if e.op is Op.VAR}
    return sorted(found, key=lambda variable: variable.arg)


def evaluate(expr: Dim, values: Mapping[Expr, int] | None = None) -> int:
    """The integer that an index expression has for the given (or the bound) values of its Variables."""
    if isinstance(expr, int):
        return expr
    if expr.op is Op.CONST:
        return int(expr.arg)
    done: dict[Expr, int] = {}
    for part in topological((expr,)):
        if part.op is Op.VAR:
            value = (values or {}).get(part, part.value)
            if value is None:
                raise ArgumentError(
                    f"Variable {part.arg}: expected a bound value, got none; call {part.arg}.bind(value)"
                )
            done[part] = value
        elif part.op is Op.CONST:
            done[part] = int(part.arg)
        else:
            done[part] = _EVALUATE[part.op](*(done[arg] for arg in part.args))
    return done[expr]


_EVALUATE: dict[Any, Callable[..., int]] = {
    Op.ADD: lambda a, b: a + b,
    Op.MUL: lambda a, b: a * b,
    Op.DIV: lambda a, b: a // b,
    Native.MOD: lambda a, b: a % b,
    Op.MAX: max,
    Op.LT: lambda a, b: int(a < b),
    Op.AND: lambda a, b: a & b,
    Op.WHERE: lambda c, a, b: a if c else b,
}
