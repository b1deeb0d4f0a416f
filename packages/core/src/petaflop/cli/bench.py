"""`petaflop bench FILE`: each kernel's time, GFLOP/s and GB/s, against what the machine can do."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

from petaflop.cli.models import add_device_argument, open_device
from petaflop.cli.script import add_target_arguments, run_target
from petaflop.device.registry import get_backend
from petaflop.plugins.importer import ImportedModel
from petaflop.profile import Profile, clock

__all__ = ["bench_model", "configure", "run"]

_SECONDS = 2.0  # of repeated runs of a model
_RUNS = (5, 50)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_target_arguments(parser)
    add_device_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Run a script once, or a model repeatedly, and print the kernels."""
    device = open_device(options.device)
    if options.file.suffix != ".py":
        from petaflop.cli.files import existing_file
        from petaflop.cli.models import load_model, made_up_inputs
        from petaflop.cli.script import sizes

        existing_file(options.file)
        model = load_model(options.file, options.importer, device)
        bench_model(model, made_up_inputs(model.inputs, sizes(options.size)), device)
        return 0
    profile = Profile()
    code = run_target(options, device, profile)
    _print(profile, device)
    return code


def bench_model(model: ImportedModel, inputs: Mapping[str, Any], device: str) -> None:
    """Time a model as a whole, then kernel by kernel."""
    _once(model, inputs)
    times: list[float] = []
    while len(times) < _RUNS[0] or (sum(times) < _SECONDS and len(times) < _RUNS[1]):
        started = clock()
        _once(model, inputs)
        times.append(clock() - started)
    least, middle = min(times) * 1e3, statistics.median(times) * 1e3
    print(f"\n{len(times)} runs on {device}: median {middle:.3f} ms, least {least:.3f} ms\n")
    with Profile() as profile:
        _once(model, inputs)
    _print(profile, device)


def _once(model: ImportedModel, inputs: Mapping[str, Any]) -> None:
    for output in model(inputs).values():
        output.realize()
    get_backend().synchronize()


def _print(profile: Profile, device: str) -> None:
    from petaflop.cli.ceilings import measure_ceilings

    ceilings = measure_ceilings()
    print(profile.table(ceilings))
    print(f"\nceilings of {device}, measured now with float32 kernels of petaflop's own: {ceilings}")
