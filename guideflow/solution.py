"""What `solve` returns, and how it goes to a folder and back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from guideflow import plot, provenance, sheets, storage
from guideflow._given import as_place, in_range
from guideflow._told import said, shorten
from guideflow.errors import CannotResume, InvalidArgument, InvalidImage
from guideflow.images import to_pil
from guideflow.memory import enough_for
from guideflow.problem import Noise, Problem, Rollout
from guideflow.settings import Result, Settings
from guideflow.solvers import Solver, State
from guideflow.started import Edit
from guideflow.storage.damage import check
from guideflow.storage.folder import as_folder
from guideflow.storage.records import unflatten
from guideflow.types import BY_STEP, shown

if TYPE_CHECKING:
    from PIL import Image as PILImage


@dataclass(frozen=True)
class Kept:
    """An iterate of each image, not the same one for all."""

    iteration: Tensor
    z0: Tensor
    controls: Tensor = field(metadata=BY_STEP)
    latents: Tensor
    images: Tensor
    loss: Tensor

    __repr__ = shown

    @classmethod
    def of(cls, state: State) -> "Kept":
        """Keep the current iterate of each image."""
        rollout = state.rollout
        iteration = torch.full_like(rollout.loss, state.iteration, dtype=torch.int64)
        return cls(iteration, state.z0, state.controls, rollout.states[-1], rollout.images, rollout.loss)


@dataclass(frozen=True)
class Solution:
    """Images with everything needed to judge, reproduce and continue them.

    Arguments:
        best: the iterate of lowest loss of each image, whichever is kept.
        unguided: images without guidance, from the seeds' own noise.
        start: images without guidance, from the noises that guidance started with; see `candidates` of `solve`.
        chosen: which candidate each of those is, (B,); 0 is the seed's own noise.
        history: name -> (iterations + 1, B): "loss", every loss term, "gradient_norm" (norm of g_0..g_K together) and
            "control_norm" (norm of u_1..u_K together). The values of an image that has stopped are repeated.
        result: why each image was finished.
        stats: "iterations", "network_evaluations" (per batch, those of the trajectories), "rebuilt_evaluations" (others
            that saving memory took), "shorter_steps" (how often an image went on from its last good iterate in a
            shorter step, as its values became nan, inf or huge), "gradient_mode" (of the latest gradients), "seconds"
            and "peak_memory" (in bytes, of the process or of the GPU).
        settings: how the solve was asked for.
        state: the solver's last state, from which `resume` goes on.
        noise: the frozen noise.
        references: reference images of the loss, (3, height, width) each.
        configs: how to load sampler, loss and solver again; None for what was made by hand. "copies" are the bytes of
            the pictures that the loss names beside its references, such as a layout.
        edit: the start picture with its mask and strength; None for images that began at noise.
        problem: the problem solved; None for a solution loaded from disk, or from a pickle.
        solver: the solver used; None likewise.
    """

    best: Kept
    unguided: Tensor
    start: Tensor
    chosen: Tensor
    history: Mapping[str, Tensor]
    result: tuple[Result, ...]
    stats: Mapping[str, Any]
    settings: Settings
    state: State
    noise: Noise
    references: tuple[Tensor, ...]
    configs: Mapping[str, Any]
    edit: Edit | None = None
    problem: Problem | None = None
    solver: Solver | None = None

    @property
    def kept(self) -> Kept:
        """The iterate kept of each image, the best or the last one."""
        return self.best if self.settings.keep == "best" else Kept.of(self.state)

    @property
    def images(self) -> Tensor:
        """Guided images, (B, 3, H, W) in [0, 1] for image samplers."""
        return self.kept.images

    def to_pil(self) -> "list[PILImage.Image]":
        """Return the guided images as Pillow images, as a pipeline of diffusers does; black where a guard says so."""
        return [to_pil(image) for image in provenance.shown(self.images)[0]]

    def comparison(self) -> "PILImage.Image":
        """Draw reference, unguided and guided picture of each image side by side, with labels.

        Raises:
            InvalidImage: if the images are no RGB pictures.
        """
        if (sheet := sheets.comparison(self)) is None:
            raise InvalidImage(f"Got images of shape {tuple(self.images.shape)}. Expected (batch, 3, height, width).")
        return sheet

    @overload
    def animate(
        self, *, frames: Sequence[Tensor] | None = None, count: int = 24, seconds: float = 3.0
    ) -> sheets.Film: ...

    @overload
    def animate(
        self,
        path: str | PathLike[str],
        *,
        frames: Sequence[Tensor] | None = None,
        count: int = 24,
        seconds: float = 3.0,
    ) -> Path: ...

    def animate(
        self,
        path: str | PathLike[str] | None = None,
        *,
        frames: Sequence[Tensor] | None = None,
        count: int = 24,
        seconds: float = 3.0,
    ) -> Path | sheets.Film:
        """Show the way from the unguided to the guided images in a notebook, or write it as a GIF or an MP4.

        Arguments:
            path: where to; the name ends in .gif, or in .mp4, which needs imageio. Without it nothing is written.
            frames: image batches in order, such as `values` of a `gf.callbacks.Recorder()` that looked on while it was
                solved; by default the sampler draws them anew, with ever larger shares of the controls.
            count: number of pictures that are drawn anew.
            seconds: how long it takes.

        Returns:
            The path, or without one a film that a notebook shows.

        Raises:
            InvalidArgument: if the name has another end, or the solution was loaded without its sampler.
            MissingExtra: if imageio is needed and not installed.
        """
        drawn = frames is None
        in_range("seconds", seconds, 0.1)
        if path is not None:
            path = as_place("path", path, "way.gif")
        if frames is not None:
            if not isinstance(frames, list | tuple) or not all(isinstance(one, Tensor) for one in frames):
                raise InvalidArgument(
                    f"Got frames={said(frames)}. Expected a list of image batches, as a `gf.callbacks.Recorder` has."
                )
            if not frames:
                raise InvalidArgument(
                    "Got no frame. Expected a list of image batches, as a `gf.callbacks.Recorder` has."
                )
        found = sheets.way(self, count) if frames is None else list(frames)
        labels = [
            f"{i * 100 // max(1, len(found) - 1)}% of the guidance" if drawn else f"iteration {i}"
            for i in range(len(found))
        ]
        pictures = sheets.film(found, labels)
        return sheets.as_gif(pictures, seconds) if path is None else sheets.write_film(Path(path), pictures, seconds)

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
        """Write images with metadata, the history, a manifest and the resumable state to a folder.

        An interrupted save leaves the previous one of the same run usable.

        Arguments:
            directory: folder, made if missing.
            overwrite: replace the files of a different run.

        Raises:
            FolderInUse: if the folder holds another run and `overwrite` is False.
            InvalidArgument: if it cannot be written.
            OSError: if the disk is full; what was there stays as it was.
            OutOfMemory: likewise, if the memory does not suffice for what is written.
        """
        with enough_for(f"what is saved to {directory}", "back memory, by ending other programs, and save again"):
            self._save(directory, overwrite)

    def _save(self, directory: str | PathLike[str], overwrite: bool) -> None:
        start, state = (
            {name: getattr(self, name) for name in names}
            for names in (("unguided", "start", "chosen", "noise"), ("state", "best", "history"))
        )
        if self.edit is not None:
            start["edit"] = {"picture": self.edit.picture, "mask": self.edit.mask}
        if copies := self.configs.get("copies"):
            start["copies"] = copies
        shown = {"guided": self.images, "unguided": self.unguided}
        images = zip(self.prompts, self.seeds, self.result, self.loss.tolist(), strict=True)
        about = {
            "run": self.settings.run,
            "iteration": self.state.iteration,
            "images": [
                {"prompt": prompt, "seed": seed, "result": result.name, "message": result.value, "loss": f"{loss:.9g}"}
                for prompt, seed, result, loss in images
            ],
            "history": list(self.history),
            "settings": asdict(self.settings),
            "edit": self.edit and {"strength": self.edit.strength, "paste_back": self.edit.paste_back},
            "stats": dict(self.stats),
            "configs": {name: value for name, value in self.configs.items() if name != "copies"},
            "versions": storage.versions(self.configs),
        }
        storage.write(
            as_folder(directory), about, start, state, self.references, self.history, shown, overwrite=overwrite
        )

    @classmethod
    def load(cls, directory: str | PathLike[str]) -> "Solution":
        """Read a saved solution; `gf.resume` goes on with it.

        Raises:
            CannotResume: if the folder holds no readable solution.
        """
        folder = as_folder(directory)
        try:
            about, tensors, references = storage.read(folder)
            parts = unflatten(tensors)
            if references is None:
                references = [parts["references"][str(i)] for i in range(len(parts["references"]))]
            state, noise, edit = parts["state"], parts["noise"], parts.get("edit")
            settings: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in about["settings"].items()
            }
            counts = {name: int(state["rollout"][name]) for name in ("evaluations", "rebuilt")}
            rollout = Rollout(**{"gradients": None, **state["rollout"], **counts})
            solution = cls(
                best=Kept(**parts["best"]),
                unguided=parts["unguided"],
                start=parts["start"],
                chosen=parts["chosen"],
                history={name: parts["history"][name] for name in about["history"]},
                result=tuple(Result[entry["result"]] for entry in about["images"]),
                stats=about["stats"],
                settings=Settings(**settings),
                state=State(**{**state, "iteration": about["iteration"], "rollout": rollout}),
                noise=Noise(noise["initial"], tuple(noise["steps"].get(str(k)) for k in range(len(state["controls"])))),
                references=tuple(references),
                configs=dict.fromkeys(("sampler", "loss", "solver"))
                | about["configs"]
                | ({"copies": parts["copies"]} if "copies" in parts else {}),
                edit=None if edit is None else Edit(**{"mask": None, **edit, **about["edit"]}),
            )
            check(solution)
            return solution
        except CannotResume:
            raise
        except Exception as error:  # whatever a damaged file makes json and safetensors raise
            why = f"{type(error).__name__}: {shorten(str(error), 200)}"
            raise CannotResume(f"The solution in {directory} is damaged ({why}).") from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave networks and functions behind: a pickled solution is as one that was loaded from disk."""
        return {**vars(self), "problem": None, "solver": None}

    def plot(self) -> Any:
        """Draw reference, unguided and guided images and the curves; return the matplotlib figure."""
        return plot.figure(self)

    def _repr_png_(self) -> bytes | None:
        """Show the comparison in notebooks."""
        sheet = sheets.comparison(self)
        if sheet is None:
            return None
        sheet.save(content := BytesIO(), "PNG")
        return content.getvalue()

    def _repr_html_(self) -> str:
        """Show the comparison in notebooks, with a table below."""
        return sheets.html(self, self._repr_png_())

    def __repr__(self) -> str:
        losses = ", ".join(f"{value:.4g}" for value in self.loss.tolist())
        names = ", ".join(dict.fromkeys(result.name for result in self.result))
        iterations = int(self.stats["iterations"])
        preset = f", preset {self.settings.preset}" if self.settings.preset else ""
        return f"Solution({len(self.result)} images, loss [{losses}], {iterations} iterations, {names}{preset})"
