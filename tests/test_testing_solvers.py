"""The conformance checks of solvers: what is right passes, and each mistake is caught by the check that is for it."""

from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch

import guideflow as gf
from guideflow.testing import check_solver, parametrize_solver
from problems import caught


@pytest.mark.parametrize("name", ["anchored", "unanchored", "noise-descent", "flowgrad"])
def test_the_built_in_solvers_conform(name):
    check_solver(partial(gf.load_solver, name))


@parametrize_solver(gf.Anchored)
def test_solver_checks_can_be_parametrised(check):
    check()


@dataclass(frozen=True)
class Simple(gf.Solver):
    """Gradient descent on the controls, right in every respect; the wrong ones below change one thing."""

    scale: float = 0.01

    def init(self, problem):
        controls = torch.zeros(problem.sampler.num_steps, *problem.z0.shape, dtype=problem.z0.dtype)
        return gf.State(0, problem.z0, controls, problem.rollout(problem.z0, controls))

    def update(self, state):
        return state.controls - self.scale * state.rollout.gradients[1:]

    def step(self, problem, state):
        controls = self.update(state)
        return gf.State(state.iteration + 1, state.z0, controls, problem.rollout(state.z0, controls))


def test_a_right_solver_conforms():
    check_solver(Simple)


@dataclass
class Thawed(gf.Solver):
    """Not frozen."""

    init, step, update, scale = Simple.init, Simple.step, Simple.update, 0.01


class Perturbed(Simple):
    def init(self, problem):
        state = super().init(problem)
        return replace(state, rollout=problem.rollout(state.z0 + 0.01, state.controls))


class Uncounted(Simple):
    def step(self, problem, state):
        return replace(super().step(problem, state), iteration=state.iteration)


class Stale(Simple):
    def step(self, problem, state):
        return replace(super().step(problem, state), rollout=state.rollout)


class Mutating(Simple):
    def step(self, problem, state):
        state.controls.sub_(self.scale * state.rollout.gradients[1:])
        return gf.State(state.iteration + 1, state.z0, state.controls, problem.rollout(state.z0, state.controls))


@dataclass(frozen=True)
class Remembering(Simple):
    """Hides momentum on itself."""

    memory: list = field(default_factory=lambda: [0.0])

    def update(self, state):
        self.memory[0] = 0.5 * self.memory[0] + state.rollout.gradients[1:]
        return state.controls - self.scale * self.memory[0]


class Listing(Simple):
    """Remembers what cannot be saved."""

    def step(self, problem, state):
        return replace(super().step(problem, state), memory={"controls": [state.controls]})


class Uphill(Simple):
    def update(self, state):
        return state.controls + self.scale * state.rollout.gradients[1:]


class BatchNorm(Simple):
    def update(self, state):
        return state.controls - self.scale * state.rollout.gradients[1:] / state.rollout.gradients.norm().clamp(min=1)


class Restless(Simple):
    def update(self, state):
        return super().update(state) - 1e-6 * state.rollout.gradients[1:].sign()


class Demanding(Simple):
    def step(self, problem, state):
        problem.sampler.predict(state.z0, problem.sampler.schedule[0], problem.condition)
        return super().step(problem, state)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Thawed, {"frozen"}),
        (Perturbed, {"init-is-unguided", "scale-zero"}),
        (Uncounted, {"counts", "resumes"}),
        (Stale, {"rollout-belongs-to-state", "improves"}),
        (Mutating, {"pure", "resumes"}),
        (Remembering, {"pure", "batch-independent", "nonfinite-stays-alone", "resumes"}),
        (Listing, {"pure", "resumes"}),
        (Uphill, {"improves"}),
        (BatchNorm, {"batch-independent", "nonfinite-stays-alone"}),
        (Restless, {"scale-zero"}),
        (Demanding, {"plain-sampler"}),
    ],
)
def test_a_wrong_solver_is_caught(solver, expected):
    assert caught(check_solver, solver) == expected
