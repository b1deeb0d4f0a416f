"""`petaflop bench FILE`: each kernel's time, GFLOP/s and GB/s, against what the machine can do.

A model runs several times on made-up inputs, or on arrays from files; a script runs as it is. Kernels are
named by what they do, and by the lines of the script or the nodes of the model that built them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from petaflop.cli.ceilings import measure_ceilings
from petaflop.cli.files import existing_file
from petaflop.cli.models import (
    add_device_argument,
    load_model,
    made_up_inputs,
    open_device,
    read_inputs,
    shapes,
    sizes,
)
from petaflop.cli.script import add_target_arguments, run_target
from petaflop.config import config, overrides
from petaflop.debug import rate
from petaflop.device.registry import get_backend
from petaflop.errors import ArgumentError
from petaflop.plugins.importer import ImportedModel
from petaflop.profile import Profile, clock
from petaflop.report import Ceilings, KernelTotal, kernel_table

__all__ = ["bench_model", "configure", "run"]

_SECONDS = 2.0  # of repeated runs of a model
_RUNS = (5, 50)
_PROFILED = 10  # of them at most, each kernel timed


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_target_arguments(parser)
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=1x3x224x224",
        help="the shape of a model's input",
    )
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE.npy", help="an input of a model"
    )
    parser.add_argument(
        "--runs", type=int, metavar="N", help="runs of a model; without it as many as take 2 s, 5 to 50"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU backend")
    parser.add_argument(
        "--json", action="store_true", help="print JSON; a script's own output goes to stderr"
    )
    add_device_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Run a script once, or a model repeatedly, and print the kernels."""
    for name in ("runs", "threads"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise ArgumentError(f"--{name}: expected a number of 1 or more, got {number}")
    script = options.file.suffix == ".py"
    if script and (options.shape or options.input or options.size or options.runs):
        raise ArgumentError("--shape, --input, --size, --runs: expected a model file, got a script")
    existing_file(options.file)
    with overrides(threads=options.threads or config.threads):
        return _bench_script(options) if script else _bench_file(options)


def _bench_script(options: argparse.Namespace) -> int:
    device = open_device(options.device)
    before, profile = measure_ceilings(), Profile(lines=True)
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        code = run_target(options, device, profile)
    _report(options, device, profile.kernels(), _better(before), {})
    return code


def _bench_file(options: argparse.Namespace) -> int:
    if options.input and (options.shape or options.size):
        raise ArgumentError(
            "--input: expected no --shape or --size beside it, as files have shapes; got both"
        )
    device = open_device(options.device)
    with Profile(lines=True):  # so that what is built remembers where
        model = load_model(options.file, options.importer, device)
        if options.input:
            inputs: Mapping[str, Any] = read_inputs(model.inputs, options.input, options.file)
        else:
            inputs = made_up_inputs(model.inputs, sizes(options.size), shapes(options.shape))
        _once(model, inputs)
    before = measure_ceilings()
    whole, kernels = _measured(model, inputs, options.runs)
    _report(options, device, kernels, _better(before), whole)
    return 0


def bench_model(model: ImportedModel, inputs: Mapping[str, Any], device: str) -> None:
    """Time a model as a whole, then kernel by kernel."""
    _once(model, inputs)
    before = measure_ceilings()
    whole, kernels = _measured(model, inputs, None)
    _print(device, kernels, _better(before), whole)


def _better(before: Ceilings) -> Ceilings:
    """Measured once more and the higher taken of each: other programs may run meanwhile."""
    after = measure_ceilings()
    return Ceilings(max(before.operations, after.operations), max(before.bandwidth, after.bandwidth))


def _once(model: ImportedModel, inputs: Mapping[str, Any]) -> None:
    for output in model(inputs).values():
        if hasattr(output, "realize"):  # text and narrow types are arrays already
            output.realize()
    get_backend().synchronize()


def _measured(
    model: ImportedModel, inputs: Mapping[str, Any], runs: int | None
) -> tuple[dict[str, float], list[KernelTotal]]:
    """What runs of the whole took, and then the kernels of one run, each with its median time."""
    times: list[float] = []
    least, most = (runs, runs) if runs else _RUNS
    while len(times) < least or (sum(times) < _SECONDS and len(times) < most):
        started = clock()
        _once(model, inputs)
        times.append(clock() - started)
    passes = []
    for _ in range(min(len(times), _PROFILED)):
        with Profile(lines=True) as profile:
            _once(model, inputs)
        passes.append(profile.kernels())
    median, least_time = statistics.median(times) * 1e3, min(times) * 1e3
    return {"runs": len(times), "median_ms": median, "least_ms": least_time}, _medians(passes)


def _medians(passes: Sequence[Sequence[KernelTotal]]) -> list[KernelTotal]:
    """The kernels of the last pass, each with the median of its seconds over all."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for kernel in (kernel for each in passes for kernel in each):
        seconds.setdefault((kernel.name, kernel.backend), []).append(kernel.seconds)
    for kernel in passes[-1]:
        kernel.seconds = statistics.median(seconds[kernel.name, kernel.backend])
    return sorted(passes[-1], key=lambda kernel: -kernel.seconds)


def _report(
    options: argparse.Namespace,
    device: str,
    kernels: Sequence[KernelTotal],
    ceilings: Ceilings,
    whole: Mapping[str, Any],
) -> None:
    if options.json:
        threads = config.threads or "all"
        named = {"file": str(options.file), "device": device, "threads": threads, **whole}
        print(json.dumps(named | _record(kernels, ceilings), indent=1))
    else:
        _print(device, kernels, ceilings, whole)


def _print(device: str, kernels: Sequence[KernelTotal], ceilings: Ceilings, whole: Mapping[str, Any]) -> None:
    if whole:
        median, least = whole["median_ms"], whole["least_ms"]
        print(f"\n{whole['runs']} runs on {device}: median {median:.3f} ms, least {least:.3f} ms\n")
    print(kernel_table(kernels, ceilings))
    print(f"\nceilings of {device}, measured now with float32 kernels of petaflop's own: {ceilings}")


def _record(kernels: Sequence[KernelTotal], ceilings: Ceilings) -> dict[str, Any]:
    seconds = sum(kernel.seconds for kernel in kernels)
    operations, moved = sum(each.operations for each in kernels), sum(each.bytes for each in kernels)
    total = {
        "calls": sum(kernel.calls for kernel in kernels),
        "ms": seconds * 1e3,
        "gflops": rate(operations, seconds),
        "gbs": rate(moved, seconds),
        "least_ms": sum(kernel.floor(ceilings)[0] for kernel in kernels) * 1e3,
    }
    return {
        "ceilings": {"gflops": ceilings.operations / 1e9, "gbs": ceilings.bandwidth / 1e9},
        "total": total,
        "kernels": [_kernel_record(kernel, seconds, ceilings) for kernel in kernels],
    }


def _kernel_record(kernel: KernelTotal, seconds: float, ceilings: Ceilings) -> dict[str, Any]:
    share, binds = kernel.share(ceilings)
    return {
        "kernel": kernel.name,
        "device": kernel.backend,
        "calls": kernel.calls,
        "ms": kernel.seconds * 1e3,
        "share_of_time": kernel.seconds / seconds if seconds else 0.0,
        "gflops": rate(kernel.operations, kernel.seconds),
        "gbs": rate(kernel.bytes, kernel.seconds),
        "share_of_ceiling": share,
        "bound_by": binds,
        "built_at": list(kernel.lines),
    }
