"""What a plugin says about weights: where they come from, whether they are here, and how much memory they need.

Nothing is imported or fetched for this: listings stay light, and work without network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GIGA: Final = 1e9
CARDS: Final = (8, 12, 16, 24, 48, 80)
"""Memory of the usual cards, in gibibytes."""
_SPARE: Final = 0.1
_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Download:
    """Files of one repository on the Hugging Face Hub.

    Arguments:
        repository: `owner/name`.
        files: Glob patterns of the weight files inside; every one must be there for the download to count as present.
        size: Approximate size of them all, in bytes.
    """

    repository: str
    files: tuple[str, ...]
    size: float

    def present(self) -> bool:
        """Tell whether some snapshot in the Hub's cache has every file."""
        folder = hub_cache() / f"models--{self.repository.replace('/', '--')}" / "snapshots"
        snapshots = folder.iterdir() if folder.is_dir() else ()
        return any(all(any(snapshot.glob(pattern)) for pattern in self.files) for snapshot in snapshots)

    def __str__(self) -> str:
        return f"{self.repository}: {', '.join(self.files)} (about {gigabytes(self.size)})"


def hub_cache() -> Path:
    """Find where the Hub's client keeps what it has downloaded, by the rules of the client."""
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    found = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(found)).expanduser()


@dataclass(frozen=True)
class Footprint:
    """How much memory a guided solve of one image needs, in numbers; bytes depend on the dtype.

        full            weights + steps x evaluations x step + decode
        windowed        weights + evaluations x step + windowed_decode
        checkpointed    weights + evaluations x checkpointed_step + checkpointed_decode

    The first is what the gradient through the whole chain keeps; the loss's own network comes on top.

    Arguments:
        weights: Parameters that are held in the dtype the user chooses.
        step: Numbers that one evaluation of the network keeps for its backward pass.
        steps: Number of steps, as by default.
        evaluations: Of the network in a step: 2 with classifier-free guidance, 1 without.
        fixed: Parameters held in float32 whatever the dtype.
        decode: Numbers that the decoder keeps, in float32.
        image: What this is counted for, such as "512x512".
        windowed_decode: As `decode`, in gradient mode "windowed"; the three that follow `image` may be unknown, 0.
        checkpointed_step: As `step`, in gradient mode "checkpointed".
        checkpointed_decode: As `decode`, in gradient mode "checkpointed".
        text: Those of `weights` that are text encoders, which need not stay in memory once they have been used.
    """

    weights: float
    step: float
    steps: int = 1
    evaluations: int = 1
    fixed: float = 0.0
    decode: float = 0.0
    image: str = ""
    windowed_decode: float = 0.0
    checkpointed_step: float = 0.0
    checkpointed_decode: float = 0.0
    text: float = 0.0

    def bytes(self, dtype: str, mode: str = "full", *, text: bool = True) -> tuple[float, float]:
        """Return the bytes of the weights and of what the gradient keeps, in one of the gradient modes.

        `text` is whether the text encoders stay.
        """
        size, full = _BYTES[dtype], max(4, _BYTES[dtype])
        step, decode = {
            "full": (self.steps * self.step, self.decode),
            "windowed": (self.step, self.windowed_decode),
            "checkpointed": (self.checkpointed_step, self.checkpointed_decode),
        }[mode]
        weights = self.weights - (0 if text else self.text)
        return weights * size + self.fixed * full, self.evaluations * step * size + decode * full

    def fit(self, gibibytes: float) -> str:
        """Tell how a solve of one image in bfloat16 fits a card, in the fastest way that does; empty if none does.

        A tenth of the card is left to the loss and to PyTorch itself.
        """
        room = gibibytes * 2**30 * (1 - _SPARE)
        modes = ("full", "windowed", "checkpointed") if self.checkpointed_step else ("full",)
        for mode in modes:
            for text in (True, False) if self.text else (True,):  # which costs no time once a prompt is encoded
                if sum(self.bytes("bfloat16", mode, text=text)) <= room:
                    return f"gradient_mode={mode!r}" + ("" if text else ", keep_text_encoder=False")
        return ""

    def parameters(self) -> str:
        """Write how many there are, by part."""
        parts = {"": self.weights - self.text, "of text encoders": self.text, "of the autoencoder": self.fixed}
        return ", ".join(f"{_count(number)} {part}".strip() for part, number in parts.items() if number)

    def cards(self) -> str:
        """Write how it fits the usual cards, one line for each."""
        return "\n".join(f"{size} GB: {self.fit(size) or 'too small at this size'}" for size in CARDS)

    def lines(self) -> tuple[str, ...]:
        """Write one line for each of float32 and bfloat16."""
        return tuple(map(self._line, ("float32", "bfloat16")))

    def _line(self, dtype: str) -> str:
        weights, kept = self.bytes(dtype)
        image = f" at {self.image}" if self.image else ""
        others = ("windowed", "checkpointed") if self.checkpointed_step else ()
        return (
            f"{dtype}: weights {gigabytes(weights)} + gradient {gigabytes(kept)} for each image{image} "
            f"= about {gigabytes(weights + kept)}"
            + "".join(f"; {mode} {gigabytes(sum(self.bytes(dtype, mode)))}" for mode in others)
        )


def _count(number: float) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.0f} million"


def gigabytes(size: float) -> str:
    """Write a number of bytes for a reader."""
    return f"{size / GIGA:.1f} GB" if size >= GIGA / 10 else f"{size / 1e6:.0f} MB"
