"""What a run is made of, and the Python and the command line that make the same pictures."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guideflow import registry
from guideflow.errors import InvalidArgument
from guideflow.losses.base import Loss, as_loss
from guideflow.registry.configs import note
from guideflow.types import LossLike

FOLDER = "guided"
"""Where the Python and the command line save to."""


class Name(str):
    """The name of a file that lies beside the recipe."""


@dataclass(frozen=True)
class Part:
    """A sampler, loss or solver: its name and the options that differ from the defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def python(self, kind: str) -> str:
        """Write the call that loads it."""
        options = "".join(f", {key}={_python(value)}" for key, value in self.options.items())
        return f'gf.load_{kind}("{self.name}"{options})'

    def typed(self) -> str:
        """Write it as it is typed on the command line: NAME:key=value,..."""
        options = ",".join(f"{key}={_typed(value)}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name

    def load(self, kind: str, folder: Path) -> Any:
        """Make it from the files in a folder; it remembers their names alone, as one that the texts make does."""
        made = getattr(registry, f"load_{kind}")(self.name, **_found(self.options, folder))
        return made if kind == "solver" else note(made, self.name, self.options)


@dataclass(frozen=True)
class Recipe:
    """A run as it was asked for.

    Arguments:
        sampler: The sampler.
        losses: The losses with their weights, at least one.
        solver: The solver.
        prompt: One for all images.
        negative_prompt: Likewise; empty for none.
        seeds: One for each image.
        iterations: How many are planned; None leaves it to the solver.
        more: Further options of `solve`, such as `candidates`.
    """

    sampler: Part
    losses: tuple[tuple[float, Part], ...]
    solver: Part = Part("auto")
    prompt: str = ""
    negative_prompt: str = ""
    seeds: tuple[int, ...] = (0,)
    iterations: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def load(self, folder: Path) -> tuple[LossLike, Any]:
        """Load loss and solver from the files in a folder."""
        solver = self.solver.load("solver", folder)
        losses = [(weight, part.load("loss", folder)) for weight, part in self.losses]
        if len(losses) > 1 or losses[0][0] != 1:
            losses = [(weight, one if isinstance(one, Loss) else as_loss(one)) for weight, one in losses]
        loss, *others = (one if weight == 1 else weight * one for weight, one in losses)
        for other in others:
            loss = loss + other
        return loss, solver

    def options(self, folder: Path) -> dict[str, Any]:
        """Return what `solve` is called with beside sampler, loss and solver."""
        given = {"prompt": self.prompt, "negative_prompt": self.negative_prompt or None, "seed": self.seeds}
        return {**given, "max_iterations": self.iterations, **_found(self.more, folder)}

    def stopped(self, iteration: int, tried: int | None, planned: int, preset: Mapping[str, Any]) -> Recipe:
        """Return the recipe that ends by itself where this one was stopped.

        Arguments:
            iteration: The last one that was done.
            tried: Candidates rolled out, if it was stopped while the start was chosen; else None.
            planned: How many iterations were planned.
            preset: Options that the solver had from a preset.
        """
        if tried is not None:
            return replace(self, iterations=0, more={**self.more, "candidates": tried})
        if iteration >= planned:
            return self
        solver, known = self.solver, registry.options(registry.factory("solver", self.solver.name)) or ()
        if "iterations" in {option.name for option in known} and "iterations" not in solver.options:
            solver = Part(solver.name, {**preset, **solver.options, "iterations": planned})
        return replace(self, iterations=iteration, solver=solver)

    def python(self) -> str:
        """Write the program that makes the same pictures, beside the pictures that it names."""
        lines = ["import guideflow as gf", "", f"sampler = {self.sampler.python('sampler')}"]
        for i, (weight, part) in enumerate(self.losses):
            factor = "" if weight == 1 else f"{weight!r} * "
            # Of a sum of functions without the algebra of losses, only this has one.
            one = f"gf.as_loss({part.python('loss')})" if self._plain(part) else part.python("loss")
            lines.append(f"loss {'+=' if i else '='} {factor}{one}")
        options: dict[str, str] = {}
        if self.prompt:
            options["prompt"] = _python(self.prompt)
        if self.negative_prompt:
            options["negative_prompt"] = _python(self.negative_prompt)
        options["seed"] = _python(list(self.seeds) if len(self.seeds) > 1 else self.seeds[0])
        if self.solver != Part("auto"):
            options["solver"] = self.solver.python("solver") if self.solver.options else _python(self.solver.name)
        if self.iterations is not None:
            options["max_iterations"] = repr(self.iterations)
        options |= {name: _python(value) for name, value in self.more.items()}
        lines += ["solution = gf.solve(", "    sampler,", "    loss,"]
        lines += [f"    {name}={value}," for name, value in options.items()]
        return "\n".join([*lines, ")", f'solution.save("{FOLDER}")', ""])

    def command(self) -> str:
        """Write the command that makes the same pictures, in the folder of the pictures that it names."""
        options = [("sampler", self.sampler.typed())]
        for weight, part in self.losses:
            options.append(("loss", part.typed() if weight == 1 else f"{weight!r}*{part.typed()}"))
        if self.solver != Part("auto"):
            options.append(("solver", self.solver.typed()))
        if self.prompt:
            options.append(("prompt", self.prompt))
        if self.negative_prompt:
            options.append(("negative-prompt", self.negative_prompt))
        options += [("seed", str(seed)) for seed in self.seeds]
        if self.iterations is not None:
            options.append(("iterations", str(self.iterations)))
        options += [(name.replace("_", "-"), _typed(value)) for name, value in self.more.items() if value is not True]
        options.append(("out", FOLDER))
        typed = [f"--{name} {shlex.quote(value)}" for name, value in options]
        typed += [f"--{name.replace('_', '-')}" for name, value in self.more.items() if value is True]
        return " \\\n    ".join(["guideflow run", *typed]) + "\n"

    def _plain(self, part: Part) -> bool:
        factory = registry.factory("loss", part.name)
        weighted = len(self.losses) > 1 or self.losses[0][0] != 1
        return weighted and not (isinstance(factory, type) and issubclass(factory, Loss))


def _python(value: Any) -> str:
    if isinstance(value, Part):
        return value.python("solver")
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _typed(value: Any) -> str:
    if isinstance(value, Part):
        return f"({value.typed()})" if value.options else value.name
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and not isinstance(value, Name):
        if re.search(r",\s*[A-Za-z_]\w*\s*=", value) or value.strip().lower() in ("true", "false", "none"):
            raise InvalidArgument(f"The text {value!r} cannot be typed on the command line. Write it in other words.")
        return value.strip()
    plain = value is None or isinstance(value, bool)
    return str(value) if isinstance(value, str) else repr(value).lower() if plain else repr(value)


def _found(value: Any, folder: Path) -> Any:
    """Put the paths of files in the place of their names, and what parts stand for in theirs."""
    if isinstance(value, Mapping):
        return {key: _found(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_found(inner, folder) for inner in value]
    if isinstance(value, Part):
        return value.load("solver", folder)
    return str(folder / value) if isinstance(value, Name) else value
