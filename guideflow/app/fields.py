"""What of a plugin's options a form may ask for, as its signature tells. A path is never among it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from guideflow import registry
from guideflow._given import one_of
from guideflow._told import said
from guideflow.errors import GuideflowError, InvalidArgument
from guideflow.registry.loading import arguments

Kind = Literal["number", "whole", "switch", "choice", "choices", "text", "picture", "pictures", "layout", "solver"]

DTYPES = ("float32", "bfloat16", "float16")
LONGEST_TEXT = 500

_NEVER = {
    "allow_pickle",
    "trust_remote_code",
    "random_weights",
}  # they let files run code, or mean nothing to a picture
_PICTURE = re.compile(r"(reference|picture|image|photo|photograph)s?")
_SEVERAL = re.compile(r"\b(ImageSources|References|Sequence|list|tuple)\b")
_NUMBER = re.compile(r"[+-]?(\d{1,18}\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE)
_HUGE = 1e18
_WORD = re.compile(r"[\w.+-]{1,40}")


@dataclass(frozen=True)
class Field:
    """One option as a form asks for it.

    Arguments:
        name: The keyword.
        kind: What is asked for; a "layout" is a drawing in the colours of classes.
        default: What is used if nothing is given.
        help: What the docstring says of it.
        choices: The words there are, of a "choice", of "choices" and of a "solver".
        required: Whether there is no default.
    """

    name: str
    kind: Kind
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def is_picture(self) -> bool:
        """Whether pictures are dropped here."""
        return self.kind in ("picture", "pictures", "layout")

    def read(self, given: Any) -> Any:
        """Return the value that was typed or picked, `default` for nothing; a picture is read elsewhere.

        Raises:
            InvalidArgument: If it is none of the words, no number, or a text too long.
        """
        if given is None or given == "" or given == []:
            return self.default
        if self.kind in ("number", "whole"):
            return self._number(given)
        if self.kind == "choices":
            for word in given if isinstance(given, list) else [given]:
                one_of(self.name, word, self.choices)
            return list(given)
        if self.kind == "switch":
            one_of(self.name, given, (True, False))
        elif self.kind == "text":
            if not isinstance(given, str) or len(given) > LONGEST_TEXT:
                raise InvalidArgument(f"The text for {self.name} is too long. At most {LONGEST_TEXT} letters are read.")
            return " ".join(given.split()) or self.default
        elif self.kind in ("choice", "solver"):
            one_of(self.name, given, self.choices)
        return given

    def _number(self, given: Any) -> int | float:
        if isinstance(given, str) and _NUMBER.fullmatch(given.strip()):
            given = float(given)
        if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) < _HUGE:
            raise InvalidArgument(f"Got {self.name}={said(given)}. Expected a number.")
        if self.kind == "whole" and given != int(given):
            raise InvalidArgument(f"Got {self.name}={given!r}. Expected a whole number.")
        return int(given) if self.kind == "whole" else given


def fields(kind: str, name: str) -> tuple[Field, ...]:
    """Return the form of a "sampler", "loss" or "solver": what of its options can be asked for without a path."""
    factory = registry.factory(kind, name)
    found = registry.options(factory) or ()
    told = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", arguments(factory), re.MULTILINE)
    helps = {option: " ".join(text.split()) for option, text in told}
    parameters = inspect.signature(factory).parameters
    made = (
        _field(option.name, option.type, parameters[option.name].default, helps.get(option.name, ""), factory)
        for option in found
    )
    return tuple(field for field in made if field is not None)


def needs_path(kind: str, name: str) -> bool:
    """Tell whether something has to be given that a form cannot ask for."""
    required = {one.name for one in registry.options(registry.factory(kind, name)) or () if one.default is None}
    return bool(required - {field.name for field in fields(kind, name)})


def palette(kind: str, name: str) -> dict[str, str]:
    """Return the classes and colours that layouts are drawn in: `PALETTE` of the factory's module, if it has one."""
    module = sys.modules.get(registry.factory(kind, name).__module__)
    found = getattr(module, "PALETTE", None)
    colours = dict(found) if isinstance(found, Mapping) else {}
    return colours if all(re.fullmatch("#[0-9a-fA-F]{6}", str(one)) for one in colours.values()) else {}


def _field(name: str, type: str, default: Any, help: str, factory: Callable[..., Any]) -> Field | None:
    required = default is inspect.Parameter.empty
    default = None if required else default
    if name in _NEVER:
        return None
    if name == "layout":
        return Field(name, "layout", None, help, required=required)
    if _PICTURE.fullmatch(name) and not isinstance(default, bool | int | float):
        return Field(name, "pictures" if _SEVERAL.search(type) else "picture", None, help, required=required)
    if name == "labels" and (classes := _palette_of(factory)):
        return Field(name, "choices", default, help, tuple(classes), required)
    if name == "device":
        return Field(name, "choice", default or "cpu", help, _devices())
    if name == "dtype":
        plain = str(default).removeprefix("torch.")
        return Field(name, "choice", plain, help, DTYPES) if plain in DTYPES else None
    if re.search(r"Solver\b", type):
        inner = getattr(default, "name", None)
        return Field(name, "solver", inner, help, inner_solvers(), required) if inner or required else None
    return _plain(name, type, default, help, required)


def _plain(name: str, type: str, default: Any, help: str, required: bool) -> Field | None:
    """Read numbers, switches, words and texts off an annotation; None for anything else, such as a path."""
    if words := re.findall(r"Literal\[(.*?)\]", type):
        found = tuple(str(word) for word in ast.literal_eval(f"({words[0]},)"))
        return Field(name, "choice", default, help, found, required) if default is None or default in found else None
    atoms = {re.sub(r"^.*\.(?=\w+$)", "", atom.strip()) for atom in _split(type)} - {"None"}
    scalar = {atom for atom in atoms if not re.match(r"([\w.]*\.)?(Sequence|tuple|list)\[(int|float|str)\b", atom)}
    if atoms == {"bool"}:
        # Three states where None is one of them.
        return Field(name, "switch", bool(default), help) if default is not None else None
    if scalar and scalar <= {"int", "float"}:
        return Field(name, "number" if "float" in scalar else "whole", default, help, (), required)
    if scalar == {"str"}:
        if name in ("text", "texts"):
            return Field(name, "text", default, help, (), required)
        quoted = [word for word in re.findall(r'"([^"]*)"', help) if _WORD.fullmatch(word)]
        known = tuple(dict.fromkeys([*([default] if isinstance(default, str) else []), *quoted]))
        return Field(name, "choice", default, help, known, required) if len(known) > 1 else None
    return None


def _split(type: str) -> list[str]:
    """Split a union at the bars that are outside of brackets."""
    parts, depth = [""], 0
    for letter in type:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _palette_of(factory: Callable[..., Any]) -> Any:
    return getattr(sys.modules.get(factory.__module__), "PALETTE", None)


def inner_solvers() -> tuple[str, ...]:
    """Return the solvers that a wrapper may wrap: rules for controls that wrap nothing themselves."""
    from guideflow.solvers import ControlSolver  # needs torch

    found = []
    for offer in registry.offers("solver"):
        try:
            factory = offer.entry.resolve()
        except GuideflowError:
            continue
        plain = not any(re.search(r"Solver\b", option.type) for option in registry.options(factory) or ())
        if plain and isinstance(factory, type) and issubclass(factory, ControlSolver):
            found.append(offer.name)
    return tuple(found)


def _devices() -> tuple[str, ...]:
    import torch

    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ("cpu", *(["cuda"] if found else []), *found, *mps)
