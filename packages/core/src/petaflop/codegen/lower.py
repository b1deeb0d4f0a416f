"""Kernel and Plan to Loops: the plan's directives are carried out, and nothing is decided here.

`lower` groups the nests into phases by what they read and write; codegen/nest.py lowers one nest.
"""

from __future__ import annotations

import hashlib

from petaflop.codegen.nest import NestLowering, elements
from petaflop.codegen.rewrite import rewrite
from petaflop.ir.kernel import Kernel, loads_of
from petaflop.ir.loops import Loops, Memory, Phase, Segment
from petaflop.ir.plan import Nest, Plan
from petaflop.ir.target import Target

__all__ = ["lower"]

ALIGNMENT = 64


def lower(kernel: Kernel, plan: Plan, target: Target) -> Loops:
    """The loops of `kernel` as `plan` says."""
    name = f"kernel_{hashlib.sha256((kernel.key + str(plan)).encode()).hexdigest()[:16]}"
    rewritten = rewrite(kernel, plan.rewrites)
    kernel = rewritten.kernel
    memory = _shared_memory(kernel, plan)
    stages = _phase_numbers(kernel, plan)
    segments: dict[int, list[Segment]] = {}
    scratch: list[Memory] = []
    for number, (nest, stage) in enumerate(zip(plan.nests, stages, strict=True)):
        nest_lowering = NestLowering(rewritten, nest, target, number, local_temporaries(kernel, nest))
        segments.setdefault(stage, []).append(nest_lowering.segment())
        scratch += nest_lowering.memory  # tasks run one after another on a thread: nests share its memory
    phases = tuple(Phase(f"{name}_{stage}", tuple(segments[stage])) for stage in sorted(segments))
    arguments = tuple((argument.name, argument.dtype) for argument in kernel.arguments)
    return Loops(name, arguments, kernel.variables, phases, (*memory, *scratch))


def local_temporaries(kernel: Kernel, nest: Nest) -> set[str]:
    """Temporaries that only this nest touches: each of its tasks may have its own."""
    inside: set[str] = set()
    outside: set[str] = set()
    for number, block in enumerate(kernel.blocks):
        touched = {store.buffer for store in block.stores} | {expr.arg[0] for expr in loads_of(block.exprs)}
        (inside if number in nest.blocks else outside).update(touched)
    return {temporary.name for temporary in kernel.temporaries} & (inside - outside)


def _shared_memory(kernel: Kernel, plan: Plan) -> list[Memory]:
    """Room for the temporaries that more than one nest touches."""
    local = set().union(*(local_temporaries(kernel, nest) for nest in plan.nests))
    result: list[Memory] = []
    offset = 0
    for temporary in kernel.temporaries:
        if temporary.name not in local:
            size = elements(temporary.shape)
            result.append(Memory(temporary.name, temporary.dtype, size, "shared", offset))
            offset += -(-size * temporary.dtype.itemsize // ALIGNMENT) * ALIGNMENT
    return result


def _phase_numbers(kernel: Kernel, plan: Plan) -> list[int]:
    """A nest runs after the nests before it that write what it touches or read what it writes."""
    touched = [_touched(kernel, nest) for nest in plan.nests]
    numbers: list[int] = []
    for reads, writes in touched:
        number = 0
        for (earlier_reads, earlier_writes), phase in zip(touched, numbers, strict=False):
            if earlier_writes & (reads | writes) or earlier_reads & writes:
                number = max(number, phase + 1)
        numbers.append(number)
    return numbers


def _touched(kernel: Kernel, nest: Nest) -> tuple[set[str], set[str]]:
    local = local_temporaries(kernel, nest)
    blocks = [kernel.blocks[number] for number in nest.blocks]
    reads = {expr.arg[0] for block in blocks for expr in loads_of(block.exprs)}
    writes = {store.buffer for block in blocks for store in block.stores}
    return reads - local, writes - local
