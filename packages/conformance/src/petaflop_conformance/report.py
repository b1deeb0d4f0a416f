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
from petaflop_conformance.levels import NOT_DECLARED, digest
from petaflop_conformance.rules import ulps_of

if TYPE_CHECKING:
    from petaflop_conformance.examination import Examination

__all__ = ["as_json", "summary"]

SCHEMA = 1


def as_json(examination: Examination) -> dict[str, Any]:
    """Everything that a reader needs to judge, and to repeat, the run."""
    backend, package = _backend(examination.name), _package(examination.name)
    return {
        "schema": SCHEMA,
        "suite": {"version": petaflop_conformance.__version__, "must_pass": digest()},
        "core": petaflop.__version__,
        "op_spec": OP_SPEC_VERSION,
        "backend": {"name": examination.name, **package},
        "device": _device(backend),
        "system": {
            "os": platform.platform(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "capabilities": _plain(backend.capabilities) if backend else None,
        "profile": examination.profile,
        "seed": "derandomized" if examination.profile != "soak" else "random; a failure prints its own",
        "level": {"asked": examination.level, "held": examination.held},
        "complete": not examination.missing,
        "missing": examination.missing,
        "waivers": [],
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


def _backend(name: str) -> Any:
    """The backend, or None where it cannot be opened: a level below `core` may be held without a device."""
    from petaflop.device.registry import get_backend
    from petaflop.errors import PetaflopError

    try:
        return get_backend(name)
    except PetaflopError:
        return None


def _package(name: str) -> dict[str, Any]:
    from petaflop.plugins.manager import plugin_manager

    rows = [row for row in plugin_manager().plugins() if row.kind == "backend" and row.name == name]
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
    package = _package(examination.name)
    owner = (
        f"{package['package']} {package['version']} · API v{package['api']}"
        if package["package"]
        else "not installed"
    )
    backend = _backend(examination.name)
    target = backend.target.name if backend and backend.target else "no target: kernels are interpreted"
    yield (
        f"petaflop conformance {petaflop_conformance.__version__} (op spec {OP_SPEC_VERSION})   "
        f"backend {examination.name} · {owner} · {target if backend else 'no device'}"
    )
    if backend:
        yield from _table(examination, backend)
    count = dict.fromkeys(("passed", "failed", NOT_DECLARED, "skipped"), 0)
    for outcome in examination.outcomes.values():
        count[outcome] += 1
    missing = len(examination.missing)
    yield (
        f"level held: {examination.held or 'none'} (asked: {examination.level}, "
        f"profile {examination.profile})   {count['passed']} pass · {count['failed']} fail · "
        f"{count[NOT_DECLARED]} not declared · "
        + (f"incomplete: {missing} of {len(examination.asked)} did not run" if missing else "complete")
    )


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


def policy_of(backend: Any) -> Policy:
    """What the oracle allows a backend, by what it declares."""
    capabilities = backend.capabilities
    return Policy("core", capabilities.correctly_rounded_division, capabilities.denormals)
