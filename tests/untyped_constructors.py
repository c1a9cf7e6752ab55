"""What users make by hand, with every argument of every odd kind: taken, or refused in one line."""

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import guideflow as gf
from guideflow.toy import ToyLinear, ToyMixture
from problems import Distance, mixture, target
from untyped_arguments import ODD


class Constructor(NamedTuple):
    """Something public that users make, or call, with arguments that do, and what is done with it."""

    make: Any
    given: Mapping[str, Any] = MappingProxyType({})
    use: Any = None


def solved(**options: Any) -> Any:
    sampler = mixture()
    return gf.solve(sampler, Distance(target(sampler)), **({"max_iterations": 1, "candidates": 1} | options))


def public() -> dict[str, Constructor]:
    sampler, picture = mixture(), torch.rand(2, 3, 8, 8)
    loss, noise, condition = Distance(target(sampler)), gf.draw_noise(sampler, [0]), sampler.condition([""])
    problem, mean, solution = gf.Problem(sampler, loss, noise, condition), "a", solved()
    small = {"num_steps": 2, "size": 6}
    found = {
        "ToyLinear": Constructor(ToyLinear, small),
        "ToyMixture": Constructor(ToyMixture, small),
        "Schedule": Constructor(gf.Schedule, {"times": (1.0,), "state": (1.0,), "output": (1.0,)}, str),
        "Problem": Constructor(gf.Problem, {"sampler": sampler, "loss": loss, "noise": noise, "condition": condition}),
        "draw_noise": Constructor(gf.draw_noise, {"sampler": sampler, "seeds": [0]}),
        "iterate": Constructor(gf.iterate, {"problem": problem, "solver": gf.Anchored()}, next),
        "Started": Constructor(gf.Started, {"sampler": sampler, "picture": torch.rand(3, 6, 6)}),
        "solve": Constructor(gf.solve, {"sampler": sampler, "loss": loss, "max_iterations": 1, "candidates": 1}),
        "as_loss": Constructor(gf.as_loss, {"loss": loss}, lambda made: made.describe()),
        "scheduled": Constructor(loss.scheduled),
        "named": Constructor(loss.named, {"name": mean}),
        "Term": Constructor(gf.losses.Term, {"weight": 1.0, "loss": loss, "name": mean}, lambda made: made.describe()),
        "WeightedSum": Constructor(gf.losses.WeightedSum, {"terms": (gf.losses.Term(1.0, loss, mean),)}),
        "Ramp": Constructor(gf.losses.Ramp, {}, lambda made: made(0)),
        "Balanced": Constructor(gf.losses.Balanced, {"sum": loss + loss}),
        "grid": Constructor(gf.images.grid, {"images": picture}),
        "labelled": Constructor(gf.images.labelled, {"images": picture, "columns": ["a", "b"]}),
        "to_pil": Constructor(gf.images.to_pil, {"image": picture[0]}),
        "png": Constructor(gf.images.png, {"image": picture[0]}),
        "save_image": Constructor(gf.images.save_image, {"path": "a.png", "image": picture[0]}),
        "animate": Constructor(solution.animate, {"path": "a.gif", "frames": [picture] * 2}),
    }
    for operator in ("__mul__", "__truediv__", "__add__", "__sub__"):
        found[operator] = Constructor(getattr(loss, operator))
    for name, one in vars(gf.solvers).items():
        if inspect.isclass(one) and issubclass(one, gf.Solver) and not inspect.isabstract(one):
            given = {"solver": gf.FlowGrad()} if "solver" in inspect.signature(one).parameters else {}
            found[name] = Constructor(one, given, lambda made: solved(solver=made))
    found["ImageSnapshots"] = Constructor(gf.callbacks.ImageSnapshots, {"directory": "a"})
    found["Recorder"] = Constructor(gf.callbacks.Recorder)
    found["ProgressBar"] = Constructor(gf.callbacks.ProgressBar)
    return found


MADE = public()


@pytest.mark.parametrize("name", MADE)
def test_what_users_make_by_hand_takes_or_refuses_any_argument_in_a_line(
    name: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("ignore")
    make, given, use = MADE[name]
    for option in inspect.signature(make).parameters:
        for value in [*ODD, True, 10**20, "0.5", np.float32(0.5), torch.tensor(0.5)]:
            if (callable(value) and option in ("loss", "callback", "other", "finish")) or option in (
                "condition",
                "finish",
            ):
                continue
            try:
                made = make(**{**given, option: value})
                if use is not None:
                    use(made)
            except (gf.GuideflowError, OSError) as error:
                assert len(str(error)) < 3500, option
