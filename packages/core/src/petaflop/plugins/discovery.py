"""One pass over the metadata of installed packages: which plugins are offered, by whom, in which API version.

Nothing is imported, and a package whose metadata cannot be read is one broken row instead of an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions

from petaflop.plugins.hookspecs import API_VERSION, KINDS, OLDEST_API_VERSION

__all__ = ["Plugin", "normalized", "scan"]

_KIND_OF_GROUP = {kind.group: kind.name for kind in KINDS.values()}
_VERSIONED_GROUP = re.compile(r"(petaflop\.\w+)\.v(\d+)")


@dataclass(slots=True, eq=False)
class Plugin:
    """One name that one package offers.

    `outcome` is what came of using it ("" before); `status` is that, or what forbids to use it now.
    """

    kind: str
    name: str
    package: str
    version: str
    api: int | None = None
    entry: EntryPoint | None = None  # None: built in, or metadata that cannot be read
    path: str = ""
    outcome: str = ""
    status: str = "available"
    why: str = ""
    error: BaseException | None = None
    load_ms: float | None = None

    @property
    def source(self) -> str:
        """The package as messages name it."""
        return f"{self.package} {self.version}".strip()

    @property
    def is_spoken(self) -> bool:
        """Whether core speaks the API version of the plugin."""
        return self.api is None or OLDEST_API_VERSION <= self.api <= API_VERSION


def normalized(name: str) -> str:
    """A package name as the packaging rules compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def scan(packages: Iterable[Distribution] | None = None) -> list[Plugin]:
    """Every plugin that installed packages offer, each at the newest API version that core speaks."""
    found: list[Plugin] = []
    seen: set[str] = set()
    for package in distributions() if packages is None else packages:
        text = _read(package, "entry_points.txt")
        if text is None or "petaflop." not in text:
            continue
        name, version = _identity(package)
        if normalized(name) not in seen:  # of two copies on the path Python imports the first
            seen.add(normalized(name))
            found.extend(_offers(package, name, version))
    return sorted(found, key=lambda plugin: (plugin.kind, plugin.name, plugin.package))


def _offers(package: Distribution, name: str, version: str) -> Iterator[Plugin]:
    path = str(package.locate_file(""))
    try:
        entries = list(package.entry_points)
    except Exception as error:  # noqa: BLE001 – whatever is wrong with one file, the others must be seen
        why = f"entry_points.txt cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        yield Plugin("unknown", name, name, version, path=path, outcome="broken", why=why, error=error)
        return
    best: dict[tuple[str, str], Plugin] = {}
    for entry in entries:
        match = _VERSIONED_GROUP.fullmatch(entry.group)
        if match is None or match[1] not in _KIND_OF_GROUP:
            continue
        offer = Plugin(_KIND_OF_GROUP[match[1]], entry.name, name, version, int(match[2]), entry, path)
        other = best.setdefault((offer.kind, offer.name), offer)
        if (offer.is_spoken, offer.api) > (other.is_spoken, other.api):
            best[offer.kind, offer.name] = offer
    yield from best.values()


def _identity(package: Distribution) -> tuple[str, str]:
    """Name and version; the name of the folder where METADATA is missing or has none."""
    metadata = _read(package, "METADATA") or _read(package, "PKG-INFO") or ""
    head = metadata.partition("\n\n")[0]
    fields = dict(re.findall(r"^(Name|Version):[ \t]*(\S+)", head, re.MULTILINE))
    folder = getattr(getattr(package, "_path", None), "name", "unknown").removesuffix(".dist-info")
    return fields.get("Name", folder), fields.get("Version", "")


def _read(package: Distribution, file: str) -> str | None:
    try:
        return package.read_text(file)
    except (OSError, UnicodeDecodeError):
        return None
