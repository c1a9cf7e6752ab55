"""The classes of a network: numbers, names, and weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guideflow._given import plain_number
from guideflow._told import did_you_mean
from guideflow.errors import InvalidArgument


@dataclass(frozen=True)
class Classes:
    """The classes that a network tells apart.

    Arguments:
        names: In order, or None if they have none.
        count: How many there are.
    """

    names: tuple[str, ...] | None
    count: int

    def number(self, given: str | int) -> int:
        """Return the number of a class, or refuse it with the nearest name."""
        given = plain_number(given)  # type: ignore[assignment]
        if isinstance(given, int) and 0 <= given < self.count:
            return given
        if isinstance(given, str) and self.names and given in self.names:
            return self.names.index(given)
        if isinstance(given, str) and re.fullmatch("[0-9]{1,9}", given) and int(given) < self.count:
            return int(given)  # as the keys of a saved run are
        hint = did_you_mean(str(given), self.names or ())
        if isinstance(given, str) and not self.names:
            hint = " Its classes have no names; give them: names=['background', ...]."
        raise InvalidArgument(f"The network has no class {given!r}.{hint} Expected {self.listing()}.")

    def numbers(self, given: str | int | Sequence[str | int] | None) -> tuple[int, ...]:
        """Return the numbers of one class or several, in order; of all for None."""
        if given is None:
            return tuple(range(self.count))
        one = isinstance(plain_number(given), str | int)
        several: list[str | int] = [given] if one else list(given)  # type: ignore[list-item, arg-type]
        if not several:
            raise InvalidArgument(f"Got no labels. Expected some of {self.listing()}; leave labels= out for all.")
        return tuple(sorted({self.number(one) for one in several}))

    def name(self, number: int) -> str:
        """Return the name of a class, or its number as text."""
        return self.names[number] if self.names and number < len(self.names) else str(number)

    def listing(self) -> str:
        """Write what there is to choose from."""
        numbers = f"0 to {self.count - 1}"
        if not self.names:
            return numbers
        shown = ", ".join(self.names[:30]) + (", ..." if len(self.names) > 30 else "")
        return f"{numbers}, or {shown}"

    def check(self, layout: Tensor, ignore_index: int) -> None:
        """Refuse a layout with numbers that are no classes."""
        wrong = ((layout < 0) | (layout >= self.count)) & (layout != ignore_index)
        if wrong.any():
            numbers = layout[wrong].unique().tolist()
            shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
            raise InvalidArgument(
                f"The layout has {shown} in {int(wrong.sum())} pixels, which are no classes. Expected "
                f"{self.listing()}; {ignore_index} for pixels that do not count (ignore_index)."
            )

    def weights(self, given: Mapping[str | int, float] | Mapping[str, float] | Sequence[float] | None) -> Tensor:
        """Return a weight for each class, (count,), 1 where none is given."""
        weights = torch.ones(self.count)
        if isinstance(given, Mapping):
            for key, weight in given.items():
                weights[self.number(key)] = float(weight)
        elif given is not None:
            if len(given) != self.count:
                raise InvalidArgument(
                    f"Got {len(given)} class_weights. Expected {self.count}, one for each class, or some by name: "
                    f"class_weights={{{self.name(0)!r}: 0.5}}."
                )
            weights = torch.tensor([float(weight) for weight in given])
        if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
            raise InvalidArgument(f"Got class_weights={given!r}. Expected finite numbers of at least 0.")
        return weights
