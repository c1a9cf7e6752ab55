"""Gradients that do not pass through the network."""

import pytest
import torch

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow.testing.solvers import Plain
from problems import Distance, mixture, problem, run, target


def test_pictures_stay_and_gradients_are_the_affine_part() -> None:
    sampler = mixture(family="ancestral")
    cheap = gf.Detached(sampler)
    full, detached = (problem(one, Distance(target(sampler))) for one in (sampler, cheap))
    controls = torch.zeros(3, 2, *sampler.latent_shape, dtype=torch.float64)
    ours, theirs = detached.rollout(detached.z0, controls), full.rollout(full.z0, controls)
    assert torch.equal(ours.images, theirs.images) and torch.equal(ours.states, theirs.states)
    g = theirs.gradients[3]
    for k in (3, 2, 1, 0):
        torch.testing.assert_close(ours.gradients[k], g)
        g = sampler.schedule.state[k - 1] * g if k else g
    assert not torch.allclose(ours.gradients[0], theirs.gradients[0])


def test_the_last_windows_may_keep_theirs() -> None:
    sampler = mixture()
    loss = Distance(target(sampler))
    controls = torch.zeros(3, 2, *sampler.latent_shape, dtype=torch.float64)
    found = []
    for one in (sampler, gf.Detached(sampler, windows=1), gf.Detached(sampler, windows=3)):
        task = problem(one, loss)
        found.append(task.rollout(task.z0, controls).gradients)
    torch.testing.assert_close(found[1][2:], found[0][2:])
    assert not torch.allclose(found[1][1], found[0][1])
    torch.testing.assert_close(found[2], found[0])


@pytest.mark.parametrize("mode", ["full", "windowed", "checkpointed"])
def test_it_guides_in_every_gradient_mode(mode: str) -> None:
    sampler = mixture()
    task = problem(gf.Detached(sampler), Distance(target(sampler)), gradient_mode=mode)
    first, *_, last = run(task, gf.Auto(), 20)
    assert bool((last.rollout.loss < 0.7 * first.rollout.loss).all())


def test_what_cannot_be_detached_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"windows = 4\. Expected 0 to 3"):
        gf.Detached(mixture(), windows=4)
    with pytest.raises(InvalidArgument, match="Expected an AffineSampler"):
        gf.Detached(Plain())
