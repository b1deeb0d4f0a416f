"""Read a page: a trained detector finds the lines of text, a trained recogniser reads them.

`python read_page.py MODELS` draws a page, slightly rotated, reads it and prints that beside the truth;
`python read_page.py MODELS IMAGE` reads yours. MODELS is the folder with the ONNX files of the PyPI wheel
rapidocr-onnxruntime (`nox -s demo` fetches it). Both networks run on petaflop; what is before and after them
is NumPy and Pillow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

import petaflop_onnx

Array = np.ndarray[Any, Any]
DETECTOR, RECOGNISER = "ch_PP-OCRv4_det_infer.onnx", "ch_PP-OCRv4_rec_infer.onnx"
HEIGHT = 48  # of a line, as the recogniser was trained
ANGLES = np.deg2rad(np.arange(-12, 12.01, 0.25))  # of lines that are looked for

# ---- a page ----

LINES = (
    (34, "Annual report of the harbour office"),
    (18, "Printed on 27 November 2026, page 3 of 41"),
    (22, "The tide gauge was read every six hours during the whole year."),
    (22, "In January the ice kept 14 ships in the outer basin for 9 days."),
    (22, "No vessel was lost, and only one needed the help of a tug."),
    (28, "1. Traffic"),
    (20, "Ships arriving: 4,812 (last year 4,655), leaving: 4,809."),
    (20, "Average time at the quay: 31.5 hours; longest stay: 17 days."),
    (20, "Cargo handled: 2.36 million tonnes, of which 61% was grain."),
    (24, "Most captains asked for berth number seven."),
    (28, "2. Repairs"),
    (20, "The northern crane was out of order from May 3 to June 19."),
    (20, "Its new motor weighs 850 kg and cost 12,400 dollars."),
    (20, "Who painted the lighthouse? Nobody seems to know!"),
    (26, "Workers replaced 230 metres of railway track."),
    (28, "3. Weather"),
    (22, "Wind above force 8 was measured on 23 days."),
    (22, "The lowest temperature was -17.4 degrees, on February 11."),
    (22, "Fog closed the entrance for 96 hours in October."),
    (18, "Small print must be readable too, or the page is not read at all."),
    (18, "Questions go to the office at 5 Market Street, second floor."),
    (30, "Thank you for reading"),
    (20, "Signed: J. Alvarez, harbour master"),
)


def draw_page(degrees: float = 1.7) -> tuple[Image.Image, list[str]]:
    """A page of 23 lines in the font that Pillow brings, turned by some degrees; and what it says."""
    page = Image.new("RGB", (960, 1080), "white")
    pen = ImageDraw.Draw(page)
    y = 60
    for size, text in LINES:
        pen.text((90, y), text, fill=(20, 20, 30), font=ImageFont.load_default(size))
        y += int(size * 1.35) + 12
    turned = page.rotate(degrees, Image.Resampling.BICUBIC, expand=False, fillcolor="white")
    return turned, [text for _, text in LINES]


# ---- finding lines ----


@dataclass(frozen=True, slots=True)
class Box:
    """A turned rectangle: its center, its size along and across the line, its angle and how sure it is."""

    center: tuple[float, float]
    width: float
    height: float
    angle: float
    score: float

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The four corners in order, for drawing."""
        along = np.array([np.cos(self.angle), np.sin(self.angle)]) * self.width / 2
        across = np.array([-np.sin(self.angle), np.cos(self.angle)]) * self.height / 2
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        points = (np.array(self.center) + a * along + b * across for a, b in signs)
        return [(float(x), float(y)) for x, y in points]


def find_lines(detector: petaflop_onnx.Model, image: Image.Image) -> list[Box]:
    """The lines of text in an image, from top to bottom."""
    width, height = (max(32, round(size / 32) * 32) for size in image.size)  # what the network halves 5 times
    (spec,) = detector.inputs
    (output,) = detector.outputs
    pixels = normalised(image.resize((width, height), Image.Resampling.BILINEAR))[None]
    text = detector({spec.name: pixels})[output.name].numpy()[0, 0]
    scale = (image.width / width, image.height / height)
    boxes = [rectangle(text, region, scale) for region in regions(text > 0.3)]
    found = [box for box in boxes if box is not None and box.score > 0.5]
    tilt = float(np.median([box.angle for box in found])) if found else 0.0
    return sorted(found, key=lambda box: box.center[1] - np.tan(tilt) * box.center[0])


def normalised(image: Image.Image) -> Array:
    """Pixels from -1 to 1, as [3, height, width]."""
    return (np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1).transpose(2, 0, 1).copy()


def regions(mask: Array) -> list[Array]:
    """The connected regions of a mask, as arrays of (x, y): runs of each row, joined where they touch."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))  # the runs of a row are first[y]:first[y + 1]
    for y in range(1, mask.shape[0]):
        above, here = first[y - 1], first[y]
        while above < first[y] and here < first[y + 1]:
            if starts[above] <= stops[here] and starts[here] <= stops[above]:
                parent[root(int(above))] = root(int(here))
            above, here = (above + 1, here) if stops[above] < stops[here] else (above, here + 1)
    runs: dict[int, list[int]] = {}
    for run in range(len(rows)):
        runs.setdefault(root(run), []).append(run)
    return [
        np.concatenate([[(x, rows[run]) for x in range(starts[run], stops[run])] for run in group])
        for group in runs.values()
    ]


def rectangle(text: Array, points: Array, scale: tuple[float, float], growth: float = 1.6) -> Box | None:
    """The smallest turned rectangle around a region, grown to the whole letters; None for a speck."""
    score = float(text[points[:, 1], points[:, 0]].mean())
    scaled = (points + 0.5) * scale
    along = scaled @ np.stack([np.cos(ANGLES), np.sin(ANGLES)])
    across = scaled @ np.stack([-np.sin(ANGLES), np.cos(ANGLES)])
    best = int((np.ptp(along, axis=0) * np.ptp(across, axis=0)).argmin())
    sides = [(each[:, best].min(), each[:, best].max()) for each in (along, across)]
    width, height = (high - low + step for (low, high), step in zip(sides, scale, strict=True))
    if min(width, height) < 5:
        return None
    grown = 2 * width * height * growth / (2 * (width + height))
    u, v = ((low + high) / 2 for low, high in sides)
    cosine, sine = np.cos(ANGLES[best]), np.sin(ANGLES[best])
    center = (float(u * cosine - v * sine), float(u * sine + v * cosine))
    return Box(center, float(width + grown), float(height + grown), float(ANGLES[best]), score)


# ---- reading them ----


def cut(image: Image.Image, box: Box) -> Image.Image:
    """The line in a box, turned upright and as high as the recogniser wants it."""
    cosine, sine = np.cos(box.angle), np.sin(box.angle)
    width, height = max(1, round(box.width)), max(1, round(box.height))
    left = box.center[0] - cosine * width / 2 + sine * height / 2
    top = box.center[1] - sine * width / 2 - cosine * height / 2
    turn = (cosine, -sine, left, sine, cosine, top)
    upright = image.transform((width, height), Image.Transform.AFFINE, turn, Image.Resampling.BICUBIC)
    return upright.resize((max(1, round(width * HEIGHT / height)), HEIGHT), Image.Resampling.LANCZOS)


def read_lines(
    recogniser: petaflop_onnx.Model, characters: Sequence[str], lines: Sequence[Image.Image]
) -> list[str]:
    """What the lines say. They run together, padded to one width: another width would be compiled anew."""
    if not lines:
        return []
    width = -(-max(line.width for line in lines) // 32) * 32
    batch = np.zeros((len(lines), 3, HEIGHT, width), np.float32)
    for row, line in zip(batch, lines, strict=True):
        row[:, :, : line.width] = normalised(line)
    (spec,) = recogniser.inputs
    (output,) = recogniser.outputs
    scores = recogniser({spec.name: batch})[output.name]
    return [decoded(row, characters) for row in scores.argmax(-1).numpy()]


def decoded(best: Array, characters: Sequence[str]) -> str:
    """The text of the best class at each position: repeats are one letter, class 0 is between letters."""
    changes = np.flatnonzero(np.diff(best, prepend=-1))
    return "".join(characters[label - 1] for label in best[changes] if label)


def alphabet(path: Path) -> list[str]:
    """The characters that the recogniser knows, from its file; the last is the space."""
    (text,) = (each.value for each in onnx.load(path).metadata_props if each.key == "character")
    return [*text.splitlines(), " "]


@dataclass(frozen=True, slots=True)
class Reader:
    """Both networks."""

    detector: petaflop_onnx.Model
    recogniser: petaflop_onnx.Model
    characters: Sequence[str]

    @classmethod
    def load(cls, folder: Path) -> Reader:
        """From the folder of the wheel's models."""
        paths = [folder / name for name in (DETECTOR, RECOGNISER)]
        return cls(*map(petaflop_onnx.load, paths), alphabet(paths[1]))

    def read(self, image: Image.Image) -> list[tuple[Box, str]]:
        """The lines of an image, from top to bottom."""
        boxes = find_lines(self.detector, image)
        texts = read_lines(self.recogniser, self.characters, [cut(image, box) for box in boxes])
        return list(zip(boxes, texts, strict=True))


# ---- how well ----


def distance(a: str, b: str) -> int:
    """How many letters must be put in, taken out or changed to make one text the other."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def marked(image: Image.Image, found: Sequence[tuple[Box, str]]) -> Image.Image:
    """The image with its boxes drawn on it."""
    copy = image.convert("RGB")
    pen = ImageDraw.Draw(copy)
    for box, _ in found:
        pen.polygon(box.corners, outline=(220, 30, 30), width=2)
    return copy


def show(found: Sequence[tuple[Box, str]], truth: Sequence[str], console: Console) -> float:
    """Print what was read beside the truth; the share of letters that are right."""
    table = Table("read", "written", "errors")
    wrong = 0
    texts = [text for _, text in found]
    for place in range(max(len(texts), len(truth))):
        pair = [each[place] if place < len(each) else "" for each in (texts, truth)]
        errors = distance(*pair)
        wrong += errors
        table.add_row(*pair, str(errors or ""))
    letters = sum(map(len, truth))
    console.print(table)
    console.print(
        f"{len(texts)} lines found, {len(truth)} written; {letters - wrong} of {letters} letters right"
    )
    return 1 - wrong / letters


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", type=Path, help="the folder of rapidocr-onnxruntime's ONNX files")
    parser.add_argument("image", type=Path, nargs="?", help="an image to read; without one a page is drawn")
    parser.add_argument("--save", type=Path, help="where the image goes with its boxes drawn on it")
    options = parser.parse_args(arguments)
    for path in (options.models / DETECTOR, options.models / RECOGNISER, options.image):
        if path is not None and not path.is_file():
            print(f"read_page: expected the file {path}, got nothing there", file=sys.stderr)
            return 65
    image, truth = (Image.open(options.image), None) if options.image else draw_page()
    found = Reader.load(options.models).read(image)
    if options.save:
        marked(image, found).save(options.save)
        print(f"the page with its boxes: {options.save}")
    if truth is None:
        print("\n".join(text for _, text in found))
        return 0
    right = show(found, truth, Console(width=None if sys.stdout.isatty() else 150, highlight=False))
    return 0 if right >= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
