"""What an importer declares, and what it says to files that are no models."""

from __future__ import annotations

from pathlib import Path

import pytest

from petaflop.errors import PetaflopError
from petaflop.plugins.importer import Importer
from petaflop_conformance.hostile import garbage, refused

pytestmark = pytest.mark.level("hostile")


def test_declarations(importer: Importer, importer_name: str) -> None:
    assert importer.name == importer_name
    assert importer.extensions and all(each.startswith(".") for each in importer.extensions)


@pytest.mark.parametrize(("what", "content"), list(garbage()), ids=[what for what, _ in garbage()])
def test_garbage_is_refused(importer: Importer, tmp_path: Path, what: str, content: bytes) -> None:
    """FileFormatError that names the file, within two seconds."""
    for extension in importer.extensions:
        refused(
            tmp_path / f"hostile{extension}", content, lambda path: importer.load(path, "reference"), what
        )


def test_files_that_cannot_be_read(importer: Importer, tmp_path: Path) -> None:
    """One that is not there, and a folder: an error that names it."""
    missing = tmp_path / f"missing{importer.extensions[0]}"
    folder = tmp_path / f"folder{importer.extensions[0]}"
    folder.mkdir()
    for path in (missing, folder):
        with pytest.raises((PetaflopError, OSError), match=path.stem):
            importer.load(path, "reference")
