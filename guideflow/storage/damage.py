"""Whether what was read from a folder is a solution: told before the work, not by what fails in the middle of it."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from torch import Tensor

from guideflow.errors import CannotResume


def check(solution: Any) -> None:
    """Raise `CannotResume` if the parts of a solution do not fit each other, as a damaged folder's do not."""
    for what, fits in _parts(solution):
        if not fits:
            raise CannotResume(f"The saved solution is damaged: its {what} do not fit the rest of it.")


def _parts(solution: Any) -> Iterator[tuple[str, bool]]:
    state, best, noise, settings, history = (
        getattr(solution, name) for name in ("state", "best", "noise", "settings", "history")
    )
    rollout, start = state.rollout, solution.start
    steps, batch, *latent = state.controls.shape
    some, memory = [one for one in noise.steps if one is not None], [*_leaves(state.memory)]
    gradients = [] if rollout.gradients is None else [rollout.gradients]
    yield "numbers of images", batch == len(settings.prompts) == len(solution.result) > 0
    yield "iterations", type(state.iteration) is int and state.iteration == solution.stats["iterations"] >= 0

    latents = {
        "latents": ((batch, *latent), [state.z0, best.z0, best.latents, noise.initial, *some]),
        "controls": ((steps, batch, *latent), [state.controls, best.controls, rollout.end_points]),
        "states": ((steps + 1, batch, *latent), [rollout.states, *gradients]),
    }
    for what, (shape, tensors) in latents.items():
        yield what, all(one.shape == shape and one.dtype == state.z0.dtype for one in tensors)
    yield "latents", state.z0.is_floating_point()

    values = {
        "images": (start.shape, [rollout.images, best.images, solution.unguided, start]),
        "losses": ((batch,), [rollout.loss, rollout.objective, *rollout.terms.values(), best.loss]),
        "history": ((len(history["loss"]), batch), [*history.values()]),
    }
    for what, (shape, tensors) in values.items():
        yield what, all(one.shape == shape and one.is_floating_point() for one in tensors)
    yield "images", len(start) == batch
    yield "history", len(history["loss"]) > 0 and {"gradient_norm", "control_norm", *rollout.terms} < {*history}

    if (edit := solution.edit) is not None:
        images, (*_, height, width) = (1, batch), edit.picture.shape
        yield "start picture", edit.picture.dim() == 4 and len(edit.picture) in images and edit.picture.shape[1] == 3
        fits = edit.mask is None or (len(edit.mask) in images and edit.mask.shape[1:] == (1, height, width))
        yield "mask", fits and type(edit.strength) is float and 0 < edit.strength <= 1 and type(edit.paste_back) is bool

    whole = (solution.chosen, best.iteration)
    yield "candidates", all(one.shape == (batch,) and not one.is_floating_point() for one in whole)
    yield "memory", all(isinstance(one, Tensor) and one.shape[:1] == (batch,) for one in memory)
    yield "references", all(one.numel() and one.is_floating_point() for one in solution.references)
    counted = ("seconds", "network_evaluations", "rebuilt_evaluations", "iterations")
    numbers = [solution.stats[name] for name in counted] + [solution.stats.get("shorter_steps", 0)]
    yield "stats", all(type(one) in (int, float) and isfinite(one) and one >= 0 for one in numbers)
    yield "configs", all(one is None or isinstance(one, dict) for one in solution.configs.values())


def _leaves(memory: Any) -> Iterator[Any]:
    for value in memory.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value
