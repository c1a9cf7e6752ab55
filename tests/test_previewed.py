"""Solvers that look at previews: what wrapping owes. What previews are is tested beside the samplers that have them."""

import dataclasses

import pytest
import torch

import guideflow as gf
from guideflow.problem import draw_noise
from guideflow.solvers import Polished, Previewed
from guideflow.testing import check_solver


class Coarse(gf.toy.ToyLinear):
    """A small flow whose previews are darker than its pictures."""

    def preview(self, z):
        return 0.5 * self.decode(z)


def loss(image):
    return (image - 0.3).square().flatten(1).sum(1)


@pytest.mark.parametrize(
    "solver",
    [gf.FlowGrad(), gf.solvers.Universal(repeats=2), gf.TrustRegion(gf.FlowGrad(scale=2.0)), gf.solvers.BestOf()],
    ids=["flowgrad", "universal", "wrapper", "best-of"],
)
def test_it_keeps_what_solvers_owe(solver):
    check_solver(lambda: Previewed(solver, moves=2))


def test_an_iteration_is_so_many_moves_by_previews_and_a_look():
    sampler, rule = Coarse(dtype=torch.float64), gf.Annealed(gf.FlowGrad(), start=4.0, end=0.5)
    noise = draw_noise(sampler, [0, 1])
    problem = gf.Problem(sampler, loss, noise, sampler.condition(["", ""]), horizon=2)
    found, twice = Previewed(rule, moves=3), [Previewed(rule, moves=3).init(problem)]
    while len(twice) < 3:
        twice.append(found.step(problem, twice[-1]))

    dark = gf.Problem(sampler, lambda image: loss(0.5 * image), noise, sampler.condition(["", ""]), horizon=6)
    state, seen = rule.init(dark), []
    for _ in range(7):
        seen.append(state)
        state = rule.step(dark, state)
    for one, other in zip(twice, seen[::3], strict=True):
        assert torch.equal(one.controls, other.controls) and torch.equal(one.rollout.states, other.rollout.states)
        assert torch.equal(one.rollout.gradients, other.rollout.gradients), "those of the preview"
        full = problem.rollout(one.z0, one.controls)
        assert torch.equal(one.rollout.images, full.images) and torch.equal(one.rollout.loss, full.loss)
        assert not torch.allclose(full.loss, other.rollout.loss)
    assert [one.iteration for one in twice] == [0, 1, 2]
    assert twice[1].rollout.evaluations == 3 * problem.num_steps


def test_it_asks_for_what_the_solver_asks_for():
    rule = Previewed(gf.Auto(passes=True), moves=2)
    assert (rule.candidates, rule.candidate_radius, rule.default_iterations) == (16, 1.0, 2)
    assert Previewed(gf.FlowGrad(), moves=5).default_iterations == 3 and dataclasses.replace(rule, moves=3) != rule


def test_what_is_polished_is_looked_at_in_full_once():
    class Counting(Coarse):
        looks = 0

        def decode(self, z):
            type(self).looks += 1
            return super().decode(z)

        def preview(self, z):
            return 0.5 * super().decode(z)

    sampler, rule = Counting(dtype=torch.float64), Previewed(gf.FlowGrad(scale=2.0), moves=3)
    noise = draw_noise(sampler, [0, 1])
    problem = gf.Problem(sampler, loss, noise, sampler.condition(["", ""]))
    own, polished, states = rule.init(problem), Polished(rule, 1.0), []
    state = polished.init(problem)
    for _ in range(2):
        own = rule.step(problem, own)
        before = Counting.looks
        state = polished.step(problem, state)
        states.append((own, state, Counting.looks - before))
    assert [looks for *_, looks in states] == [1, 1]
    for one, other, _ in states:
        assert torch.equal(one.controls[:-1], other.controls[:-1]), "it goes its own way"
        torch.testing.assert_close(other.rollout.images, sampler.decode(other.rollout.states[-1]), rtol=0, atol=0)
