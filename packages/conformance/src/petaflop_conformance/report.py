"""The report of an examination: JSON for machines, one screen for people."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import petaflop
import petaflop_conformance
from petaflop.dtype import DTYPES
from petaflop.graph.ops import OP_SPEC_VERSION, Op
from petaflop_conformance.bounded import Policy
from petaflop_conformance.levels import NOT_APPLICABLE, NOT_DECLARED, WAIVED, digest
from petaflop_conformance.plugin import NEEDS_SAMPLES, SUBJECTS
from petaflop_conformance.rules import ulps_of

if TYPE_CHECKING:
    from petaflop_conformance.examination import Examination

__all__ = ["as_json", "summary"]

SCHEMA = 1


def as_json(examination: Examination) -> dict[str, Any]:
    """Everything that a reader needs to judge, and to repeat, the run."""
    backend, package = _backend(examination), _package(examination)
    kind = next(name for name, subject in SUBJECTS.items() if subject is examination.subject)
    return {
        "schema": SCHEMA,
        "suite": {"version": petaflop_conformance.__version__, "must_pass": digest(examination.subject)},
        "core": petaflop.__version__,
        "op_spec": OP_SPEC_VERSION,
        kind: {"name": examination.name, **package},
        "device": _device(backend),
        "system": {
            "os": platform.platform(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "capabilities": _plain(backend.capabilities) if backend else None,
        "profile": examination.profile,
        "seed": "derandomized" if examination.profile != "soak" else "random; a failure prints its own",
        "level": {
            "asked": examination.level,
            "held": examination.held,
            "waived": examination.waived,
        },
        "complete": not examination.missing,
        "missing": examination.missing,
        "waivers": [
            {"test": waiver.pattern, "reason": waiver.reason, "waived": waiver.tests}
            for waiver in examination.waivers
        ],
        "unused_waivers": [waiver.pattern for waiver in examination.unused_waivers],
        "perf": [{"what": what, "value": value, "unit": unit} for what, value, unit in examination.figures],
        "worst": {f"{op} {dtype}": list(worst) for (op, dtype), worst in sorted(_worst(examination).items())},
        "tests": [_test(examination, test) for test in sorted(examination.outcomes)],
    }


def _test(examination: Examination, test: str) -> dict[str, Any]:
    measured = examination.measured.get(test, [])
    return {
        "id": test,
        "level": examination.levels[test],
        "requires": examination.requires[test],
        "outcome": examination.outcomes[test],
        "seconds": round(examination.seconds[test], 4),
        "worst_of_bound": max((ratio for _, _, ratio, _ in measured), default=None),
        "worst_ulp": max((ulps for _, _, _, ulps in measured), default=None),
    }


def _backend(examination: Examination) -> Any:
    """The backend, or None where it cannot be opened: a level below `core` may be held without a device."""
    from petaflop.device.registry import get_backend
    from petaflop.errors import PetaflopError

    if examination.subject.kind != "backend":
        return None
    try:
        return get_backend(examination.name)
    except PetaflopError:
        return None


def _package(examination: Examination) -> dict[str, Any]:
    from petaflop.plugins.manager import plugin_manager

    asked = (examination.subject.kind, examination.name)
    rows = [row for row in plugin_manager().plugins() if (row.kind, row.name) == asked]
    if not rows:
        return {"package": None, "version": None, "api": None}
    return {"package": rows[0].package, "version": rows[0].version, "api": rows[0].api}


def _device(backend: Any) -> dict[str, Any]:
    if backend is None:
        return {"status": "absent"}
    target = backend.target
    if target is None:
        return {"status": "ok", "version": backend.version, "target": None}
    return {"status": "ok", "version": backend.version, "target": target.key}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(part) for name, part in asdict(value).items()}
    return dict(value) if isinstance(value, dict) else value


def _worst(examination: Examination) -> dict[tuple[str, str], tuple[float, float]]:
    """(op, dtype) → worst error over bound, and worst error in ulp, of the tests that measure one
    operation."""
    worst: dict[tuple[str, str], tuple[float, float]] = {}
    for measured in examination.measured.values():
        for op, dtype, ratio, ulps in measured:
            if op:
                before = worst.get((op, dtype), (0.0, 0.0))
                worst[op, dtype] = (max(before[0], ratio), max(before[1], ulps))
    return worst


# ---- one screen ----


def summary(examination: Examination) -> Iterator[str]:
    """The lines that end a run."""
    package = _package(examination)
    owner = (
        f"{package['package']} {package['version']} · API v{package['api']}"
        if package["package"]
        else "not installed"
    )
    backend = _backend(examination)
    yield (
        f"petaflop conformance {petaflop_conformance.__version__} (op spec {OP_SPEC_VERSION})   "
        f"{examination.subject.kind} {examination.name} · {owner}{_where(examination, backend)}"
    )
    if backend:
        yield from _table(examination, backend)
    yield from (f"{what:<44}{value:>12.4g} {unit}" for what, value, unit in examination.figures)
    for waiver in examination.waivers:
        if waiver.tests:
            yield f"waived: {waiver.pattern} ({len(waiver.tests)} tests): {waiver.reason}"
    for waiver in examination.unused_waivers:
        yield f"unused waiver: {waiver.pattern}: expected a test that it waives, got none; remove it"
    if examination.unwritten:
        yield examination.unwritten
    missing = len(examination.missing)
    resting = f", with {examination.waived} waived" if examination.waived else ""
    yield (
        f"level held: {examination.held or 'none'}{resting} (asked: {examination.level}, "
        f"profile {examination.profile})   {_counts(examination)} · "
        + (f"incomplete: {missing} of {len(examination.asked)} did not run" if missing else "complete")
        + _left_out(examination)
    )


def _left_out(examination: Examination) -> str:
    if NEEDS_SAMPLES not in examination.subject.levels or examination.samples is not None:
        return ""
    return f" · level {NEEDS_SAMPLES} needs model files: --petaflop-samples=FOLDER"


def _where(examination: Examination, backend: Any) -> str:
    if examination.subject.kind != "backend":
        return ""
    if backend is None:
        return " · no device"
    return f" · {backend.target.name}" if backend.target else " · no target: kernels are interpreted"


def _counts(examination: Examination) -> str:
    """How many tests ended in which way; what is rare is named where it happened."""
    count = dict.fromkeys(("passed", "failed", NOT_DECLARED, NOT_APPLICABLE, WAIVED, "skipped"), 0)
    for outcome in examination.outcomes.values():
        count[outcome] += 1
    text = f"{count['passed']} pass · {count['failed']} fail · {count[NOT_DECLARED]} not declared"
    rare = [f" · {count[outcome]} {outcome}" for outcome in (NOT_APPLICABLE, WAIVED) if count[outcome]]
    return text + "".join(rare)


_COLUMNS = ("float64", "float32", "float16", "bfloat16", "int32", "uint8", "bool")


def _table(examination: Examination, backend: Any) -> Iterator[str]:
    worst = _worst(examination)
    rows = sorted({op for op, _ in worst}, key=_row_order)
    if not rows:
        return
    yield "op      " + "".join(f"{dtype:<15}" for dtype in _COLUMNS)
    policy = policy_of(backend)
    for op in rows:
        cells = (_cell(op, dtype, worst.get((op, dtype)), backend, policy) for dtype in _COLUMNS)
        yield (f"{op:<8}" + "".join(f"{cell:<15}" for cell in cells)).rstrip()


def _row_order(op: str) -> tuple[int, str]:
    names = [each.value for each in Op]
    return (names.index(op) if op in names else len(names), op)


def _cell(op: str, dtype: str, worst: tuple[float, float] | None, backend: Any, policy: Policy) -> str:
    if dtype not in backend.capabilities.dtypes:
        return "not declared"
    if worst is None:
        return "–"
    ratio, ulps = worst
    if not ratio:
        return "exact"
    if op in Op.__members__ and (allowed := ulps_of(Op[op], DTYPES[dtype], policy)):
        return f"{ulps:.2f} / {allowed:g} ulp"
    return f"{ratio:.2g} of bound"


def policy_of(backend: Any, level: str = "core") -> Policy:
    """What the oracle allows a backend, by what it declares."""
    capabilities = backend.capabilities
    return Policy(
        level,
        capabilities.correctly_rounded_division,
        capabilities.denormals,
        capabilities.denormal_products,
    )
