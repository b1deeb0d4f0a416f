"""tinygrad on its CPU backend, as it is and with BEAM=2, and NumPy where the same expression is NumPy's too:
the rows of the other groups, but for matrix times vector and the optimizer's step alone. Slow, as BEAM
compiles and times many variants of a kernel.

tinygrad compiles through clang: the one on the PATH (Debian: apt-get install clang), or else the one in the
`ziglang` wheel. Rows say why a peer is missing: what it raised, or how far it was from float64.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import torch
import training
from _bench import Bar, Call, Case, Pair, arrays, main, options, worst_error

GROUPS = ("matmul", "chains", "attention", "convolution", "small", "training", "models")
SIDES = {"tinygrad": 0, "tinygrad, BEAM=2": 2}
BARS = {"reported": Bar(None, None)}


def clang(folder: Path) -> str:
    """A clang to run; that of zig is called through a script in `folder`."""
    found = shutil.which("clang")
    if found is not None:
        return found
    try:
        import ziglang
    except ImportError as error:
        raise SystemExit("others: expected clang on the PATH or the ziglang wheel, got neither") from error
    script = folder / "clang"
    script.write_text(f'#!/bin/sh\nexec "{Path(ziglang.__file__).parent / "zig"}" clang "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def tiny(values: torch.Tensor) -> Any:
    """The same values for tinygrad."""
    from tinygrad import Tensor

    if values.dtype == torch.bfloat16:
        return Tensor(values.float().numpy()).cast("bfloat16").contiguous().realize()
    return Tensor(values.numpy()).realize()


def replayed(function: Callable[..., Any], inputs: list[Any], beam: int) -> Call:
    """A call through TinyJit, captured and compiled here, that waits for its result."""
    from tinygrad import Device, TinyJit
    from tinygrad.helpers import Context

    device = Device[Device.DEFAULT]
    jitted = TinyJit(function)

    def run() -> Any:
        with Context(BEAM=beam, NUM_CPU_THREADS=torch.get_num_threads()):
            result = jitted(*inputs)
        device.synchronize()
        return result

    return run


def pure(case: Case, beam: int) -> Call:
    """A function of tensors that is spelled alike there."""
    assert case.portable is not None
    function, inputs = case.portable
    return replayed(lambda *given: realized(function(*given)), [tiny(each.theirs) for each in inputs], beam)


def realized(result: Any) -> Any:
    """All tensors of a result, computed."""
    from tinygrad import Tensor

    several = result if isinstance(result, (list, tuple)) else [result]
    Tensor.realize(*several)
    return result


def step(model: training.Model, beam: int) -> Call:
    """A training step."""
    from tinygrad.helpers import Context
    from tinygrad.nn import optim

    weights = {name: tiny(torch.from_numpy(value.copy())) for name, value in model.weights.items()}
    optimizer = optim.AdamW(list(weights.values()), lr=training.RATE)
    x, target = tiny(torch.from_numpy(model.x)), tiny(torch.from_numpy(model.target))

    def train(x: Any, target: Any) -> Any:
        with Context(TRAINING=1):
            optimizer.zero_grad()
            loss = model.loss(TINYGRAD, weights, x, target)
            loss.backward()
            return loss.realize(*optimizer.schedule_step())

    return replayed(train, [x, target], beam)


TINYGRAD = replace(
    training.OURS,
    gelu=lambda x: 0.5 * x * (1 + (x * 2**-0.5).erf()),  # its own is the approximation by tanh
    cross_entropy=lambda x, target: x.sparse_categorical_crossentropy(target),
)


def onnx_model(path: Path, feeds: Mapping[str, Any], beam: int) -> Call:
    """A whole graph, from arrays to arrays as the other sides."""
    from tinygrad import Tensor
    from tinygrad.nn.onnx import OnnxRunner

    runner = OnnxRunner(path)

    def run(*given: Any) -> list[Any]:
        found = runner(dict(zip(feeds, given, strict=True)))
        return realized(list(found.values()))

    call = replayed(run, [Tensor(value).realize() for value in feeds.values()], beam)
    return lambda: [value.numpy() for value in call()]


def candidates(group: str, case: Case, extra: Any) -> Iterator[tuple[str, Callable[[], Call]]]:
    """(side, what makes its call) of those that may run a row."""
    for side, beam in SIDES.items():
        if group == "training":
            yield side, lambda beam=beam: step(extra, beam)
        elif group == "models":
            yield side, lambda beam=beam: onnx_model(*extra, beam)
        elif case.portable is not None:
            yield side, lambda beam=beam: pure(case, beam)
    if case.portable is not None:
        yield "numpy", lambda: in_numpy(*case.portable)


def in_numpy(function: Callable[..., Any], inputs: list[Pair]) -> Call:
    """The function itself, on arrays."""
    given = [each.theirs.numpy() for each in inputs]
    return lambda: function(*given)


def with_others(group: str, case: Case, extra: Any) -> Case:
    """The row with the peers that can run it; why others cannot is a note."""
    truth, peers, notes = arrays(case.truth()), {}, []
    for side, make in candidates(group, case, extra):
        try:
            worst_error(side, case, make(), truth)
            peers[side] = make()  # once more, as a step changes what it starts from
        except Exception as error:  # noqa: BLE001 – whatever it cannot do is what we report
            notes.append(f"{type(error).__name__}: {str(error).strip()[:100]} ({side})")
    return replace(case, name=f"{group}: {case.name}", kind="reported", peers=peers, note="; ".join(notes))


def sources(group: str, folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[Case, Any]]:
    """The rows of a group, and what else a side needs to build its own."""
    if group == "training":
        for make in (training.mlp, training.convolutional, training.transformer):
            yield training.training(made := make()), made
    elif group == "models":
        for name, batch in models.rows():
            if not wanted(f"{group}: {name}, batch {batch}"):
                continue
            yield models.whole(name, batch, folder), (folder / f"{name}.onnx", models.feeds(name, batch))
    else:
        for case in import_module(group).cases():
            yield case, None


def cases(given: argparse.Namespace) -> Iterator[Case]:
    def wanted(name: str) -> bool:
        return not given.names or any(word in name for word in given.names)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="petaflop-")))
        os.environ["CC"] = clang(folder)
        named = {word.partition(":")[0] for word in given.names}  # "training: MLP" is of one group
        for group in [group for group in GROUPS if group in named] or GROUPS:
            stack.enter_context(torch.set_grad_enabled(group == "training"))
            for case, extra in sources(group, folder, wanted):
                if wanted(f"{group}: {case.name}"):
                    yield with_others(group, case, extra)


if __name__ == "__main__":
    main("others", partial(cases, options("tinygrad and NumPy")), BARS)
