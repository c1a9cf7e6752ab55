"""Solvers that guide each window by the clean picture that is expected at its start, as those of many steps do."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from guideflow._answers import state_like
from guideflow._process import own_state
from guideflow.errors import IncompatibleSolver
from guideflow.memory import enough_for
from guideflow.problem import Problem, Rollout
from guideflow.sampler import AffineSampler, Row, Schedule
from guideflow.solvers.base import Solver, State
from guideflow.solvers.draws import draw
from guideflow.types import Latent, PerImage

_TOLERANCE = 0.1
_MEMORY = (
    "the gradients of a window",
    "gradient_mode='checkpointed', fewer images at a time, or a smaller image size",
)

Key: TypeAlias = tuple[int, ...]
"""What tells one draw of new noise from all others of a solve."""


@dataclass(frozen=True)
class Outlook:
    """How a schedule sees the clean picture from every state.

        x_k = state[k] z_k + output[k] f(z_k) + state[k + 1] u_{k+1},    z_k = signal[k] x + noise[k] n

    The first is what the remaining windows make of z_k, and of the control that follows, if the network's output stays
    what it is. Of velocities

        state = 1,  output[k] = b_k + .. + b_{K-1},  noise[k] = |output[k]|,  signal = 1 - noise

    and of predicted noise

        state[k] = a_k .. a_{K-1},   signal[k] = 1 / state[k],   noise = sqrt(1 - signal^2)
        output[k] = -state[k] s_k,   s_K = 0,   s_k = (s_{k+1} - b_k) / a_k
        s_k = noise[k]   with new noise in windows

    Arguments:
        state: K + 1 numbers, the last of which is 1.
        output: K numbers.
        signal: K + 1 numbers.
        noise: K + 1 numbers.
    """

    state: tuple[float, ...]
    output: tuple[float, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]

    @classmethod
    def of(cls, schedule: Schedule) -> "Outlook | None":
        """Read a schedule; None if its windows are of neither kind."""
        K = len(schedule)
        if all(a == 1 for a in schedule.state) and not any(schedule.noise):
            output = tuple(sum(schedule.output[k:]) for k in range(K))
            noise = (*map(abs, output), 0.0)
            return cls((1.0,) * (K + 1), output, tuple(1 - level for level in noise), noise)
        if not all(schedule.state):
            return None
        state, spread = [1.0], [0.0]
        for k in reversed(range(K)):
            row = schedule[k]
            state.insert(0, row.state * state[0])
            spread.insert(0, (math.sqrt(max(spread[0] ** 2 - row.noise**2, 0)) - row.output) / row.state)
        signal = tuple(1 / a for a in state)
        noise = tuple(math.sqrt(max(1 - a**2, 0)) for a in signal)
        if any(schedule.noise):
            # Where steps are not variance-preserving, the table does not tell how clean they end.
            if any(abs(s - level) > _TOLERANCE for s, level in zip(spread, noise, strict=True)):
                return None
            spread = list(noise)
        output = tuple(-a * s for a, s in zip(state[:-1], spread[:-1], strict=True))
        return cls(tuple(state), output, signal, noise)


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
        with own_state(), torch.no_grad():
            images = problem.decode(states[-1])
            loss, objective, terms = problem.evaluate(images)
        rollout = Rollout(
            torch.stack(states), torch.stack(ends), images, loss, objective, terms, None, evaluations=evaluations
        )
        return State(state.iteration + 1, state.z0, torch.stack(controls), _without_gradients(rollout), memory)

    @final
    def outlook(self, problem: Problem) -> tuple[Outlook, AffineSampler]:
        """Return the outlook of a problem's sampler, and the sampler, or refuse it."""
        return outlook_of(problem, type(self).__name__, "Use `gf.Auto()`, which works with every sampler.")


def outlook_of(problem: Problem, name: str, instead: str) -> tuple[Outlook, AffineSampler]:
    """Return the outlook of a problem's sampler, and the sampler; or refuse it by a name, and say what instead."""
    sampler = problem.sampler
    if not isinstance(sampler, AffineSampler):
        raise IncompatibleSolver(
            f"{name} needs the network itself, which an AffineSampler has and {type(sampler).__name__} hides. {instead}"
        )
    outlook = Outlook.of(sampler.schedule)
    if outlook is None:
        raise IncompatibleSolver(
            f"{name} needs the clean picture that is expected in the middle of a trajectory, which the schedule of "
            f"{type(sampler).__name__} does not tell. {instead}"
        )
    return outlook, sampler


def look(
    problem: Problem,
    outlook: Outlook,
    row: Row,
    z: Latent,
    u: Latent,
    *,
    through: bool = False,
    around: Sequence[Tensor] = (),
    preview: bool = False,
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
        preview: whether the sampler's `preview` is close enough for the clean picture.

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
        each = [clean_gradient(problem, clean.detach() + shift, preview) for shift in around or (0.0,)]
        by_clean, by_state = torch.stack(each).mean(0), None
        if through:
            (by_state,) = torch.autograd.grad(clean, start, by_clean)
    return Sight(f.detach(), clean.detach(), by_clean, by_state)


def clean_gradient(problem: Problem, clean: Latent, preview: bool = False) -> Latent:
    """Return the gradient of `loss_scale` x objective at clean pictures, by decoder or preview and the loss alone."""
    with own_state(), torch.enable_grad():
        x = clean.detach().clone().requires_grad_()
        images = problem.preview(x) if preview else problem.decode(x)
        (found,) = problem.differentiate(problem.evaluate(images).objective, [x])
    return found


def renoise(outlook: Outlook, k: int, z: Latent, noise: Latent) -> Latent:
    """Lead the end of window k back to its start with new noise."""
    ratio = outlook.signal[k] / outlook.signal[k + 1]
    level = math.sqrt(max(outlook.noise[k] ** 2 - (ratio * outlook.noise[k + 1]) ** 2, 0))
    return ratio * z + level * noise


def _without_gradients(rollout: Rollout) -> Rollout:
    return replace(rollout, gradients=torch.zeros_like(rollout.states))
