"""Load samplers, losses, solvers and metrics by name; options are checked against the factory's signature first."""

from __future__ import annotations

import inspect
import logging
import numbers
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from guideflow._devices import as_device
from guideflow._given import plain_number
from guideflow._process import own_numbers, own_state
from guideflow._told import did_you_mean, said, shorten
from guideflow.errors import BrokenPlugin, GuideflowError, InvalidArgument, OutOfMemory
from guideflow.registry.configs import note
from guideflow.registry.discovery import find, offers
from guideflow.registry.entries import Offer, is_file
from guideflow.registry.references import expand
from guideflow.sampler import Sampler

if TYPE_CHECKING:
    from guideflow.metrics.base import Metric
    from guideflow.solvers import Solver
    from guideflow.types import LossLike

_log = logging.getLogger("guideflow")

_OF_A_WRONG_KIND = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What comes of an option of another kind than is meant, however deep it is used first."""


def load_sampler(name: str, /, **options: Any) -> Sampler:
    """Make the sampler of a name.

    Arguments:
        name: As `guideflow list samplers` shows it, or `path/to/file.py:Name`: a class or function that makes it from
            the options, or a sampler that the file has made.
        options: Those of its factory; `guideflow info NAME` shows them.

    Raises:
        UnknownPlugin: If nothing installed provides the name.
        BrokenPlugin: If what provides it fails.
        DuplicatePlugin: If two installed packages provide it.
        MissingExtra: If it needs a package that is not installed.
        InvalidArgument: If its factory does not take an option, or needs one that was not given.
    """
    sampler: Sampler = _load("sampler", name, options, Sampler)
    return sampler


def load_loss(name: str, /, **options: Any) -> LossLike:
    """Make the loss of a name, as `load_sampler` makes a sampler.

    Arguments:
        name: As `guideflow list losses` shows it, or `path/to/file.py:Name`: a class that is made with the options, a
            function from images to one number per image whose further arguments are the options, or a loss that
            the file has made.
        options: Those of its factory; `guideflow info NAME` shows them.
    """
    loss: LossLike = _load("loss", name, options, Callable)
    return loss


def load_solver(name: str, /, **options: Any) -> Solver:
    """Make the solver of a name in `guideflow list solvers`, or of a file, as `load_sampler` makes a sampler."""
    from guideflow.solvers import Solver  # needs torch, which listings do without

    solver: Solver = _load("solver", name, options, Solver)
    return solver


def load_metric(name: str, /, **options: Any) -> Metric:
    """Make the metric of a name that `guideflow list metrics` shows, as `load_sampler` makes a sampler."""
    from guideflow.metrics.base import Metric  # needs torch

    metric: Metric = _load("metric", name, options, Metric)
    return metric


def _load(kind: str, name: str, given: dict[str, Any], base: Any) -> Any:
    make = factory(kind, name)
    _check(kind, name, make, given)
    given = _with_references(kind, name, make, given)
    if given.get("device") is not None:
        as_device(given["device"])
    offer = None if is_file(name) else find(kind, name)
    origin = "" if offer is None else offer.plugin.distribution
    try:
        with own_state(), own_numbers() if offer else nullcontext():  # a file of the user's draws what it likes
            made = make(**given)
    except (GuideflowError, KeyboardInterrupt):
        raise
    except BaseException as error:  # what others' plugins may raise is not ours to know
        from guideflow.memory import ran_out  # needs torch

        if ran_out(error):
            why = shorten(str(error) or type(error).__name__, 160)
            raise OutOfMemory(
                f"There is not enough memory to load the {kind} {name!r} ({why}). Give a smaller one, half precision "
                "(dtype='bfloat16') where it has that option, or a device with more memory."
            ).as_typed(
                f"There is not enough memory to load the {kind} {name!r} ({why}). Type a smaller one, half precision "
                f"({name}:dtype=bfloat16) where it has that option, or a device with more memory."
            ) from error
        if origin == "guideflow" and not isinstance(error, _OF_A_WRONG_KIND):
            raise
        raise failed(kind, name, given, error) from error
    if not isinstance(made, base):
        offered = origin and f" It is offered by {origin}."
        wanted = f"Expected a {base.__name__}.{offered}"
        raise BrokenPlugin(f"The {kind} {name!r} is made as a {type(made).__name__}. {wanted}")
    if offer is not None:
        _tell(offer)
    return note(made, name, given)


@cache
def _tell(offer: Offer) -> None:
    """Tell once in a process what everybody should know who loads something."""
    entry = offer.entry
    fetched = f"Its weights are under: {entry.licence}." if entry.licence and entry.downloads else None
    if entry.notice or fetched:
        _log.warning("%s: %s", offer.name, " ".join(filter(None, (entry.notice, fetched))))


def _with_references(kind: str, name: str, make: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Put paths in the place of folders, patterns and names of bundled pictures, for losses that take pictures."""
    if kind != "loss" or "reference" not in given:
        return given
    type = _annotation(make, "reference")
    if not re.search(r"ImageSources|References|Tensor", type):
        return given
    bundled = None if is_file(name) else find(kind, name).entry.pictures
    subjects = "References" in type and not given.get("same_person") and not given.get("same_subject")
    return {**given, "reference": expand(given["reference"], bundled, subjects)}


def _annotation(make: Callable[..., Any], name: str) -> str:
    """Return the annotation of a parameter as text; empty if there is none."""
    try:
        found = inspect.signature(make).parameters[name].annotation
    except (KeyError, TypeError, ValueError):
        return ""
    return "" if found is inspect.Parameter.empty else inspect.formatannotation(found)


def check_domains(sampler: str, losses: Sequence[str]) -> None:
    """Warn of a loss that knows another kind of pictures than the sampler draws; all are named as they are loaded."""
    drawn = None if is_file(sampler) else find("sampler", sampler).entry.domain
    for name in losses:
        entry = None if is_file(name) else find("loss", name).entry
        if entry is None or None in (drawn, entry.domain) or entry.domain == drawn:
            continue
        others = ", ".join(offer.name for offer in offers("loss") if offer.entry.domain == drawn)
        warnings.warn(
            f"{sampler} draws {drawn} and {name} knows {entry.domain}: the picture cannot look like the reference, "
            f"whatever the loss says. Losses that know {drawn}: {others or 'none'}.",
            stacklevel=2,
        )


def failed(kind: str, name: str, given: dict[str, Any], error: BaseException) -> GuideflowError:
    """Make the error that names what cannot be made with some options, and why."""
    of = "" if is_file(name) else f" of {find(kind, name).plugin.distribution}"
    hint = of and f" See `guideflow info {name}`."
    shown = ", ".join(shorten(f"{key}={said(value)}", 80) for key, value in given.items()) or "no options"
    why = shorten(str(error), 300).rstrip(".") or type(error).__name__
    broken = InvalidArgument if of == " of guideflow" else BrokenPlugin
    return broken(f"The {kind} {name!r}{of} cannot be made with {shown}: {why}.{hint}")


def factory(kind: str, name: str) -> Callable[..., Any]:
    """Find the class or function that makes the sampler, loss, solver or metric of a name, from options by keyword."""
    if is_file(name):
        from guideflow.registry.files import factory_from_file  # needs torch

        return factory_from_file(kind, name)
    return find(kind, name).entry.resolve()


@dataclass(frozen=True)
class Option:
    """One option of a factory, as its signature tells.

    Arguments:
        name: The keyword.
        type: The annotation as text, empty if there is none.
        default: The default as text, or `None` if the option must be given.
        about: What it means, as the docstring tells; empty if it does not.
    """

    name: str
    type: str
    default: str | None
    about: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.default}" if self.default is not None else f"{self.name} (required)"


def options(factory: Callable[..., Any]) -> tuple[Option, ...] | None:
    """Read what a factory takes by keyword from its signature; `None` if that does not tell, or it takes anything."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    told = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", arguments(factory), re.MULTILINE)
    about = {name: " ".join(text.split()) for name, text in told}
    found = []
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            annotation, default = parameter.annotation, parameter.default
            shown = "" if annotation is parameter.empty else inspect.formatannotation(annotation).strip("'")
            value = None if default is parameter.empty else said(default)
            found.append(Option(parameter.name, shown, value, about.get(parameter.name, "")))
    return tuple(found)


def arguments(factory: Callable[..., Any]) -> str:
    """Cut the section on arguments out of a docstring."""
    section = re.search(r"^Arguments:\n((?:    .*\n|\n(?=    ))*)", f"{inspect.getdoc(factory)}\n", re.MULTILINE)
    return section[1].rstrip() + "\n" if section else ""


def _check(kind: str, name: str, make: Callable[..., Any], given: dict[str, Any]) -> None:
    known = options(make)
    if known is None:
        return
    names = [option.name for option in known]
    listing = f"Options of {name!r}: {', '.join(map(str, known)) or 'none'}."
    if len(listing) > 300:  # more than anybody reads
        listing = f"`guideflow info {name}` shows its {len(known)} options."
    for key in sorted(given.keys() - set(names)):
        raise InvalidArgument(f"The {kind} {name!r} has no option {key!r}.{did_you_mean(key, names)} {listing}")
    for key, value in given.items():
        if expected := _expected(value, _annotation(make, key)):
            raise InvalidArgument(f"The {kind} {name!r} got {key}={shorten(said(value), 80)}. {expected} {listing}")
    if missing := [option.name for option in known if option.default is None and option.name not in given]:
        raise InvalidArgument(f"The {kind} {name!r} needs {' and '.join(map(repr, missing))}. {listing}")


def _expected(value: object, annotation: str) -> str:
    """Say what is expected where a number, or a yes or no, is meant and not given: any text would count as a yes."""
    kinds = {kind.strip(" '\"") for kind in annotation.split("|")}
    if value is None and "None" in kinds:
        return ""
    (kind,) = kinds - {"None"} if len(kinds - {"None"}) == 1 else ("",)
    plain = plain_number(value)
    if kind == "bool" and not isinstance(plain, bool):
        return "Expected True or False."
    if kind in ("int", "float") and (isinstance(plain, bool) or not isinstance(plain, numbers.Real)):
        return f"Expected a {'whole ' if kind == 'int' else ''}number."
    return ""
