"""Writes the documents that are generated from tables in the code, and the example of architecture.md printed
at every stage; with --check, names those out of date.
"""

import argparse
import linecache
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from petaflop.cli.explain import section_text
from petaflop.cli.stages import Section, graph_text, sections
from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan
from petaflop.config import VARIABLES, overrides
from petaflop.graph.ops import OP_SPEC_VERSION, SPEC, OpSpec
from petaflop.plugin_api import render_llvm
from petaflop.profile import CompileRecord, Profile
from petaflop_cpu.mathlib import prelude
from petaflop_cpu.target import named_target

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by `nox -s docs`; edit {source} instead. -->\n"


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown; a missing value is an empty cell."""
    heading = list(header)
    lines = [heading, ["---"] * len(heading), *rows]
    cells = [["" if cell is None else str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def environment() -> str:
    """Every environment variable that petaflop reads."""
    rows = [(f"`{item.name}`", shown(item.default), item.meaning) for item in VARIABLES]
    return f"""\
# Environment variables

{NOTE.format(source="packages/core/src/petaflop/config.py")}
petaflop reads these once, when it is imported, and no others but `XDG_CACHE_HOME`. A value that makes no
sense is an error where it is first used. `petaflop.config.overrides(fuse=False)` changes them for a block of
code. A flag is off for `0`, `false`, `no`, `off` and nothing, and on for anything else.

{markdown_table(("variable", "default", "what it does"), rows)}"""


def shown(default: object) -> str:
    """A default as one would type it into a shell."""
    if isinstance(default, bool):
        return f"`{int(default)}`"
    return f"`{default}`" if default not in ("", None, ()) else ""


def opspec() -> str:
    """Every primitive operation."""
    header = ("op", "family", "sources", "dtypes", "result", "meaning", "gradient", "ULP", "C", "LLVM")
    rows = [operation(row) for row in SPEC.values()]
    return f"""\
# The operations

{NOTE.format(source="packages/core/src/petaflop/graph/ops.py")}
Version {OP_SPEC_VERSION}. A backend implements these and nothing else; all the rest of petaflop is composed
from them. `g` is the gradient of the result; ULP is the error allowed in float32.

{markdown_table(header, rows)}"""


def operation(row: OpSpec) -> tuple[object, ...]:
    """One operation's cells."""
    sources = "any" if row.arity is None else row.arity
    ulp = "stated" if row.ulp is None else f"{row.ulp:g}"
    types = (row.family, sources, row.dtypes, row.result)
    return (code(str(row.op)), *types, row.meaning, row.gradient, ulp, code(row.c), code(row.llvm))


def code(text: str | None) -> str | None:
    """A spelling in a code font."""
    return f"`{text}`" if text else None


TARGET = "x86-64-v3"  # whatever machine writes the page
EXAMPLE = re.compile(
    r"(?P<program>```python\n(?P<code>.*?)```\n\nprints for its last line.*?:\n\n```\n).*?(?=```\n)",
    re.DOTALL,
)


def architecture() -> str:
    """The page as it is, with the example's stages as they are now."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = EXAMPLE.search(text)
    assert found is not None, "docs/architecture.md has lost its example"
    return EXAMPLE.sub(lambda match: match["program"] + printed(match["code"]), text)


def printed(code: str) -> str:
    """What `petaflop explain example.py` prints for the last line of `code` on `TARGET`."""
    linecache.cache["example.py"] = (len(code), None, code.splitlines(keepends=True), "example.py")
    profile = Profile(describe=graph_text)
    with overrides(device="reference", cache=False), profile:
        exec(compile(code, "example.py", "exec"), {"__name__": "__main__"})
    profile.compiles = [planned(record) for record in profile.compiles]
    every = list(sections(profile))
    last = max(number for number, section in enumerate(every) if section.level == 1)
    text = "\n".join(section_text(section) for section in shortened(every[last:]))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def planned(record: CompileRecord) -> CompileRecord:
    """The record with the stages that `TARGET` adds."""
    target = named_target(TARGET)
    plan = default_plan(record.kernel, target)
    loops = lower(record.kernel, plan, target)
    source = re.sub(r"\nattributes #.*", "", render_llvm(loops, target, prelude))
    return record._replace(plan=plan, loops=loops, source=source)


def shortened(found: Iterable[Section]) -> Iterator[Section]:
    """Without times."""
    for section in found:
        stages = tuple(stage for stage in section.stages if stage.title != "compile times")
        yield replace(section, note="" if section.level == 1 else section.note, stages=stages)


DOCUMENTS: dict[str, Callable[[], str]] = {
    "architecture.md": architecture,
    "environment.md": environment,
    "opspec.md": opspec,
}


def main() -> int:
    """Write what differs; with --check, only name it, and return 1 if there is any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a document is out of date"
    )
    check = parser.parse_args().check
    stale = 0
    for name, write in DOCUMENTS.items():
        path, text = ROOT / "docs" / name, write()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"docs/{name} {'is out of date: run `nox -s docs`' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    raise SystemExit(main())
