"""What a piece of code loads and stores, from its bytecode: global names, attributes, imported modules.

Attributes are names only: of which object is not asked. Where only running the code tells a name
(`getattr(x, name)`, `globals()`, `eval`), that is said.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["TEXTS", "Loads", "loads_of"]

_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL")
_BY_NAME = frozenset(("getattr", "hasattr"))
_ANY_ATTRIBUTE = frozenset(
    ("vars", "__dict__", "__getattribute__", "__getstate__", "attrgetter", "methodcaller", "getmembers")
    + ("asdict", "astuple", "eval", "exec", "dir")
)
_ANY_GLOBAL = frozenset(("globals", "vars", "eval", "exec"))
_TO_TEXT = frozenset(("str", "repr", "format", "print"))
TEXTS = frozenset(("__str__", "__repr__", "__format__"))


class Loads(NamedTuple):
    """Names, and whether any attribute (of anything, of `self`) or any global may be loaded besides.

    Attributes in `asked` may be absent.
    """

    globals: frozenset[str]
    attributes: frozenset[str]
    stored: frozenset[str]
    asked: frozenset[str]
    modules: frozenset[str]
    any_attribute: bool
    any_of_self: bool
    any_global: bool


@functools.lru_cache(maxsize=4096)
def loads_of(code: types.CodeType) -> Loads:
    """What the code loads, functions inside it included."""
    names: set[str] = set()
    attributes: set[str] = set()
    stored: set[str] = set()
    asked: set[str] = set()
    modules: set[str] = set()
    computed: set[bool] = set()  # whether each attribute with a computed name is one of `self`
    any_global = False
    instructions = list(dis.get_instructions(code))
    for position, instruction in enumerate(instructions):
        name = instruction.argval
        if instruction.opname in _GLOBAL:
            names.add(name)
            any_global = any_global or name in _ANY_GLOBAL
            if name in _BY_NAME and (constant := _second_argument(instructions, position)) is not None:
                asked.add(constant)
            elif name in _BY_NAME or name in _ANY_ATTRIBUTE:
                computed.add(_is_self(instructions, position + 1))
        elif instruction.opname == "IMPORT_NAME":
            modules.add(name)
        elif instruction.opname in ("STORE_ATTR", "DELETE_ATTR"):
            stored.add(name)
        elif instruction.opcode in dis.hasname:
            attributes.add(name)
            if name in _ANY_ATTRIBUTE:
                computed.add(_is_self(instructions, position - 1))
        elif instruction.opname == "MATCH_CLASS":  # the names stand in a tuple before it, or in the class
            attributes.update(instructions[position - 1].argval)
            computed |= {False} if instruction.arg else set()
        elif instruction.opname.startswith("FORMAT_"):
            attributes.update(TEXTS)
    if names & _TO_TEXT:
        attributes.update(TEXTS)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            loads = loads_of(inner)
            names |= loads.globals
            attributes |= loads.attributes
            stored |= loads.stored
            asked |= loads.asked
            modules |= loads.modules
            computed |= {True} if loads.any_of_self else set()
            computed |= {False} if loads.any_attribute else set()
            any_global = any_global or loads.any_global
    return Loads(
        frozenset(names),
        frozenset(attributes | asked),
        frozenset(stored),
        frozenset(asked),
        frozenset(modules),
        any_attribute=False in computed,
        any_of_self=True in computed,
        any_global=any_global,
    )


def _is_self(instructions: Sequence[dis.Instruction], position: int) -> bool:
    """Whether an instruction loads the object that a method belongs to."""
    name = instructions[position].argval if position < len(instructions) else None
    return (name[0] if isinstance(name, tuple) else name) == "self"


def _second_argument(instructions: Sequence[dis.Instruction], position: int) -> str | None:
    """The second argument of the call of the function loaded at `position`, if it is a constant text."""
    depth = 0
    for place in range(position + 1, len(instructions) - 1):
        instruction = instructions[place]
        depth += dis.stack_effect(instruction.opcode, instruction.arg, jump=False)
        if depth < 1:
            return None
        if depth == 2:
            after = instructions[place + 1]
            last = after.opname in ("PRECALL", "CALL", "KW_NAMES") or after.opname.startswith("LOAD_")
            constant = instruction.opname in ("LOAD_CONST", "LOAD_CONST_IMMORTAL")
            text = instruction.argval
            return text if constant and last and isinstance(text, str) else None
    return None
