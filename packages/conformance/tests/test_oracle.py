"""The oracle itself: it knows every op, raises no false alarm, and sees what fixed tolerances do not."""

from __future__ import annotations

import numpy as np
import pytest

from petaflop.dtype import float32, float64
from petaflop.graph.node import compute, const, reduce
from petaflop.graph.ops import Op
from petaflop.realize import from_host
from petaflop_conformance.experiment import DEVICES, Device, main, run
from petaflop_conformance.oracle import RULES, Oracle, judge

GRAPHS = 120
RIGHT = [device for device in DEVICES if device.fault is None] + [Device("float64, correct", float64)]
WRONG = [device for device in DEVICES if device.fault is not None]


def test_every_op_has_a_rule() -> None:
    assert set(RULES) == set(Op)


def test_an_open_sign_of_zero_stays_open() -> None:
    """max(−0, 0) may be either; scaled by a small number, it still may."""
    zeros = from_host(np.array([-0.0, 0.0], np.float32), "reference")
    either = reduce(Op.MAX, zeros, (0,))
    scaled = compute(Op.MUL, either, const(0.015625, float32, (1,)))
    expected = Oracle({zeros: np.array([-0.0, 0.0], np.float32)})(scaled)
    for zero in (0.0, -0.0):
        assert judge(np.array([zero], np.float32), expected, float32).good
    certain = Oracle({zeros: np.array([-0.0, 0.0], np.float32)})(compute(Op.MUL, zeros, zeros))
    assert not judge(np.array([-0.0, 0.0], np.float32), certain, float32).good, "(−0)·(−0) is +0"


def test_zero_over_infinity_has_the_sign_that_was_open() -> None:
    """(max(−0, 0)) / ∞ is 0 with the sign that the maximum got."""
    zeros = from_host(np.array([-0.0, 0.0], np.float32), "reference")
    either = reduce(Op.MAX, zeros, (0,))
    expected = Oracle({zeros: np.array([-0.0, 0.0], np.float32)})(
        compute(Op.DIV, either, const(float("inf"), float32, (1,)))
    )
    for zero in (0.0, -0.0):
        assert judge(np.array([zero], np.float32), expected, float32).good


@pytest.mark.parametrize("device", RIGHT, ids=lambda device: device.name)
def test_no_false_alarm_on_a_correct_device(device: Device) -> None:
    row = run(device, GRAPHS)
    assert row.oracle == 0
    assert row.compared >= 0.9 * row.elements, "the graphs are too wild: most elements may be anything"


@pytest.mark.parametrize("device", WRONG, ids=lambda device: device.name)
def test_a_fault_that_reaches_the_result_is_seen(device: Device) -> None:
    """At least nine in ten of the graphs that use the operation, and more than any fixed tolerance sees."""
    row = run(device, GRAPHS)
    assert row.oracle >= 0.9 * row.graphs, f"{row.oracle} of {row.graphs} seen"
    assert row.oracle >= max(row.fixed.values())


def test_fixed_tolerances_do_worse(capsys: pytest.CaptureFixture[str]) -> None:
    """The table: at 1e-3 half the faults pass, and correct narrow floats are flagged."""
    assert main(["--graphs", "40"]) == 0
    text = capsys.readouterr().out
    assert all(device.name in text for device in DEVICES)
    steep, narrow = run(WRONG[0], 40), run(RIGHT[1], 40)
    assert steep.fixed["1e-3/1e-6"] < 0.8 * steep.oracle
    assert narrow.fixed["1e-3/1e-6"] > 5
