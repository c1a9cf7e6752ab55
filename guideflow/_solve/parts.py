"""From a sampler, a loss and settings to a problem; and from a saved solve back to its parts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from guideflow import registry
from guideflow._answers import check_image_size
from guideflow._solve.rebuild import rebuild
from guideflow.errors import CannotResume
from guideflow.problem import Noise, Problem
from guideflow.sampler import Sampler
from guideflow.settings import Settings
from guideflow.solution import Solution
from guideflow.solvers import Solver
from guideflow.started import Started
from guideflow.storage import origins, recipes
from guideflow.storage.records import flatten
from guideflow.types import LossLike


def describe(sampler: Sampler, loss: LossLike, solver: Solver) -> dict[str, Any]:
    """Write down how the parts of a solve are made again, and what can tell whether they are the same."""
    sampler = sampler.sampler if isinstance(sampler, Started) else sampler  # the start is saved beside it
    configs: dict[str, Any] = {
        "sampler": registry.config(sampler),
        "loss": recipes.loss_config(loss),
        "solver": registry.config(solver),
    }
    configs["files"] = recipes.digests(configs)
    if copies := recipes.copies(configs["loss"]):
        configs["copies"] = copies
    configs["weights"] = {"sampler": origins.weights(sampler), "loss": origins.weights(loss)}
    configs["machine"] = origins.machine(sampler.device)
    return configs


def pose(sampler: Sampler, loss: LossLike, noise: Noise, settings: Settings) -> Problem:
    """Encode the prompts and put a problem together."""
    check_image_size(sampler)
    with torch.no_grad():
        condition = sampler.condition(settings.prompts, settings.negative_prompts)
    return Problem(
        sampler,
        loss,
        noise,
        condition,
        loss_scale=settings.loss_scale,
        gradient_mode=settings.gradient_mode,
        memory_limit=settings.memory_limit,
        horizon=settings.horizon,
    )


def complete(
    saved: Solution, given: Mapping[str, Any], folder: Path | None, trust: bool
) -> tuple[Sampler, LossLike, Solver]:
    """Return sampler, loss and solver: those given that are not None, the others made again; see `rebuild`.

    Raises:
        CannotResume: if they cannot be, or do not fit what was saved.
    """
    lacking = {kind: saved.configs[kind] for kind, part in given.items() if part is None}
    files, copies = saved.configs.get("files") or {}, saved.configs.get("copies") or {}
    parts = {**given, **rebuild(lacking, folder, saved.references, files, trust, copies)}
    if saved.edit is not None and not isinstance(parts["sampler"], Started):
        parts["sampler"] = saved.edit.begin(parts["sampler"])
    _check_fit(saved, parts["sampler"], parts["solver"])
    return parts["sampler"], parts["loss"], parts["solver"]


def _check_fit(saved: Solution, sampler: Sampler, solver: Solver) -> None:
    config = saved.configs["solver"]
    name = (registry.config(solver) or {}).get("name", solver.name)
    if config is not None and config["name"] not in (name, solver.name):
        raise CannotResume(
            f"The solution was made by {config['name']!r}, not {name!r}. Give the solver it was made with."
        )
    given = (sampler.num_steps, len(saved.seeds), *sampler.latent_shape), sampler.state_dtype
    found = tuple(saved.state.controls.shape), saved.state.z0.dtype
    if given != found:
        raise CannotResume(
            f"The saved controls have shape {found[0]} and {found[1]}; the sampler given needs {given[0]} and "
            f"{given[1]}. Give the sampler that the solution was made with."
        )


def check_memory(saved: Solution, problem: Problem, solver: Solver) -> None:
    """Refuse a solver that would not find what it remembers, as with other options than it was saved with."""
    if saved.state.rollout.gradients is not None:
        wanted = solver.remember(problem, saved.state)
        names = {name for name in flatten(wanted, "memory") if not name.endswith("/")}  # those are empty
        if lacking := sorted(names - flatten(saved.state.memory, "memory").keys()):
            raise CannotResume(
                f"The solver {solver!r} remembers {lacking[0]!r}, which is not saved. Give the solver that the "
                "solution was made with: `gf.resume(..., solver=solver)`."
            )
