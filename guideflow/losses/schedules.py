"""How the weight of a loss changes over the iterations."""

from dataclasses import dataclass, fields
from math import isfinite

from guideflow.errors import InvalidArgument


@dataclass(frozen=True)
class Timing:
    """A factor that is 1 for some iterations, and fades in before and out after them.

        w(i) = 1 - (1 - before) (1 - r(i)) - (1 - after) (1 - f(i))
        r(i) = (i - start + 1) / (fade_in + 1),    f(i) = (end - i) / (fade_out + 1),    both within [0, 1]

    Iteration 0 is the unguided image; the weight at iteration i decides the update that leads to iteration i + 1.

    Arguments:
        start: first iteration on which the factor is more than `before`.
        end: first iteration on which it is `after` again; None for never.
        fade_in: number of iterations, from `start` on, that are on the way to 1.
        fade_out: number of iterations, up to `end`, that are on the way from 1.
        before: factor until `start`.
        after: factor from `end` on.

    Raises:
        InvalidArgument: if there is no room for the fades between `start` and `end`, or a value is out of range.
    """

    start: int = 0
    end: int | None = None
    fade_in: int = 0
    fade_out: int = 0
    before: float = 0.0
    after: float = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("before", "after"):
                good = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            else:
                good = (isinstance(value, int) and not isinstance(value, bool) and value >= 0) or (
                    field.name == "end" and value is None
                )
            if not good:
                kind = "a finite number" if field.name in ("before", "after") else "an integer of at least 0"
                raise InvalidArgument(f"A schedule got {field.name} = {value!r}. Expected {kind}.")
        if self.end is None and (self.fade_out or self.after):
            raise InvalidArgument("A schedule got fade_out or after, and no end. Give the iteration too, as in end=30.")
        if self.end is not None and self.end - self.start < max(1, self.fade_in + self.fade_out):
            raise InvalidArgument(
                f"A schedule got start = {self.start} and end = {self.end} with fades of {self.fade_in} and "
                f"{self.fade_out} iterations. Expected end of at least {self.start} + "
                f"{max(1, self.fade_in + self.fade_out)}."
            )

    def __call__(self, iteration: int) -> float:
        """Return the factor at an iteration."""
        rise = min(max((iteration - self.start + 1) / (self.fade_in + 1), 0.0), 1.0)
        fall = 1.0 if self.end is None else min(max((self.end - iteration) / (self.fade_out + 1), 0.0), 1.0)
        return 1 - (1 - self.before) * (1 - rise) - (1 - self.after) * (1 - fall)

    @property
    def final(self) -> float:
        """The factor in the end."""
        return 1.0 if self.end is None else float(self.after)

    @property
    def settled(self) -> int:
        """First iteration from which the factor is `final`."""
        return self.start + self.fade_in if self.end is None else self.end

    def __str__(self) -> str:
        """Say when it is on: `(from 10, to 30)`."""
        parts = [f"from {self.start}"] if self.start or self.fade_in else []
        parts += [] if self.end is None else [f"to {self.end}"]
        return f"({', '.join(parts) or 'always'})"
