"""Hear speech: a trained recurrent network says, 31 times a second, whether somebody speaks.

`python hear_speech.py MODEL` makes a sound (speech from a formant synthesiser, between noise, a tone and
silence), listens to it as a stream and prints when it heard speech beside the truth;
`python hear_speech.py MODEL FILE.wav` listens to yours. MODEL is an ONNX file of the PyPI wheel silero-vad,
such as silero_vad_op18_ifless.onnx (`nox -s demo` fetches it).
"""

from __future__ import annotations

import argparse
import sys
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import petaflop_onnx
from petaflop import Tensor

Array = np.ndarray[Any, Any]
RATE = 16000  # samples a second, as the network was trained
CHUNK, CONTEXT = 512, 64  # it hears this many new samples, after so many of the chunk before

# ---- a voice ----

# The first three formants, in hertz: what makes a vowel that vowel. m, n, l, r, w and j are voiced, too.
FORMANTS = {
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410),
    "u": (300, 870, 2240), "j": (260, 2070, 3020), "l": (310, 1050, 2880), "m": (250, 1000, 2200),
    "n": (250, 1400, 2400), "r": (310, 1060, 1380), "w": (290, 610, 2150),
}  # fmt: skip
HISS = {
    "s": (1.0, 0.5),
    "k": (0.3, 0.8),
    "t": (0.3, 0.8),
}  # the share of the sound that is hiss, and how loud
BANDWIDTHS = (70.0, 100.0, 150.0)


def voice(text: str, pitch: float, seed: int) -> Array:
    """Somebody who says something: pulses of the glottis through resonators that glide."""
    random = np.random.default_rng(seed)
    formants, loudness, hiss = [], [], []
    for letter in text:
        seconds = 0.12 if letter == " " else 0.08 if letter in HISS else random.uniform(0.10, 0.16)
        count = int(RATE * seconds)
        share, strength = HISS.get(letter, (0.0, 0.0))
        noisy = int(count * share)
        loudness.append(np.full(count, 0.0 if letter in " stk" else 1.0 if letter in "aeiou" else 0.5))
        hiss.append(np.concatenate([np.zeros(count - noisy), np.hanning(noisy) * strength]))
        middle = FORMANTS.get(letter, (400, 1700, 2600))
        formants.append(np.tile(np.multiply(middle, random.uniform(0.95, 1.05, 3)), (count, 1)))
    glide, fade = np.hanning(1201), np.hanning(321)
    tracks = [smooth(track, glide) for track in np.concatenate(formants).T]
    sound = pulses(smooth(np.concatenate(loudness), fade), pitch, random)
    for track, bandwidth in zip(tracks, BANDWIDTHS, strict=True):
        sound = resonance(sound, track, bandwidth)
    sound = np.diff(resonance(sound, np.full(len(sound), 3500.0), 250.0), prepend=0)
    rush = np.diff(random.standard_normal(len(sound)), prepend=0) * np.concatenate(hiss)
    both = sound / np.abs(sound).max() + 0.12 * rush
    return (0.4 * both / np.abs(both).max()).astype(np.float32)


def smooth(values: Array, window: Array) -> Array:
    """The moving average under a window, as long as the values."""
    return np.convolve(np.pad(values, len(window) // 2, mode="edge"), window / window.sum(), "valid")


def pulses(loudness: Array, pitch: float, random: np.random.Generator) -> Array:
    """What the glottis does: a pulse each period of a wandering pitch, and some breath."""
    t = np.arange(len(loudness)) / RATE
    melody = (
        1 + 0.18 * np.sin(2 * np.pi * 0.9 * t + random.uniform(0, 6)) + 0.08 * np.sin(2 * np.pi * 2.7 * t)
    )
    wobble = 0.18 * smooth(random.standard_normal(len(t)), np.hanning(321))
    train = np.diff(np.floor(np.cumsum(pitch * (melody + wobble) / RATE)), prepend=0)
    flow = np.convolve(train, np.exp(-np.arange(120) / 14))[: len(t)]
    flow -= np.convolve(flow, np.full(200, 1 / 200))[: len(t)]
    return (flow + 0.02 * random.standard_normal(len(t))) * loudness


def resonance(sound: Array, frequency: Array, bandwidth: float) -> Array:
    """A resonator of two poles whose frequency moves."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    turn = 2 * radius * np.cos(2 * np.pi * frequency / RATE)
    gain = 1 - turn + radius**2
    result, last, before = np.empty(len(sound)), 0.0, 0.0
    for n, (x, c, g) in enumerate(zip(sound.tolist(), turn.tolist(), gain.tolist(), strict=True)):
        result[n], before = g * x + c * last - radius**2 * before, last
        last = result[n]
    return result


def scene(seed: int = 0) -> tuple[Array, list[tuple[float, float]]]:
    """A sound of about 17 seconds, and when somebody speaks in it."""
    random = np.random.default_rng(seed)
    t = np.arange(2 * RATE) / RATE
    parts: list[tuple[Array, bool]] = [
        (np.zeros(RATE, np.float32), False),
        (voice("wemasita rolamu jasiko", 120, seed), True),
        (0.1 * random.standard_normal(2 * RATE), False),  # a waterfall
        (voice("telawi numera sonatu", 190, seed + 1), True),
        (0.3 * np.sin(2 * np.pi * 440 * t), False),  # a tuning fork
        (voice("kalomi sateru niwo", 140, seed + 2), True),
        (0.2 * np.sign(np.sin(2 * np.pi * 90 * t)) * (t % 0.5 < 0.25), False),  # a buzzer
    ]
    spoken, start = [], 0.0
    for part, speaks in parts:
        stop = start + len(part) / RATE
        spoken += [(start, stop)] * speaks
        start = stop
    sound = np.concatenate([part for part, _ in parts])
    return (sound + 0.001 * random.standard_normal(len(sound))).astype(np.float32), spoken


# ---- listening ----


def listen(model: petaflop_onnx.Model, sound: Array) -> Iterator[float]:
    """How likely speech is in each chunk of a sound; what the network remembers stays on the device."""
    state: Any = np.zeros((2, 1, 128), np.float32)
    before = np.zeros(CONTEXT, np.float32)
    takes_rate = any(spec.name == "sr" for spec in model.inputs)
    rate = {"sr": np.array(RATE, np.int64)} if takes_rate else {}
    for start in range(0, len(sound) - CHUNK + 1, CHUNK):
        heard = np.concatenate([before, sound[start : start + CHUNK]])
        results: dict[str, Tensor] = model({"input": heard[None], "state": state, **rate})
        state, before = results["stateN"], heard[-CONTEXT:]
        yield float(results["output"].item())


def spoken_parts(
    scores: Sequence[float], gap: float = 0.3, shortest: float = 0.25
) -> list[tuple[float, float]]:
    """When somebody speaks, in seconds: chunks above one half, joined over gaps, without clicks."""
    found: list[tuple[float, float]] = []
    seconds = CHUNK / RATE
    for place, score in enumerate(scores):
        if score <= 0.5:
            continue
        start, stop = place * seconds, (place + 1) * seconds
        if found and start - found[-1][1] <= gap:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return [(start, stop) for start, stop in found if stop - start >= shortest]


# ---- files and the command ----


def read_wave(path: Path) -> Array:
    """A mono file of 16-bit samples, 16,000 a second."""
    with wave.open(str(path)) as file:
        kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if kind != (1, 2, RATE):
            raise SystemExit(f"hear_speech: {path}: expected 1 channel of 2 bytes at 16000 Hz, got {kind}")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def write_wave(path: Path, sound: Array) -> None:
    """The same kind of file."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def show(scores: Sequence[float], truth: Sequence[tuple[float, float]], console: Console) -> bool:
    """Print when speech was heard beside the truth; whether each stretch was, and nothing else."""
    heard = spoken_parts(scores)
    table = Table("spoken", "heard", "mean score")
    for place in range(max(len(heard), len(truth))):
        row = [f"{each[place][0]:5.2f} - {each[place][1]:5.2f} s" if place < len(each) else "nothing"
               for each in (truth, heard)]  # fmt: skip
        span = truth[place] if place < len(truth) else heard[place]
        inside = scores[round(span[0] * RATE / CHUNK) : round(span[1] * RATE / CHUNK)]
        table.add_row(*row, f"{np.mean(inside):.2f}")
    console.print(table)
    outside = [score for place, score in enumerate(scores)
               if not any(a - 0.2 <= place * CHUNK / RATE <= b + 0.3 for a, b in truth)]  # fmt: skip
    console.print(f"elsewhere (noise, a tone, a buzzer, silence): mean score {np.mean(outside):.3f}")
    overlap = [min(b, d) - max(a, c) for (a, b), (c, d) in zip(truth, heard, strict=False)]
    return len(heard) == len(truth) and all(
        each > 0.75 * (b - a) for each, (a, b) in zip(overlap, truth, strict=True)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="an ONNX file of the wheel silero-vad")
    parser.add_argument("sound", type=Path, nargs="?", help="a .wav file; without one a sound is made")
    parser.add_argument("--save", type=Path, help="where the sound goes, as a .wav file")
    options = parser.parse_args(arguments)
    for path in (options.model, options.sound):
        if path is not None and not path.is_file():
            print(f"hear_speech: expected the file {path}, got nothing there", file=sys.stderr)
            return 65
    sound, truth = (read_wave(options.sound), None) if options.sound else scene()
    if options.save:
        write_wave(options.save, sound)
    scores = list(listen(petaflop_onnx.load(options.model), sound))
    if truth is None:
        print("\n".join(f"{start:.2f} - {stop:.2f} s" for start, stop in spoken_parts(scores)))
        return 0
    return (
        0 if show(scores, truth, Console(width=None if sys.stdout.isatty() else 110, highlight=False)) else 1
    )


if __name__ == "__main__":
    sys.exit(main())
