"""`python -m petaflop_onnx.suite`: run the suite, print the report, hold the baseline."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

_GIB = 1 << 30


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="petaflop_onnx.suite", description=__doc__)
    parser.add_argument("--baseline", type=Path, help="cases that must pass, one a line")
    parser.add_argument("--update", action="store_true", help="add what passes now to the baseline")
    parser.add_argument("--report", type=Path, help="folder for suite.txt and suite.json")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one case")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB of addresses for one worker")
    parser.add_argument("--match", default="", help="only cases whose name holds this text")
    parser.add_argument("--failures", action="store_true", help="print the error of every case that fails")
    return parser.parse_args()


def main() -> int:
    """0 if every case of the baseline that was run passed."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="petaflop-onnx-") as folder:
        os.environ["ONNX_HOME"] = folder  # the suite writes its data there, by default into the user's home
        os.environ.setdefault("PETAFLOP_CACHE_DIR", str(Path(folder) / "cache"))  # shared by the workers
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    import onnx

    from petaflop_onnx.suite.cases import cases
    from petaflop_onnx.suite.report import read_baseline, table, write_baseline, write_json
    from petaflop_onnx.suite.workers import run_cases

    start = time.perf_counter()
    known = cases()
    names = [name for name in known if options.match in name]
    outcomes = run_cases(names, options.workers, options.limit, int(options.memory * _GIB))
    passing = {name for name, outcome in outcomes.items() if outcome.result == "passed"}
    text = table(known, outcomes)
    print(text)
    if options.failures:
        for name in sorted(set(outcomes) - passing):
            print(f"{name}: {outcomes[name].result}: {outcomes[name].error}")
    print(f"\n{len(passing)} of {len(names)} cases pass, {time.perf_counter() - start:.0f} s")
    if options.report:
        options.report.mkdir(parents=True, exist_ok=True)
        (options.report / "suite.txt").write_text(text + "\n", "utf-8")
        write_json(options.report / "suite.json", known, outcomes)
    if not options.baseline:
        return 0
    version, expected = read_baseline(options.baseline)
    if version != onnx.__version__:
        print(f"{options.baseline}: expected the cases of onnx {onnx.__version__}, got those of {version}")
        return 1
    lost = sorted((expected & set(outcomes)) - passing)
    gone = sorted(expected - set(known))
    for name in lost:
        print(f"no longer passes: {name}: {outcomes[name].result}: {outcomes[name].error}")
    for name in gone:
        print(f"no longer a case: {name}")
    won = passing - expected
    if won and options.update:
        write_baseline(options.baseline, expected | passing)
    if won:
        what = "added to the baseline" if options.update else "run with --update to add them"
        print(f"{len(won)} cases pass that the baseline does not list; {what}")
    return int(bool(lost or gone))


if __name__ == "__main__":
    sys.exit(main())
