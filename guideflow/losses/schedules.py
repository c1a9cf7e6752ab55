"""How the weight of a loss changes over the iterations."""

from dataclasses import dataclass

from guideflow._given import count, in_range
from guideflow.errors import InvalidArgument


@dataclass(frozen=True)
class Ramp:
    """A factor that is 1 for some iterations, and fades in before and out after them.

        w(i) = 1 - (1 - before) (1 - r(i)) - (1 - after) (1 - f(i))
        r(i) = (i - start + 1) / (fade_in + 1),    f(i) = (end - i) / (fade_out + 1),    in [0, 1]

    Iteration 0 is the unguided image; the weight at iteration i decides the update that leads to iteration i + 1.

    Arguments: those of `Loss.scheduled`, in order.

    Raises:
        InvalidArgument: If there is no room for the fades between `start` and `end`, or a value is out of range.
    """

    start: int = 0
    end: int | None = None
    fade_in: int = 0
    fade_out: int = 0
    before: float = 0.0
    after: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start", "fade_in", "fade_out", "end"):
            if name != "end" or self.end is not None:
                count(name, getattr(self, name), low=0)
        in_range("before", self.before)
        in_range("after", self.after)
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
        parts = [f"from {self.start}"] if self.start or self.fade_in else []
        parts += [] if self.end is None else [f"to {self.end}"]
        return f"({', '.join(parts) or 'always'})"
