"""`petaflop new backend NAME` and `petaflop new scheme NAME`: a package that works, to be made one's own.

Once installed it holds conformance level `plugin`. It appears in a new folder, whole or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import tempfile
from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from petaflop.errors import ArgumentError
from petaflop.plugins.discovery import normalized
from petaflop.plugins.hookspecs import API_VERSION
from petaflop.plugins.manager import plugin_manager

__all__ = ["configure", "run"]

_KINDS = {"backend": "backend", "scheme": "quant"}  # the template's folder → the kind of plugin
_SUITES = {"backend": "--petaflop-backend={} --petaflop-level=plugin", "scheme": "--petaflop-scheme={}"}
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("kind", choices=_KINDS, help="what the package offers")
    parser.add_argument("name", metavar="NAME", help="what its users will type, such as mychip")
    parser.add_argument("--folder", metavar="PATH", help="the new folder (default: petaflop-NAME)")


def run(options: argparse.Namespace) -> int:
    """Write the package."""
    kind, name = options.kind, options.name
    distribution = _distribution(kind, name)
    folder = Path(options.folder or distribution)
    if folder.exists() or folder.is_symlink():
        raise ArgumentError(f"{folder}: expected a folder that does not exist yet")
    words = {
        "name": name,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "class": "".join(part.capitalize() for part in re.split("[-_]", name)),
        "api": str(API_VERSION),
        "version": _core_version(),
    }
    _write(folder, kind, words)
    print(f"{folder}: a {kind} named {name}. Next:")
    print(f"  pip install -e '{folder}[test]'")
    print(f"  pytest {folder}")
    print(f"  pytest {_SUITES[kind].format(name)}")
    return 0


def _distribution(kind: str, name: str) -> str:
    """The package's name; ArgumentError for a name that is none, or that is taken here."""
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise ArgumentError(f"name: expected lower-case letters and digits, such as mychip, got {name!r}")
    distribution = normalized(f"petaflop-{name}")
    for plugin in plugin_manager().plugins():
        if (plugin.kind, plugin.name) == (_KINDS[kind], name):
            raise ArgumentError(f"name: expected a new one, got {name!r}, which {plugin.source} offers")
    with contextlib.suppress(PackageNotFoundError):
        version = metadata.version(distribution)
        raise ArgumentError(f"name: expected a new one, got {name!r}: {distribution} {version} is installed")
    return distribution


def _core_version() -> str:
    from petaflop import __version__

    return __version__


def _write(folder: Path, kind: str, words: dict[str, str]) -> None:
    """Write all files beside the folder, then give it its name."""
    with tempfile.TemporaryDirectory(prefix=".petaflop-new-", dir=folder.parent) as beside:
        draft = Path(beside) / folder.name
        for template, path in _templates(files("petaflop.cli") / "templates" / kind, Path()):
            target = draft / _filled(str(path), words).removesuffix(".txt")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(template.read_text("utf-8"), words), encoding="utf-8")
        draft.rename(folder)


def _templates(folder: Traversable, path: Path) -> Iterator[tuple[Traversable, Path]]:
    """Every file below a folder of templates, with its path there."""
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if each.is_dir():
            yield from _templates(each, path / each.name)
        elif each.name.endswith(".txt"):
            yield each, path / each.name


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub("@(" + "|".join(words) + ")@", lambda match: words[match[1]], text)
