"""Three ways to write the same guided solve over the same networks: the ruler of `speed.py`.

`floor` is a bare loop, `guideflow` the library, `pipeline` what one writes around a pipeline of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin, StableDiffusionPipeline
from diffusers.configuration_utils import register_to_config
from torch import Tensor

import guideflow as gf
from guideflow_diffusers.latent import LatentSampler

LOSS_SCALE = 100.0


@dataclass
class Task:
    """One prompt, some seeds, and a loss.

    Arguments:
        sampler: With a deterministic schedule, and without classifier-free guidance.
        loss: As guideflow is given it.
        bare: The same formula without checks, from pictures to one number for each.
        prompt: For every picture.
        seeds: One for each picture.
        scale: Of anchored guidance.
    """

    sampler: LatentSampler
    loss: gf.Loss
    bare: Callable[[Tensor], Tensor]
    prompt: str
    seeds: tuple[int, ...]
    scale: float = 1.0

    def noise(self) -> Tensor:
        """Initial noise of every picture."""
        return gf.draw_noise(self.sampler, self.seeds).initial

    def updates(self, controls: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Anchored guidance: u_k - s c_k g_{k-1} / max(norm(g_{k-1}), 1)."""
        s = self.scale * controls[0][0].numel() ** 0.5 / 128
        return [
            u - s * c * g / torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True).clamp(min=1)
            for u, c, g in zip(controls, self.sampler.schedule.gain, gradients, strict=True)
        ]


def floor(task: Task, iterations: int) -> Tensor:
    """K evaluations and their input gradients, decoder, loss and update, nothing else; returns the last pictures."""
    sampler, schedule = task.sampler, task.sampler.schedule
    unet, vae = sampler.parts.unet, sampler.parts.vae
    z0 = schedule.init_scale * task.noise()
    text = sampler.condition([task.prompt] * len(task.seeds)).text
    times = [torch.full((len(z0),), t, device=z0.device) for t in schedule.times]
    rows = list(zip(times, schedule.state, schedule.output, strict=True))
    controls = [torch.zeros_like(z0) for _ in rows]
    for _ in range(iterations + 1):
        states = [z0.detach().requires_grad_()]
        for (time, a, b), control in zip(rows, controls, strict=True):
            output = unet(states[-1].to(unet.dtype), time, encoder_hidden_states=text).sample
            states.append(a * states[-1] + b * output.to(z0.dtype) + control)
        pictures = (vae.decode(states[-1].to(vae.dtype) / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        loss = LOSS_SCALE * task.bare(pictures).sum()
        gradients = torch.autograd.grad(loss, states[:-1])
        controls = task.updates(controls, list(gradients))
    return pictures.detach()


def guideflow(task: Task, iterations: int) -> Tensor:
    """The library, with everything that `solve` does beside the rollouts; returns the last pictures."""
    return gf.solve(
        task.sampler,
        task.loss,
        prompt=task.prompt,
        seed=task.seeds,
        solver=gf.Anchored(scale=task.scale),
        max_iterations=iterations,
        keep="last",
        loss_scale=LOSS_SCALE,
    ).images


class TableScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A schedule of guideflow as a scheduler of diffusers; the state stays in float32, the network gets its dtype."""

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(self, steps_offset: int = 1, clip_sample: bool = False) -> None:
        """Before `use`, there is no table."""

    def use(self, sampler: LatentSampler) -> TableScheduler:
        """Take the table of a sampler."""
        self.table, self.network_dtype = sampler.schedule, sampler.dtype
        self.timesteps = torch.tensor(sampler.schedule.times, device=sampler.device)
        self.init_noise_sigma = sampler.schedule.init_scale
        return self

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Begin anew."""
        self.index = 0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """What the network is given."""
        return sample.to(self.network_dtype)

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """One row of the table."""
        a, b = self.table.state[self.index], self.table.output[self.index]
        self.index += 1
        return (a * sample + b * output.to(sample.dtype),)


@contextmanager
def trainable(sampler: LatentSampler, wanted: bool) -> Iterator[None]:
    """Weights that ask for gradients, as those of a network that was just loaded do."""
    networks = (sampler.parts.unet, sampler.parts.vae, sampler.parts.text_encoder)
    for network in networks:
        network.requires_grad_(wanted)
    yield
    for network in networks:
        network.requires_grad_(False)
        network.zero_grad(set_to_none=True)


def pipeline(task: Task, iterations: int, *, frozen: bool = False) -> Tensor:
    """A pipeline's undecorated `__call__` with a callback at each step, then `backward`; returns the last pictures.

    Arguments:
        task: What is to be solved.
        iterations: Number of updates.
        frozen: Whether its author thought of switching the gradients of the weights off.
    """
    sampler, parts = task.sampler, task.sampler.parts
    pipe = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=TableScheduler().use(sampler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    call = StableDiffusionPipeline.__call__.__wrapped__  # type: ignore[attr-defined]
    noise = task.noise()
    controls = [torch.zeros_like(noise) for _ in range(sampler.num_steps)]
    height, width = sampler.image_size
    with trainable(sampler, not frozen):
        for _ in range(iterations + 1):
            states = [noise.detach().requires_grad_()]

            def add_control(pipe: Any, k: int, t: Tensor, found: dict[str, Tensor]) -> dict[str, Tensor]:
                states.append(found["latents"] + controls[k])  # noqa: B023
                states[-1].retain_grad()  # noqa: B023
                return {"latents": states[-1]}  # noqa: B023

            pictures = call(
                pipe,
                [task.prompt] * len(noise),
                height,
                width,
                num_inference_steps=sampler.num_steps,
                guidance_scale=1.0,
                latents=states[0],
                output_type="pt",
                return_dict=False,
                callback_on_step_end=add_control,
            )[0]
            (LOSS_SCALE * task.bare(pictures).sum()).backward()
            # The first state is the noise, scaled: the chain rule back to it.
            gradients = [states[0].grad / pipe.scheduler.init_noise_sigma, *(z.grad for z in states[1:-1])]
            controls = task.updates(controls, gradients)
            for network in (parts.unet, parts.vae, parts.text_encoder):
                network.zero_grad(set_to_none=True)
    return pictures.detach()


def pipeline_frozen(task: Task, iterations: int) -> Tensor:
    """The same by an author who froze the weights."""
    return pipeline(task, iterations, frozen=True)


LOOPS: dict[str, Callable[[Task, int], Tensor]] = {
    "bare loop": floor,
    "guideflow": guideflow,
    "pipeline": pipeline,
    "pipeline, weights frozen": pipeline_frozen,
}
"""By name, the floor first."""
