"""What a search is asked for: the fields of a sweep, and which options are searched by which objectives."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from guideflow.sweep.spec import Part, Parts, Prompts, Seeds, Solve, Spec, Texts


def _range(value: Any) -> Any:
    """Let a list stand for choices."""
    return {"choices": value} if isinstance(value, list) else value


def _two(value: list[Part]) -> list[Part]:
    """Let one metric stand for itself with the denoise error."""
    if len(value) > 2:
        raise ValueError("expected two metrics: the one to be best at, and the one that must not suffer")
    return value


class Range(BaseModel):
    """The values of an option: numbers from `low` to `high`, or `choices`.

    Attributes:
        low: The lowest number.
        high: The highest.
        log: Whether numbers are drawn evenly by their logarithm.
        whole: Whether they are whole numbers.
        choices: Values of any kind instead.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: list[Any] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Range":
        low, high = self.low, self.high
        if self.choices is not None:
            if low is not None or high is not None or self.log or self.whole or len(self.choices) < 2:
                raise ValueError("expected two choices at least, and nothing beside them")
        elif low is None or high is None or not low < high or high == float("inf") or (self.log and low <= 0):
            raise ValueError("expected {low: 0.5, high: 8}, low below high and above 0 with log: true, or [a, b]")
        elif self.whole and (low != int(low) or high != int(high)):
            raise ValueError("expected whole numbers with whole: true")
        return self

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one of these."""
        if self.choices is not None:
            return value in self.choices
        low, high = float(self.low or 0), float(self.high or 0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and low <= value <= high and (not self.whole or value == int(value))

    def equal(self, value: Any) -> Any:
        """Return a value as it is written here: 0.0 is the choice 0."""
        return value if self.choices is None else next(one for one in self.choices if one == value)

    def ends(self) -> list[Any]:
        """List values that all others lie between, or all there are."""
        if self.choices is not None:
            return self.choices
        return [int(one or 0) if self.whole else float(one or 0) for one in (self.low, self.high)]


class Check(BaseModel):
    """Jobs on which a preset has to be better than the class default, of nobody that it was searched on.

    Attributes:
        references: As in a sweep.
        prompts: As in a sweep.
        seeds: As in a sweep.
        at_most: The bound here, that of the search by default. What few people hold exactly, others do not.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    references: Texts
    prompts: Prompts = [""]
    seeds: Seeds = (0,)
    at_most: float | None = Field(default=None, gt=0)


class Tune(Spec):
    """A search of the options of one solver, for one sampler with one loss.

    Attributes:
        search: Options of the solver, each with the range of its values.
        objectives: The metric to be best at, of a network that does not guide, and the one that must not suffer.
        trials: How many combinations are tried, the class default not counted.
        at_most: How much of the second objective a preset may have, of the unguided pictures': 1.2 is a fifth more.
        seed: Of the search.
        check: Jobs on other people, on which a preset has to be better than the class default.
        note: Kept in the preset.
    """

    solver: Parts
    search: dict[str, Annotated[Range, BeforeValidator(_range)]] = Field(min_length=1)
    objectives: Annotated[Parts, AfterValidator(_two)]
    trials: int = Field(default=20, ge=1)
    at_most: float = Field(default=1.2, gt=0)
    seed: int = 0
    check: Check | None = None
    note: str = ""

    @property
    def judges(self) -> tuple[Part, Part]:
        """The two objectives; the second is the denoise error if it is not named."""
        first, *others = self.objectives
        return first, others[0] if others else Part(name="denoise-error")

    def sweep(self, solvers: list[dict[str, Any]]) -> Spec:
        """Return the sweep of the jobs with some solvers."""
        given = {name: getattr(self, name) for name in Spec.model_fields}
        return Spec(**given | {"solver": [Part(**one) for one in solvers]})

    def unguided(self) -> "Tune":
        """Return the same without guidance."""
        return self.model_copy(update={"solve": Solve(max_iterations=[0], candidates=[1])})

    def on_others(self) -> "Tune":
        """Return the same on the jobs of the check."""
        assert self.check is not None
        given = {name: getattr(self.check, name) for name in Check.model_fields}
        return self.model_copy(update={**given, "at_most": self.check.at_most or self.at_most})

    def configured(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the solver with some options that were searched."""
        return {"name": self.solver[0].name, "options": {**self.solver[0].options, **options}}
