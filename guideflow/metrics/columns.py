"""Metrics that are known once the picture is: what it took, and what the guiding loss says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from guideflow.metrics.base import Case, Measured, Metric, measured


class Column(Metric):
    """A number that is in the record of the job.

    Attributes:
        scale: What it is multiplied by.
    """

    column: ClassVar[str]
    better: ClassVar[str] = "lower"
    scale: ClassVar[float] = 1.0

    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Look the number up."""
        found = [case.record.get(self.column) for case in cases]
        return [Measured(note="not recorded") if one is None else measured(self.scale * float(one)) for one in found]


@final
class Seconds(Column):
    """Time that the picture took; of pictures that were solved together, its share."""

    name, column, unit, digits = "seconds", "seconds", "s", 2


@final
class NetworkEvaluations(Column):
    """Evaluations of the sampler's network, unguided pass and candidates included."""

    name, column, digits = "network-evaluations", "network_evaluations", 0


@final
class PeakMemory(Column):
    """Most memory that the process or the GPU held while the picture was made."""

    name, column, unit, digits = "peak-memory", "peak_memory", "GB", 2
    scale = 1e-9


@final
class GuidanceLoss(Column):
    """What the guiding loss says of the picture. It was optimised, so it is no judge: a low one may be a fooled one."""

    name, column = "guidance-loss", "loss_value"
