"""What every metric must do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, isnan
from typing import Any

import torch
from torch import Tensor

from guideflow import registry
from guideflow.metrics import Case, Measured, Metric
from guideflow.testing._run import Check, parametrize, require, require_light_import, run, trainable

NEEDS = ("reference", "prompt", "unguided")


@dataclass(frozen=True)
class Subject:
    """A fresh metric, the cases it is tried on, and its name if it is to be loaded by name."""

    metric: Metric
    cases: tuple[Case, ...]
    name: str | None


def check_metric(
    make: Callable[[], Metric],
    *,
    cases: Sequence[Case] | None = None,
    image_size: int = 64,
    name: str | None = None,
    expected_failures: Mapping[str, str] = {},
) -> None:
    """Run every check of a metric and report all failures together.

    Arguments:
        make: Makes the metric; called once per check.
        cases: At least two cases of one configuration on which the metric means something, with all that it needs. By
            default smooth random pictures with references, prompts and unguided pictures.
        image_size: Side of the default pictures.
        name: The name under which the plugin offers the metric; given, loading by name is checked too.
        expected_failures: Reason by name of a check that is known to fail.

    Raises:
        ConformanceFailure: Naming each failed check, what it found and what to do.
    """
    run(_checks(name), partial(_prepare, make, cases, image_size, name), expected_failures)


def parametrize_metric(
    make: Callable[[], Metric],
    *,
    cases: Sequence[Case] | None = None,
    image_size: int = 64,
    name: str | None = None,
    expected_failures: Mapping[str, str] = {},
) -> Any:
    """Return a pytest mark that gives a test each check of a metric as its argument `check`.

    Arguments are those of [`check_metric`][guideflow.testing.metrics.check_metric].
    """
    return parametrize(_checks(name), partial(_prepare, make, cases, image_size, name), expected_failures)


def _prepare(make: Callable[[], Metric], cases: Sequence[Case] | None, image_size: int, name: str | None) -> Subject:
    if cases is None:
        coarse = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.interpolate(coarse, image_size, mode="bicubic", align_corners=False)
        pictures = (0.15 + 0.7 * smooth.clamp(0, 1)).unbind()
        cases = [
            Case(
                job=str(i),
                picture=pictures[i],
                plain=pictures[3 + i],
                target=pictures[6],
                about="reference",
                prompt="a person",
                seed=i,
                config="one",
                record={"seconds": 1.0 + i, "loss_value": 0.5, "network_evaluations": 8, "peak_memory": 10**9},
            )
            for i in range(3)
        ]
    return Subject(make(), tuple(cases), name)


def _numbers(found: Sequence[Measured]) -> list[float]:
    return [one.value for one in found]


def _same(first: Sequence[Measured], second: Sequence[Measured], tolerance: float = 1e-4) -> bool:
    pairs = list(zip(_numbers(first), _numbers(second), strict=True))
    return all((isnan(a) and isnan(b)) or abs(a - b) <= tolerance * max(1.0, abs(a)) for a, b in pairs)


def check_is_a_metric(subject: Subject) -> None:
    """It derives from `guideflow.Metric`, and says what is better and what it needs in the words that are known.

    Troubleshooting: `better` is "higher", "lower" or "neither"; `needs` holds "reference", "prompt", "unguided".
    """
    metric = subject.metric
    require(isinstance(metric, Metric), f"got a {type(metric).__name__}, not a guideflow.Metric")
    require(metric.better in ("higher", "lower", "neither"), f"better is {metric.better!r}")
    require(set(metric.needs) <= set(NEEDS), f"needs is {metric.needs!r}")


def check_one_answer_each(subject: Subject) -> None:
    """It returns one `Measured` for each case, for several and for none.

    Troubleshooting: return `Measured(note="why")` for a case without a number, rather than leaving it out.
    """
    for cases in (subject.cases, ()):
        found = subject.metric(cases)
        require(len(found) == len(cases), f"got {len(found)} answers for {len(cases)} cases")
        require(all(isinstance(one, Measured) for one in found), "an answer is no Measured")


def check_numbers(subject: Subject) -> None:
    """Numbers are finite on ordinary pictures; what has none is told why.

    Troubleshooting: `guideflow.metrics.measured(value)` makes nan of what is not finite, and says so.
    """
    for one in subject.metric(subject.cases):
        require(isfinite(one.value) or bool(one.note), f"got {one.value} without a note")
        require(not (one.detected is False and isfinite(one.value)), "nothing was found, and there is a number")
    require(any(map(isfinite, _numbers(subject.metric(subject.cases)))), "no case has a number; give others by cases=")


def check_deterministic(subject: Subject) -> None:
    """The same cases give the same numbers.

    Troubleshooting: call `.eval()` on networks; draw random numbers from a seeded generator.
    """
    first, second = subject.metric(subject.cases), subject.metric(subject.cases)
    require(_same(first, second, 0.0), f"got {_numbers(first)}, then {_numbers(second)}")


def check_independent(subject: Subject) -> None:
    """The number of a picture depends on no other picture, unless `of_set` says so; never on their order.

    Troubleshooting: no batch normalisation in training mode; or set `of_set = True`.
    """
    together = subject.metric(subject.cases)
    turned = [*subject.metric(subject.cases[::-1])][::-1]
    require(_same(together, turned), f"got {_numbers(together)}, and in another order {_numbers(turned)}")
    if not subject.metric.of_set:
        alone = [subject.metric([case])[0] for case in subject.cases]
        require(_same(together, alone), f"got {_numbers(together)} together and {_numbers(alone)} alone")


def check_direction(subject: Subject) -> None:
    """What is compared with a reference finds the reference itself better than noise.

    Troubleshooting: `better = "lower"` for distances, "higher" for similarities.
    """
    metric = subject.metric
    if "reference" not in metric.needs or metric.of_set or metric.better == "neither":
        return
    case = subject.cases[0]
    noise = torch.rand(case.reference.shape, generator=torch.Generator().manual_seed(1))
    same, other = (metric([replace(case, picture=one)])[0] for one in (case.reference, noise))
    require(isfinite(same.value), f"the reference itself has no number: {same.note}")
    if isfinite(other.value):
        more = same.value > other.value
        require(more == (metric.better == "higher"), f"the reference has {same.value:.3g}, noise {other.value:.3g}")


def check_input_unchanged(subject: Subject) -> None:
    """The metric does not write into the pictures it is given.

    Troubleshooting: replace operations that end in an underscore, `+=` and assignments to slices.
    """
    tensors = [case.picture for case in subject.cases if isinstance(case.picture, Tensor)]
    before = [one.clone() for one in tensors]
    subject.metric(subject.cases)
    require(all(map(torch.equal, before, tensors)), "a picture was changed in place")


def check_frozen(subject: Subject) -> None:
    """No parameter asks for a gradient.

    Troubleshooting: `guideflow.losses.networks.freeze(network)` when it is loaded.
    """
    found = trainable(subject.metric)
    require(not found, f"these ask for gradients: {', '.join(found[:5])}")


def check_loads_by_name(subject: Subject) -> None:
    """The registry finds the metric by its name.

    Troubleshooting: write `NAME = "module"` under `[project.entry-points.guideflow]` and install the package again.
    """
    require(
        callable(registry.find("metric", str(subject.name)).entry.resolve()), "what the hook returned is no factory"
    )


def check_light_import(subject: Subject) -> None:
    """The plugin's module imports nothing slow.

    Troubleshooting: import such packages inside the function that needs them, with `guideflow.require`.
    """
    require_light_import("metric", str(subject.name))


CHECKS: tuple[Check, ...] = (
    check_is_a_metric,
    check_one_answer_each,
    check_numbers,
    check_deterministic,
    check_independent,
    check_direction,
    check_input_unchanged,
    check_frozen,
)
"""The checks of every metric."""


def _checks(name: str | None) -> tuple[Check, ...]:
    return CHECKS if name is None else (*CHECKS, check_loads_by_name, check_light_import)
