"""What all solvers share: the state, the scale of a step and the clipping of gradients."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from guideflow._batched import mapping, nested, tensor
from guideflow.errors import IncompatibleSolver, InvalidArgument
from guideflow.problem import Problem, Rollout
from guideflow.sampler import Sampler
from guideflow.types import Latent, Latents


@dataclass(frozen=True)
class State:
    """Where a solver stands; immutable.

    Arguments:
        iteration: number of steps taken; 0 is the unguided image.
        z0: first state of the sampler.
        controls: u_1..u_K, (K, B, ...).
        rollout: rollout of exactly this z0 and these controls.
        memory: what a `ControlSolver` and its wrappers remember from one step to the next, by name, (B, ...) each.
    """

    iteration: int
    z0: Latent = field(metadata=tensor(0))
    controls: Latents = field(metadata=tensor(1))
    rollout: Rollout = field(metadata=nested(Rollout))
    memory: Mapping[str, Tensor] = field(default_factory=dict, metadata=mapping(0), kw_only=True)


S = TypeVar("S", bound=State)


class Solver(ABC, Generic[S]):
    """A rule that improves the controls from the gradients of the loss; a frozen dataclass of hyper-parameters.

    `step` is a pure function of problem and state: it updates from the gradients of the state's rollout and then rolls
    the new iterate out, once. So N iterations cost N + 1 rollouts and every state carries its own loss and images.

    Attributes:
        name: name of the solver in the registry.
        requires: class of samplers the solver can work with.
        state_type: class of its states.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[type[Sampler]] = Sampler  # type: ignore[type-abstract]
    state_type: ClassVar[type[State]] = State

    @abstractmethod
    def init(self, problem: Problem) -> S:
        """Return the unguided state."""

    @abstractmethod
    def step(self, problem: Problem, state: S) -> S:
        """Return the next state."""

    def check(self, problem: Problem) -> None:
        """Refuse a problem whose sampler lacks what the solver needs.

        Raises:
            IncompatibleSolver: naming both.
        """
        if not isinstance(problem.sampler, self.requires):
            raise IncompatibleSolver(
                f"{type(self).__name__} needs a sampler of type {self.requires.__name__}, but "
                f"{type(problem.sampler).__name__} is not one. Use `gf.Anchored()`, which works with every sampler, "
                f"or derive the sampler from `gf.{self.requires.__name__}`."
            )


def start(problem: Problem) -> State:
    """Return the unguided state: zero controls and the first state as drawn."""
    z0 = problem.z0
    controls = z0.new_zeros(problem.sampler.num_steps, *z0.shape)
    return State(iteration=0, z0=z0, controls=controls, rollout=problem.rollout(z0, controls))


def gradients(state: State) -> Tensor:
    """Return g_0..g_K of a state."""
    found = state.rollout.gradients
    if found is None:
        raise InvalidArgument("The state's rollout has no gradients. Expected one made with `gradients=True`.")
    return found


def unit_clip(gradient: Float[Tensor, "windows batch *latent"]) -> Float[Tensor, "windows batch *latent"]:
    """Return N(g) = g / max(norm(g), 1) for each window and image."""
    return gradient / norm(gradient).clamp(min=1)


def norm(values: Float[Tensor, "windows batch *latent"]) -> Tensor:
    """Return the Euclidean norm for each window and image, shaped to broadcast against `values`."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(2), dim=2)
    return norms.view(*norms.shape, *[1] * (values.dim() - 2))


def step_size(scale: float, latent: Latent) -> float:
    """Return s = scale x sqrt(d) / 128, so that a scale means the same for latents of every size d.

    A latent of d entries has a norm near sqrt(d), 128 for Stable Diffusion's 4 x 64 x 64: there s = scale.
    """
    return float(scale * latent[0].numel() ** 0.5 / 128)


def per_window(factors: Sequence[float], like: Latents) -> Tensor:
    """Return one factor per window, shaped to broadcast against controls."""
    return torch.tensor(factors, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.dim() - 1))


def require_range(solver: object, name: str, low: float, high: float = float("inf")) -> None:
    """Refuse a hyper-parameter outside [low, high)."""
    value = getattr(solver, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        bound = f"in [{low:g}, {high:g})" if high < float("inf") else f"of at least {low:g}, and finite"
        raise InvalidArgument(
            f"{type(solver).__name__} got {name} = {value!r}. Expected a number {bound}, "
            f"for example `{type(solver).__name__}({name}={type(solver).__dataclass_fields__[name].default!r})`."  # type: ignore[attr-defined]
        )


def require_count(solver: object, name: str) -> None:
    """Refuse a hyper-parameter that is not a whole number of at least 1."""
    value = getattr(solver, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgument(
            f"{type(solver).__name__} got {name} = {value!r}. Expected a whole number of at least 1, such as 20."
        )
