"""A guidance problem and its rollout: the only place where networks run and gradients are taken."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from guideflow._batched import mapping, tensor
from guideflow.errors import InvalidArgument
from guideflow.gradients import Chain, Plan, Verdict, forward, require_mode
from guideflow.losses.base import as_sum, evaluate
from guideflow.losses.evaluation import no_gradient, require_lasting
from guideflow.sampler import Sampler
from guideflow.types import Latent, Latents, LossLike, PerImage, States


@dataclass(frozen=True)
class Noise:
    """All randomness of a solve, drawn once and frozen.

    Arguments:
        initial: standard normal noise of each image, (B, *latent_shape).
        steps: one entry per step, (B, *latent_shape) for a stochastic step and None for a deterministic one.
    """

    initial: Tensor
    steps: tuple[Tensor | None, ...]


def draw_noise(sampler: Sampler, seeds: Sequence[int]) -> Noise:
    """Draw the noise of each image from its own seed, so that image i depends on seed i only.

    It is drawn on the CPU in float32 and then cast, so a seed means the same picture on every device and in float64.
    """
    stochastic = sampler.stochastic
    draws: list[list[Tensor]] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        draws.append([torch.randn(sampler.latent_shape, generator=generator) for _ in range(1 + sum(stochastic))])
    tensors = iter([torch.stack(column).to(sampler.device, sampler.state_dtype) for column in zip(*draws, strict=True)])
    return Noise(initial=next(tensors), steps=tuple(next(tensors) if noisy else None for noisy in stochastic))


@dataclass(frozen=True)
class Rollout:
    """One pass through the sampler, detached.

    Arguments:
        states: z_0..z_K, (K + 1, B, ...).
        end_points: e_1..e_K, the states before their controls were added, (K, B, ...).
        images: decoded z_K.
        loss: loss of each image, unscaled; of a scheduled loss, what it comes to in the end.
        terms: unweighted value of each loss term by name.
        gradients: g_0..g_K, the gradients of `loss_scale` x loss with respect to the states, (K + 1, B, ...);
            None if they were not asked for. Of a scheduled loss, with the weights of the problem's iteration.
    """

    states: States = field(metadata=tensor(1))
    end_points: Latents = field(metadata=tensor(1))
    images: Tensor = field(metadata=tensor(0))
    loss: PerImage = field(metadata=tensor(0))
    terms: Mapping[str, Tensor] = field(metadata=mapping(0))
    gradients: States | None = field(metadata=tensor(1, optional=True))


@dataclass
class Evaluations:
    """Number of network evaluations so far, counted per batch.

    Arguments:
        count: those of the trajectories, the same in every gradient mode.
        rebuilt: those of windows that were evaluated once more, to save memory or to learn how much there is to save;
            what checkpointing evaluates again inside a network is not among them.
    """

    count: int = 0
    rebuilt: int = 0


@dataclass(frozen=True)
class Problem:
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
            and time, see `guideflow.gradients`.
        memory_limit: bytes that gradients may keep, for "auto"; None for what the device has left.
        iteration: the iteration whose weights a scheduled loss guides with; None for those of the end.
    """

    sampler: Sampler
    loss: LossLike
    noise: Noise
    condition: Any
    loss_scale: float = 100.0
    gradient_mode: str = "full"
    memory_limit: float | None = None
    iteration: int | None = None
    plan: Plan = field(default_factory=Plan, repr=False, compare=False)
    evaluations: Evaluations = field(default_factory=Evaluations, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what would fail later with a worse message."""
        if not isinstance(self.sampler, Sampler):
            raise InvalidArgument(
                f"Got {self.sampler!r} as sampler. Expected a Sampler, for example `gf.load_sampler('toy-mixture')`."
            )
        require_lasting(as_sum(self.loss))
        if not 0 < self.loss_scale < float("inf"):
            raise InvalidArgument(f"Got loss_scale = {self.loss_scale}. Expected a finite number above 0, such as 100.")
        require_mode(self.gradient_mode, self.memory_limit)

    def at(self, iteration: int) -> "Problem":
        """Return the problem with the loss that guides an iteration; itself, unless the loss is scheduled.

        `solve` and `iterate` give a solver the problem of the iterate it is about to roll out, so solvers need not
        know of schedules.
        """
        return replace(self, iteration=iteration) if getattr(self.loss, "settled", 0) else self

    @property
    def z0(self) -> Tensor:
        """The first state, before any guidance."""
        with torch.no_grad():
            return self.sampler.prepare(self.noise.initial)

    def rollout(self, z0: Latent, controls: Latents, gradients: bool = True) -> Rollout:
        """Run the sampler with u_k added after step k, and differentiate the loss with respect to every state.

        Costs `num_steps` network evaluations, and as many backward passes through the inputs if `gradients`.
        """
        return self._trace(z0, lambda k, end_point: controls[k], gradients)

    def rollout_through(
        self, z0: Latent, states: Latents, gradients: bool = True
    ) -> tuple[Float[Tensor, "steps batch *latent"], Rollout]:
        """Run the sampler through given states z_1..z_K and return the controls that do it, with the rollout.

        The controls are u_k = z_k - F_k(z_{k-1}); gradients pass them unchanged, as in `rollout`.
        """
        rollout = self._trace(z0, lambda k, end_point: states[k] - end_point, gradients)
        return states - rollout.end_points, rollout

    def _trace(self, z0: Tensor, control: Callable[[int, Tensor], Tensor], gradients: bool) -> Rollout:
        sampler, noise = self.sampler, self.noise.steps
        chain = Chain(
            length=sampler.num_steps,
            step=lambda k, z: sampler.step(k, z, self.condition, noise[k]),
            control=control,
            decode=self._decode,
            judge=self._judge,
            differentiate=self._differentiate,
            checkpointing=sampler.checkpointing,
        )
        with torch.inference_mode(False):
            if gradients:
                trace = self.plan.run(chain, z0, self.gradient_mode, self.memory_limit)
            else:
                trace = forward(chain, z0)
        self.evaluations.count += chain.length
        self.evaluations.rebuilt += chain.steps_taken - chain.length
        images, loss, terms = trace.verdict
        return Rollout(
            states=torch.stack([state.detach() for state in trace.states]),
            end_points=torch.stack([end_point.detach() for end_point in trace.end_points]),
            images=images.detach(),
            loss=loss.detach(),
            terms={name: value.detach() for name, value in terms.items()},
            gradients=None if trace.gradients is None else torch.stack(trace.gradients),
        )

    def _decode(self, z: Tensor) -> Tensor:
        images = self.sampler.decode(z)
        return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images

    def _judge(self, images: Tensor) -> Verdict:
        loss, objective, terms = evaluate(self.loss, images, self.iteration)
        return Verdict(images, loss.detach() + (objective - objective.detach()), terms)

    def _differentiate(self, loss: Tensor, states: list[Tensor]) -> list[Tensor]:
        name = as_sum(self.loss).describe()
        if not loss.requires_grad:
            raise no_gradient(name)
        # The sum has gradient 1 for each image's loss, so images stay apart even where one of them is nan.
        found = torch.autograd.grad(self.loss_scale * loss.sum(), states, allow_unused=True)
        if found[-1] is None:
            raise no_gradient(name)
        return [torch.zeros_like(z) if g is None else g.to(z.dtype) for g, z in zip(found, states, strict=True)]
