"""One pass over the windows, each steered before the next: the greedy rule of flow-map guidance."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from guideflow._given import count, in_range
from guideflow._process import own_state
from guideflow.errors import IncompatibleSolver
from guideflow.gradients import Maps, differentiate
from guideflow.losses.evaluation import Evaluation
from guideflow.problem import Problem, Rollout
from guideflow.sampler import Sampler
from guideflow.solvers.base import Solver, State, clipped, gradients, norm, require_clip, step_size, unguided

_MOVES = 4


@final
@dataclass(frozen=True)
class Sweep(Solver):
    """A sweep: a few moves of u_1 by the gradient through all that follows, then of u_2, and so on, each once.

        u_k <- u_k - f_j s_k N(g_k),    j = 0..moves-1,    f_j from start down to end,    k = 1, 2, ...

    with g_k the gradient at z_k through the windows after it, s_k = K (l_{k-1} - l_k) scale sqrt(d) / 128 in proportion
    to the noise that window k takes away, and N(g) = g / max(norm(g), clip norm(g at the start)). Iteration i is move
    i mod moves of window i // moves + 1; what was steered is not touched again, so that after the last window's moves
    nothing changes any more. Early stopping, `above`, lets the last windows run free: the source finds that guidance
    to the end narrows what is drawn.

    An iteration costs what follows its window only: K - k network evaluations and their input gradients. Gradients of
    states before it are zero in the state's rollout, as none are taken.

    Arguments:
        scale: step size, at least 0. 0 leaves the image as it is.
        moves: number of moves of each window; None for the iterations that are planned, shared out among the windows,
            or 4 if nobody says.
        start: factor of a window's first move, at least 0.
        end: factor of its last.
        clip: share of the first gradient's norm above which gradients are clipped, in (0, 1].
        above: windows that end at this noise level or below run free, in [0, 1): 0 is the finished latent, 1 noise.

    Source: Huang et al., Flow Map Reward Guidance (2026), its rule with the Jacobian; several moves a window as there,
    in steps that grow short.
    Not for samplers of one step, whose only window ends at the finished latent.
    """

    name: ClassVar[str] = "sweep"

    scale: float = 1.0
    moves: int | None = None
    start: float = 8.0
    end: float = 0.25
    clip: float = 0.03
    above: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "start", "end"):
            in_range(name, getattr(self, name), 0)
        require_clip(self.clip)
        in_range("above", self.above, 0, 1)
        if self.moves is not None:
            count("moves", self.moves)

    def init(self, problem: Problem) -> State:
        """Return the unguided state, and remember the norms of its gradients, (B, K + 1)."""
        if not self.windows(problem.sampler):
            steps, lower = problem.num_steps, ", or give a lower `above`" if self.above else ""
            raise IncompatibleSolver(
                f"Sweep steers windows that end above the noise level {self.above:g}; those of this sampler of {steps} "
                f"step{'' if steps == 1 else 's'} end lower. Use `gf.Auto()`, which then moves the noise{lower}."
            )
        state = unguided(problem)
        return replace(state, memory={"first": norm(gradients(state)).flatten(1).T})

    def step(self, problem: Problem, state: State) -> State:
        """Move one control, and roll out what comes after it."""
        windows = self.windows(problem.sampler)
        moves = self.moves or max((problem.horizon or _MOVES * len(windows)) // len(windows), 1)
        number, j = divmod(state.iteration, moves)
        if number >= len(windows):
            return replace(
                state, iteration=state.iteration + 1, rollout=replace(state.rollout, evaluations=0, rebuilt=0)
            )
        k, share = windows[number]
        g = gradients(state)[k + 1][None]
        first = state.memory["first"][:, k + 1].view_as(norm(g))
        f = self.start + (self.end - self.start) * j / max(moves - 1, 1)
        change = -f * share * step_size(self.scale, state.z0) * clipped(g, self.clip, first)[0]
        controls = state.controls.clone()
        controls[k] = controls[k] + change
        rollout = _after(problem, state.rollout, k + 1, controls)
        return State(state.iteration + 1, state.z0, controls, rollout, state.memory)

    def windows(self, sampler: Sampler) -> list[tuple[int, float]]:
        """Return which windows are steered, from 0, each with K (l_{k-1} - l_k)."""
        levels = (1.0, *sampler.end_levels)
        return [
            (k, sampler.num_steps * (levels[k] - levels[k + 1]))
            for k in range(sampler.num_steps)
            if levels[k + 1] > self.above
        ]


class _Tail:
    """What `guideflow.gradients` asks of a sampler, for its last steps."""

    def __init__(self, sampler: Sampler, first: int) -> None:
        self.num_steps = sampler.num_steps - first
        self.checkpointing: Callable[[bool], AbstractContextManager[None]] = sampler.checkpointing


class _Rest(Maps):
    """The maps of a problem from state z_first on."""

    def __init__(self, problem: Problem, first: int) -> None:
        self.problem, self.first = problem, first
        self.sampler: Any = _Tail(problem.sampler, first)

    def step(self, k: int, z: Tensor) -> Tensor:
        """Apply step k of those that are left."""
        return self.problem.step(self.first + k, z)

    def decode(self, z: Tensor) -> Tensor:
        """Decode as the problem does."""
        return self.problem.decode(z)

    def evaluate(self, images: Tensor) -> Evaluation:
        """Evaluate as the problem does."""
        return self.problem.evaluate(images)

    def differentiate(self, objective: Tensor, states: list[Tensor]) -> list[Tensor]:
        """Differentiate as the problem does."""
        return self.problem.differentiate(objective, states)


def _after(problem: Problem, old: Rollout, first: int, controls: Tensor) -> Rollout:
    """Roll out from z_first on, which its control has moved; what comes before is that of the old rollout."""
    mode = "full" if problem.gradient_mode == "auto" else problem.gradient_mode
    with own_state():
        z = old.end_points[first - 1] + controls[first - 1]
        found = differentiate(_Rest(problem, first), z, lambda k, end_point: controls[first + k], mode)
    assert found.gradients is not None
    evaluation = found.evaluation
    ends = [end_point.detach()[None] for end_point in found.path.end_points]
    return Rollout(
        states=torch.cat([old.states[:first], torch.stack([state.detach() for state in found.path.states])]),
        end_points=torch.cat([old.end_points[:first], *ends]),
        images=found.images.detach(),
        loss=evaluation.loss.detach(),
        objective=evaluation.objective.detach(),
        terms={name: value.detach() for name, value in evaluation.terms.items()},
        gradients=torch.cat([torch.zeros_like(old.states[:first]), torch.stack(found.gradients)]),
        evaluations=problem.num_steps - first,
        rebuilt=found.path.evaluations - (problem.num_steps - first),
    )
