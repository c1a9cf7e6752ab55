"""What a sweep is asked for: the fields of a spec."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from guideflow._files import read_small
from guideflow.errors import GuideflowError
from guideflow.evaluation.protocols import load_protocol

_BYTES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SEED = range(-(2**63), 2**63)
_MOST_SEEDS = 10**9


def _several(value: Any) -> Any:
    """Let one value stand for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _unlike(values: Sequence[Any]) -> list[Any]:
    """Leave out what stands there before."""
    found = {json.dumps(value, sort_keys=True, default=repr): value for value in reversed(values)}
    if not found:
        raise ValueError("an empty list leaves no job; expected at least one value")
    return list(found.values())[::-1]


def _named(value: Any) -> Any:
    """Let a name stand for a part without options."""
    if isinstance(value, str) and ":" in value and not re.search(r"\.py:\w+$", value):
        raise ValueError(f"got {value!r}; write options as a mapping: {{name: NAME, options: {{key: value}}}}")
    if not isinstance(value, str | dict | Part | Sum):
        raise ValueError(f"got {value!r}; expected a name, or a mapping of name, options and grid")
    return {"name": value} if isinstance(value, str) else value


def _sum(value: Any) -> Any:
    """Let one loss stand for a sum of one."""
    value = _named(value)
    return {"terms": [value]} if isinstance(value, dict) and "terms" not in value else value


def _bytes(value: Any) -> Any:
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)i?b?\s*", value, re.IGNORECASE) if isinstance(value, str) else None
    if found and found[1].count(".") < 2:
        return float(found[1]) * _BYTES[found[2].lower()]
    if isinstance(value, str):
        raise ValueError(f"got {value!r}; expected a number of bytes, such as 8 GB")
    return value


def _prompts(value: Any) -> list[Any]:
    """Read one prompt, a list of them, the lines of a text file that is named instead, or those of a protocol."""
    if isinstance(value, str) and value.startswith("protocol:"):
        try:
            return _unlike(load_protocol(value.partition(":")[2].strip()).asks("{subject}"))
        except GuideflowError as error:
            raise ValueError(str(error).rstrip(".")) from error
    if isinstance(value, str) and value.endswith(".txt"):
        try:
            value = [line.strip() for line in read_small(Path(value)).splitlines() if line.strip()]
        except (OSError, ValueError) as error:  # the latter of what is no text, or a name with a zero byte
            raise ValueError(f"the prompts in {value} cannot be read ({error})") from error
    return _unlike(_several(value))


def _seeds(value: Any) -> tuple[int, ...] | range:
    if isinstance(value, dict) and value.keys() <= {"start", "count"} and "count" in value:
        first, number = value.get("start", 0), value["count"]
        if (
            type(first) is int
            and type(number) is int
            and 0 < number <= _MOST_SEEDS
            and first in _SEED
            and first + number - 1 in _SEED
        ):
            return range(first, first + number)
    found = list(value) if isinstance(value, range | list | tuple) else [value]
    if isinstance(value, dict) or not found or not all(type(seed) is int and seed in _SEED for seed in found):
        raise ValueError(
            f"got {value!r}; expected whole numbers, as in [0, 1, 2], or {{start: 0, count: 100}} for a hundred of them"
        )
    return tuple(dict.fromkeys(found))


def _seeds_written(seeds: Sequence[int]) -> Any:
    return {"start": seeds.start, "count": len(seeds)} if isinstance(seeds, range) else list(seeds)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _looks(value: Any) -> list[Any]:
    found = _several(value)
    if not all(type(one) is int and one >= 0 for one in found):
        raise ValueError(f"got {value!r}; expected numbers of iterations, as in [20, 50, 100]")
    return sorted(set(found))


Unlike = BeforeValidator(lambda value: _unlike(_several(value)))
"""One value or a list of unlike ones, each of which makes jobs of its own."""


class Part(_Model):
    """A sampler, a solver, or a term of a loss, by name.

    Attributes:
        name: As `guideflow list` shows it; of a loss also `path/to/file.py:Name`.
        options: Its options.
        grid: Lists of values of options; every combination of them is swept.
    """

    name: str = Field(min_length=1)
    options: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], Unlike]] = {}


class Term(Part):
    """A term of a loss, with its weights: several of them are swept."""

    weight: Annotated[list[float], Unlike] = [1.0]


class Sum(_Model):
    """A loss: the sum of its terms."""

    terms: list[Annotated[Term, BeforeValidator(_named)]] = Field(min_length=1)


class Solve(_Model):
    """Arguments of `guideflow.solve`, each one value or a list of values that are swept."""

    max_iterations: Annotated[list[int | None], Unlike] = [None]
    candidates: Annotated[list[int | None], Unlike] = [None]
    candidate_radius: Annotated[list[float | None], Unlike] = [None]
    keep: Annotated[list[Literal["best", "last"]], Unlike] = ["best"]
    target_loss: Annotated[list[float | None], Unlike] = [None]
    patience: Annotated[list[int | None], Unlike] = [None]
    loss_scale: Annotated[list[float], Unlike] = [100.0]
    negative_prompt: Annotated[list[str | None], Unlike] = [None]


class Workers(_Model):
    """What each worker of Ray's takes, and how many there are.

    Attributes:
        count: Number of workers; None for as many as the cluster has room for.
        cpus: Cores of each, which are also its threads.
        gpus: GPUs of each; 0.5 lets two share one.
    """

    count: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)


Parts = Annotated[list[Annotated[Part, BeforeValidator(_named)]], Unlike]
Sums = Annotated[list[Annotated[Sum, BeforeValidator(_sum)]], Unlike]
Texts = Annotated[list[str], Unlike]
Prompts = Annotated[list[str], BeforeValidator(_prompts)]
Seeds = Annotated[Any, PlainValidator(_seeds, json_schema_input_type=Any), PlainSerializer(_seeds_written)]


class Spec(_Model):
    """A sweep: every sampler with every loss, solver and reference, on every prompt with every seed.

    Attributes:
        sampler: One or several.
        loss: One or several; each may be a sum of terms.
        solver: One or several.
        solve: Arguments of `guideflow.solve`.
        looks: Iterations after which jobs are looked at as well: a row and a picture of what each would have come to,
            had it ended there. Those before its `max_iterations` count.
        references: Pictures, folders, globs and tables (CSV); none for losses that take none.
        prompts: Texts, the name of a .txt file with one a line, or `protocol:NAME` for those of a protocol; {column}
            stands for what the table of references has there.
        seeds: Whole numbers; a column `seed` of the table of references says another one for each of them.
        batch: Most images that are solved together.
        memory: Bytes that a worker may use in all, by which batches are made smaller; None does not look.
        gradient_mode: As of `guideflow.solve`; it changes no picture.
        watermark: Likewise, of the files.
        device: Where samplers and losses run, given to each that has such an option; None leaves it to them.
        workers: Those of Ray's.
    """

    sampler: Parts
    loss: Sums
    solver: Parts = [Part(name="auto")]
    solve: Solve = Solve()
    looks: Annotated[list[int], BeforeValidator(_looks)] = []
    references: Texts | None = None
    prompts: Prompts = [""]
    seeds: Seeds = (0,)
    batch: int = Field(default=8, ge=1)
    memory: Annotated[float | None, BeforeValidator(_bytes)] = Field(default=None, gt=0)
    gradient_mode: Literal["full", "windowed", "checkpointed", "auto"] = "full"
    watermark: bool | None = None
    device: str | None = None
    workers: Workers = Workers()

    def written(self) -> dict[str, Any]:
        """Return the spec as plain values, without what is as by default."""
        found: dict[str, Any] = self.model_dump(exclude_defaults=True)
        return found


def fields(model: type[BaseModel]) -> Iterable[str]:
    """List the fields of a model."""
    return model.model_fields.keys()
