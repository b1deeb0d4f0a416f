"""What differs between the languages that look like C, as data: a CDialect is one row of facts.

OpenCL C, CUDA or Metal are other rows: the renderer (render/c.py) has no branch on which one it writes. All
text is `str.format` templates, whose fields each description names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from petaflop.graph.ops import Native, Op
from petaflop.render.c_helpers import HELPERS

__all__ = ["C11", "CDialect", "CNumber"]


@dataclass(frozen=True, slots=True)
class CNumber:
    """How values of one dtype are spelled: their types, and the ways between them.

    computed      the dtype that values have while they are computed with: float32 for emulated narrow floats
    register      the type of that
    memory        the type of an element in memory
    literal       a constant: {value}, a decimal number
    load          an element read: {pointer}, {offset}
    store         an element written: {pointer}, {offset}, {value}; a statement without its semicolon
    round         {value}, a register value after an operation, as the dtype can hold it
    bits          the bits of a register {value}, as an unsigned integer
    from_bits     the register value of such {value}
    """

    computed: str
    register: str
    memory: str
    literal: str = "{value}"
    load: str = "{pointer}[{offset}]"
    store: str = "{pointer}[{offset}] = {value}"
    round: str = "{value}"
    bits: str = "{value}"
    from_bits: str = "{value}"


@dataclass(frozen=True, slots=True)
class CDialect:
    """A language of the C family, as the renderer needs to know it.

    head          the first lines of every source
    index         the dtype that loop variables and offsets have
    numbers       a CNumber for each dtype by name; what is absent cannot be rendered
    infinity, nan how those are spelled, as constants of either float type
    entry         the head of a kernel function: {name}, {parameters}
    parameters    parameters that every kernel function has
    argument      the parameter of one buffer: {const}, {type}, {name}; "" where `parameters` carry them
    variable      the same for a symbolic size: {type}, {name}
    bind_argument the declaration of a buffer: {const}, {type}, {name}, {number}; "" where it is a parameter
    bind_variable the same for a symbolic size: {type}, {name}, {number}
    scratch       the declaration of working memory of a thread: {type}, {name}, {offset} in bytes
    shared        the same for memory of the whole launch: {type}, {name}, {offset}, {count} of the arguments
    local         the declaration of an array of a task: {type}, {name}, {size}
    task          what runs the following braces for each task {name} < {tasks} of this call: {type}
    segment       the same where a phase has several runs of tasks, and this one begins at task {base}
    unroll        the line before a loop of {count} steps that should be unrolled; "" for none
    lanes         the line before a loop whose steps are independent of each other: {count}
    functions     (operation, dtype that it is computed in) -> the function that does
    helpers       name -> definition; those whose names occur in a source are written before it
    reserved      words that must not name anything else
    """

    name: str
    head: str
    index: str
    numbers: Mapping[str, CNumber]
    infinity: str
    nan: str
    entry: str
    parameters: tuple[str, ...]
    argument: str
    variable: str
    bind_argument: str
    bind_variable: str
    scratch: str
    shared: str
    local: str
    task: str
    segment: str
    unroll: str
    lanes: str
    functions: Mapping[tuple[Any, str], str]
    helpers: Mapping[str, str]
    reserved: frozenset[str]


def _narrow(name: str, bits: int) -> CNumber:
    """A float narrower than 32 bits: kept as float, rounded after every operation, converted by helpers."""
    return CNumber(
        "float32",
        "float",
        f"uint{bits}_t",
        "{value}f",
        f"petaflop_from_{name}({{pointer}}[{{offset}}])",
        f"{{pointer}}[{{offset}}] = petaflop_to_{name}({{value}})",
        f"petaflop_round_{name}({{value}})",
        f"petaflop_to_{name}({{value}})",
        f"petaflop_from_{name}({{value}})",
    )


def _integer(kind: str, bits: int) -> CNumber:
    register, unsigned = f"{kind}{bits}_t", f"uint{bits}_t"
    literal = "{value}" if kind == "int" else "{value}u"
    bits_of = (
        {} if kind == "uint" else {"bits": f"({unsigned}){{value}}", "from_bits": f"({register}){{value}}"}
    )
    return CNumber(f"{kind}{bits}", register, register, literal, **bits_of)


def _float(name: str, register: str, suffix: str) -> CNumber:
    to, back = f"petaflop_to_{name}({{value}})", f"petaflop_from_{name}({{value}})"
    return CNumber(name, register, register, f"{{value}}{suffix}", bits=to, from_bits=back)


NUMBERS: dict[str, CNumber] = {
    "bool": CNumber(
        "bool",
        "_Bool",
        "uint8_t",
        "{value}",
        "({pointer}[{offset}] != 0)",
        bits="(uint8_t){value}",
        from_bits="({value} != 0)",
    ),
    **{f"{kind}{bits}": _integer(kind, bits) for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "float8_e4m3": _narrow("float8_e4m3", 8),
    "float8_e5m2": _narrow("float8_e5m2", 8),
    "float16": _narrow("float16", 16),
    "bfloat16": _narrow("bfloat16", 16),
    "float32": _float("float32", "float", "f"),
    "float64": _float("float64", "double", ""),
}

_KEYWORDS = """auto break case char const continue default do double else enum extern float for goto if
    inline int long register restrict return short signed sizeof static struct switch typedef union unsigned
    void volatile while _Alignas _Alignof _Atomic _Bool _Complex _Generic _Imaginary _Noreturn _Static_assert
    _Thread_local asm typeof bool true false main"""

# Without headers: they double the time that a small kernel takes to compile.
_HEAD = """\
#pragma STDC FP_CONTRACT OFF
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;"""

_MATH = {Op.SQRT: "sqrt", Op.EXP2: "exp2", Op.LOG2: "log2", Op.SIN: "sin", Native.FMA: "fma"}

# A kernel function runs tasks first <= task < last of one phase. Compile it without contraction of a*b + c
# (-ffp-contract=off) and without type-based alias analysis (-fno-strict-aliasing): memory is reused.
C11 = CDialect(
    name="c11",
    head=_HEAD,
    index="int64",
    numbers=NUMBERS,
    infinity="__builtin_inff()",
    nan='__builtin_nanf("")',
    entry="void {name}({parameters})",
    parameters=(
        "void **buffers",
        "const int64_t *variables",
        "char *scratch",
        "int64_t first",
        "int64_t last",
    ),
    argument="",
    variable="",
    bind_argument="{const}{type} *{name} = buffers[{number}];",
    bind_variable="const {type} {name} = variables[{number}];",
    scratch="{type} *{name} = ({type} *)(scratch + {offset});",
    shared="{type} *{name} = ({type} *)((char *)buffers[{count}] + {offset});",
    local="{type} {name}[{size}];",
    task="for ({type} {name} = first; {name} < last; {name}++)",
    segment="for ({type} {name} = petaflop_max_int64(first - {base}, 0); "
    "{name} < petaflop_min_int64(last - {base}, {tasks}); {name}++)",
    unroll="#pragma GCC unroll {count}",
    lanes="#pragma GCC ivdep",
    functions={(op, "float32"): f"{name}f" for op, name in _MATH.items()}
    | {(op, "float64"): name for op, name in _MATH.items()},
    helpers=HELPERS,
    reserved=frozenset(_KEYWORDS.split()) | {"buffers", "variables", "scratch", "first", "last"},
)
