"""Functions in C that rendered kernels may call: integer division, casts that saturate, narrow floats.

Each is one definition by name, in the part of C that all dialects share, on types named as in stdint.h.
"""

from __future__ import annotations

from petaflop.dtype import DTYPES, DType

__all__ = ["HELPERS"]

_WHOLE = [dtype for dtype in DTYPES.values() if dtype.is_integer]
_FLOATS = {"float32": ("float", "f", 32), "float64": ("double", "", 64)}


def _least(dtype: DType) -> str:
    """The least integer: C has no literal for it."""
    return f"(-{dtype.max} - 1)" if dtype.kind == "i" else "0"


def _wide(dtype: DType) -> str:
    """The unsigned type to compute in, so that overflow wraps."""
    return "uint64_t" if dtype.bits == 64 else "uint32_t"


def _divide(dtype: DType) -> str:
    kind, wide = f"{dtype.name}_t", _wide(dtype)
    head = f"static {kind} petaflop_divide_{dtype.name}({kind} a, {kind} b) {{\n    if (b == 0) return 0;\n"
    if dtype.kind == "u":
        return f"{head}    return a / b;\n}}"
    return (
        f"{head}    if (b == -1) return ({kind})(({wide})0 - ({wide})a);\n"
        f"    const {kind} quotient = a / b, rest = a % b;\n"
        "    return quotient - (rest != 0 && (rest < 0) != (b < 0));\n}"
    )


def _modulo(dtype: DType) -> str:
    kind, wide = f"{dtype.name}_t", _wide(dtype)
    quotient = f"petaflop_divide_{dtype.name}(a, b)"
    return (
        f"static {kind} petaflop_modulo_{dtype.name}({kind} a, {kind} b) {{\n"
        f"    return ({kind})(({wide})a - ({wide}){quotient} * ({wide})b);\n}}"
    )


def _extreme(name: str, sign: str, dtype: str, kind: str) -> str:
    nan = "a != a ? a : " if dtype in _FLOATS else ""
    return f"static {kind} petaflop_{name}_{dtype}({kind} a, {kind} b) {{ return {nan}a {sign} b ? a : b; }}"


def _saturate(dtype: DType, source: str) -> str:
    """A float as an integer: NaN gives 0. The bounds are powers of two, and so exact in either float type."""
    kind, (real, suffix, _) = f"{dtype.name}_t", _FLOATS[source]
    bits = dtype.bits - (dtype.kind == "i")
    low = f"-0x1p{bits}{suffix}" if dtype.kind == "i" else f"0.0{suffix}"
    most = f"{dtype.max}{'u' if dtype.kind == 'u' else ''}"
    return (
        f"static {kind} petaflop_{dtype.name}_of_{source}({real} x) {{\n"
        f"    if (x != x) return 0;\n    if (x >= 0x1p{bits}{suffix}) return {most};\n"
        f"    return x <= {low} ? {_least(dtype)} : ({kind})x;\n}}"
    )


def _reinterpret(name: str) -> dict[str, str]:
    real, _, bits = _FLOATS[name]
    both = f"union {{ {real} value; uint{bits}_t bits; }} both"
    return {
        f"petaflop_to_{name}": f"static uint{bits}_t petaflop_to_{name}({real} x) {{\n    {both};\n"
        "    both.value = x;\n    return both.bits;\n}",
        f"petaflop_from_{name}": f"static {real} petaflop_from_{name}(uint{bits}_t x) {{\n    {both};\n"
        "    both.bits = x;\n    return both.value;\n}",
    }


_FROM = {
    "float16": """\
static float petaflop_from_float16(uint32_t x) {
    const uint32_t sign = (x & 0x8000u) << 16, size = x & 0x7FFFu;
    if (size >= 0x7C00u) return petaflop_from_float32(sign | 0x7F800000u | (size & 0x3FFu) << 13);
    return petaflop_from_float32(sign | petaflop_to_float32(petaflop_from_float32(size << 13) * 0x1p112f));
}""",
    "bfloat16": "static float petaflop_from_bfloat16(uint32_t x) { return petaflop_from_float32(x << 16); }",
    "float8_e5m2": """\
static float petaflop_from_float8_e5m2(uint32_t x) { return petaflop_from_float16(x << 8); }""",
    "float8_e4m3": """\
static float petaflop_from_float8_e4m3(uint32_t x) {
    const uint32_t sign = (x & 0x80u) << 24, size = x & 0x7Fu;
    if (size == 0x7Fu) return petaflop_from_float32(sign | 0x7FC00000u);
    return petaflop_from_float32(sign | petaflop_to_float32(petaflop_from_float32(size << 20) * 0x1p120f));
}""",
}

# The register value is rounded already, so that scaling it is exact, subnormal or not.
_TO = {
    "float16": """\
static uint16_t petaflop_to_float16(float x) {
    const uint32_t bits = petaflop_to_float32(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    if (size >= 0x7F800000u) return (uint16_t)(sign | 0x7C00u | (size >> 13 & 0x3FFu));
    return (uint16_t)(sign | petaflop_to_float32(petaflop_from_float32(size) * 0x1p-112f) >> 13);
}""",
    "bfloat16": """\
static uint16_t petaflop_to_bfloat16(float x) { return (uint16_t)(petaflop_to_float32(x) >> 16); }""",
    "float8_e5m2": """\
static uint8_t petaflop_to_float8_e5m2(float x) { return (uint8_t)(petaflop_to_float16(x) >> 8); }""",
    "float8_e4m3": """\
static uint8_t petaflop_to_float8_e4m3(float x) {
    const uint32_t bits = petaflop_to_float32(x), sign = bits >> 24 & 0x80u, size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) return (uint8_t)(sign | 0x7Fu);
    return (uint8_t)(sign | petaflop_to_float32(petaflop_from_float32(size) * 0x1p-120f) >> 20);
}""",
}

# To nearest even in `drop` bits less. Below `least` a sum with `magic` rounds: its last bit is the least
# subnormal.
_ROUND = """\
static float petaflop_round(float x, int drop, float least, float magic, uint32_t greatest, uint32_t beyond) {
    const uint32_t bits = petaflop_to_float32(x), sign = bits & 0x80000000u, size = bits ^ sign;
    if (size > 0x7F800000u) return petaflop_from_float32(bits | 0x00400000u);
    uint32_t near = (size + (size >> drop & 1u) + (1u << (drop - 1)) - 1u) & ~((1u << drop) - 1u);
    const float positive = petaflop_from_float32(size);
    if (positive < least) near = petaflop_to_float32(positive + magic - magic);
    return petaflop_from_float32(sign | (near > greatest ? beyond : near));
}"""

# bits that are dropped, least normal and magic number, bits of the greatest value and of what lies beyond
_ROUNDED = {
    "float16": "13, 0x1p-14f, 0x1p-1f, 0x477FE000u, 0x7F800000u",
    "bfloat16": "16, 0.0f, 0.0f, 0x7F7F0000u, 0x7F800000u",
    "float8_e5m2": "21, 0x1p-14f, 0x1p7f, 0x47600000u, 0x7F800000u",
    "float8_e4m3": "20, 0x1p-6f, 0x1p14f, 0x43E00000u, 0x7FC00000u",
}

_ODD = """\
static float petaflop_odd(double x) {
    const float near = (float)x;
    if ((double)near == x || x != x) return near;
    const uint32_t away = x < 0.0 ? (double)near < x : (double)near > x;
    return petaflop_from_float32((petaflop_to_float32(near) - away) | 1u);
}"""


def _sticky(dtype: str) -> str:
    """A 64-bit integer as a float64 that rounds to fewer bits as the integer does: rounded to odd."""
    limit = "0x20000000000000"  # 2^53
    inside = f"x < {limit}" + (f" && x > -{limit}" if dtype == "int64" else "")
    return (
        f"static double petaflop_sticky_{dtype}({dtype}_t x) {{\n"
        f"    if ({inside}) return (double)x;\n"
        f"    return (double)((x & ~({dtype}_t)2047) | ((x & 2047) != 0 ? 2048 : 0));\n}}"
    )


def _prototypes() -> dict[str, str]:
    result: dict[str, str] = {}
    for kind, suffix, _ in _FLOATS.values():
        result |= {
            f"{name}{suffix}": f"{kind} {name}{suffix}({kind} x);" for name in ("sqrt", "exp2", "log2", "sin")
        }
        result[f"fma{suffix}"] = f"{kind} fma{suffix}({kind} a, {kind} b, {kind} c);"
    return result


HELPERS: dict[str, str] = {
    **{f"petaflop_divide_{dtype.name}": _divide(dtype) for dtype in _WHOLE},
    **{f"petaflop_modulo_{dtype.name}": _modulo(dtype) for dtype in _WHOLE},
    **{
        f"petaflop_{name}_{dtype}": _extreme(name, sign, dtype, kind)
        for name, sign in (("max", ">"), ("min", "<"))
        for dtype, kind in (
            *((dtype.name, f"{dtype.name}_t") for dtype in _WHOLE),
            *((name, row[0]) for name, row in _FLOATS.items()),
        )
    },
    **{
        f"petaflop_{dtype.name}_of_{source}": _saturate(dtype, source)
        for dtype in _WHOLE
        for source in _FLOATS
    },
    **_reinterpret("float32"),
    **_reinterpret("float64"),
    **{f"petaflop_from_{name}": text for name, text in _FROM.items()},
    **{f"petaflop_to_{name}": text for name, text in _TO.items()},
    "petaflop_round": _ROUND,
    **{
        f"petaflop_round_{name}": f"static float petaflop_round_{name}(float x) "
        f"{{ return petaflop_round(x, {numbers}); }}"
        for name, numbers in _ROUNDED.items()
    },
    "petaflop_odd": _ODD,
    **{f"petaflop_sticky_{dtype}": _sticky(dtype) for dtype in ("int64", "uint64")},
    **_prototypes(),
}
