"""What a solver is, the state it goes through, and what solvers are written with."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, final

import torch
from torch import Tensor

from guideflow._given import in_range
from guideflow.errors import InvalidArgument
from guideflow.problem import Problem, Rollout
from guideflow.types import BY_STEP, Latent, Latents, PerImage, States, shown

Memory: TypeAlias = Mapping[str, Any]
"""What is remembered from one step to the next: tensors (B, ...) by name, or such mappings by name."""


@final
@dataclass(frozen=True)
class State:
    """Where a solver stands; immutable, and the same class for every solver.

    Arguments:
        iteration: number of steps taken; 0 is the unguided image.
        z0: first state of the sampler.
        controls: u_1..u_K, (K, B, ...).
        rollout: rollout of exactly this z0 and these controls.
        memory: what the solver remembers from one step to the next: tensors (B, ...) by name, nested as it likes.
    """

    iteration: int
    z0: Latent
    controls: Latents = field(metadata=BY_STEP)
    rollout: Rollout
    memory: Memory = field(default_factory=dict)

    __repr__ = shown


class Solver(ABC):
    """A rule that improves the controls from the gradients of the loss; a frozen dataclass of hyper-parameters.

    `step` is a pure function of problem and state: it updates from the gradients of the state's rollout and then rolls
    the new iterate out, once. So N iterations cost N + 1 rollouts and every state carries its own loss and images.
    What it remembers from one step to the next is the state's `memory`; with that a solve is saved and resumed. Most
    solvers derive from `ControlSolver`, which asks for less.

    Attributes:
        name: name of the solver in the registry.
        candidates: noises to choose each image's start from, where `solve` is not told.
        candidate_radius: share of them that is new in the second half of them, likewise.
        candidate_previews: whether they are compared by the sampler's `preview`, which is cheaper.
    """

    name: ClassVar[str] = ""
    candidates: ClassVar[int] = 1
    candidate_radius: ClassVar[float] = 1.0
    candidate_previews: ClassVar[bool] = False

    @abstractmethod
    def init(self, problem: Problem) -> State:
        """Return the unguided state, as `unguided(problem)` does.

        Raises:
            IncompatibleSolver: if the sampler lacks what the solver needs.
        """

    @abstractmethod
    def step(self, problem: Problem, state: State) -> State:
        """Return the next state."""

    def remember(self, problem: Problem, state: State) -> Memory:
        """Return the memory at the unguided state, (B, ...) each; by default there is none."""
        return {}

    @property
    def default_iterations(self) -> int:
        """Number of iterations where `solve` is not told."""
        return 12


def unguided(problem: Problem) -> State:
    """Return the state that solvers begin with: zero controls and the first state as drawn."""
    controls = problem.z0.new_zeros(problem.num_steps, *problem.z0.shape)
    return State(0, problem.z0, controls, problem.rollout(problem.z0, controls))


def gradients(state: State) -> States:
    """Return g_0..g_K of a state, (K + 1, B, ...)."""
    if state.rollout.gradients is None:
        raise InvalidArgument("The state's rollout has no gradients. Expected one made with `gradients=True`.")
    return state.rollout.gradients


def norm(values: States) -> Tensor:
    """Return the Euclidean norm for each window and image, shaped to broadcast against `values`."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(2), dim=2)
    return norms.view(*norms.shape, *[1] * (values.dim() - 2))


def unit_clip(values: States) -> States:
    """Return N(g) = g / max(norm(g), 1) for each window and image."""
    return values / norm(values).clamp(min=1)


def require_clip(share: float | None) -> None:
    """Refuse a share of the first gradient's norm outside of (0, 1]; None is none."""
    if share is not None:
        in_range("clip", share, 0, 1, ends="(]")


def clipped(values: States, share: float | None, first: Tensor) -> States:
    """Return N(g) = g / max(norm(g), share norm(first g)) for each window and image; as `unit_clip` without a share.

    Arguments:
        values: g, (K + 1, B, ...).
        share: the share of the first gradient's norm, in (0, 1], below which gradients are no longer lengthened.
        first: norms of the first gradients, of the shape that `norm` returns.
    """
    if share is None:
        return unit_clip(values)
    return values / torch.maximum(norm(values), share * first).clamp(min=torch.finfo(values.dtype).tiny)


def step_size(scale: float, latent: Latent) -> float:
    """Return s = scale x sqrt(d) / 128, so that a scale means the same for latents of every size d.

    A latent of d entries has a norm near sqrt(d), 128 for Stable Diffusion's 4 x 64 x 64: there s = scale.
    """
    return float(scale * latent[0].numel() ** 0.5 / 128)


def deviation(problem: Problem) -> Tensor:
    """Return the standard deviation of the first state's entries, shaped to broadcast against it."""
    return norm(problem.z0[None])[0] / norm(problem.noise.initial[None])[0]


def per_window(factors: Sequence[float], like: Latents) -> Tensor:
    """Return one factor per window, shaped to broadcast against controls."""
    return torch.tensor(factors, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.dim() - 1))


def by_image(values: States) -> Tensor:
    """Swap the first two axes: of (K + 1, B, ...) to (B, K + 1, ...), as memories are kept, and back."""
    return values.transpose(0, 1)


def times(factors: PerImage, values: States) -> States:
    """Multiply what belongs to each image, (K + 1, B, ...), by a number of its own, (B,)."""
    return factors.view(1, -1, *[1] * (values.dim() - 2)) * values


def dot(a: States, b: States) -> PerImage:
    """Return the inner product of what belongs to each image, (B,)."""
    return (a * b).transpose(0, 1).flatten(1).sum(1)


def shifts(problem: Problem, state: State) -> States:
    """Return how far z_0 is from where it was drawn, and u_1..u_K, (K + 1, B, ...)."""
    return torch.cat([(state.z0 - problem.z0)[None], state.controls])
