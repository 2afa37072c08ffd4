"""A character language model on the source files of Python's standard library.

They exist wherever Python runs. Python versions differ, so the text that was read has a digest.
"""

import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.errors import EsperError
from esper.tasks.train import DatasetSplits, Samples, Task

CONTEXT: Final = 64
CHARACTERS: Final = 128
"""The characters of ASCII; files with other characters are left out."""

WIDTH: Final = 64
HEADS: Final = 4
BLOCKS: Final = 2

BYTES: Final = {"train": 1_000_000, "probe": 100_000, "test": 200_000}
"""Bytes of text of each part; no two parts share a file."""

MAX_FILE_BYTES: Final = 16_384
"""Bytes read of one file at most, so that no part consists of a few large files."""

PROBE_WINDOWS: Final = 96
"""Windows of the probe text that are measured, spread evenly over the text."""


class TextMissing(EsperError, FileNotFoundError):
    """The standard library is not installed as source files."""


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al., Attention Is All You Need, 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D) of (B, T, D)."""
        query, key, value = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        projected: Tensor = self.project(read.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """Attention and a hidden layer, each with normalisation before and a residual connection."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attend = Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D) of (B, T, D)."""
        x = x + self.attend(self.norm1(x))
        mixed: Tensor = x + self.mix(self.norm2(x))
        return mixed


class CharacterHost(nn.Module):
    """A transformer of two blocks that predicts each next character, 120,704 parameters."""

    def __init__(self, width: int = WIDTH, hidden: int = 4 * WIDTH) -> None:
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS, width)
        self.place = nn.Parameter(torch.randn(CONTEXT, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, hidden) for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, CHARACTERS)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, T, 128) of the character after each of (B, T), T being 64."""
        x = self.blocks(self.embed(x) + self.place)
        logits: Tensor = self.logits(self.norm(x))
        return logits


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a part, and the names of its files."""

    files: tuple[str, ...]
    ascii: bytes


@dataclass(frozen=True, slots=True)
class Library:
    """The texts of the three parts."""

    train: Text
    probe: Text
    test: Text

    @property
    def sha256(self) -> str:
        """The digest of train, probe and test text, each preceded by its length."""
        digest = sha256()
        for part in (self.train, self.probe, self.test):
            digest.update(len(part.ascii).to_bytes(8, "big") + part.ascii)
        return digest.hexdigest()


@cache
def standard_library(folder: Path | None = None) -> Library:
    """Return the text of the modules in a folder; by default, of the standard library.

    Raises:
        TextMissing: the folder has too little Python source.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    # By digest of the name: in alphabetical order, a part would consist of related modules.
    files = sorted(folder.glob("*.py"), key=lambda file: sha256(file.name.encode()).digest())
    texts = iter([(file.name, text) for file in files if (text := file.read_bytes()).isascii()])
    train, probe, test = (_first(texts, count) for count in BYTES.values())
    if len(test.ascii) < BYTES["test"]:
        raise TextMissing(
            f"{folder} has fewer than {sum(BYTES.values()):,} bytes of Python source; train charlm "
            "with a Python interpreter whose standard library is installed as source files"
        )
    return Library(train, probe, test)


def _first(texts: Iterator[tuple[str, bytes]], count: int) -> Text:
    """Return `count` bytes of the next files; the rest of the last file is unused."""
    names, taken = [], b""
    while len(taken) < count and (following := next(texts, None)) is not None:
        name, text = following
        names.append(name)
        taken += text[:MAX_FILE_BYTES]
    return Text(tuple(names), taken[:count])


def windows(text: bytes) -> Samples:
    """Return windows of characters (N, 64), and the next character at each position (N, 64)."""
    codes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    count = (len(codes) - 1) // CONTEXT
    inputs = codes[: count * CONTEXT].view(count, CONTEXT)
    return inputs, codes[1 : count * CONTEXT + 1].view(count, CONTEXT)


def load_library() -> DatasetSplits:
    """Return windows (N, 64) for training, 96 for the probe, and for the test."""
    library = standard_library()
    inputs, following = windows(library.probe.ascii)
    spread = torch.linspace(0, len(inputs) - 1, PROBE_WINDOWS).long()
    return DatasetSplits(
        train=windows(library.train.ascii),
        probe=(inputs[spread], following[spread]),
        test=windows(library.test.ascii),
    )


def next_character_loss(logits: Tensor, following: Tensor) -> Tensor:
    """Return the mean loss over all characters, in nats, of logits (B, T, C) and targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


CAUSAL: Final = (
    "causal-depthwise-conv",
    "causal-self-attention",
    "channel-mixing-mlp",
    "dropout-mlp",
    "film",
    "gated-causal-conv",
    "gated-linear-unit",
    "gated-residual",
    "identity",
    "linear-bottleneck",
    "low-rank-skip",
    "low-rank-skip-wide",
    "swiglu",
    "token-shift",
    "two-path-mixture",
)
"""Shipped blueprints for sequences in which no position reads a later one.

The others would read the character that is to be predicted.
"""


def _sites() -> Iterable[str]:
    for block in range(BLOCKS):
        yield from (f"blocks.{block}.attend.project", f"blocks.{block}.mix")


CHARLM: Final = Task(
    name="charlm",
    summary="the next character of Python's own sources, a transformer of 120,704 parameters",
    host=CharacterHost,
    sites=tuple(_sites()),
    load=load_library,
    epochs=2,
    learning_rate=2e-3,
    loss=next_character_loss,
    blueprints=CAUSAL,
)
