"""Whole Tensor methods that ONNX has an operator for: `x.tanh()` is sixty operations of ours, and one Tanh.

A method is recognised by what it is: the graph that it builds on placeholders is matched, operation by
operation, with the graph at hand. So a pattern can neither be out of date nor mean something else.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto, defs

from petaflop import Tensor
from petaflop.dtype import DTYPES, DType
from petaflop.errors import PetaflopError
from petaflop.graph.node import toposort
from petaflop.plugin_api import Node, Op
from petaflop.recording import placeholder
from petaflop_onnx.exporter.lowering import COMPUTE, Lowering
from petaflop_onnx.exporter.writer import ELEMENT_TYPES

__all__ = ["METHODS", "Method", "method_pattern"]

_LARGEST = 400  # operations of one method
_ELEMENTWISE = COMPUTE | {Op.CAST, Op.BITCAST, Op.CONST}


@dataclass(frozen=True, slots=True)
class Method:
    """A function of tensors, and the operator of ONNX with its meaning; or several, written by `writes`."""

    build: Callable[..., Tensor]
    operator: str
    arity: int = 1
    attributes: Mapping[str, Any] | None = None
    kinds: str = "f"
    writes: Callable[[Lowering, DType, Sequence[str]], str] | None = None


def _expm1(low: Lowering, dtype: DType, names: Sequence[str]) -> str:
    """eˣ − 1 = tanh(x/2)·(eˣ + 1), without the cancellation; and eˣ where the tanh is 1."""
    writer, (x,) = low.writer, names
    half = writer.op("Tanh", writer.op("Mul", x, writer.number(0.5, dtype)))
    more = writer.op("Add", writer.op("Exp", x), writer.number(1, dtype))
    return writer.op("Mul", half, more)


def _log1p(low: Lowering, dtype: DType, names: Sequence[str]) -> str:
    """log(u)·x/(u − 1) with u = 1 + x, in which the rounding of u cancels; x where u is 1, ∞ at ∞."""
    writer, (x,) = low.writer, names
    one = writer.number(1, dtype)
    u = writer.op("Add", x, one)
    moved = writer.op("Sub", u, one)
    logarithm = writer.op("Log", u)
    scaled = writer.op("Mul", logarithm, writer.op("Div", x, moved))
    still = writer.op("Equal", moved, writer.number(0, dtype))
    far = writer.op("Equal", u, writer.number(float("inf"), dtype))
    return writer.op("Where", still, x, writer.op("Where", far, logarithm, scaled))


def _remainder(low: Lowering, dtype: DType, names: Sequence[str]) -> str:
    """Python's %: C's, moved by b where the signs differ."""
    writer, (a, b) = low.writer, names
    zero = writer.number(0, dtype)
    rest = writer.op("Mod", a, b, fmod=1)
    signs = writer.op("Xor", writer.op("Less", rest, zero), writer.op("Less", b, zero))
    uneven = writer.op("Not", writer.op("Equal", rest, zero))
    return writer.op("Where", writer.op("And", uneven, signs), writer.op("Add", rest, b), rest)


def _signbit(low: Lowering, dtype: DType, names: Sequence[str]) -> str:
    """x < 0, or 1/x < 0 where x is 0. ONNX cannot see the sign of a NaN."""
    writer, (x,) = low.writer, names
    zero = writer.number(0, dtype)
    inverse = writer.op("Less", writer.op("Div", writer.number(1, dtype), x), zero)
    return writer.op("Or", writer.op("Less", x, zero), inverse)


METHODS: tuple[Method, ...] = (
    Method(lambda x: x.abs(), "Abs", kinds="if"),
    Method(lambda x: -x, "Neg", kinds="if"),
    Method(lambda x: x.exp(), "Exp"),
    Method(lambda x: x.log(), "Log"),
    Method(lambda x: x.cos(), "Cos"),
    Method(lambda x: x.tan(), "Tan"),
    Method(lambda x: x.asin(), "Asin"),
    Method(lambda x: x.acos(), "Acos"),
    Method(lambda x: x.atan(), "Atan"),
    Method(lambda x: x.sinh(), "Sinh"),
    Method(lambda x: x.cosh(), "Cosh"),
    Method(lambda x: x.asinh(), "Asinh"),
    Method(lambda x: x.acosh(), "Acosh"),
    Method(lambda x: x.atanh(), "Atanh"),
    Method(lambda x: x.tanh(), "Tanh"),
    Method(lambda x: x.sigmoid(), "Sigmoid"),
    Method(lambda x: x.erf(), "Erf"),
    Method(lambda x: x.gelu(), "Gelu"),
    Method(lambda x: x.gelu("tanh"), "Gelu", attributes={"approximate": "tanh"}),
    Method(lambda x: x.softplus(), "Softplus"),
    Method(lambda x: x.mish(), "Mish"),
    Method(lambda x: x.relu(), "Relu"),
    Method(lambda x: x.floor(), "Floor"),
    Method(lambda x: x.ceil(), "Ceil"),
    Method(lambda x: x.round(), "Round"),
    Method(lambda x: x.sign(), "Sign"),
    Method(lambda x: x.reciprocal(), "Reciprocal"),
    Method(lambda x: x.isnan(), "IsNaN"),
    Method(lambda x: x.isinf(), "IsInf"),
    Method(lambda x: x.expm1(), "expm1", writes=_expm1),
    Method(lambda x: x.log1p(), "log1p", writes=_log1p),
    Method(lambda x: x.bitcast(f"int{8 * x.element_size()}") < 0, "sign bit", writes=_signbit),
    Method(lambda x: ~x, "Not", kinds="b"),
    Method(lambda x: ~x, "BitwiseNot", kinds="iu"),
    Method(lambda a, b: a - b, "Sub", 2, kinds="iuf"),
    Method(lambda a, b: a.pow(b), "Pow", 2),
    Method(lambda a, b: a % b, "%", 2, writes=_remainder),
    Method(lambda a, b: a.fmod(b), "Mod", 2, {"fmod": 1}),
    Method(lambda a, b: a.minimum(b), "Min", 2, kinds="iuf"),
    Method(lambda a, b: a == b, "Equal", 2, kinds="iuf"),
    Method(lambda a, b: a <= b, "LessOrEqual", 2, kinds="iuf"),
    Method(lambda a, b: a >= b, "GreaterOrEqual", 2, kinds="iuf"),
    Method(lambda a, b: a | b, "BitwiseOr", 2, kinds="iu"),
    Method(lambda a, b: a ^ b, "BitwiseXor", 2, kinds="iu"),
)


@dataclass(frozen=True, slots=True)
class _Template:
    """The graph of a method on placeholders of one dtype; `size` orders templates, the largest first."""

    method: Method
    root: Node
    holes: tuple[Node, ...]
    size: int


_Key = tuple[Op, DType]  # of a template's last operation, with the dtype of its last operand


@functools.cache
def _templates(opset: int) -> Mapping[_Key, Sequence[_Template]]:
    """The methods that ONNX has at an opset, for each dtype that it takes."""
    found: dict[_Key, list[_Template]] = {}
    for method, dtype in itertools.product(METHODS, DTYPES.values()):
        if dtype.kind not in method.kinds or not (method.writes or _takes(method.operator, dtype, opset)):
            continue
        leaves = [placeholder(dtype, (3,), "reference") for _ in range(method.arity)]
        try:
            root = method.build(*leaves).node
        except PetaflopError:  # a method that this dtype does not have
            continue
        holes = tuple(leaf.node for leaf in leaves)
        order = toposort([root])
        if root.op in COMPUTE and all(node.op in _ELEMENTWISE or node in holes for node in order):
            key = (root.op, root.sources[-1].dtype)
            found.setdefault(key, []).append(_Template(method, root, holes, len(order)))
    return {key: sorted(each, key=lambda t: -t.size) for key, each in found.items()}


def _takes(operator: str, dtype: DType, opset: int) -> bool:
    """Whether ONNX defines the operator for this dtype at this opset."""
    if not defs.has(operator, opset):
        return False
    schema = defs.get_schema(operator, opset)
    kind = ELEMENT_TYPES[dtype.numpy]
    return any(_type_name(kind) in constraint.allowed_type_strs
               for constraint in schema.type_constraints
               if constraint.type_param_str == schema.inputs[0].type_str)  # fmt: skip


def _type_name(kind: int) -> str:
    return f"tensor({TensorProto.DataType.Name(kind).lower()})"


def method_pattern(low: Lowering, node: Node) -> str | None:
    """The value of a node that is the result of one of METHODS; None for any other."""
    if node.op not in COMPUTE:
        return None
    for template in _templates(low.writer.opset).get((node.op, node.sources[-1].dtype), ()):
        if (bound := _match(template, node)) is not None:
            names = [low.lean(each)[0] for each in bound]
            if template.method.writes is not None:
                return template.method.writes(low, template.holes[0].dtype, names)
            return low.writer.op(template.method.operator, *names, **(template.method.attributes or {}))
    return _with_number(low, node)


def _match(template: _Template, node: Node) -> list[Node] | None:
    """What stands in the holes of a template if a node is built like it."""
    bound: dict[Node, Node] = {}
    if not _unify(template.root, node, template.holes, bound):
        return None
    return [bound[hole] for hole in template.holes]


# ---- with a number for one operand: what the number folds into makes another graph of each ----


def _with_number(low: Lowering, node: Node) -> str | None:
    if node.op is not Op.WHERE or not node.dtype.is_float:
        return None
    for number in _numbers_below(node):
        for template, first in _number_templates(number, node.dtype):
            if (bound := _match(template, node)) is not None:
                other = low.writer.number(number, node.dtype)
                name = low.lean(bound[0])[0]
                names = [other, name] if first else [name, other]
                if template.method.writes is not None:
                    return template.method.writes(low, node.dtype, names)
                return low.writer.op(template.method.operator, *names, **(template.method.attributes or {}))
    return None


def _numbers_below(node: Node) -> list[float]:
    """The constants that a node is made of, if there are bitcasts among them, as in powers."""
    seen, stack = {node}, [node]
    while stack and len(seen) < _LARGEST:
        for source in stack.pop().sources:
            if source not in seen and source.op in _ELEMENTWISE:
                seen.add(source)
                stack.append(source)
    if not any(each.op is Op.BITCAST for each in seen):
        return []
    return sorted({each.arg for each in seen if each.op is Op.CONST and each.dtype is node.dtype})


@functools.lru_cache(1024)
def _number_templates(number: float, dtype: DType) -> list[tuple[_Template, bool]]:
    """Methods of two operands, one of them this number; and whether that is the first."""
    found = []
    binary = [each for each in METHODS if each.arity == 2 and each.kinds == "f"]
    for method, first in itertools.product(binary, (False, True)):
        leaf = placeholder(dtype, (3,), "reference")
        number_of = leaf.full_like(number)
        root = (method.build(number_of, leaf) if first else method.build(leaf, number_of)).node
        if root.op is Op.WHERE:
            found.append((_Template(method, root, (leaf.node,), 0), first))
    return found


def _unify(pattern: Node, node: Node, holes: Sequence[Node], bound: dict[Node, Node]) -> bool:
    """Whether `node` is `pattern` with something in its holes; shapes are the node's own."""
    if pattern in bound:
        return bound[pattern] is node
    if pattern in holes:
        fits = pattern.dtype is node.dtype
    elif pattern.op is Op.CONST:
        return node.op is Op.CONST and pattern.dtype is node.dtype and repr(pattern.arg) == repr(node.arg)
    else:
        fits = (
            node.buffer is None
            and (pattern.op, pattern.arg, pattern.dtype) == (node.op, node.arg, node.dtype)
            and all(_unify(p, n, holes, bound) for p, n in zip(pattern.sources, node.sources, strict=True))
        )
    if fits:
        bound[pattern] = node
    return fits
