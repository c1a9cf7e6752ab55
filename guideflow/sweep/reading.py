"""Read a spec, and say of what is wrong with it in which line and field it stands."""

import json
from collections.abc import Callable, Iterator, Mapping
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from guideflow import registry
from guideflow._files import read_small
from guideflow._told import did_you_mean
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.settings import Settings
from guideflow.sweep.parts import combinations, load_solver, needs_reference, takes_reference
from guideflow.sweep.spec import Part, Solve, Spec, Term, Workers, fields
from guideflow.sweep.text import Text, Where

S = TypeVar("S", bound=Spec)
_MOST: Final = 100_000
"""Configurations, each of which is held; prompts, references and seeds are not."""
_SETTINGS: Final[dict[str, Any]] = {
    "prompts": ("",), "negative_prompts": None, "seeds": (0,), "max_iterations": 1, "horizon": 1
}  # fmt: skip
_LIKE: Final = {"search": "{scale: {low: 0.5, high: 8}}", "references": "FOLDER"}
_MODELS: Final[dict[str, type[BaseModel]]] = {"solve": Solve, "workers": Workers}


def read_spec(path: str | PathLike[str]) -> Spec:
    """Read a spec from a YAML or JSON file.

    Raises:
        InvalidArgument: if it cannot be read or asks for what there is not, naming the line and the field.
    """
    return parse_spec(read_text(path, "sweep"), str(path))


def read_text(path: str | PathLike[str], command: str) -> str:
    """Read the text of the spec of a command."""
    path = Path(path)
    if not path.exists():
        cure = f"`guideflow {command} --example > {command}.yaml` writes one to begin with."
        raise InvalidArgument(f"There is no spec {path}. {cure}")
    try:
        return read_small(path, 8 * 2**20)  # long lists of prompts have a file of their own
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"The spec {path} cannot be read: {error}. Save it in UTF-8.") from error
    except OSError as error:
        raise InvalidArgument(f"The spec {path} cannot be read: {error}.") from error


def parse_spec(text: str, name: str = "spec.yaml") -> Spec:
    """Read a spec from a text; `name` is what messages call it."""
    return parse(text, name, Spec, _MODELS, unknown)


def parse(
    text: str,
    name: str,
    model: type[S],
    inner: Mapping[str, type[BaseModel]],
    faults: Callable[[S], Iterator[tuple[Where, str]]],
) -> S:
    """Read a spec that may say more than that of a sweep.

    Arguments:
        text: What is read.
        name: What messages call it.
        model: Of the spec.
        inner: Models of its fields that have fields themselves.
        faults: Finds what is wrong with a spec whose fields are of the right kind.
    """
    read = Text(text, name)
    if not isinstance(read.value, dict):
        raise InvalidArgument(f"{name} holds no fields. Expected sampler: NAME, loss: NAME, and so on.")
    try:
        spec = model.model_validate(read.value)
    except ValidationError as error:
        raise _first(error, read, model, inner) from error
    for where, message in faults(spec):
        raise read.error(where, message)
    return spec


def _first(
    error: ValidationError, text: Text, spec: type[BaseModel], inner: Mapping[str, type[BaseModel]]
) -> InvalidArgument:
    """Make the error of the first thing that is wrong, and count the others."""
    faults = error.errors(include_url=False, include_context=False)
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    where, kind = tuple(fault["loc"]), fault["type"]
    if kind == "missing":
        message = f"the field is missing; give it, as in `{where[-1]}: {_LIKE.get(str(where[-1]), 'NAME')}`."
    elif kind == "extra_forbidden":
        model = inner.get(str(where[0]), Term if where[0] == "loss" else Part)
        known = list(fields(model if len(where) > 1 else spec))
        message = f"there is no such field.{did_you_mean(str(where[-1]), known)} Known: {', '.join(known)}."
    else:
        message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        message = f"{message}." if kind == "value_error" else f"{message}, got {fault['input']!r}."
    if len(faults) > 1:
        message += f" (And {len(faults) - 1} more.)"
    return text.error(where, message)


def unknown(spec: Spec) -> Iterator[tuple[Where, str]]:
    """Find names and options that nothing installed has, and values that JSON cannot hold."""
    if (configs := _configs(spec)) > _MOST:
        yield (), f"its lists make {configs} configurations; at most {_MOST} are swept. Give shorter lists."
        return
    for kind in ("sampler", "solver"):
        for i, part in enumerate(getattr(spec, kind)):
            yield from unknown_options(kind, part, (kind, i))
    for i, loss in enumerate(spec.loss):
        for j, term in enumerate(loss.terms):
            yield from unknown_options("loss", term, ("loss", i, "terms", j))
            if spec.references is None and needs_reference(term):
                yield ("loss", i, "terms", j, "name"), f"{term.name!r} needs a reference; give `references: FOLDER`."
        if spec.references is not None and not takes_reference(loss):
            yield ("references",), f"the loss {' + '.join(term.name for term in loss.terms)} takes no reference."
    own = list[int]()  # iterations where the spec says none
    for i, part in enumerate(spec.solver):
        for options in combinations(part):
            try:
                own.append(load_solver({"name": part.name, "options": options}).default_iterations)
            except GuideflowError as error:
                yield ("solver", i), str(error)
    for key, values in spec.solve:
        for value in values:
            try:
                Settings(**_SETTINGS | ({key: value} if value is not None and key != "negative_prompt" else {}))
            except GuideflowError as error:
                yield ("solve", key), str(error)
    ends = [end for given in spec.solve.max_iterations for end in (own if given is None else [given])]
    if spec.looks and spec.looks[-1] > (last := max(ends, default=0)):
        yield ("looks",), f"{spec.looks[-1]} is after the end: `max_iterations` is {last} at most."


def _configs(spec: Spec) -> int:
    """Count the combinations of sampler, loss, solver and arguments of `solve`, without making them."""

    def size(part: Part) -> int:
        return prod(map(len, part.grid.values())) * (len(part.weight) if isinstance(part, Term) else 1)

    losses = sum(prod(map(size, loss.terms)) for loss in spec.loss)
    return sum(map(size, spec.sampler)) * losses * sum(map(size, spec.solver)) * prod(len(one) for _, one in spec.solve)


def unknown_options(kind: str, part: Part, where: Where) -> Iterator[tuple[Where, str]]:
    """Find a name and options that nothing installed has, and values that JSON cannot hold."""
    try:
        known = registry.options(registry.factory(kind, part.name))
    except GuideflowError as error:
        yield (*where, "name"), str(error)
        return
    for group in ("options", "grid"):
        for key, value in getattr(part, group).items():
            names = None if known is None else [option.name for option in known]
            if names is not None and key not in names:
                listing = f"Options: {', '.join(map(str, known or ())) or 'none'}."
                message = f"the {kind} {part.name!r} has no such option.{did_you_mean(key, names)} {listing}"
                yield (*where, group, key), message
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                yield (*where, group, key), f"got {value!r}; expected numbers, text, true, false, or lists of them."
    for key in part.options.keys() & part.grid.keys():
        yield (*where, "grid", key), "it stands in `options` as well; leave it out of one of them."
