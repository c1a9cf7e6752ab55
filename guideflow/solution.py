"""What `solve` returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from os import PathLike
from typing import Any, Literal

from torch import Tensor

from guideflow._batched import tensor
from guideflow.problem import Problem
from guideflow.solvers import Solver, State


class Result(Enum):
    """Why an image was finished; the value is the message."""

    MAX_ITERATIONS = "All iterations were done. Raise `max_iterations`, or `gf.resume` the solution, to go on."
    TARGET_REACHED = "The loss reached `target_loss`."
    NO_IMPROVEMENT = "The loss did not improve for `patience` iterations."
    TIME_LIMIT = "The time limit was reached. `gf.resume` goes on."
    INTERRUPTED = "The solve was interrupted. `gf.resume` goes on."
    NONFINITE = "The loss or its gradient became nan or inf; this is the last good iterate. Lower the solver's scale."
    NONFINITE_START = "The unguided image's loss or gradient is nan or inf. Check the loss, or change the seed."

    @property
    def failed(self) -> bool:
        """Whether the image could not be guided as asked."""
        return self in (Result.NONFINITE, Result.NONFINITE_START)

    @property
    def can_go_on(self) -> bool:
        """Whether `resume` continues this image."""
        return self in (Result.MAX_ITERATIONS, Result.TIME_LIMIT, Result.INTERRUPTED)


@dataclass(frozen=True)
class Settings:
    """How a solve was asked for; prompts and seeds have one entry per image."""

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] | None
    seeds: tuple[int, ...]
    max_iterations: int
    keep: Literal["best", "last"]
    target_loss: float | None
    patience: int | None
    loss_scale: float
    gradient_mode: str = "full"
    memory_limit: float | None = None


@dataclass(frozen=True)
class Kept:
    """The iterate that is kept of each image."""

    iteration: Tensor = field(metadata=tensor(0))
    z0: Tensor = field(metadata=tensor(0))
    controls: Tensor = field(metadata=tensor(1))
    latents: Tensor = field(metadata=tensor(0))
    images: Tensor = field(metadata=tensor(0))
    loss: Tensor = field(metadata=tensor(0))


@dataclass(frozen=True)
class Solution:
    """Images with everything needed to judge, reproduce and continue them.

    Arguments:
        kept: the iterate kept of each image, the best or the last one.
        best: the iterate of lowest loss of each image, whichever is kept.
        unguided: images without guidance, like `images`.
        history: name -> (iterations + 1, B): "loss", every loss term, "gradient_norm" (norm of g_0..g_K together) and
            "control_norm" (norm of u_1..u_K together). The values of an image that has stopped are repeated.
        result: why each image was finished.
        stats: "iterations", "network_evaluations" (per batch, those of the trajectories), "rebuilt_evaluations" (others
            that saving memory took), "gradient_mode" (of the latest gradients), "seconds" and "peak_memory" (in bytes,
            of the process or of the GPU).
        settings: how the solve was asked for.
        state: the solver's last state, from which `resume` goes on.
        noise: frozen noise, "initial" and "steps.K" for stochastic steps.
        references: reference pictures of the loss, (3, height, width) each.
        recipes: how to load sampler, loss and solver again; None for what was made by hand.
        run: identity of the solve, the same after `resume`.
        problem: the problem solved; None for a solution loaded from disk.
        solver: the solver used; None if loaded from disk and made by hand.
    """

    kept: Kept
    best: Kept
    unguided: Tensor
    history: Mapping[str, Tensor]
    result: tuple[Result, ...]
    stats: Mapping[str, Any]
    settings: Settings
    state: State
    noise: Mapping[str, Tensor]
    references: tuple[Tensor, ...]
    recipes: Mapping[str, Any]
    run: str
    problem: Problem | None = None
    solver: Solver[Any] | None = None

    @property
    def images(self) -> Tensor:
        """Guided images, (B, 3, H, W) in [0, 1] for image samplers."""
        return self.kept.images

    @property
    def loss(self) -> Tensor:
        """Loss of each kept image."""
        return self.kept.loss

    @property
    def latents(self) -> Tensor:
        """Final state z_K of each kept image."""
        return self.kept.latents

    @property
    def controls(self) -> Tensor:
        """Controls u_1..u_K of the kept images, (K, B, ...)."""
        return self.kept.controls

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompt of each image."""
        return self.settings.prompts

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seed of each image."""
        return self.settings.seeds

    def save(self, directory: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write pictures with metadata, the history, a manifest and the resumable state to a folder.

        An interrupted save leaves the previous one of the same run usable.

        Arguments:
            directory: folder, made if missing.
            overwrite: replace the files of a different run.

        Raises:
            FolderInUse: if the folder holds another run and `overwrite` is False.
        """
        from guideflow._storage import save

        save(self, directory, overwrite=overwrite)

    @classmethod
    def load(cls, directory: str | PathLike[str]) -> "Solution":
        """Read a saved solution; `gf.resume` goes on with it.

        Raises:
            CannotResume: if the folder holds no readable solution.
        """
        from guideflow._storage import load

        return load(directory)

    def plot(self) -> Any:
        """Draw reference, unguided and guided images and the curves; return the matplotlib figure."""
        from guideflow._plot import plot

        return plot(self)

    def __repr__(self) -> str:
        """Summarise; tensors would fill pages."""
        losses = ", ".join(f"{value:.4g}" for value in self.loss.tolist())
        names = ", ".join(dict.fromkeys(result.name for result in self.result))
        iterations = int(self.stats["iterations"])
        return f"Solution({len(self.result)} images, loss [{losses}], {iterations} iterations, {names})"
