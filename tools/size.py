"""Prints lines of code and tokens per line for every source file, as tinygrad's sz.py does for itself.

Comments, docstrings and blank lines are free. A file longer than its limit fails the run; those that the
first landing left too long have limits of their own, which only go down.
"""

import argparse
import token
import tokenize
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300
LONGER = {
    "packages/backend-cpu/src/petaflop_cpu/mathlib.py": 330,
    "packages/backend-cpu/src/petaflop_cpu/runner.py": 345,
    "packages/core/src/petaflop/codegen/nest.py": 360,
    "packages/core/src/petaflop/graph/symbolic.py": 450,
    "packages/core/src/petaflop/render/llvm.py": 440,
    "packages/core/src/petaflop/render/llvm_ops.py": 350,
    "packages/core/src/petaflop/schedule/fuse.py": 310,
    "packages/core/src/petaflop/tensor/base.py": 340,
    "packages/core/src/petaflop/tensor/convolution.py": 350,
}
CODE = {token.OP, token.NAME, token.NUMBER, token.STRING, getattr(token, "FSTRING_MIDDLE", token.STRING)}


def is_docstring(item: tokenize.TokenInfo) -> bool:
    """A long string that is a statement of its own: nothing stands before it on its line."""
    alone = item.line[: item.start[1]].strip() == ""
    return item.type == token.STRING and alone and item.string.endswith('"""')


def measure(path: Path) -> tuple[int, int]:
    """The number of lines that hold code, and of tokens on them."""
    with tokenize.open(path) as file:
        items = [item for item in tokenize.generate_tokens(file.readline) if item.type in CODE]
    counted = [item for item in items if not is_docstring(item)]
    lines = {line for item in counted for line in range(item.start[0], item.end[0] + 1)}
    return len(lines), len(counted)


def table_of(paths: Iterable[Path], limit: int) -> tuple[Table, int]:
    """The table, and the number of files that are over the limit."""
    table = Table("file", "lines", "tokens/line", title="lines of code")
    for column in table.columns[1:]:
        column.justify = "right"
    totals: dict[str, list[int]] = {}
    over = 0
    for path in paths:
        lines, tokens = measure(path)
        name = path.relative_to(ROOT).as_posix()
        allowed = max(limit, LONGER.get(name, 0))
        style = "red" if lines > allowed else "yellow" if lines > limit else ""
        over += lines > allowed
        table.add_row(name, str(lines), f"{tokens / max(lines, 1):.1f}", style=style)
        total = totals.setdefault(path.relative_to(ROOT / "packages").parts[0], [0, 0])
        total[0], total[1] = total[0] + lines, total[1] + tokens
    table.add_section()
    for package, (lines, tokens) in totals.items():
        table.add_row(package, str(lines), f"{tokens / max(lines, 1):.1f}", style="bold")
    every = sum(lines for lines, _ in totals.values())
    table.add_row("all packages", str(every), "", style="bold")
    return table, over


def main() -> int:
    """Print the table; 1 if a file is too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=LIMIT, help="lines of code that a file may have")
    limit = parser.parse_args().limit
    table, over = table_of(sorted(ROOT.glob("packages/*/src/**/*.py")), limit)
    Console().print(table)
    if over:
        print(f"{over} files are longer than their limit")
    return int(over > 0)


if __name__ == "__main__":
    raise SystemExit(main())
