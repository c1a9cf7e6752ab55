"""What every sampler must do."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from guideflow.problem import Noise, draw_noise
from guideflow.sampler import AffineSampler, Sampler
from guideflow.testing._run import Check, parametrize, require, require_close, require_gradient, run, trainable


@dataclass(frozen=True)
class Subject:
    """A fresh sampler with the prompts and the frozen noise of a batch."""

    sampler: Sampler
    prompts: tuple[str, ...]
    noise: Noise

    def condition(self) -> Any:
        """Return the condition of the batch and its noise."""
        return self.sampler.bind(self.sampler.condition(list(self.prompts)), self.noise.initial)

    def states(self) -> list[Tensor]:
        """Return z_0..z_K without guidance."""
        condition = self.condition()
        states = [self.sampler.prepare(self.noise.initial)]
        for k in range(self.sampler.num_steps):
            states.append(self.sampler.step(k, states[k], condition, self.noise.steps[k]))
        return states

    def image(self) -> Tensor:
        """Return the unguided images."""
        with torch.no_grad():
            return self.sampler.decode(self.states()[-1])


def check_sampler(
    make: Callable[[], Sampler],
    *,
    prompts: Sequence[str] = ("", "", ""),
    expected_failures: Mapping[str, str] = {},
) -> None:
    """Run every check of a sampler and report all failures together.

    Arguments:
        make: Makes the sampler; called once per check.
        prompts: One prompt per image of the batch it is tried on, at least two.
        expected_failures: Reason by name of a check that is known to fail.

    Raises:
        ConformanceFailure: Naming each failed check, what it found and what to do.
    """
    run(CHECKS, partial(_prepare, make, tuple(prompts)), expected_failures)


def parametrize_sampler(
    make: Callable[[], Sampler],
    *,
    prompts: Sequence[str] = ("", "", ""),
    expected_failures: Mapping[str, str] = {},
) -> Any:
    """Return a pytest mark that gives a test each check of a sampler as its argument `check`.

    Arguments are those of [`check_sampler`][guideflow.testing.samplers.check_sampler].
    """
    return parametrize(CHECKS, partial(_prepare, make, tuple(prompts)), expected_failures)


def _prepare(make: Callable[[], Sampler], prompts: tuple[str, ...]) -> Subject:
    sampler = make()
    return Subject(sampler, prompts, draw_noise(sampler, range(len(prompts))))


def check_attributes(subject: Subject) -> None:
    """The attributes of `Sampler` are there and agree with each other.

    Troubleshooting: set num_steps, latent_shape, image_size, device and dtype.
    """
    sampler = subject.sampler
    require(sampler.num_steps >= 1, f"num_steps is {sampler.num_steps}")
    for name in ("latent_shape", "image_size"):
        shape = getattr(sampler, name)
        require(all(isinstance(side, int) and side > 0 for side in shape), f"{name} is {shape}")
    require(isinstance(sampler.device, torch.device), f"device is {sampler.device!r}, not a torch.device")
    require(sampler.dtype.is_floating_point, f"dtype is {sampler.dtype}")
    found = len(sampler.stochastic)
    require(found == sampler.num_steps, f"stochastic has {found} entries for {sampler.num_steps} steps")


def check_shapes(subject: Subject) -> None:
    """States keep their shape, dtype and device; the decoder returns one image per state.

    Troubleshooting: cast the network's output with `.to(z.dtype)`; states are float32 whatever the network's dtype.
    """
    sampler, batch = subject.sampler, len(subject.prompts)
    for k, state in enumerate(subject.states()):
        require(state.shape == (batch, *sampler.latent_shape), f"z_{k} has shape {tuple(state.shape)}")
        require(state.dtype == sampler.state_dtype, f"z_{k} is {state.dtype}, not {sampler.state_dtype}")
        require(state.device.type == sampler.device.type, f"z_{k} is on {state.device}, not {sampler.device}")
    require(len(subject.image()) == batch, f"decode returned {len(subject.image())} images for {batch} states")


def check_deterministic(subject: Subject) -> None:
    """The same noise and prompt give the same image, bit for bit.

    Troubleshooting: call `.eval()` on networks, and take randomness from the argument `noise` only.
    """
    require(torch.equal(subject.image(), subject.image()), "two runs gave different images")


def check_batch_independent(subject: Subject) -> None:
    """An image does not depend on the other images of the batch.

    Troubleshooting: no batch normalisation in training mode, and no statistic over the batch dimension.
    """
    together = subject.image()
    for i, prompt in enumerate(subject.prompts):
        steps = tuple(None if noise is None else noise[i : i + 1] for noise in subject.noise.steps)
        alone = Subject(subject.sampler, (prompt,), Noise(subject.noise.initial[i : i + 1], steps)).image()
        require_close(together[i : i + 1], alone, f"image {i}, in a batch and alone", 1e-3)


def check_differentiable(subject: Subject) -> None:
    """Every step, the decoder and the preview have a gradient that agrees with finite differences.

    Troubleshooting: no `torch.no_grad()`, `.detach()` or rounding on the way from the state to the result.
    """
    sampler, states = subject.sampler, [state.detach() for state in subject.states()]
    condition = subject.condition()
    for k in range(sampler.num_steps):
        # A direction picked at random: a sum of all entries can have a vanishing gradient.
        weights = torch.randn(states[k].shape, generator=torch.Generator().manual_seed(k)).to(states[k])
        noise = subject.noise.steps[k]

        def stepped(z: Tensor, k: int = k, weights: Tensor = weights, noise: Tensor | None = noise) -> Tensor:
            return (sampler.step(k, z, condition, noise) * weights).flatten(1).sum(1)

        require_gradient(stepped, states[k], f"step {k}")
    image = subject.image()
    pattern = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    require_gradient(lambda z: (sampler.decode(z) * pattern).flatten(1).sum(1), states[-1], "decode")
    if type(sampler).preview is not Sampler.preview:
        shapes = tuple(sampler.preview(states[-1]).shape), tuple(image.shape)
        require(shapes[0] == shapes[1], f"preview returned {shapes[0]} where decode returned {shapes[1]}")
        require_gradient(lambda z: (sampler.preview(z) * pattern).flatten(1).sum(1), states[-1], "preview")


def check_frozen(subject: Subject) -> None:
    """No parameter asks for a gradient.

    Troubleshooting: call `.requires_grad_(False)` on every network when it is loaded.
    """
    found = trainable(subject.sampler)
    require(not found, f"these ask for gradients: {', '.join(found[:5])}")


def check_input_unchanged(subject: Subject) -> None:
    """Neither `prepare`, `step` nor `decode` writes into what it is given.

    Troubleshooting: replace operations that end in an underscore, `+=` and assignments to slices.
    """
    sampler = subject.sampler
    condition = subject.condition()
    with torch.no_grad():
        noise = subject.noise.initial.clone()
        z = sampler.prepare(noise)
        require(torch.equal(noise, subject.noise.initial), "prepare changed the noise in place")
        for k in range(sampler.num_steps):
            before = z.clone()
            after = sampler.step(k, z, condition, subject.noise.steps[k])
            require(torch.equal(before, z), f"step {k} changed its state in place")
            z = after
        before = z.clone()
        sampler.decode(z)
        require(torch.equal(before, z), "decode changed its state in place")


def check_image_range(subject: Subject) -> None:
    """A decoder of images returns RGB in [0, 1] of the promised size.

    Troubleshooting: end with `(x / 2 + 0.5).clamp(0, 1)`, and set image_size to (height, width).
    """
    image = subject.image()
    require(bool(torch.isfinite(image).all()), "the image is not finite")
    if image.dim() == 4:
        expected = (3, *subject.sampler.image_size)
        require(image.shape[1:] == expected, f"an image has shape {tuple(image.shape[1:])}, not {expected}")
        low, high = image.min().item(), image.max().item()
        require(low >= -1e-3 and high <= 1 + 1e-3, f"the image is in [{low:.3g}, {high:.3g}], not [0, 1]")


def check_noise(subject: Subject) -> None:
    """A stochastic step takes its noise from the argument, and a deterministic step needs none.

    Troubleshooting: `stochastic[k]` must tell whether `step(k, z, condition, noise)` uses `noise`.
    """
    sampler, states = subject.sampler, [state.detach() for state in subject.states()]
    condition = subject.condition()
    for k, stochastic in enumerate(sampler.stochastic):
        if stochastic:
            noise = subject.noise.steps[k]
            require(noise is not None, f"no noise was drawn for the stochastic step {k}")
            other = sampler.step(k, states[k], condition, None if noise is None else -noise)
            require(not torch.equal(other, states[k + 1]), f"step {k} is stochastic, but other noise changed nothing")


def check_affine(subject: Subject) -> None:
    """An affine sampler's schedule runs from noise to image, and its steps are the schedule's.

    Troubleshooting: give `times` from high to low, override `predict`, never `step`, and let the path's `row` give the
    rows of the table.
    """
    sampler = subject.sampler
    if not isinstance(sampler, AffineSampler):
        return
    times = sampler.schedule.times
    require(all(a > b for a, b in itertools.pairwise(times)), f"times do not decrease: {times}")
    require(type(sampler).step is AffineSampler.step, "step is overridden")
    step = None if sampler.schedule.path is None else sampler.schedule.path.row
    for row in [sampler.schedule[k] for k in range(sampler.num_steps)]:
        if step is None:
            break
        found, given = step(row.time, row.end_time)[:3], (row.state, row.output, row.noise)
        same = all(abs(one - other) <= 1e-4 * max(1, abs(other)) for one, other in zip(found, given, strict=True))
        require(same, f"the path's step from {row.time:g} is {found}, and the table's {given}")
    scaled = sampler.schedule.init_scale * subject.noise.initial
    require_close(sampler.prepare(subject.noise.initial), scaled, "prepare is not init_scale x noise", 1e-5)


CHECKS: tuple[Check, ...] = (
    check_attributes,
    check_shapes,
    check_deterministic,
    check_batch_independent,
    check_differentiable,
    check_frozen,
    check_input_unchanged,
    check_image_range,
    check_noise,
    check_affine,
)
"""The checks of every sampler."""
