"""One pass over the metadata of installed packages: which plugins are offered, by whom, in which API version.

Nothing is imported, and a package whose metadata cannot be read is one broken row instead of an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions

from petaflop.plugins.hookspecs import API_VERSION, KINDS, OLDEST_API_VERSION

__all__ = ["Plugin", "normalized", "one_line", "scan"]

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


def one_line(error: BaseException) -> str:
    """An error's type and message in one line that a terminal can print, whatever the plugin made of them."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 – an error whose message fails, too, is still an error to report
        text = "(its message cannot be printed)"
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def scan(packages: Iterable[Distribution] | None = None) -> list[Plugin]:
    """Every plugin that installed packages offer, each at the newest API version that core speaks."""
    found: list[Plugin] = []
    seen: set[str] = set()
    for package in distributions() if packages is None else packages:
        unreadable = _why_unreadable(package)
        if not unreadable and "petaflop." not in (_read(package, "entry_points.txt") or ""):
            continue
        name, version = _identity(package)
        if normalized(name) in seen:  # of two copies on the path Python imports the first
            continue
        seen.add(normalized(name))
        found.extend(
            [_broken(package, name, version, unreadable)] if unreadable else _offers(package, name, version)
        )
    return sorted(found, key=lambda plugin: (plugin.kind, plugin.name, plugin.package))


def _why_unreadable(package: Distribution) -> str:
    """What keeps Python from seeing the entries of a package, whosever it is: no text, or no INI file."""
    try:
        lines = (package.read_text("entry_points.txt") or "").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return one_line(error)
    content = (line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    first = next(content, "[]")
    return (
        ""
        if first.startswith("[") and first.endswith("]")
        else f"expected a [group] first, got {first[:60]!r}"
    )


def _broken(
    package: Distribution, name: str, version: str, why: str, error: BaseException | None = None
) -> Plugin:
    path, why = str(package.locate_file("")), f"entry_points.txt cannot be read: {why}"
    return Plugin("unknown", name, name, version, path=path, outcome="broken", why=why, error=error)


def _offers(package: Distribution, name: str, version: str) -> Iterator[Plugin]:
    path = str(package.locate_file(""))
    try:
        entries = list(package.entry_points)
    except Exception as error:  # noqa: BLE001 – whatever is wrong with one file, the others must be seen
        yield _broken(package, name, version, one_line(error), error)
        return
    best: dict[tuple[str, str], Plugin] = {}
    for entry in entries:
        if not entry.group.startswith("petaflop."):
            continue
        match = _VERSIONED_GROUP.fullmatch(entry.group)
        if match is None or match[1] not in _KIND_OF_GROUP:  # a newer kind, or a misspelt one: not to vanish
            known = ", ".join(f"{group}.v{API_VERSION}" for group in _KIND_OF_GROUP)
            why = f"this petaflop knows no group {entry.group}, but {known}"
            yield Plugin("unknown", entry.name, name, version, None, entry, path, "incompatible", why=why)
            continue
        offer = Plugin(_KIND_OF_GROUP[match[1]], entry.name, name, version, int(match[2]), entry, path)
        other = best.setdefault((offer.kind, offer.name), offer)
        if offer.api == other.api and other.entry is not None and entry.value != other.entry.value:
            other.outcome = "broken"
            other.why = f"entry_points.txt names two modules for it: {other.entry.value} and {entry.value}"
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
    """The text of a metadata file; None where there is none, a mark in place of what is no UTF-8."""
    try:
        return package.read_text(file)
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")
    except OSError:
        return None
