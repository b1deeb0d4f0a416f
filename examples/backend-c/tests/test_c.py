"""The backend against NumPy in float64, its compiler's absence and failures, and what it keeps to."""

from __future__ import annotations

import ast
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import petaflop_c
from petaflop import Tensor
from petaflop.plugin_api import DTYPES, CompileError, DeviceError, DType, PluginError
from petaflop_c.compiler import NAMES, Compiler

compiler = pytest.mark.skipif(not any(map(shutil.which, NAMES)), reason="no C compiler on this machine")
rng = np.random.default_rng(5)
X = rng.standard_normal((65, 130)).astype(np.float32)


def on_c(array: np.ndarray) -> Tensor:
    return Tensor(array, device="c")


@compiler
def test_a_fused_row_operation() -> None:
    x = X.astype(np.float64)
    powers = np.exp(x - x.max(-1, keepdims=True))
    expected = powers / powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(on_c(X).softmax(-1).numpy(), expected, rtol=2e-6)


@compiler
def test_a_product_with_its_epilogue() -> None:
    x = X.astype(np.float64)
    np.testing.assert_allclose(
        (on_c(X) @ on_c(X).T + 1).relu().numpy(), np.maximum(x @ x.T + 1, 0), atol=1e-4
    )


@compiler
def test_a_wide_sum_of_narrow_integers() -> None:
    """As GCC 12 compiles it wrongly, unless a pass of it is left out."""
    x = rng.integers(63, 127, (5, 33), np.int8)
    np.testing.assert_array_equal(on_c(x).sum(-1, dtype="int64").numpy(), x.astype(np.int64).sum(-1))


@compiler
def test_a_training_step() -> None:
    """Gradients of a loss."""
    weight = Tensor(X[:3], device="c", requires_grad=True)
    loss = (on_c(X) @ weight.T).square().mean()
    loss.backward()
    x, w = X.astype(np.float64), X[:3].astype(np.float64)
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), 2 * (x @ w.T).T @ x / (65 * 3), rtol=1e-4, atol=1e-5)


@compiler
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype(dtype: DType) -> None:
    """Copied in, cast to float64 and copied out."""
    values = np.array([0, 1, 1, 0, 1, 1, 0]).astype(dtype.numpy)
    expected = values.astype(np.float64)
    assert (on_c(values).cast("float64") * 2).numpy().tolist() == (expected * 2).tolist()


@compiler
def test_threads_share_the_device() -> None:
    """Launches on many threads at once have memory of their own."""
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(5):
            results[number] = (on_c(X + number) * on_c(X)).sum(0).cumsum(0).numpy()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        expected = ((X + number).astype(np.float64) * X).sum(0).cumsum(0)
        np.testing.assert_allclose(results[number], expected, rtol=1e-4, atol=1e-2)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error says what was looked for and what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"cc, gcc, clang.*install"):
        Compiler()


@compiler
def test_what_the_compiler_says_is_passed_on() -> None:
    with pytest.raises(CompileError, match=r"kernel\.c:1"):
        Compiler().compile("int broken(\n")


def test_another_name_is_not_ours() -> None:
    with pytest.raises(PluginError, match="'cc'"):
        Tensor([1.0], device="cc").numpy()


def test_only_the_plugin_api_is_imported() -> None:
    for path in Path(petaflop_c.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "petaflop":
                assert node.module == "petaflop.plugin_api"
            if isinstance(node, ast.Import):
                assert not any(each.name.split(".")[0] == "petaflop" for each in node.names)
