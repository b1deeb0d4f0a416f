"""Wrong schemes, encoders and importers are caught by the test that should; right ones hold their levels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WRONG = Path(__file__).parent / "wrong"
SCHEMES = {
    "bound_is_too_small": "test_round_trip_is_within_the_bound[normal]",
    "bits_are_wrong": "test_bits_per_weight_are_the_bytes",
    "dequantizes_otherwise": "test_dequantize_is_unpack[default]",
    "not_deterministic": "test_deterministic",
    "trusts_files": "test_hostile_files_are_refused",
    "checks_nothing": "test_planes_of_another_tensor_are_refused",
    "stores_values": "test_a_product_is_one_kernel[default-5]",
    "shifts_scales": "test_dequantize_is_unpack[default]",
}
ENCODERS = {
    "careless": "test_no_worse_than_the_nearest_codes",
    "moody": "test_deterministic",
    "believing": "test_refuses_what_makes_no_sense",
}
IMPORTERS = {
    "crashes_on_garbage": "test_garbage_is_refused[empty]",
    "takes_anything": "test_wrong_inputs_are_refused",
    "lies_about_shapes": "test_outputs_are_as_described",
}
Report = dict[str, Any]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, Report]]:
    """Exit code, output and report of every examination, all of them in one process."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("reports")
    samples = tmp_path_factory.mktemp("samples")
    (samples / "half.scale").write_text("scale 0.5 end\n", "ascii")
    (site / "petaflop_wrong_schemes.py").write_text((WRONG / "petaflop_wrong_schemes.py").read_text("utf-8"))
    info = site / "petaflop_wrong_schemes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: petaflop-wrong-schemes\nVersion: 1.0\n")
    lines = ["[petaflop.quant.v1]", *(f"{n} = petaflop_wrong_schemes" for n in ("right_rows", *SCHEMES))]
    lines += ["[petaflop.encoders.v1]"]
    lines += [f"{name} = petaflop_wrong_schemes" for name in ("right_encoder", *ENCODERS)]
    lines += ["[petaflop.importers.v1]"]
    lines += [f"{name} = petaflop_wrong_schemes" for name in ("right_importer", *IMPORTERS)]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))
    runs = [[name, f"--petaflop-scheme={name}"] for name in ("right_rows", *SCHEMES)]
    runs += [[name, f"--petaflop-encoder={name}"] for name in ("right_encoder", *ENCODERS)]
    runs += [
        [name, f"--petaflop-importer={name}", f"--petaflop-samples={samples}"]
        for name in ("right_importer", *IMPORTERS)
    ]
    runs += [["no-samples", "--petaflop-importer=right_importer"]]
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, str(WRONG / "examine.py"), str(folder), *map(json.dumps, runs)]
    empty = tmp_path_factory.mktemp("empty")
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for name, *_ in runs:
        code, text, data = [(folder / f"{name}.{k}").read_text("utf-8") for k in ("code", "txt", "json")]
        found[name] = int(code), text, json.loads(data)
    return found


@pytest.mark.parametrize("name", ["right_rows", "right_encoder", "right_importer"])
def test_a_right_one_holds_its_highest_level(reports: dict[str, Any], name: str) -> None:
    code, output, report = reports[name]
    assert code == 0, output
    highest = {"right_rows": "graph", "right_encoder": "choice", "right_importer": "model"}
    assert report["level"]["held"] == highest[name]
    assert report["complete"] is True


@pytest.mark.parametrize(("name", "test"), [*SCHEMES.items(), *ENCODERS.items(), *IMPORTERS.items()])
def test_a_wrong_one_is_caught(reports: dict[str, Any], name: str, test: str) -> None:
    code, output, report = reports[name]
    assert code == 1, output
    failed = [each["id"].partition("::")[2] for each in report["tests"] if each["outcome"] == "failed"]
    assert any(each.startswith(test.removesuffix("]")) for each in failed), f"{failed}\n{output}"


def test_without_samples_no_model_is_vouched_for(reports: dict[str, Any]) -> None:
    code, output, report = reports["no-samples"]
    assert code == 0, output
    assert report["level"] == {"asked": "hostile", "held": "hostile", "waived": 0}
    assert {test["level"] for test in report["tests"]} == {"hostile"}
    assert "level held: hostile (asked: hostile" in output and "level model needs model files" in output
