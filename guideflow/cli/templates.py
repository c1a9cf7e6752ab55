"""The files that `guideflow init-plugin` writes, with $name, $module and $Class in place of what is typed."""

from typing import Final

PYPROJECT: Final = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1"
description = "A $kind for guideflow: $name."
readme = "README.md"
requires-python = ">=3.10"
dependencies = ["guideflow"]

[project.optional-dependencies]
test = ["mypy", "pytest"]

[project.entry-points.guideflow]
$name = "$module"

[tool.hatch.build.targets.wheel]
only-include = ["$module.py"]

[tool.mypy]
strict = true
"""

README: Final = """\
# $distribution

The $kind `$name` for guideflow.

```bash
pip install -e '.[test]'
guideflow info $name
$use
pytest
mypy $module.py
```

What it does is in `$module.py`, and that it is well-behaved in `test_$module.py`.
"""

USE: Final = {
    "loss": "guideflow run --sampler toy-mixture --loss $name --iterations 5 --out $name",
    "sampler": "guideflow run --sampler $name --loss FILE.py:NAME --out $name",
    "solver": "guideflow run --sampler toy-mixture --loss FILE.py:NAME --solver $name --out $name",
    "metric": "guideflow evaluate FOLDER --metric $name",
}

_LOSS: Final = '''\
"""`$name`: a loss for guideflow."""

import guideflow as gf
from torch import Tensor


class $Class(gf.Loss):
    """Squared distance of the mean brightness of a picture to a target.

    Arguments:
        target: In [0, 1].
    """

    name = "$name"

    def __init__(self, target: float = 0.7) -> None:
        if not 0 <= target <= 1:
            raise ValueError(f"Got target={target}. Expected a number in [0, 1].")
        self._target = target

    def __call__(self, image: Tensor) -> Tensor:
        """Return one number for each image (B, 3, H, W) in [0, 1]; lower is better."""
        gf.check_image(image)
        return (image.float().flatten(1).mean(1) - self._target).square()


@gf.hookimpl
def guideflow_losses() -> dict[str, gf.Entry]:
    """Tell guideflow what there is."""
    return {"$name": gf.Entry($Class, "mean brightness, to a target")}
'''

_SAMPLER: Final = '''\
"""`$name`: a sampler for guideflow."""

from collections.abc import Sequence

import guideflow as gf
import torch
from guideflow.sampler import Row
from torch import Tensor


class $Class(gf.AffineSampler):
    """A flow towards a soft spot of light in a colour that the prompt names: red, green or blue.

        z' = z + (m(prompt) - z) / (K - k + 1),    k = 0..K-1,    so that    z_K = m + (z_0 - m) / (K + 1)

    Arguments:
        num_steps: Number of steps K.
        size: Height and width of the pictures.
    """

    def __init__(self, num_steps: int = 4, size: int = 16) -> None:
        if num_steps < 1 or size < 1:
            raise ValueError(f"Got num_steps={num_steps}, size={size}. Expected whole numbers from 1 on.")
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.latent_shape, self.image_size = (3, size, size), (size, size)
        shares = [1 / (num_steps - k + 1) for k in range(num_steps)]
        times = tuple(1 - k / num_steps for k in range(num_steps))
        self.schedule = gf.Schedule(times, state=tuple(1 - share for share in shares), output=tuple(shares))

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Tensor:
        """Turn each prompt into the mean of its pictures, (B, 3, size, size)."""
        axis = torch.linspace(-1, 1, self.image_size[0])
        spot = torch.exp(-2 * (axis[:, None].square() + axis.square()))
        colours = [[1.0 if name in prompt else -1.0 for name in ("red", "green", "blue")] for prompt in prompts]
        return torch.tensor(colours)[:, :, None, None] * spot

    def predict(self, z: Tensor, row: Row, condition: Tensor) -> Tensor:
        """Return where the flow goes; a network would look at z and at the time."""
        return condition + 0 * z

    def decode(self, z: Tensor) -> Tensor:
        """Turn states into pictures (B, 3, size, size) in [0, 1]."""
        return (z / 4 + 0.5).clamp(0, 1)


@gf.hookimpl
def guideflow_samplers() -> dict[str, gf.Entry]:
    """Tell guideflow what there is."""
    return {"$name": gf.Entry($Class, "a spot of light in a colour", steps="any")}
'''

_SOLVER: Final = '''\
"""`$name`: a solver for guideflow."""

from dataclasses import dataclass

import guideflow as gf
from guideflow.solvers import gradients, step_size


@dataclass(frozen=True)
class $Class(gf.ControlSolver):
    """Descend on each control by the sign of its gradient: every entry moves equally far.

        u_k <- u_k - s sign(g_k),    s = scale sqrt(d) / 128

    Gradients are of the loss times `loss_scale`, 100 by default; a sign does not feel that, a plain gradient does.

    Arguments:
        scale: Length of a step.
    """

    name = "$name"

    scale: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"Got scale={self.scale}. Expected a finite number of at least 0.")

    def move(self, problem: gf.Problem, state: gf.State) -> gf.Move:
        """Return how far each control goes."""
        return gf.Move.of_controls(-step_size(self.scale, state.z0) * gradients(state)[1:].sign())


@gf.hookimpl
def guideflow_solvers() -> dict[str, gf.Entry]:
    """Tell guideflow what there is."""
    return {"$name": gf.Entry($Class, "descend by the sign of the gradient")}
'''

_METRIC: Final = '''\
"""`$name`: a metric for guideflow."""

from collections.abc import Sequence

import guideflow as gf
from guideflow.metrics import Case, Measured


class $Class(gf.Metric):
    """Mean contrast of neighbouring pixels: 0 for a flat picture."""

    name = "$name"
    better = "neither"

    def __call__(self, cases: Sequence[Case]) -> list[Measured]:
        """Measure some pictures; one answer for each, in their order."""
        return [Measured(float(case.image.diff(dim=-1).abs().mean())) for case in cases]


@gf.hookimpl
def guideflow_metrics() -> dict[str, gf.Entry]:
    """Tell guideflow what there is."""
    return {"$name": gf.Entry($Class, "mean contrast of neighbouring pixels")}
'''

MODULES: Final = {"loss": _LOSS, "sampler": _SAMPLER, "solver": _SOLVER, "metric": _METRIC}

_CONFORMS: Final = '''\
"""The conformance checks of guideflow, and what is known about `$name`."""

import guideflow as gf
import torch
from guideflow.testing import parametrize_$kind

from $module import $Class


@parametrize_$kind($made)
def test_conforms(check):
    check()


'''

TESTS: Final = {
    "loss": _CONFORMS.replace("$made", '$Class, name="$name"')
    + """\
def test_known_answers():
    torch.testing.assert_close($Class(0.5)(torch.full((1, 3, 8, 8), 0.7)), torch.tensor([0.04]))


def test_it_loads_by_name_and_guides():
    solution = gf.solve(gf.load_sampler("toy-mixture"), gf.load_loss("$name", target=0.2), max_iterations=5)
    assert solution.loss < solution.history["loss"][0]
""",
    "sampler": _CONFORMS.replace("$made", '$Class, prompts=("red", "green and blue")')
    + """\
def test_known_answers():
    sampler = $Class(num_steps=3)
    noise, mean = gf.draw_noise(sampler, [0]), sampler.condition(["red"])
    problem = gf.Problem(sampler, lambda image: image.flatten(1).mean(1), noise, mean)
    controls = torch.zeros(3, 1, *sampler.latent_shape)
    picture = problem.rollout(problem.z0, controls, gradients=False).images
    torch.testing.assert_close(picture, sampler.decode(mean + (problem.z0 - mean) / 4))


def test_it_loads_by_name_and_is_guided():
    solution = gf.solve(gf.load_sampler("$name"), lambda image: image.flatten(1).mean(1), max_iterations=5)
    assert solution.loss < solution.history["loss"][0]
""",
    "solver": _CONFORMS.replace("$made", "$Class")
    + """\
def test_it_loads_by_name_and_guides():
    sampler = gf.load_sampler("toy-mixture")
    solution = gf.solve(sampler, lambda image: image.flatten(1).mean(1), solver="$name", max_iterations=5)
    assert solution.loss < solution.history["loss"][0]
    assert torch.isfinite(solution.images).all()
""",
    "metric": '''\
"""What is known about `$name`."""

import guideflow as gf
import torch
from guideflow.metrics import Case

from $module import $Class


def test_known_answers():
    stripes = torch.arange(8).remainder(2).float().expand(3, 8, 8)
    flat, sharp = $Class()([Case("a", torch.full((3, 8, 8), 0.4)), Case("b", stripes)])
    assert flat.value == 0 and sharp.value == 1


def test_it_loads_by_name():
    assert isinstance(gf.load_metric("$name"), $Class)
''',
}
