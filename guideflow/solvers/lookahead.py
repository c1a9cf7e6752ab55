"""Solvers that guide each window by the clean picture that is expected at its start, as those of many steps do."""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from guideflow._answers import state_like
from guideflow._process import own_state
from guideflow.memory import enough_for
from guideflow.previewing import looked
from guideflow.problem import Problem, Rollout
from guideflow.sampler import AffineSampler, Row
from guideflow.solvers.base import Solver, State
from guideflow.solvers.draws import draw
from guideflow.solvers.outlook import Outlook, outlook_of, renoise
from guideflow.types import Latent, PerImage

_MEMORY = (
    "the gradients of a window",
    "gradient_mode='checkpointed', fewer images at a time, or a smaller image size",
)

Key: TypeAlias = tuple[int, ...]
"""What tells one draw of new noise from all others of a solve."""


class Sight(NamedTuple):
    """What is seen from a state: the network's output, the clean picture, and the gradients of the loss there.

    Attributes:
        output: f(z_k), (B, ...).
        clean: x_k, (B, ...).
        by_clean: gradient of `loss_scale` x objective with respect to x_k.
        by_state: the same with respect to z_k, through the network; None if it was not asked for.
    """

    output: Latent
    clean: Latent
    by_clean: Latent
    by_state: Latent | None


class Window(NamedTuple):
    """A window that is to be guided.

    Attributes:
        row: its row of the schedule, whose number from 0 is `row.index`.
        z: its first state, (B, ...).
        u: the control at its end that earlier passes have found, (B, ...).
        key: for `draw`, another one at every visit.
        first: what the first visit returned as `Guided.norm`, (B,), 0 before; None if the solver does not remember it.
    """

    row: Row
    z: Latent
    u: Latent
    key: Key
    first: PerImage | None


class Guided(NamedTuple):
    """What guides a window.

    Attributes:
        output: the network's output at its first state, (B, ...).
        change: d, by how much its end is to move, (B, ...).
        norm: of the gradient, (B,), for a solver that compares later ones with the first and remembers "first", (B, K).
    """

    output: Latent
    change: Latent
    norm: PerImage | None = None


class LookaheadSolver(Solver):
    """A solver of passes: in every window it looks at the clean picture that is expected, and moves the window's end.

        z_{k+1} = e_{k+1} + u_{k+1} + d_{k+1},    u <- (1 - decay) (u + d)

    A subclass writes `guide`, which finds d_{k+1}. One pass with u = 0 is the published rule; each further iteration
    passes once more, on top of what the ones before have found, but for a share that is forgotten (none by default).
    With `recurrences`, a window is gone through so many times: from its end, new noise leads back to its start. That is
    not done in the first window, which starts from noise alone.

    The rollout of such a state has no gradients of the whole chain, as none are taken: they are zero.
    """

    @property
    def recurrences(self) -> int:
        """How often a window is gone through."""
        return 1

    @property
    def forgotten(self) -> float:
        """Share of the controls that is forgotten before a pass."""
        return 0.0

    @abstractmethod
    def guide(self, problem: Problem, outlook: Outlook, window: Window) -> Guided:
        """Return the network's output at z_k, and by how much the end of the window that starts there is to move.

        Arguments:
            problem: what is solved.
            outlook: of its schedule.
            window: the window.
        """

    @final
    def init(self, problem: Problem) -> State:
        """Return the unguided state."""
        self.outlook(problem)
        z0 = problem.z0
        controls = z0.new_zeros(problem.num_steps, *z0.shape)
        state = State(0, z0, controls, _without_gradients(problem.rollout(z0, controls, gradients=False)))
        return replace(state, memory=self.remember(problem, state))

    @final
    def step(self, problem: Problem, state: State) -> State:
        """Pass once through the windows."""
        outlook, sampler = self.outlook(problem)
        z, states, ends, controls, evaluations = state.z0, [state.z0], list[Tensor](), list[Tensor](), 0
        found = (1 - self.forgotten) * state.controls if self.forgotten else state.controls
        norms = state.memory["first"].clone() if "first" in state.memory else None  # (B, K)
        for k in range(sampler.num_steps):
            row, frozen = sampler.schedule[k], problem.noise.steps[k]
            for again in range(self.recurrences if k else 1):
                key = (state.iteration, k, again)
                if again:  # the start of a window is the end of the one before, which its control moves there
                    wanted = renoise(outlook, k, z, draw(problem, *key, -1))
                    controls[-1] = wanted - ends[-1]
                    states[-1] = ends[-1] + controls[-1]
                first = None if norms is None else norms[:, k]
                guided = self.guide(problem, outlook, Window(row, states[-1], found[k], key, first))
                if norms is not None and guided.norm is not None:
                    norms[:, k] = torch.where(norms[:, k] > 0, norms[:, k], guided.norm)
                end_point = row.state * states[-1] + row.output * guided.output
                end_point = end_point if frozen is None else end_point + row.noise * frozen
                control = found[k] + guided.change
                z = end_point + control
                evaluations += 1
            ends.append(end_point)
            controls.append(control)
            states.append(z)
        memory = {} if norms is None else {"first": norms}
        seen = looked(problem, states[-1])
        rollout = Rollout(torch.stack(states), torch.stack(ends), *seen, None, evaluations=evaluations)
        return State(state.iteration + 1, state.z0, torch.stack(controls), _without_gradients(rollout), memory)

    @final
    def outlook(self, problem: Problem) -> tuple[Outlook, AffineSampler]:
        """Return the outlook of a problem's sampler, and the sampler, or refuse it."""
        return outlook_of(problem, type(self).__name__, "Use `gf.Auto()`, which works with every sampler.")


def look(
    problem: Problem,
    outlook: Outlook,
    row: Row,
    z: Latent,
    u: Latent,
    *,
    through: bool = False,
    around: Sequence[Tensor] = (),
) -> Sight:
    """Evaluate the network at z_k and take the gradients of the loss at the clean picture expected from there.

    Arguments:
        problem: what is solved.
        outlook: of its schedule.
        row: the window's of the schedule.
        z: its first state, (B, ...).
        u: the control at its end, (B, ...).
        through: whether the gradient with respect to z_k is wanted too, which passes through the network.
        around: shifts of the clean picture, (B, ...) each, over which the gradient is averaged.

    Raises:
        OutOfMemory: if the memory does not suffice for the gradients of one window, or of decoder and loss.
    """
    sampler, saving = problem.sampler, problem.gradient_mode not in ("full", "auto")
    assert isinstance(sampler, AffineSampler)
    with enough_for(*_MEMORY), own_state(), sampler.checkpointing(True) if saving else nullcontext():
        start = z.detach().clone().requires_grad_(through)
        with torch.set_grad_enabled(through):
            f = state_like(sampler, "predict", sampler.predict(start, row, problem.condition), z).to(z.dtype)
            A, B, A_end = outlook.state[row.index], outlook.output[row.index], outlook.state[row.index + 1]
            clean = A * start + B * f + A_end * u
        each = [clean_gradient(problem, clean.detach() + shift) for shift in around or (0.0,)]
        by_clean, by_state = torch.stack(each).mean(0), None
        if through:
            (by_state,) = torch.autograd.grad(clean, start, by_clean)
    return Sight(f.detach(), clean.detach(), by_clean, by_state)


def clean_gradient(problem: Problem, clean: Latent) -> Latent:
    """Return the gradient of `loss_scale` x objective at clean pictures, by decoder and loss alone."""
    with own_state(), torch.enable_grad():
        x = clean.detach().clone().requires_grad_()
        (found,) = problem.differentiate(problem.evaluate(problem.decode(x)).objective, [x])
    return found


def _without_gradients(rollout: Rollout) -> Rollout:
    return replace(rollout, gradients=torch.zeros_like(rollout.states))
