"""What a plugin hands over to add a subcommand to `petaflop`."""

from __future__ import annotations

import argparse
from typing import Protocol, runtime_checkable

__all__ = ["Command"]


@runtime_checkable
class Command(Protocol):
    """A subcommand: its `summary` for the help, its arguments, and what it does; a module will do."""

    summary: str

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...
