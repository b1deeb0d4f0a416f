"""The suite that every petaflop backend must pass, ours and a third party's."""

__version__ = "0.1.0"
