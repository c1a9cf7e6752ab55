"""Load samplers, losses and solvers by name, with options that are checked against the factory's signature first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Final, cast

from guideflow._require import did_you_mean
from guideflow.errors import BrokenPlugin, InvalidArgument
from guideflow.registry.configs import note
from guideflow.registry.discovery import find
from guideflow.registry.entries import is_file

if TYPE_CHECKING:
    from guideflow.sampler import Sampler
    from guideflow.solvers import Solver
    from guideflow.types import LossLike

_BASES: Final = {"sampler": "guideflow.sampler:Sampler", "solver": "guideflow.solvers:Solver"}


def load_sampler(name: str, /, **options: Any) -> Sampler:
    """Make the sampler of a name.

    Arguments:
        name: As `guideflow list samplers` shows it.
        options: Passed on to its factory; `guideflow info NAME` shows them.

    Returns:
        The sampler.

    Raises:
        UnknownPlugin: If nothing installed provides the name.
        BrokenPlugin: If what provides it fails.
        DuplicatePlugin: If two installed packages provide it.
        MissingExtra: If it needs a package that is not installed.
        InvalidArgument: If its factory does not take an option, or needs one that was not given.
    """
    return cast("Sampler", _load("sampler", name, options))


def load_loss(name: str, /, **options: Any) -> LossLike:
    """Make the loss of a name, as `load_sampler` makes a sampler.

    Arguments:
        name: As `guideflow list losses` shows it, or `path/to/file.py:Name`: a class that is made with the options, a
            function from images to one number per image whose further arguments are the options, or a loss that
            the file has made.
        options: Passed on to its factory; `guideflow info NAME` shows them.

    Returns:
        A callable that maps an image batch to one number per image.
    """
    return cast("LossLike", _load("loss", name, options))


def load_solver(name: str, /, **options: Any) -> Solver:
    """Make the solver of a name, as `load_sampler` makes a sampler.

    Arguments:
        name: As `guideflow list solvers` shows it.
        options: Passed on to its factory; `guideflow info NAME` shows them.
    """
    return cast("Solver", _load("solver", name, options))


def _load(kind: str, name: str, given: dict[str, Any]) -> Any:
    make = factory(kind, name)
    _check(kind, name, make, given)
    made = make(**given)
    if not (callable(made) if kind == "loss" else isinstance(made, resolve_name(_BASES[kind]))):
        expected = "a callable" if kind == "loss" else f"one derived from `gf.{kind.title()}`"
        raise BrokenPlugin(f"The {kind} {name!r} is made as a {type(made).__name__}. Expected {expected}.")
    return note(made, name, given)


def factory(kind: str, name: str) -> Callable[..., Any]:
    """Find what makes the object of a name.

    Arguments:
        kind: `"sampler"`, `"loss"` or `"solver"`.
        name: As `load_sampler`, `load_loss` and `load_solver` take it.

    Returns:
        A class or function that takes the options by keyword.
    """
    if kind == "loss" and is_file(name):
        from guideflow.registry.files import factory_from_file  # needs torch

        return factory_from_file(name)
    return find(kind, name).entry.resolve()


@dataclass(frozen=True)
class Option:
    """One option of a factory, as its signature tells.

    Arguments:
        name: The keyword.
        type: The annotation as text, empty if there is none.
        default: The default as text, or `None` if the option must be given.
    """

    name: str
    type: str
    default: str | None

    def __str__(self) -> str:
        return f"{self.name}={self.default}" if self.default is not None else f"{self.name} (required)"


def options(factory: Callable[..., Any]) -> tuple[Option, ...] | None:
    """Read the options of a factory from its signature.

    Arguments:
        factory: A class or function that a hook returned.

    Returns:
        What it takes by keyword, or `None` if it cannot be told: no signature, or it takes any keyword.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    usable = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return tuple(Option(p.name, _annotation(p), None if p.default is p.empty else repr(p.default)) for p in usable)


def _annotation(parameter: inspect.Parameter) -> str:
    if parameter.annotation is parameter.empty:
        return ""
    return inspect.formatannotation(parameter.annotation).strip("'")


def _check(kind: str, name: str, make: Callable[..., Any], given: dict[str, Any]) -> None:
    known = options(make)
    if known is None:
        return
    names = [option.name for option in known]
    listing = f"Options of {name!r}: {', '.join(map(str, known)) or 'none'}."
    for key in sorted(given.keys() - set(names)):
        raise InvalidArgument(f"The {kind} {name!r} has no option {key!r}.{did_you_mean(key, names)} {listing}")
    if missing := [option.name for option in known if option.default is None and option.name not in given]:
        raise InvalidArgument(f"The {kind} {name!r} needs {' and '.join(map(repr, missing))}. {listing}")
