"""Makes src/petaflop_cpu/coefficients.py: run `python tools/polynomials.py` after a change; needs mpmath.

Each polynomial interpolates its function at Chebyshev nodes in 60 digits, which is within a small factor
of minimax (Trefethen, Approximation Theory and Approximation Practice, chapter 16), and is then rounded
coefficient by coefficient. The relative error of the rounded polynomial is printed beside its degree.
The expansion of 1/π is for Payne and Hanek's reduction (SIGNUM Newsletter 18, 1983) of arguments beyond
Cody and Waite's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from mpmath import mp, mpf

mp.dps = 60
Function = Callable[[mpf], mpf]


def interpolate(function: Function, low: mpf, high: mpf, degree: int) -> list[mpf]:
    """Coefficients, constant first, of the polynomial through Chebyshev nodes on [low, high]."""
    count = degree + 1
    nodes = [
        (low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count)
    ]
    matrix = mp.matrix([[x**power for power in range(count)] for x in nodes])
    return list(mp.lu_solve(matrix, mp.matrix([function(x) for x in nodes])))


def rounded(values: list[mpf], bits: int) -> list[float]:
    kind = np.float32 if bits == 32 else np.float64
    return [float(kind(float(value))) for value in values]


def error(coefficients: list[float], function: Function, weight: Function, low: mpf, high: mpf) -> mpf:
    """The largest |polynomial − function| · weight over a grid."""
    worst = mpf(0)
    for step in range(1, 400):
        x = low + (high - low) * step / 400
        if x:
            value = mp.polyval([mpf(c) for c in reversed(coefficients)], x)
            worst = max(worst, abs(value - function(x)) * weight(x))
    return worst


def exp2_tail(x: mpf) -> mpf:
    """(2^x − 1) / x."""
    return (2**x - 1) / x if abs(x) > mpf(10) ** -30 else mp.log(2)


def log2_tail(f: mpf) -> mpf:
    """(log2(1 + f) − f / ln 2) / f²."""
    if abs(f) < mpf(10) ** -20:
        return -1 / (2 * mp.log(2))
    return (mp.log(1 + f, 2) - f / mp.log(2)) / f**2


def atanh_tail(z: mpf) -> mpf:
    """R(z) = ln((1 + s)/(1 − s))/s − 2 with z = s²: the part of a logarithm beyond 2s."""
    s = mp.sqrt(z)
    return 2 * mp.atanh(s) / s - 2 if z else mpf(0)


def sin_tail(z: mpf) -> mpf:
    """(sin r − r) / r³ with z = r²."""
    r = mp.sqrt(z)
    return (mp.sin(r) - r) / r**3 if z else -mpf(1) / 6


HALF, ROOT = mpf(1) / 2, mp.sqrt(2)
SMALL = (3 - 2 * ROOT) ** 2  # s² at either end of [1/√2, √2]

# name, bits, function, low, high, degree, weight that makes the error relative to the result
TABLE: tuple[tuple[str, int, Function, mpf, mpf, int, Function], ...] = (
    ("EXP2_F32", 32, exp2_tail, -HALF, HALF, 5, lambda x: abs(x) / 2**x),
    ("EXP2_F64", 64, exp2_tail, -HALF, HALF, 10, lambda x: abs(x) / 2**x),
    ("LOG2_F32", 32, log2_tail, 1 / ROOT - 1, ROOT - 1, 9, lambda f: abs(f**2 / mp.log(1 + f, 2))),
    ("LOG2_F64", 64, lambda z: atanh_tail(z) / z, mpf(0), SMALL, 7, lambda z: z / 2),
    ("SIN_F32", 64, sin_tail, mpf(0), (mp.pi / 2) ** 2, 4, lambda z: z * mp.sqrt(z) / mp.sin(mp.sqrt(z))),
    ("SIN_F64", 64, sin_tail, mpf(0), (mp.pi / 2) ** 2, 9, lambda z: z * mp.sqrt(z) / mp.sin(mp.sqrt(z))),
)


def parts(value: mpf, count: int, bits: int = 64) -> list[float]:
    """`value` as an unevaluated sum of floats."""
    result = []
    for _ in range(count):
        result += rounded([value], bits)
        value -= mpf(result[-1])
    return result


def inverse_pi_words(count: int) -> list[int]:
    """1/π as 64-bit words after the point, behind a word of zeros."""
    mp.prec = 64 * count + 64
    bits = int(mp.floor(mpf(2) ** (64 * count) / mp.pi))
    return [0, *((bits >> (64 * (count - 1 - k))) & (2**64 - 1) for k in range(count))]


def listing(name: str, values: Iterable[str], kind: str) -> str:
    return "\n".join([f"{name}: tuple[{kind}, ...] = (", *(f"    {value}," for value in values), ")"])


def main() -> None:
    pieces = ['"""Coefficients, lowest power first; made by tools/polynomials.py, not by hand."""', ""]
    for name, bits, function, low, high, degree, weight in TABLE:
        values = rounded(interpolate(function, low, high, degree), bits)
        worst = error(values, function, weight, low, high)
        print(f"{name}: degree {degree}, relative error 2^{float(mp.log(worst, 2)):.1f}")
        pieces.append(listing(name, map(repr, values), "float"))
    constants = (
        ("LOG2_E_F32", parts(1 / mp.log(2), 2, 32)),
        ("LOG2_E_F64", parts(1 / mp.log(2), 2)),
        ("PI", parts(mp.pi, 3)),
        ("INVERSE_PI", parts(1 / mp.pi, 1)),
    )
    pieces += [listing(name, map(repr, values), "float") for name, values in constants]
    pieces.append(listing("INVERSE_PI_WORDS", (f"0x{word:016X}" for word in inverse_pi_words(20)), "int"))
    path = Path(__file__).parent.parent / "src" / "petaflop_cpu" / "coefficients.py"
    path.write_text("\n".join(pieces) + "\n")


if __name__ == "__main__":
    main()
