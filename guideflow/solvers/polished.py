"""Finished latents that have been through the generator once more, for any solver."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from guideflow._given import in_range
from guideflow._process import own_state
from guideflow.errors import IncompatibleSolver
from guideflow.previewing import Previewing, judged
from guideflow.problem import Problem
from guideflow.sampler import AffineSampler
from guideflow.solvers.around import Around
from guideflow.solvers.base import Memory, State
from guideflow.solvers.draws import draw
from guideflow.solvers.outlook import Outlook, outlook_of, renoise
from guideflow.types import Latent


@final
@dataclass(frozen=True)
class Polished(Around):
    """Polish what a solver finds: back to the start of the last window with new noise, and through it unguided.

        y = signal z_K + noise n,    z_K <- (1 - share) z_K + share (a y + b f(y) + d m)

    with signal and noise those of the state z_{K-1}, and n (and m, where windows draw noise) drawn once for each image.
    What guidance leaves in a latent and no picture would have, the network takes for noise and removes; what it takes
    for the picture stays. This is written as the control after the last window, so that a state's controls still make
    its pictures; the solver itself goes on from its own latent. Images that are not guided stay as they are.

    Costs an evaluation of the network, the decoder and the loss in each iteration, without gradients.

    Arguments:
        solver: any.
        share: how much of the latent is replaced, in [0, 1]. With 1 it is all the network's own; half of it removes
            most of the traces, and costs less than half of the likeness that 1 does.

    Source: Meng et al., SDEdit (2022); Martin et al., PnP-Flow (2025). The page "Fewer iterations" measures it.
    Needs the network itself, that is an `AffineSampler`, of predicted noise or of velocities, and two steps or more.
    """

    name: ClassVar[str] = "polished"

    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("share", self.share, 0, 1, ends="[]")

    def init(self, problem: Problem) -> State:
        """Return the solver's first state, unpolished.

        Raises:
            IncompatibleSolver: if the sampler has one step, or hides its network or schedule.
        """
        self._outlook(problem)
        state = self.solver.init(problem)
        return replace(state, memory=_memory(state))

    def remember(self, problem: Problem, state: State) -> Memory:
        """Remember what the solver does, the control that it left after the last window, and what it saw there."""
        return _memory(replace(state, memory=self.solver.remember(problem, state)))

    def step(self, problem: Problem, state: State) -> State:
        """Let the solver go on from its own latent, and polish what it finds."""
        own = state.memory
        inner = replace(_ending(state, own["last"]), memory=own["inner"])
        inner = replace(inner, rollout=replace(inner.rollout, loss=own["loss"], objective=own["objective"]))
        # A solver that previews need not look in full at what is polished before anybody sees it.
        seen = Previewing.of(problem) if self.solver.candidate_previews else problem
        found = self.solver.step(seen, inner)
        return replace(self._polish(problem, found), memory=_memory(found))

    def _outlook(self, problem: Problem) -> tuple[Outlook, AffineSampler]:
        instead = f"Leave it out: {self.solver!r}."
        outlook, sampler = outlook_of(problem, "Polished", instead)
        if problem.num_steps < 2:
            why = "needs a window that does not start from noise alone, and this sampler has one step."
            raise IncompatibleSolver(f"Polished {why} {instead}")
        return outlook, sampler

    def _polish(self, problem: Problem, state: State) -> State:
        (outlook, sampler), z, k = self._outlook(problem), state.rollout.states[-1], problem.num_steps - 1
        with own_state(), torch.no_grad():
            y = renoise(outlook, k, z, draw(problem, -1, 0))
            clean = sampler.step(k, y, problem.condition, draw(problem, -1, 1) if sampler.stochastic[k] else None)
            guided = (state.controls != 0).flatten(2).any(2).any(0) | (state.z0 != problem.z0).flatten(1).any(1)
            share = self.share * guided.to(z.dtype).view(-1, *[1] * (z.dim() - 1))
            polished = _ending(state, state.controls[-1] + share * (clean - z))
        rollout = judged(problem, polished.rollout)
        return replace(polished, rollout=replace(rollout, evaluations=rollout.evaluations + 1))


def _memory(state: State) -> Memory:
    seen = {"loss": state.rollout.loss, "objective": state.rollout.objective}
    return {"inner": state.memory, "last": state.controls[-1], **seen}


def _ending(state: State, control: Latent) -> State:
    """Return a state with another control after the last window; its pictures are those of before."""
    controls, states = state.controls.clone(), state.rollout.states.clone()
    controls[-1], states[-1] = control, state.rollout.end_points[-1] + control
    return replace(state, controls=controls, rollout=replace(state.rollout, states=states))
