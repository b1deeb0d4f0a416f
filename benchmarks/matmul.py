"""Matrix products against PyTorch, NumPy and onnxruntime: float32, bfloat16 and int8, squares, odd sizes,
transpositions, batches, and matrix times vector over more matrices than the caches hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import onnxruntime
import torch
from _bench import Bar, Case, compare, main, pair
from onnx import TensorProto, helper

from petaflop import jit

BARS = {
    "float32": Bar(0.9, 1.0, peers=("eager",)),
    "bfloat16": Bar(0.8, 0.95),
    "int8": Bar(0.8, 1.0),
    "vector": Bar(0.85, 0.9, of="bandwidth"),
}
SQUARES = [(side, side, side) for side in (256, 512, 1024, 2048)]
SIZES = [*SQUARES, (1000, 777, 333), (4096, 64, 4096), (64, 4096, 4096)]
BATCHES = [((12, 512, 64), (12, 64, 512)), ((12, 512, 512), (12, 512, 64))]
TURNED: dict[str, Callable[[Any, Any], Any]] = {
    "nt": lambda a, b: a @ b.T,
    "tn": lambda a, b: a.T @ b,
    "tt": lambda a, b: a.T @ b.T,
}
ERRORS = {"float32": 1e-5, "bfloat16": 1e-2}
MATRICES = {"float32": 4, "bfloat16": 8, "int8": 16}  # of 4096 x 4096: 256 MB


def plain(a: Any, b: Any) -> Any:
    """The product as it stands."""
    return a @ b


def product(
    name: str, dtype: str, left: tuple[int, ...], right: tuple[int, ...], multiply: Callable[[Any, Any], Any]
) -> Case:
    """Floating-point matrices; NumPy's product is shown where it has the dtype."""
    a, b = pair(left, dtype), pair(right, dtype, 1)
    result = multiply(a.theirs, b.theirs)
    peers = {}
    if dtype == "float32":
        x, y = a.theirs.numpy(), b.theirs.numpy()
        peers["numpy"] = lambda: multiply(x, y) if x.ndim == 2 else np.matmul(x, y)
    work = {"operations": 2.0 * result.numel() * _depth(a.theirs, b.theirs, result), "dtype": dtype}
    return compare(
        f"{dtype} {name}", dtype, [a, b], multiply, multiply, error=ERRORS[dtype], peers=peers, **work
    )


def _depth(a: torch.Tensor, b: torch.Tensor, result: torch.Tensor) -> float:
    """The length of the axis that is summed over: the elements of one side are outer times depth."""
    batch = result.numel() // (result.shape[-1] * result.shape[-2])
    return float((a.numel() * b.numel() / (batch * result.numel())) ** 0.5)


def integers(m: int, k: int, n: int) -> Case:
    """int8 times int8 into int32, as torch._int_mm and MatMulInteger do it."""
    a, b = pair((m, k), "int8"), pair((k, n), "int8", 1)
    session = integer_session(m, k, n)
    feeds = {"a": a.theirs.numpy(), "b": b.theirs.numpy()}
    return compare(
        f"int8 {m}x{k}x{n}",
        "int8",
        [a, b],
        lambda x, y: x.int() @ y.int(),
        torch._int_mm,
        peers={"onnxruntime": lambda: session.run(None, feeds)},
        truth=lambda: a.theirs.double() @ b.theirs.double(),
        operations=2.0 * m * k * n,
        dtype="int8",
        error=0.0,
    )


def integer_session(m: int, k: int, n: int) -> onnxruntime.InferenceSession:
    """onnxruntime with one MatMulInteger."""
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT8, shape)
        for name, shape in (("a", (m, k)), ("b", (k, n)))
    ]
    output = helper.make_tensor_value_info("y", TensorProto.INT32, (m, n))
    graph = helper.make_graph([node], "product", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def vectors(dtype: str) -> Case:
    """4096 x 4096 times a vector, another matrix each time: 256 MB in all."""
    matrices = [pair((4096, 4096), dtype, seed) for seed in range(MATRICES[dtype])]
    vector = pair((4096,), dtype, 99)
    mine, other = cycle(matrices), cycle(matrices)
    whole = dtype == "int8"
    replayed = jit((lambda m, v: m.int() @ v.int()) if whole else plain)
    column = vector.theirs[:, None]

    def peer() -> torch.Tensor:
        matrix = next(other).theirs
        return torch._int_mm(matrix, column)[:, 0] if whole else matrix @ vector.theirs

    return Case(
        f"matrix x vector {dtype}",
        "vector",
        lambda: replayed(next(mine).ours, vector.ours),
        {"eager": peer},
        lambda: matrices[0].theirs.double() @ vector.theirs.double(),
        operations=2.0 * 4096**2,
        reads=4096.0**2 * matrices[0].theirs.element_size(),
        dtype=dtype,
        error=0.0 if whole else ERRORS[dtype],
    )


def cases() -> Iterator[Case]:
    for dtype in ("float32", "bfloat16"):
        for m, k, n in SIZES:
            yield product(f"{m}x{k}x{n}", dtype, (m, k), (k, n), plain)
        for name, multiply in TURNED.items():
            yield product(f"1024 {name}", dtype, (1024, 1024), (1024, 1024), multiply)
        for left, right in BATCHES:
            yield product("x".join(map(str, left)) + f" @ {right[1]}x{right[2]}", dtype, left, right, plain)
    for m, k, n in SIZES:
        yield integers(m, k, n)
    for dtype in MATRICES:
        yield vectors(dtype)


if __name__ == "__main__":
    main("matmul", cases, BARS)
