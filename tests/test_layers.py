"""Holds the import order of core, imports inside functions included, and that every module has a place in it.

A module imports only what stands lower, or its own unit; units side by side never import one another. So the
stages schedule, codegen and render know nothing of each other: `realize` strings them together.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parent.parent / "packages" / "core" / "src" / "petaflop"

# From the top down. A unit is a module or a folder; the longest name that fits a module decides, so that the
# contract in device/ stands apart from the rest of it.
LAYERS = (
    "petaflop __main__ cli",
    "nn optim state jit amp function",
    "trace recording reach",
    "impure",
    "capture guards loads structure",
    "tensor",
    "realize plugin_api",
    "checking",
    "compiler",
    "schedule codegen render device",
    "plugins",
    "ir device.backend device.buffer",
    "graph",
    "profile debug report",
    "dtype config replacing",
    "errors",
)
RANK = {unit: -row for row, units in enumerate(LAYERS) for unit in units.split()}
ONE_UNIT = (
    {"petaflop", "__main__", "cli"},
    {"ir", "device.backend", "device.buffer"},
    {"profile", "debug", "report"},
    {"dtype", "config"},
)
ABOVE_TENSOR = set(LAYERS[1].split())


def name_of(path: Path) -> str:
    """A module's name within the package: `graph.node`, and `petaflop` for the package itself."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "petaflop"


MODULES = {name_of(path): path for path in sorted(CORE.rglob("*.py"))}


def unit_of(module: str) -> str | None:
    """The unit that a module belongs to; None if it has no place."""
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in RANK), None)


def absolute(module: str, node: ast.ImportFrom) -> str:
    """The full name that a `from` import begins with."""
    if not node.level:
        return node.module or ""
    inside = "petaflop" if module == "petaflop" else f"petaflop.{module}"
    package = inside.split(".") + (["__init__"] if MODULES[module].name == "__init__.py" else [])
    return ".".join(package[: -node.level] + ([node.module] if node.module else []))


def for_types(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, types: bool) -> Iterator[ast.AST]:
    """Every node of a tree; `types` says whether to enter what only a type checker runs."""
    yield node
    for child in ast.iter_child_nodes(node):
        if types or not for_types(child):
            yield from walk(child, types)


def imported(module: str, types: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, anywhere in it, importlib's calls included."""
    for node in walk(ast.parse(MODULES[module].read_text(encoding="utf-8")), types):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            texts = [word.value for word in node.args if isinstance(word, ast.Constant)]
            yield from ((node.lineno, text) for text in texts if isinstance(text, str))


def modules_imported(module: str, types: bool = True) -> Iterator[tuple[int, str]]:
    """Line and name of the modules of core that are imported: `graph.node` for `petaflop.graph.node.Node`."""
    for line, full in imported(module, types):
        if full.split(".")[0] == "petaflop" and full != "petaflop.__version__":
            parts = full.split(".")[1:]
            prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            yield line, next((prefix for prefix in prefixes if prefix in MODULES), "petaflop")


def allowed(unit: str, target: str) -> bool:
    """Whether one unit may import another."""
    if unit == target or any({unit, target} <= units for units in ONE_UNIT):
        return True
    if {
        unit,
        target,
    } <= ABOVE_TENSOR:  # what users hold may be built from each other; a cycle would still show
        return True
    return RANK[target] < RANK[unit]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    unit = unit_of(module)
    assert unit, f"{module} has no place in LAYERS"
    wrong = [
        f"{MODULES[module].name}:{line} imports {target}"
        for line, target in modules_imported(module)
        if not allowed(unit, unit_of(target) or "petaflop")
    ]
    assert not wrong, f"{module} stands in {unit}: {'; '.join(wrong)}"


def test_no_two_modules_import_each_other() -> None:
    edges = {module: {target for _, target in modules_imported(module, types=False)} for module in MODULES}
    packages = {
        name for name in MODULES if MODULES[name].name == "__init__.py"
    }  # they gather what is in them
    pairs = [
        (a, b) for a in edges for b in edges[a] if a < b and a in edges.get(b, ()) and not {a, b} & packages
    ]
    assert not pairs
