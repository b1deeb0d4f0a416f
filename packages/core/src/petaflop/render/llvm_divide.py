"""float32 lanes divided by one number: the reciprocal and two corrections, with the bits of a division.

A division of a long vector takes as long as a dozen multiply-adds. With y the rounded reciprocal of b, a
step q + (a - q * b) * y squares the error of q, and its remainder is exact as long as nothing underflows: the
second step starts within one unit in the last place, and then ends at the rounded quotient (a theorem of
Markstein). Where that is not sure, lanes are divided.
"""

from __future__ import annotations

__all__ = ["LEAST_LANES", "quotient_function"]

LEAST_LANES = 16  # fewer are divided about as soon
_LEAST_A, _GREATEST_A = 127 - 100, 127 + 100  # biased exponents of magnitudes
_LEAST_B, _GREATEST_B = 127 - 20, 127 + 20


def quotient_function(lanes: int) -> tuple[str, str]:
    """The name of the function of `lanes` floats and a divisor, and its definition."""
    name = f"petaflop_quotient_v{lanes}f32"
    floats, words, flags = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{lanes} x i1>"

    def splat(number: int) -> str:
        return f"splat (i32 {number})"

    fma = f"call {floats} @llvm.fma.v{lanes}f32({floats} {{}}, {floats} {{}}, {floats} {{}})"
    steps = []
    for number in (1, 2):
        steps += [
            f"%minus{number} = fneg {floats} %q{number}",
            f"%rest{number} = {fma.format(f'%minus{number}', '%b', '%a')}",
            f"%q{number + 1} = {fma.format(f'%rest{number}', '%y', f'%q{number}')}",
        ]
    lines = [
        f"define internal {floats} @{name}({floats} %a, float %divisor) alwaysinline nounwind {{",
        "entry:",
        "  %b1 = bitcast float %divisor to i32",
        "  %b2 = and i32 %b1, 2147483647",
        f"  %b3 = sub i32 %b2, {_LEAST_B << 23}",
        f"  %sure = icmp ult i32 %b3, {(_GREATEST_B - _LEAST_B) << 23}",
        f"  %a1 = bitcast {floats} %a to {words}",
        f"  %a2 = and {words} %a1, {splat(2147483647)}",
        f"  %a3 = sub {words} %a2, {splat(_LEAST_A << 23)}",
        f"  %usual = icmp ult {words} %a3, {splat((_GREATEST_A - _LEAST_A) << 23)}",
        f"  %nothing = icmp eq {words} %a1, zeroinitializer",
        f"  %each = or {flags} %usual, %nothing",
        f"  %every = call i1 @llvm.vector.reduce.and.v{lanes}i1({flags} %each)",
        "  %fits = and i1 %every, %sure",
        f"  %b4 = insertelement {floats} poison, float %divisor, i64 0",
        f"  %b = shufflevector {floats} %b4, {floats} poison, {words} zeroinitializer",
        "  br i1 %fits, label %quick, label %slow",
        "quick:",
        "  %y1 = fdiv float 1.0, %divisor",
        f"  %y2 = insertelement {floats} poison, float %y1, i64 0",
        f"  %y = shufflevector {floats} %y2, {floats} poison, {words} zeroinitializer",
        f"  %q1 = fmul {floats} %a, %y",
        *(f"  {step}" for step in steps),
        "  br label %end",
        "slow:",
        f"  %exact = fdiv {floats} %a, %b",
        "  br label %end",
        "end:",
        f"  %result = phi {floats} [ %q3, %quick ], [ %exact, %slow ]",
        f"  ret {floats} %result",
        "}",
    ]
    return name, "\n".join(lines)
