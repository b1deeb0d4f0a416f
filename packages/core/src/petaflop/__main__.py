"""`python -m petaflop` is the same as `petaflop`."""

from petaflop.cli import main

raise SystemExit(main())
