"""`petaflop bench`: what it prints of a script and of a model, and what names its kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugin_offers import Offers, offers
from test_cli import call, refuses, restored, toy

from petaflop import Tensor, jit, profile
from petaflop.cli import bench
from petaflop.config import config
from petaflop.errors import building
from petaflop.report import Ceilings, KernelTotal, kernel_table

__all__ = ["offers", "restored", "toy"]

SCRIPT = """
import sys
from petaflop import Tensor, jit
from petaflop.config import config

x = Tensor.ones(8, 8).contiguous().realize()

@jit
def step(x):
    return (x @ x).relu()

step(x), step(x)
total = (x * 3 - 1).sum().realize()
print("threads", config.threads, total.item(), sys.argv[1:])
"""
# An importer of `.work` files, whose model multiplies; its nodes are what the file names.
IMPORTER = """
from petaflop import Tensor
from petaflop.dtype import float32
from petaflop.errors import building
from petaflop.plugins.hookspecs import hookimpl
from petaflop.plugins.importer import TensorSpec

class Model:
    inputs = [TensorSpec("a", float32, (None, "n")), TensorSpec("b", float32, ("n", 4))]
    outputs = [TensorSpec("c", float32, (None, 4))]
    def __call__(self, inputs):
        a, b = Tensor(inputs["a"]), Tensor(inputs["b"])
        with building("node 'product'"):
            c = a @ b
        with building("node 'half'"):
            return {"c": c * 0.5}

class Work:
    name, extensions = "work", (".work",)
    def load(self, path, device=None):
        return Model()

@hookimpl
def petaflop_importer(name):
    return Work() if name == "work" else None
"""


@pytest.fixture(autouse=True)
def ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known ones: measuring takes the reference device a while."""
    monkeypatch.setattr(bench, "measure_ceilings", lambda: Ceilings(operations=1e9, bandwidth=1e9))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


@pytest.fixture
def work(offers: Offers) -> Path:
    offers.add("petaflop-work", IMPORTER, name="work", group="petaflop.importers.v1")
    (offers.folder / "model.work").write_bytes(b"")
    return offers.folder / "model.work"


def benched(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """What the command says in JSON."""
    assert call("bench", *words, "--json") == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


# ---- scripts ----


def test_kernels_of_a_script_by_line(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bench", "--threads", "3", script, "word") == 0
    output = capsys.readouterr().out
    assert "threads 3 128.0 ['word']" in output and config.threads == 0
    lines = output.splitlines()
    heads = next(line for line in lines if line.startswith("kernel "))
    assert heads.split()[-5:] == ["ceiling", "bound", "by", "built", "at"]
    product = next(line for line in lines if line.endswith("script.py:10: return (x @ x).relu()"))
    assert product.split()[2] == "2"  # a replay is named as well as a first run
    assert any(line.endswith("script.py:13: total = (x * 3 - 1).sum().realize()") for line in lines)
    assert next(line for line in lines if line.startswith("in all")).split()[4] == "100.0%"


def test_json_of_a_script_is_all_that_it_prints(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bench", script, "--json") == 0
    output, error = capsys.readouterr()
    data = json.loads(output)
    assert "128.0" in error and data["file"] == str(script) and data["device"] == "reference"
    assert data["ceilings"] == {"gflops": 1.0, "gbs": 1.0} and "runs" not in data
    kernels = data["kernels"]
    assert [kernel["ms"] for kernel in kernels] == sorted((k["ms"] for k in kernels), reverse=True)
    assert data["total"]["calls"] == sum(kernel["calls"] for kernel in kernels)
    assert data["total"]["ms"] == pytest.approx(sum(kernel["ms"] for kernel in kernels))
    assert sum(kernel["share_of_time"] for kernel in kernels) == pytest.approx(1)
    product = next(kernel for kernel in kernels if "x @ x" in "".join(kernel["built_at"]))
    # 8 * 8 * 8 multiply-adds and 64 maxima, twice; at 1 GFLOP/s they take longer than 512 bytes at 1 GB/s
    assert product["gflops"] * product["ms"] * 1e6 == pytest.approx(2 * (2 * 512 + 64))
    assert product["bound_by"] == "compute"
    assert product["share_of_ceiling"] == pytest.approx(product["gflops"])


def test_what_a_script_cannot_take(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--runs", "2"), ("--shape", "x=2"), ("--input", "x.npy"), ("--size", "n=2")):
        refuses(capsys, "bench", script, *words, says=("expected a model file, got a script",))
    refuses(capsys, "bench", script, "--threads", "0", says=("--threads: expected a number of 1 or more",))
    refuses(capsys, "bench", script.with_name("none.py"), says=("none.py", "No such file"))


# ---- models ----


def test_kernels_of_a_model_by_node(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = benched(capsys, work, "--runs", "4", "--shape", "a=3x5", "--size", "n=5")
    assert data["runs"] == 4 and 0 < data["least_ms"] <= data["median_ms"]
    (kernel,) = data["kernels"]  # of one run, however many there were
    assert kernel["built_at"] == ["node 'product'", "node 'half'"] and kernel["calls"] == 1
    assert kernel["gbs"] * kernel["ms"] * 1e6 == pytest.approx(4 * (3 * 5 + 5 * 4 + 3 * 4))
    assert call("bench", work, "--runs", "1") == 0
    output = capsys.readouterr().out
    assert "1 runs on reference: median" in output and "node 'product' … node 'half'" in output


def test_inputs_of_a_model_from_files(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(work.with_name("a.npy"), np.ones((7, 6), np.float32))
    np.save(work.with_name("b.npy"), np.ones((6, 4), np.float32))
    given = [word for name in "ab" for word in ("--input", f"{name}={work.with_name(name + '.npy')}")]
    (kernel,) = benched(capsys, work, "--runs", "1", *given)["kernels"]
    assert kernel["kernel"].startswith("add_7x4_")
    refuses(capsys, "bench", work, *given, "--size", "n=6", says=("--input", "beside it"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--shape", "a=3x5"), "input b: expected n = 5 as in a, got float32[1, 4]"),
        (("--shape", "a=3"), "input a: expected a: float32[?, n], got float32[3]"),
        (("--shape", "c=3"), "--shape: expected names among a, b, got c"),
        (("--shape", "a=3x"), "--shape: expected name=2x3, each name once, got 'a=3x'"),
        (("--shape", "3x5"), "--shape: expected name=2x3, each name once, got '3x5'"),
        (("--shape", "a=3x5", "--shape", "a=3x5"), "each name once"),
        (("--shape", "a=99999999999x99999999999"), "elements"),
        (("--runs", "0"), "--runs: expected a number of 1 or more, got 0"),
    ],
)
def test_bad_options_of_a_model(
    work: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    refuses(capsys, "bench", work, *words, says=(says,))


def test_a_model_without_kernels(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = benched(capsys, toy / "model.toy", "--runs", "2")
    assert data["kernels"] == [] and data["total"]["ms"] == 0


# ---- what names kernels ----


def test_lines_are_recorded_only_where_asked() -> None:
    x = Tensor([1.0, 2.0]).realize()
    with profile.Profile(lines=True) as named, profile.profile() as plain:
        (x + 3).realize()  # here
    with profile.profile() as later:
        (x + 4).realize()
    assert named.launches[0].lines[0].endswith("(x + 3).realize()  # here")
    assert plain.launches[0].lines == named.launches[0].lines  # one record for both
    assert later.launches[0].lines == () and not profile.naming


def test_replays_know_the_lines_of_their_capture() -> None:
    replayed = jit(lambda x: x * 5 + 2)  # this one
    with profile.Profile(lines=True) as named:
        for number in range(3):
            replayed(Tensor([float(number)]).realize())
    lines = [launch.lines for launch in named.launches if launch.lines]
    assert len(lines) == 3 and all("# this one" in each[0] for each in lines)


def test_what_is_built_for_a_file_is_named_by_it() -> None:
    x = Tensor([1.0]).realize()
    with profile.Profile(lines=True) as named:
        with building("outer"):
            with building("inner"):
                y = x + 6
            z = y.sqrt()
        z.sum().realize()
    found = [line for launch in named.launches for line in launch.lines]
    assert found[:2] == ["inner", "outer"] and "z.sum().realize()" in found[2]


def test_the_table_shortens_lines() -> None:
    total = KernelTotal("k", "d", "text", 1, 1.0, 1, 1)
    total.lines = dict.fromkeys(["/some/where/a.py:1: first", "b.py:2: second", f"c.py:3: {'x' * 90}"])
    last = kernel_table([total]).splitlines()[1].rpartition("  ")[2]
    assert last == f"a.py:1: first … c.py:3: {'x' * 27}…"
    total.lines = {}
    assert "built at" not in kernel_table([total])
