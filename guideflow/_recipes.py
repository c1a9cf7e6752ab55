"""How the parts of a solve are written down and loaded again."""

from dataclasses import asdict
from typing import Any

from guideflow import registry
from guideflow.errors import CannotResume, GuideflowError
from guideflow.losses.balancing import Balanced
from guideflow.losses.base import Term, WeightedSum
from guideflow.losses.schedules import Ramp
from guideflow.sampler import Sampler
from guideflow.solvers import Solver
from guideflow.types import LossLike


def recipes(sampler: Sampler, loss: LossLike, solver: Solver[Any]) -> dict[str, Any]:
    """Return how to load each part again, None for what was made by hand."""
    return {"sampler": registry.config(sampler), "loss": _loss_recipe(loss), "solver": registry.config(solver)}


def load_part(kind: str, recipe: Any) -> Any:
    """Load a sampler or loss again, or raise `CannotResume`."""
    if recipe is None:
        raise missing(kind)
    try:
        if "terms" in recipe:
            return WeightedSum(tuple(_load_term(term) for term in recipe["terms"]), recipe["name"])
        if "balanced" in recipe:
            return Balanced(load_part(kind, recipe["balanced"]), recipe["limit"], recipe["name"])
        if registry.is_file(recipe["name"]):
            # A saved run may come from anybody: what it names as a file must not be run on its word.
            raise CannotResume(
                f"The {kind} was read from the file {recipe['name']}, which a saved run cannot make guideflow execute. "
                f"Give it again: `gf.resume(..., loss=gf.load_loss({recipe['name']!r}))`, or --loss beside --resume."
            )
        return getattr(registry, f"load_{kind}")(recipe["name"], **recipe["options"])
    except CannotResume:
        raise
    except (GuideflowError, OSError) as error:
        raise CannotResume(f"The saved {kind} {recipe} cannot be loaded again: {error}") from error


def _load_term(term: dict[str, Any]) -> Term:
    ramps = tuple(Ramp(**ramp) for ramp in term.get("ramps", ()))
    return Term(term["weight"], load_part("loss", term["loss"]), term["name"], ramps)


def missing(kind: str) -> CannotResume:
    """Return the error for a part without a recipe."""
    return CannotResume(
        f"The {kind} was made by hand, so the saved solution cannot load it again. "
        f"Give the same one: `gf.resume(..., {kind}={kind})`."
    )


def names_a_file(recipe: Any) -> bool:
    """Tell whether a loss's recipe asks for a Python file."""
    if not isinstance(recipe, dict):
        return False
    inner = [recipe.get("balanced"), *(term.get("loss") for term in recipe.get("terms", ()))]
    return registry.is_file(str(recipe.get("name", ""))) or any(map(names_a_file, inner))


def _loss_recipe(loss: LossLike) -> dict[str, Any] | None:
    if isinstance(loss, Balanced):
        inner = _loss_recipe(loss.sum)
        return None if inner is None else {"balanced": inner, "limit": loss.limit, "name": loss.name}
    if not isinstance(loss, WeightedSum):
        return registry.config(loss)
    terms = []
    for term in loss.terms:
        ramps = [asdict(ramp) for ramp in term.ramps]
        terms.append(
            {"weight": term.weight, "name": term.name, "loss": _loss_recipe(term.loss)}
            | ({"ramps": ramps} if ramps else {})
        )
    return None if any(term["loss"] is None for term in terms) else {"terms": terms, "name": loss.name}


def rebuild_solver(recipe: dict[str, Any] | None) -> Solver[Any] | None:
    """Load a solver again, with what it wraps, if it has a recipe."""
    if recipe is None:
        return None
    nested = {k: rebuild_solver(v) if isinstance(v, dict) else v for k, v in recipe["options"].items()}
    return registry.load_solver(recipe["name"], **nested)
