"""Environment variables: what they may hold, and that a wrong one is a typed error where it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from petaflop import compiler
from petaflop.config import VARIABLES, Config
from petaflop.errors import ArgumentError

GOOD = [
    ("PETAFLOP_DEBUG", "2", 2),
    ("PETAFLOP_FUSE", "no", False),
    ("PETAFLOP_FUSE", "1", True),
    ("PETAFLOP_CHECK", "nan", "nan"),
    ("PETAFLOP_CACHE_MB", "5", 5),
    ("PETAFLOP_DISABLE_PLUGINS", "a, b,", ("a", "b")),
    ("PETAFLOP_THREADS", "", 0),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_values(name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    (variable,) = (variable for variable in VARIABLES if variable.name == name)
    monkeypatch.setenv(name, text)
    assert getattr(Config(), variable.attribute) == value


BAD = [
    ("PETAFLOP_DEBUG", "abc", "a number of 0 or more"),
    ("PETAFLOP_DEBUG", "-1", "a number of 0 or more"),
    ("PETAFLOP_THREADS", "1.5", "a number of 0 or more"),
    ("PETAFLOP_CHECK", "inf", "nan or index"),
]


@pytest.mark.parametrize(("name", "text", "expected"), BAD)
def test_a_wrong_value_is_an_error_where_it_is_used(
    name: str, text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (variable,) = (variable for variable in VARIABLES if variable.name == name)
    monkeypatch.setenv(name, text)
    config = Config()
    with pytest.raises(ArgumentError, match=f"^{name}: expected {expected}, got '{text}'\n"):
        getattr(config, variable.attribute)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = config.nonsense


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PETAFLOP_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Config().cache_dir == tmp_path / "petaflop"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Config().cache_dir == Path.home() / ".cache" / "petaflop"


# ---- other systems ----

# What macOS or Windows lack, taken away before petaflop is imported; then a small program and a command.
FOREIGN = """
import os, sys
for name in ("sched_getaffinity", "sysconf", "sysconf_names", "getuid", "killpg", "fork", "mkfifo",
             "O_NOFOLLOW", "O_NONBLOCK", "setsid", "posix_fadvise", "getloadavg", "sched_yield"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
import signal, mmap
for name in ("SIGKILL", "SIGSTOP", "SIGUSR1", "SIGHUP", "SIGALRM", "pthread_sigmask", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("MAP_PRIVATE", "MAP_ANONYMOUS", "PROT_READ", "MADV_HUGEPAGE"):
    if hasattr(mmap, name):
        delattr(mmap, name)

from petaflop import Tensor, jit, nn, optim
from petaflop.cli import main
from petaflop.compiler import _side_by_side
from petaflop.state import get_state_dict, load_state_dict, safe_load, safe_save

x, model = Tensor.randn(8, 3), nn.Linear(3, 2)
optimizer = optim.AdamW(model.parameters(), lr=0.05)

@jit
def step(x):
    optimizer.zero_grad()
    loss = (model(x) - 1).square().mean()
    loss.backward()
    optimizer.step()
    return loss.detach()

first = step(x).item()
for _ in range(10):
    last = step(x).item()
assert last < first, (first, last)
assert list(_side_by_side().map(abs, [-1, -2])) == [1, 2]
safe_save(get_state_dict(model), "model.safetensors")
load_state_dict(model, safe_load("model.safetensors"))
open("script.py", "w").write("from petaflop import Tensor\\nprint((Tensor.ones(3) + 1).tolist())\\n")
sys.exit(main(["explain", "script.py"]))
"""


def test_the_reference_device_needs_nothing_of_one_system(tmp_path: Path) -> None:
    (tmp_path / "foreign.py").write_text(FOREIGN)
    environment = {**os.environ, "PETAFLOP_DEVICE": "reference"}
    done = subprocess.run(
        [sys.executable, "foreign.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "[2.0, 2.0, 2.0]" in done.stdout and "why it ends here" in done.stdout


def test_cores_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert compiler._cores() == 1
