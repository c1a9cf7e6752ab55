"""Whether a saved solve gives its pictures again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guideflow import images, provenance
from guideflow._given import in_range
from guideflow._process import own_state
from guideflow._solve.parts import complete, describe, pose
from guideflow._solve.run import begin
from guideflow.errors import CannotResume, InvalidImage
from guideflow.problem import draw_noise
from guideflow.sampler import Sampler
from guideflow.solution import Solution
from guideflow.solvers import Solver
from guideflow.storage import origins
from guideflow.storage.folder import MANIFEST, as_folder, read_manifest
from guideflow.types import LossLike


@dataclass(frozen=True)
class Compared:
    """An image that was made again.

    Arguments:
        prompt: what it was made from.
        seed: likewise.
        difference: the largest difference to what is saved, in grey levels; inf if there is nothing to compare with.
        what: where that is: "tensors", or the name of the file.
    """

    prompt: str
    seed: int
    difference: float
    what: str


@dataclass(frozen=True)
class Verification:
    """What came of making a saved solve again.

    Arguments:
        folder: where it is saved.
        images: each image with its largest difference.
        changes: what is not as it was when the solve was made: versions, the machine, weights. One line each.
        tolerance: the difference in grey levels up to which images count as the same.
    """

    folder: Path
    images: tuple[Compared, ...]
    changes: tuple[str, ...]
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether every image is the same."""
        return all(image.difference <= self.tolerance for image in self.images)


@own_state()
def verify(
    directory: str | PathLike[str],
    *,
    sampler: Sampler | None = None,
    loss: LossLike | None = None,
    solver: Solver | None = None,
    trust: bool = False,
    tolerance: float = 0.0,
) -> Verification:
    """Make a saved solve again from what its manifest says, and compare.

    The images are compared with the saved tensors, and with the PNG files beside them as they would be written now.
    On the machine and with the versions that a solve was made with, they are the same bit for bit; elsewhere rounding
    differs, and `changes` names what else does. As in `resume`, only what installed plugins make of plain options is
    made, from the reference images in the folder; other files are read with `trust` only.

    Arguments:
        directory: what `Solution.save`, or `solve(save_to=...)`, wrote.
        sampler: needed if the sampler was not made by `load_sampler`; likewise `loss` and `solver`.
        loss: see `sampler`.
        solver: see `sampler`.
        trust: read the files outside the folder that the solve names.
        tolerance: grey levels, of 255, by which an image may differ.

    Raises:
        CannotResume: if the folder is damaged, or a part cannot be made again.
    """
    in_range("tolerance", tolerance, 0)
    folder = as_folder(directory)
    saved, manifest = Solution.load(folder), read_manifest(folder / MANIFEST)
    if saved.state.rollout.gradients is None:
        raise CannotResume(
            f"The solve in {folder} was stopped before its first iteration. `gf.resume` goes on with it."
        )
    given: dict[str, Any] = {"sampler": sampler, "loss": loss, "solver": solver}
    sampler, loss, solver = complete(saved, given, folder, trust)
    mode, settings = saved.stats.get("gradient_mode"), saved.settings
    settings = replace(
        settings,
        max_iterations=saved.state.iteration,
        gradient_mode=mode if settings.gradient_mode == "auto" and isinstance(mode, str) else settings.gradient_mode,
    )
    configs = describe(sampler, loss, solver)
    problem = pose(sampler, loss, draw_noise(sampler, settings.seeds), settings)
    again = begin(problem, solver, settings, configs).finish(lambda progress: None, lambda run: None, inf)
    listed = manifest.get("files")
    compared = tuple(
        _compare(folder, saved, again, i, listed if isinstance(listed, list) else []) for i in range(len(saved.seeds))
    )
    now = {"versions": origins.versions(saved.configs), **configs}
    then = {"versions": manifest.get("versions"), **saved.configs}
    changes = [
        line for part in ("versions", "machine", "weights") for line in _changes(part, then.get(part), now[part])
    ]
    return Verification(folder, compared, tuple(changes), float(tolerance))


def _compare(folder: Path, saved: Solution, again: Solution, i: int, files: list[Any]) -> Compared:
    made, name = again.images[i].cpu(), f"guided-{i:02d}.png"
    found = {"tensors": _difference(made, saved.images[i].cpu())}
    if name in files:
        try:
            file = images.read_image(folder / name)[0]
            found[name] = _difference(provenance.finished(made, saved.settings.watermark), file)
        except InvalidImage:
            found[name] = inf
    what = max(found, key=lambda key: found[key])
    return Compared(saved.prompts[i], saved.seeds[i], found[what], what)


def _difference(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return inf
    if torch.equal(one, other):
        return 0.0
    return float(((one - other).abs().max() * 255).nan_to_num(inf))


def _changes(what: str, then: Any, now: Mapping[str, Any]) -> Iterator[str]:
    """Name what is not as it was, entry by entry."""
    then = then if isinstance(then, Mapping) else {}
    for name in dict.fromkeys([*then, *now]):
        if isinstance(now.get(name), Mapping):
            yield from _changes(f"{what}, {name}", then.get(name), now[name])
        elif then.get(name) != now.get(name):
            yield f"{what}, {name}: {_shown(then.get(name))} when it was made, {_shown(now.get(name))} now"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)[:80]
