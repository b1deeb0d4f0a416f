"""Three things in a row: name the types of files with a trained ONNX model, train a network on handwritten
digits, and see what every fused kernel took.

`nox -s demo` runs it; by hand: `python demo.py path/to/magika/.../model.onnx`.
"""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import tempfile
import time
import wave
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits

from petaflop import Tensor, jit, manual_seed, nn, no_grad, optim
from petaflop.cli.ceilings import measure_ceilings
from petaflop.profile import profile
from petaflop.state import get_state_dict, load_state_dict, safe_load, safe_save

Array = np.ndarray[Any, Any]
console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)

# ---- (a) a trained model: what type is this file? ----


def features(path: Path, config: dict[str, Any]) -> Array:
    """The model's input: the first and the last bytes of a file without white space around them, padded."""
    with path.open("rb") as file:
        begin = file.read(config["block_size"]).lstrip()[: config["beg_size"]]
        file.seek(max(0, path.stat().st_size - config["block_size"]))
        end = file.read().rstrip()[-config["end_size"] :]
    row = np.full(config["beg_size"] + config["end_size"], config["padding_token"], np.int32)
    row[: len(begin)] = np.frombuffer(begin, np.uint8)
    row[len(row) - len(end) :] = np.frombuffer(end, np.uint8)
    return row


def sample_files(folder: Path) -> list[Path]:
    """Real files, found or made: a program, a document, a binary, data, a picture, a sound, an archive."""
    picture, sound, archive, table = (folder / f"sample.{kind}" for kind in ("png", "wav", "zip", "csv"))
    here = Path(__file__).resolve()
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"name": "demo", "sizes": [1, 2, 3], "nested": {"deep": None}}, indent=2))
    table.write_text("".join(f"{k},{k * k},{math.sqrt(k):.3f}\n" for k in range(200)))
    _write_png(picture)
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        file.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(t / 9))) for t in range(8000)))
    with zipfile.ZipFile(archive, "w") as file:
        file.write(here, here.name)
    found = [here, here.parent.parent / "README.md", Path(sys.executable).resolve()]
    return [path for path in found if path.is_file()] + [settings, table, picture, sound, archive]


def _write_png(path: Path, size: int = 64) -> None:
    """A grey gradient."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(size)) for y in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def name_files(model: Path, folder: Path) -> Path:
    """Run `petaflop run MODEL --input … --output …` on all files at once and print its answers."""
    config = json.loads((model.parent / "config.min.json").read_text())
    files = sample_files(folder)
    rows, answers = folder / "bytes.npy", folder / "answers.npz"
    np.save(rows, np.stack([features(path, config) for path in files]))
    words = ["run", str(model), "--input", f"bytes={rows}", "--output", str(answers)]
    console.print(f"[bold]petaflop {' '.join(words)}", soft_wrap=True)
    subprocess.run([sys.executable, "-m", "petaflop", *words], check=True, stdout=subprocess.DEVNULL)
    scores = np.load(answers)["target_label"]
    table = Table("file", "bytes", "type", "score")
    for path, score in zip(files, scores, strict=True):
        best = int(score.argmax())
        table.add_row(
            path.name, f"{path.stat().st_size}", config["target_labels_space"][best], f"{score[best]:.4f}"
        )
    console.print(table)
    return rows


# ---- (b) training: handwritten digits ----


class Digits(nn.Module):
    """Images [N, 1, 8, 8] to scores [N, 10]: two convolutions, a pool, two linear layers."""

    def __init__(self) -> None:
        self.first, self.second = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.hidden, self.last = nn.Linear(64 * 4 * 4, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu().max_pool2d(2)
        return self.last(self.hidden(x.flatten(1)).relu())


def load_images() -> tuple[Array, Array, Array, Array]:
    """scikit-learn's 1,797 digits, a fifth of each kept for the test: train x and y, test x and y."""
    digits = load_digits()
    order = np.random.default_rng(1).permutation(len(digits.target))
    x = (digits.images[order, None] / 16).astype(np.float32)
    y = digits.target[order].astype(np.int32)
    count = len(y) // 5
    return x[count:], y[count:], x[:count], y[:count]


def shifted(x: Array, random: np.random.Generator) -> Array:
    """Images moved by up to one pixel, most of them not at all: more images for free."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    down, right = random.choice(3, (2, len(x)), p=(0.15, 0.7, 0.15))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), (2, 3))
    return windows[np.arange(len(x)), :, down, right]


def accuracy(model: Digits, x: Array, y: Array) -> float:
    """The share of right answers."""
    with no_grad():
        return float((model(Tensor(x)).argmax(1).numpy() == y).mean())


def batches(count: int, size: int, epochs: int, random: np.random.Generator) -> Iterator[tuple[int, Array]]:
    """The epoch, from 1, and the places of each batch: every epoch in an order of its own."""
    for epoch in range(epochs):
        order = random.permutation(count)
        for k in range(count // size):
            yield epoch + 1, order[k * size : (k + 1) * size]


def train(folder: Path, epochs: int = 12, size: int = 64, limit: float = 50.0) -> Any:
    """Train, save as safetensors, load again; returns the captured step and a batch for it."""
    manual_seed(7)
    random = np.random.default_rng(7)
    train_x, train_y, test_x, test_y = load_images()
    model = Digits()
    optimizer = optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    total = epochs * (len(train_y) // size)
    started = time.monotonic()

    def rate(done: int) -> float:
        """Half a cosine over the steps, or over the time where that runs out first on a busy machine."""
        part = max(done / total, (time.monotonic() - started) / limit)
        return 0.5 + 0.5 * math.cos(math.pi * min(part, 1.0))

    schedule = optim.LambdaLR(optimizer, rate)

    @jit
    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model(x).cross_entropy(y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=total)
        for done, (epoch, batch) in enumerate(batches(len(train_y), size, epochs, random)):
            loss = step(Tensor(shifted(train_x[batch], random)), Tensor(train_y[batch]))
            schedule.step()
            if done % 5 == 0 or done == total - 1:
                progress.update(task, description=f"epoch {epoch:2}  loss {loss.item():.4f}")
            progress.advance(task)
            if time.monotonic() - started > limit:
                break
    seconds = time.monotonic() - started
    trained = accuracy(model, test_x, test_y)

    path = folder / "digits.safetensors"
    safe_save(get_state_dict(model), path)
    again = Digits()
    load_state_dict(again, safe_load(path))
    loaded = accuracy(again, test_x, test_y)
    images = f"{len(train_y)} images, {seconds:.1f} s, {epoch} epochs"
    console.print(f"{images}: {100 * trained:.2f} % of {len(test_y)} test images right")
    console.print(
        f"saved {path.stat().st_size} bytes as {path.name}, loaded again: {100 * loaded:.2f} % right"
    )
    if loaded != trained or trained < 0.98:
        raise SystemExit(
            f"training: expected at least 98 % before and after loading, got {trained} and {loaded}"
        )
    return step, Tensor(train_x[:size]), Tensor(train_y[:size])


# ---- (c) what the kernels took ----


def show_kernels(model: Path, rows: Path, step: Any, x: Tensor, y: Tensor) -> None:
    """The fused kernels of one run of the model and of one training step, beside the machine's own limits."""
    from petaflop_onnx import load

    run, inputs = load(model), {"bytes": np.load(rows)}
    run(inputs)
    ceilings = measure_ceilings()
    for title, call in (
        ("the file-type model", lambda: run(inputs)),
        ("one training step", lambda: step(x, y)),
    ):
        with profile() as seen:
            call()
        console.print(f"\n[bold]kernels of {title}")
        print(seen.table(ceilings))
    console.print(
        f"\nthis machine's ceilings, measured just now by kernels of our own: {ceilings}", soft_wrap=True
    )
    console.print("(a kernel whose data are still in a cache can pass the ceiling of memory)", soft_wrap=True)


def main(arguments: list[str]) -> int:
    model = Path(arguments[0]) if len(arguments) == 1 else None
    if model is None or not model.is_file():
        got = "nothing" if model is None else f"{str(model)!r}"
        print(
            f"demo: expected the path of magika's model.onnx, got {got}; `nox -s demo` downloads it",
            file=sys.stderr,
        )
        return 2 if model is None else 65
    with tempfile.TemporaryDirectory(prefix="petaflop-demo-") as folder:
        console.rule("(a) a trained model names the types of files")
        rows = name_files(model, Path(folder))
        console.rule("(b) a network learns handwritten digits")
        step, x, y = train(Path(folder))
        console.rule("(c) every fused kernel, beside what the machine can do")
        show_kernels(model, rows, step, x, y)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:  # `petaflop run` has said why
        sys.exit(error.returncode)
