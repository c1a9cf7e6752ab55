"""The same input gives the same output: whatever ran before, and for each image wherever it lies in a batch."""

from typing import Any

import pytest
import torch

import guideflow as gf
import guideflow_avatars as avatars
from guideflow_avatars.samplers import FAMILIES
from problems import SOLVERS, Distance, assert_same, mixture, target

ROUNDING = 1.0
"""Grey levels, of 255, by which an image of the avatars world may depend on where in a batch it lies."""


def disturb(sampler: gf.Sampler, loss: Any) -> None:
    """Use both for something else: random numbers, another image in another mode, and a solve that fails."""
    torch.manual_seed(5)
    torch.rand(3)
    options: dict[str, Any] = {"seed": 7, "prompt": "", "max_iterations": 1, "candidates": 1}
    with pytest.raises(ZeroDivisionError):
        gf.solve(sampler, loss, gradient_mode="windowed", callback=lambda progress: 1 / 0, **options)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_gives_the_same_whatever_ran_before(name: str) -> None:
    options: dict[str, Any] = {"seed": [0, 1], "prompt": ["red", "blue"], "max_iterations": 3, "solver": SOLVERS[name]}
    sampler = mixture(family="ancestral")
    loss = Distance(target(sampler)) + 0.1 * gf.as_loss(lambda x: x.square().flatten(1).mean(1), "size")
    first = gf.solve(sampler, loss, **options)
    disturb(sampler, loss)
    assert_same(gf.solve(sampler, loss, **options), first)


@pytest.fixture(scope="module")
def likeness() -> Any:
    return gf.load_loss("avatars-identity", reference=avatars.portrait("ada"))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_same_whatever_ran_before(name: str, likeness: Any) -> None:
    options: dict[str, Any] = {"prompt": "a person", "seed": 3, "max_iterations": 1, "candidates": 1}
    sampler = gf.load_sampler(name)
    first = gf.solve(sampler, likeness, **options)
    disturb(sampler, likeness)
    again = gf.solve(sampler, likeness, **options)
    assert_same(again, first)


def test_an_image_is_the_same_wherever_it_lies_in_a_batch(likeness: Any) -> None:
    sampler, order = gf.load_sampler("avatars-instaflow"), [2, 0, 1]
    prompts, seeds = ["a person", "a smiling person", "a person in a red shirt"], [3, 4, 5]
    options: dict[str, Any] = {"max_iterations": 2, "candidates": 2}
    one = gf.solve(sampler, likeness, prompt=prompts, seed=seeds, **options)
    shuffled = [prompts[i] for i in order], [seeds[i] for i in order]
    other = gf.solve(sampler, likeness, prompt=shuffled[0], seed=shuffled[1], **options)
    assert other.chosen.tolist() == [one.chosen.tolist()[i] for i in order]
    assert float((other.images - one.images[order]).abs().max()) * 255 <= ROUNDING
