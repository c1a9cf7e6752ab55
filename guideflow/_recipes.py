"""How the parts of a solve are written down and loaded again."""

from dataclasses import asdict, is_dataclass
from typing import Any

from guideflow import registry
from guideflow.errors import CannotResume, GuideflowError
from guideflow.loss import Term, WeightedSum
from guideflow.sampler import Sampler
from guideflow.solvers import AbstractSolver
from guideflow.types import Loss


def recipes(sampler: Sampler, loss: Loss, solver: AbstractSolver[Any]) -> dict[str, Any]:
    """Return how to load each part again, None for what was made by hand."""
    return {"sampler": registry.recipe(sampler), "loss": _loss_recipe(loss), "solver": _solver_recipe(solver)}


def load_part(kind: str, recipe: Any) -> Any:
    """Load a sampler or loss again, or raise `CannotResume`."""
    if recipe is None:
        raise missing(kind)
    try:
        if "terms" in recipe:
            terms = (Term(term["weight"], load_part(kind, term["loss"]), term["name"]) for term in recipe["terms"])
            return WeightedSum(tuple(terms), recipe["name"])
        return getattr(registry, f"load_{kind}")(recipe["name"], **recipe["options"])
    except CannotResume:
        raise
    except (GuideflowError, OSError) as error:
        raise CannotResume(f"The saved {kind} {recipe} cannot be loaded again: {error}") from error


def missing(kind: str) -> CannotResume:
    """Return the error for a part without a recipe."""
    return CannotResume(
        f"The {kind} was made by hand, so the saved solution cannot load it again. "
        f"Give the same one: `gf.resume(..., {kind}={kind})`."
    )


def _loss_recipe(loss: Loss) -> dict[str, Any] | None:
    if not isinstance(loss, WeightedSum):
        return registry.recipe(loss)
    terms = [{"weight": term.weight, "name": term.name, "loss": _loss_recipe(term.loss)} for term in loss.terms]
    return None if any(term["loss"] is None for term in terms) else {"terms": terms, "name": loss.name}


def _solver_recipe(solver: AbstractSolver[Any]) -> dict[str, Any] | None:
    made = registry.recipe(solver)
    if made is not None or not type(solver).__module__.startswith("guideflow.solvers.") or not is_dataclass(solver):
        return made
    return {"name": solver.name, "options": asdict(solver)}


def rebuild_solver(recipe: dict[str, Any] | None) -> AbstractSolver[Any] | None:
    """Load a solver again, if it has a recipe."""
    return None if recipe is None else registry.load_solver(recipe["name"], **recipe["options"])
