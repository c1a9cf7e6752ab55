"""A solver that was named by text alone: with the options of a preset, if there is one for the sampler and the loss."""

from typing import Any

from guideflow import registry
from guideflow._given import one_of
from guideflow.errors import GuideflowError
from guideflow.registry.presets import Preset, damaged, find_preset
from guideflow.sampler import Sampler
from guideflow.solvers import Solver
from guideflow.types import LossLike


def named(
    solver: str, sampler: Sampler, loss: LossLike, preset: bool, max_iterations: int | None = None
) -> tuple[Solver, Preset | None]:
    """Make the solver of a name; return it with the preset that its options are from, if there is one.

    A preset is for one sampler, with as many steps as it was found with, and one loss, both loaded by name. So there is
    none for a sum of losses, a sampler that begins at a picture, or what was made by hand. One with which the solver
    asks for another number of iterations, as they are others, is left out where the number is given.

    Raises:
        InvalidArgument: if the preset is damaged, or the solver does not take its options.
    """
    one_of("preset", preset, (True, False))
    drawn, wanted = registry.config(sampler), registry.config(loss)
    found = find_preset(drawn["name"], wanted["name"], solver) if preset and drawn and wanted else None
    if found is None or found.num_steps != sampler.num_steps:
        return registry.load_solver(solver), None
    try:
        made, plain = _make(solver, dict(found.options)), registry.load_solver(solver)
    except GuideflowError as error:
        raise damaged(f"{found.name} ({found.origin})", error) from error
    if max_iterations is not None and made.default_iterations != plain.default_iterations:
        return plain, None
    return made, found


def _make(name: str, options: dict[str, Any]) -> Solver:
    """Make a solver; one inside it is a mapping with a name and options. No file is run on the word of a preset."""
    if registry.is_file(name):
        raise registry.not_found(name, "solver")
    inner = {key: _make(**value) for key, value in options.items() if isinstance(value, dict)}
    return registry.load_solver(name, **{**options, **inner})
