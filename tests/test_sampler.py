"""Schedules and affine samplers."""

from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow.sampler import Row
from problems import linear, mixture, problem


def test_schedule_fills_in_what_follows_from_the_rest() -> None:
    schedule = gf.Schedule(times=(999, 499), state=(2.0, 1.5), output=(-1.0, -0.5))
    assert len(schedule) == 2 and schedule.times == (999.0, 499.0)
    assert schedule.noise == (0.0, 0.0) and schedule.gain == (1.0, 1.0) and schedule.end_times == (499.0, 0.0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"times": ()}, "at least one"),
        ({"state": (1.0,)}, "1 values for `state` and 2"),
        ({"gain": (1.0,) * 3}, "3 values for `gain`"),
        ({"output": (1.0, float("nan"))}, "finite"),
        ({"init_scale": 0.0}, "init_scale"),
        ({"init_scale": float("inf")}, "init_scale"),
    ],
)
def test_schedule_refuses_what_cannot_be_sampled(columns: Any, message: str) -> None:
    good: dict[str, Any] = {"times": (1.0, 0.5), "state": (1.0, 1.0), "output": (1.0, 1.0)}
    with pytest.raises(InvalidArgument, match=message):
        gf.Schedule(**{**good, **columns})


def test_step_is_the_affine_formula() -> None:
    sampler = mixture(family="ancestral")
    task = problem(sampler)
    row = sampler.schedule
    for k in range(3):
        noise = task.noise.steps[k]
        f = sampler.predict(task.z0, row[k], task.condition)
        expected = row.state[k] * task.z0 + row.output[k] * f + (0 if noise is None else row.noise[k] * noise)
        torch.testing.assert_close(sampler.step(k, task.z0, task.condition, noise), expected, rtol=0, atol=0)
    assert sampler.stochastic == (True, True, False) and linear().stochastic == (False,) * 3


def test_half_precision_network_does_not_make_the_state_half() -> None:
    class Half(type(linear())):  # type: ignore[misc]
        def predict(self, z: Any, row: Row, condition: Any) -> Any:
            return super().predict(z, row, condition).half()

    sampler = Half(num_steps=2, size=6)
    task = problem(sampler, lambda x: x.square().flatten(1).mean(1))
    rollout = task.rollout(task.z0, torch.zeros(2, 2, 6))
    assert rollout.states.dtype == rollout.gradients.dtype == torch.float32


def test_state_dtype_is_float32_unless_the_sampler_is_float64() -> None:
    sampler = linear()
    assert sampler.state_dtype == torch.float64
    sampler.dtype = torch.float16
    assert sampler.state_dtype == torch.float32 and gf.draw_noise(sampler, [0]).initial.dtype == torch.float32


def test_init_scale_multiplies_the_first_state() -> None:
    sampler = linear()
    noise = gf.draw_noise(sampler, [0]).initial
    sampler.schedule = gf.Schedule(times=(1.0,), state=(1.0,), output=(0.0,), init_scale=2.5)
    torch.testing.assert_close(sampler.prepare(noise), 2.5 * noise)


def test_step_of_an_affine_sampler_is_final() -> None:
    assert gf.AffineSampler.step.__final__
