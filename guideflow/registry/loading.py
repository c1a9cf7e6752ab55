"""Load samplers, losses and solvers by name, from any installed package that offers them.

Calls the factory that `guideflow.registry.discovery` finds, after checking the options against its signature, and
remembers how each object was made.
"""

from __future__ import annotations

import difflib
import inspect
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, cast

from guideflow.errors import InvalidArgument
from guideflow.registry.discovery import find

if TYPE_CHECKING:
    from guideflow.sampler import Sampler
    from guideflow.solvers import AbstractSolver
    from guideflow.types import Loss

_recipes: dict[int, tuple[weakref.ref[Any], dict[str, Any]]] = {}


def load_sampler(name: str, /, **options: Any) -> Sampler:
    """Make the sampler of a name.

    Arguments:
        name: As `guideflow list samplers` shows it.
        options: Passed on to its factory; `guideflow info NAME` shows them.

    Returns:
        The sampler.

    Raises:
        UnknownPlugin: If nothing installed provides the name.
        BrokenPlugin: If the plugin of that name fails.
        DuplicatePlugin: If two installed packages do.
        MissingExtra: If it needs a package that is not installed.
        InvalidArgument: If its factory does not take an option, or needs one that was not given.
    """
    return cast("Sampler", _load("sampler", name, options))


def load_loss(name: str, /, **options: Any) -> Loss:
    """Make the loss of a name.

    Arguments:
        name: As `guideflow list losses` shows it, or `path/to/file.py:Name`: a class that is made with the options, a
            function from pictures to one number per picture whose further arguments are the options, or a loss that
            the file has made.
        options: Passed on to its factory; `guideflow info NAME` shows them.

    Returns:
        A callable that maps an image batch to one number per image.

    Raises:
        UnknownPlugin: If nothing installed provides the name, or the file does not.
        BrokenPlugin: If the plugin of that name, or the file, fails.
        DuplicatePlugin: If two installed packages do.
        MissingExtra: If it needs a package that is not installed.
        InvalidArgument: If its factory does not take an option, or needs one that was not given.
    """
    return cast("Loss", _load("loss", name, options))


def load_solver(name: str, /, **options: Any) -> AbstractSolver[Any]:
    """Make the solver of a name.

    Arguments:
        name: As `guideflow list solvers` shows it.
        options: Passed on to its factory; `guideflow info NAME` shows them.

    Returns:
        The solver.

    Raises:
        UnknownPlugin: If nothing installed provides the name.
        BrokenPlugin: If the plugin of that name fails.
        DuplicatePlugin: If two installed packages do.
        MissingExtra: If it needs a package that is not installed.
        InvalidArgument: If its factory does not take an option, or needs one that was not given.
    """
    return cast("AbstractSolver[Any]", _load("solver", name, options))


def _load(kind: str, name: str, given: dict[str, Any]) -> Any:
    factory = find(kind, name).entry.resolve()
    _check(kind, name, factory, given)
    made = factory(**given)
    _remember(made, name, given)
    return made


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
        """Write the option as it stands in a signature."""
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


def _check(kind: str, name: str, factory: Callable[..., Any], given: dict[str, Any]) -> None:
    known = options(factory)
    if known is None:
        return
    names = [option.name for option in known]
    listing = f"Options of {name!r}: {', '.join(map(str, known)) or 'none'}."
    for key in sorted(given.keys() - set(names)):
        near = difflib.get_close_matches(key, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidArgument(f"The {kind} {name!r} has no option {key!r}.{hint} {listing}")
    if missing := [option.name for option in known if option.default is None and option.name not in given]:
        raise InvalidArgument(f"The {kind} {name!r} needs {' and '.join(map(repr, missing))}. {listing}")


def _remember(made: Any, name: str, given: dict[str, Any]) -> None:
    """Note how an object was made, for as long as it lives.

    Kept by identity, because solvers that are equal may have been made differently, and tensors have no hash.
    """
    try:
        plain = json.loads(json.dumps(given, default=_plain))
        key = id(made)
        _recipes[key] = (weakref.ref(made, lambda _: _recipes.pop(key, None)), {"name": name, "options": plain})
    except TypeError:
        return


def _plain(value: object) -> str:
    if isinstance(value, PathLike):
        return str(fspath(value))
    raise TypeError(f"{type(value).__name__} cannot be written down")


def recipe(made: object) -> dict[str, Any] | None:
    """Tell how an object was loaded.

    Arguments:
        made: A sampler, loss or solver.

    Returns:
        `{"name": ..., "options": {...}}`, or `None` if it was not loaded by name or JSON cannot hold the options.
    """
    reference, how = _recipes.get(id(made), (None, None))
    return how if reference is not None and reference() is made else None
