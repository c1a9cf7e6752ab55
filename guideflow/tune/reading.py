"""Read the spec of a search, and say of what is wrong with it in which line and field it stands."""

from collections.abc import Iterator
from os import PathLike
from typing import Any, Final

from pydantic import BaseModel

from guideflow import registry
from guideflow._told import did_you_mean
from guideflow.errors import GuideflowError
from guideflow.sweep.parts import load_solver
from guideflow.sweep.reading import parse, read_text, unknown, unknown_options
from guideflow.sweep.spec import Solve, Workers
from guideflow.sweep.text import Where
from guideflow.tune.spec import Check, Range, Tune

_MODELS: Final[dict[str, type[BaseModel]]] = {"solve": Solve, "workers": Workers, "search": Range, "check": Check}


def read_tune(path: str | PathLike[str]) -> Tune:
    """Read the spec of a search from a YAML or JSON file.

    Raises:
        InvalidArgument: If it cannot be read or asks for what there is not, naming the line and the field.
    """
    return parse_tune(read_text(path, "tune"), str(path))


def parse_tune(text: str, name: str = "tune.yaml") -> Tune:
    """Read the spec of a search from a text; `name` is what messages call it."""
    return parse(text, name, Tune, _MODELS, _faults)


def _faults(spec: Tune) -> Iterator[tuple[Where, str]]:
    yield from _several(spec)
    yield from unknown(spec)
    for i, part in enumerate(spec.objectives):
        yield from unknown_options("metric", part, ("objectives", i))
        if part.name == "guidance-loss":
            yield (
                ("objectives", i),
                "'guidance-loss' is what guides, and no judge; `guideflow list metrics` shows others.",
            )
        needs = registry.find("metric", part.name).entry.needs if not registry.is_file(part.name) else ()
        if "reference" in needs and spec.references is None:
            yield ("objectives", i), f"{part.name!r} needs a reference; give `references: FOLDER`."
        if "prompt" in needs and not all(map(str.strip, spec.prompts)):
            yield ("objectives", i), f"{part.name!r} needs prompts; give `prompts:`."
    if spec.judges[0].name == spec.judges[1].name:
        yield (
            ("objectives",),
            "both are the same; name the metric to be best at first, and another one, or none, after.",
        )
    yield from _search(spec)


def _several(spec: Tune) -> Iterator[tuple[Where, str]]:
    """Find what there may be only one of, as a preset is for one sampler with one loss and one solver."""
    several = "a preset is for one; `guideflow sweep` compares several."
    for kind in ("sampler", "solver"):
        if len(getattr(spec, kind)) > 1 or getattr(spec, kind)[0].grid:
            yield (kind,), several
    terms = [term for loss in spec.loss for term in loss.terms]
    if len(terms) > 1 or terms[0].grid or len(terms[0].weight) > 1:
        yield ("loss",), several
    for name, values in spec.solve:
        if len(values) > 1:
            yield ("solve", name), "expected one value."
    if getattr(spec, "looks", None):
        yield ("looks",), "a search looks at the end only; leave it out."
    for i, part in enumerate(spec.objectives):
        if part.grid:
            yield ("objectives", i, "grid"), "expected `options`."


def _search(spec: Tune) -> Iterator[tuple[Where, str]]:
    """Find options that the solver does not have, and values that it does not take."""
    part = spec.solver[0]
    known: Any = registry.options(registry.factory("solver", part.name))
    names = None if known is None else [option.name for option in known]
    for name, values in spec.search.items():
        if names is not None and name not in names:
            listing = f"Options: {', '.join(map(str, known)) or 'none'}."
            yield ("search", name), f"the solver {part.name!r} has no such option.{did_you_mean(name, names)} {listing}"
        if name in part.options:
            yield ("search", name), "it stands in the solver's `options` as well; leave it out of one of them."
        for value in values.ends():
            try:
                load_solver(spec.configured({name: value}))
            except GuideflowError as error:
                yield ("search", name), str(error)
