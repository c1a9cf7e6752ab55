"""What is to be solved: a sampler with frozen noise and prompt, and a loss on its images; and one pass through it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from guideflow._answers import check_sampler, pictures_of, state_like
from guideflow._given import count, in_range, one_of, plain_number
from guideflow._process import own_state
from guideflow._told import said
from guideflow.errors import InvalidArgument, InvalidLoss
from guideflow.gradients import MODES, Maps, choose, differentiate, forward
from guideflow.losses.base import as_sum, evaluate
from guideflow.losses.evaluation import Evaluation, no_gradient
from guideflow.sampler import Sampler
from guideflow.types import BY_STEP, Latent, Latents, LossLike, PerImage, States, intact, shown


@dataclass(frozen=True)
class Noise:
    """All randomness of a solve, drawn once and frozen.

    Arguments:
        initial: standard normal noise of each image, (B, *latent_shape).
        steps: one entry per step, (B, *latent_shape) for a stochastic step and None for a deterministic one.
    """

    initial: Tensor
    steps: tuple[Tensor | None, ...]

    __repr__ = shown


@own_state()
def draw_noise(sampler: Sampler, seeds: Sequence[int]) -> Noise:
    """Draw the noise of each image from its own seed, so that image i depends on seed i only.

    It is drawn on the CPU in float32 and then cast, so a seed means the same image on every device and in float64.
    """
    if not isinstance(sampler, Sampler):
        raise InvalidArgument(f"Got {said(sampler)} as sampler. Expected an object: `gf.load_sampler('toy-mixture')`.")
    check_sampler(sampler)
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Iterable) or getattr(seeds, "shape", None) == ():
        raise InvalidArgument(f"Got seeds={said(seeds)}. Expected one whole number for each image, such as [0, 1].")
    seeds = [plain_number(seed) for seed in seeds]  # type: ignore[misc]
    for seed in seeds:
        count("a seed", seed, -(2**63))
    if not seeds:
        raise InvalidArgument("Got no seed. Expected one whole number for each image, such as [0, 1].")
    stochastic = sampler.stochastic
    draws: list[list[Tensor]] = []
    for seed in seeds:
        on_cpu: Any = {
            "generator": torch.Generator("cpu").manual_seed(int(seed)),
            "dtype": torch.float32,
            "device": "cpu",
        }
        draws.append([torch.randn(sampler.latent_shape, **on_cpu) for _ in range(1 + sum(stochastic))])
    tensors = iter([torch.stack(column).to(sampler.device, sampler.state_dtype) for column in zip(*draws, strict=True)])
    return Noise(initial=next(tensors), steps=tuple(next(tensors) if noisy else None for noisy in stochastic))


@dataclass(frozen=True)
class Rollout:
    """One pass through the sampler, detached.

    Arguments:
        states: z_0..z_K, (K + 1, B, ...).
        end_points: e_1..e_K, the states before their controls were added, (K, B, ...).
        images: decoded z_K.
        loss: loss of each image, unscaled: what images are judged by. Of a scheduled loss, what it comes to in the end.
        objective: what was differentiated, unscaled: the loss with the weights of the problem's iteration. Values to
            be compared with gradients are these; the same as `loss` unless the loss is scheduled.
        terms: unweighted value of each loss term by name.
        gradients: g_0..g_K, the gradients of `loss_scale` x objective with respect to the states, (K + 1, B, ...);
            None if they were not asked for.
        evaluations: how often the network was evaluated, per batch; a solver that asks it for more adds that here.
        rebuilt: how often a step was evaluated once more to save memory.
    """

    states: States = field(metadata=BY_STEP)
    end_points: Latents = field(metadata=BY_STEP)
    images: Tensor
    loss: PerImage
    objective: PerImage
    terms: Mapping[str, Tensor]
    gradients: States | None = field(metadata=BY_STEP)
    evaluations: int = 0
    rebuilt: int = 0

    __repr__ = shown


@dataclass(frozen=True)
class Problem(Maps):
    """What is to be solved: a sampler with frozen noise and prompt, and a loss on its images.

        z_0 = prepare(noise),   e_k = F_k(z_{k-1}),   z_k = e_k + u_k,   L = loss(decode(z_K))

    Arguments:
        sampler: the generator.
        loss: image batch -> one number per image.
        noise: from `draw_noise`.
        condition: from `sampler.condition`.
        loss_scale: factor of the loss before gradients are taken (100, as in RectifID's code); it decides where the
            clipping of gradients to norm 1 sets in. Reported losses do not contain it.
        gradient_mode: "full", "windowed", "checkpointed" or "auto": the same gradients for different amounts of memory
            and time, see `guideflow.gradients`. `solve` and `iterate` choose once what "auto" stands for.
        memory_limit: bytes that gradients may keep, for "auto"; None for what the device has left.
        horizon: number of iterations that are planned, for solvers whose steps follow a plan; None if nobody says.
        iteration: whose weights a scheduled loss guides with, see `at`; None for those of the end.
    """

    sampler: Sampler
    loss: LossLike
    noise: Noise
    condition: Any
    loss_scale: float = 100.0
    gradient_mode: str = "full"
    memory_limit: float | None = None
    horizon: int | None = None
    iteration: int | None = None

    __repr__ = shown

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, Sampler):
            raise InvalidArgument(
                f"Got {said(self.sampler)} as sampler. Expected an object: `gf.load_sampler('toy-mixture')`."
            )
        if not isinstance(self.noise, Noise):
            raise InvalidArgument(f"Got {said(self.noise)} as noise. Expected `gf.draw_noise(sampler, [0])`.")
        loss = as_sum(self.loss)
        if loss.settled and not loss.lasting:
            raise InvalidLoss(
                f"Nothing is left of the loss '{loss.describe()}' in the end, so its iterates cannot be compared. Add "
                "a loss that stays, or keep a share of this one: `loss.scheduled(end=30, after=0.1)`."
            )
        in_range("loss_scale", self.loss_scale, 0)
        if not self.loss_scale:
            raise InvalidArgument("Got loss_scale=0. Expected a number above 0, such as 100.")
        one_of("gradient_mode", self.gradient_mode, ("auto", *MODES))
        if self.memory_limit is not None:
            in_range("memory_limit", self.memory_limit, 0)
        object.__setattr__(self, "condition", self.sampler.bind(self.condition, self.noise.initial))

    def at(self, iteration: int) -> "Problem":
        """Return the problem whose rollouts have the objective of an iteration; itself, unless the loss is scheduled.

        `solve` and `iterate` give a solver the problem of the iterate it is about to roll out, so solvers need not
        know of schedules.
        """
        now = iteration if iteration < as_sum(self.loss).settled else None
        return self if now == self.iteration else replace(self, iteration=now)

    @cached_property
    def z0(self) -> Tensor:
        """The first state, before any guidance."""
        with own_state(), torch.no_grad():
            return state_like(self.sampler, "prepare", self.sampler.prepare(self.noise.initial), self.noise.initial)

    def rollout(
        self, z0: Latent, controls: Latents | Callable[[int, Tensor], Tensor], gradients: bool = True
    ) -> Rollout:
        """Run the sampler with u_k added after step k, and differentiate the objective with respect to every state.

        Costs `num_steps` network evaluations, and as many backward passes through the inputs if `gradients`.

        Arguments:
            z0: first state.
            controls: u_1..u_K, (K, B, ...), or a function of k (from 0) and the end point e_{k+1} that returns u_{k+1};
                gradients do not pass through it.
            gradients: whether they are wanted.

        Raises:
            InvalidLoss: if the loss does not return one differentiable number per image.
            OutOfMemory: if the memory does not suffice for the gradient mode.
        """
        control = controls if callable(controls) else lambda k, end_point: controls[k]
        with own_state():
            if not gradients:
                trajectory = forward(self, z0, control)
            else:
                mode = (
                    choose(self, z0, control, self.memory_limit) if self.gradient_mode == "auto" else self.gradient_mode
                )
                trajectory = differentiate(self, z0, control, mode)
        loss, objective, terms = trajectory.evaluation
        return Rollout(
            states=torch.stack([state.detach() for state in trajectory.path.states]),
            end_points=torch.stack([end_point.detach() for end_point in trajectory.path.end_points]),
            images=trajectory.images.detach(),
            loss=loss.detach(),
            objective=objective.detach(),
            terms={name: value.detach() for name, value in terms.items()},
            gradients=None if trajectory.gradients is None else torch.stack(trajectory.gradients),
            evaluations=self.num_steps,
            rebuilt=trajectory.path.evaluations - self.num_steps,
        )

    # The maps of a rollout, as `guideflow.gradients` asks for them.

    @property
    def num_steps(self) -> int:
        """Number of steps of the sampler."""
        return self.sampler.num_steps

    def step(self, k: int, z: Latent) -> Tensor:
        """Apply step k, from 0, with its frozen noise."""
        with intact(z, f"The sampler {type(self.sampler).__name__}", InvalidArgument):
            found = self.sampler.step(k, z, self.condition, self.noise.steps[k])
        return state_like(self.sampler, "step", found, z)

    def decode(self, z: Latent) -> Tensor:
        """Turn final states into images of at least single precision."""
        return self._images(z, "decode", self.sampler.decode)

    def preview(self, z: Latent) -> Tensor:
        """Turn states into images that nobody is shown, as the sampler previews them."""
        return self._images(z, "preview", self.sampler.preview)

    def _images(self, z: Latent, name: str, decode: Callable[[Latent], Tensor]) -> Tensor:
        with intact(z, f"The sampler {type(self.sampler).__name__}", InvalidArgument):
            images = decode(z)
        images = pictures_of(self.sampler, name, images, z)
        return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images

    def evaluate(self, images: Tensor) -> Evaluation:
        """Evaluate the loss, with the weights of the problem's iteration in its objective."""
        return evaluate(self.loss, images, self.iteration)

    def differentiate(self, objective: PerImage, states: list[Tensor]) -> list[Tensor]:
        """Return the gradients of `loss_scale` x objective with respect to states, the last of which is z_K."""
        name = as_sum(self.loss).describe()
        if not objective.requires_grad:
            raise no_gradient(name)
        # The sum has gradient 1 for each image's loss, so images stay apart even where one of them is nan.
        found = torch.autograd.grad(self.loss_scale * objective.sum(), states, allow_unused=True)
        if found[-1] is None:
            raise no_gradient(name)
        return [torch.zeros_like(z) if g is None else g.to(z.dtype) for g, z in zip(found, states, strict=True)]
