"""Samplers with closed-form networks: for tests, tutorials and a first look, without weights."""

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from guideflow._devices import as_device, as_dtype
from guideflow._given import count, in_range, one_of, plain_number
from guideflow.paths import NoisePath, flow_levels
from guideflow.sampler import AffineSampler, Row, Schedule, alpha_bar

_DTYPES = ("float32", "float64")
_LARGEST = 2048
_SHAPES = ("disc", "ring", "square", "diamond")
_COLOURS = {"red": (0.75, -0.7, -0.6), "green": (-0.65, 0.55, -0.35), "blue": (-0.7, -0.25, 0.75)}
_BACKGROUND = 0.7


class ToyLinear(AffineSampler):
    """A flow whose velocity is linear in the state, so that trajectories, gradients and optima are known exactly.

        f(z, t) = A z + b(prompt),      z' = z + f(z, t) / K
        A symmetric, eigenvalues in [-spread, spread]

    Arguments:
        num_steps: number of steps K.
        size: number of entries of a state, or height and width of the images if `image`.
        spread: bound of the eigenvalues of A.
        gain: relative step size of anchored guidance, one for all steps or one for each.
        image: decode to images (3, size, size) in [0, 1], clamped; otherwise `decode` is the identity on vectors.
        dtype: float32 or float64.
        device: where to compute.
        seed: seed of A.
    """

    def __init__(
        self,
        *,
        num_steps: int = 4,
        size: int = 8,
        spread: float = 0.5,
        gain: float | Sequence[float] = 1.0,
        image: bool = False,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        count("num_steps", num_steps, high=1000)
        count("size", size, high=_LARGEST)
        in_range("spread", spread)
        one_of("image", image, (True, False))
        count("seed", seed, -(2**63))
        self.dtype, self.device, self.image = as_dtype(dtype, _DTYPES), as_device(device), image
        self.latent_shape = (3, size, size) if image else (size,)
        self.image_size = (size, size) if image else (1, size)
        entries = math.prod(self.latent_shape)
        generator = torch.Generator().manual_seed(int(seed))
        basis, _ = torch.linalg.qr(torch.randn(entries, entries, generator=generator, dtype=torch.float64))
        eigenvalues = spread * (2 * torch.rand(entries, generator=generator, dtype=torch.float64) - 1)
        self.matrix = (basis * eigenvalues @ basis.T).to(self.device, self.dtype)
        one = plain_number(gain)
        gains: Any = (one,) * num_steps if isinstance(one, int | float) else gain
        self.schedule = replace(_flow_schedule(num_steps), gain=gains)

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Tensor:
        """Turn each prompt into a drift, zero for the empty prompt; negative prompts are ignored."""
        drifts = [_prompt_noise(prompt, math.prod(self.latent_shape)) for prompt in prompts]
        return torch.stack(drifts).to(self.device, self.dtype)

    def predict(self, z: Tensor, row: Row, condition: Tensor) -> Tensor:
        """Return A z + b."""
        velocity: Tensor = z.flatten(1) @ self.matrix + condition
        return velocity.view_as(z)

    def decode(self, z: Tensor) -> Tensor:
        """Return the state itself, or an image."""
        return (0.5 + z / 8).clamp(0, 1) if self.image else z

    def encode(self, image: Tensor) -> Tensor:
        """Return the state that decodes to an image, or to itself."""
        return (image - 0.5) * 8 if self.image else image


class ToyMixture(AffineSampler):
    """Exact sampler of a Gaussian mixture around twelve small images: four shapes in three colours.

    The data are x = mean_i + deviation n with the mean of a random image i; on the path z = alpha x + sigma n the
    best possible network is a posterior mean, known in closed form:

        E[n | z] = sum_i r_i(z) sigma (z - alpha mean_i) / v
        E[x | z] = sum_i r_i(z) (mean_i + alpha deviation^2 (z - alpha mean_i) / v)

    with v = alpha^2 deviation^2 + sigma^2 and r_i the posterior probability of image i. A prompt selects images by
    its words ("a red disc", "green"); the empty prompt selects all.

    Arguments:
        num_steps: number of steps K.
        family: "ddim" (noise prediction on Stable Diffusion's schedule, deterministic), "ancestral" (the same with
            frozen noise in every step but the last) or "flow" (velocity prediction on straight paths).
        size: height and width of the images.
        deviation: standard deviation of each component.
        dtype: float32 or float64.
        device: where to compute.
    """

    def __init__(
        self,
        *,
        num_steps: int = 4,
        family: Literal["ddim", "ancestral", "flow"] = "ddim",
        size: int = 32,
        deviation: float = 0.15,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        count("num_steps", num_steps, high=1000)
        count("size", size, high=_LARGEST)
        one_of("family", family, ("ddim", "ancestral", "flow"))
        in_range("deviation", deviation, 1e-6)
        self.dtype, self.device = as_dtype(dtype, _DTYPES), as_device(device)
        self.family, self.deviation = family, deviation
        self.latent_shape, self.image_size = (3, size, size), (size, size)
        self.names = tuple(f"{colour} {shape}" for shape in _SHAPES for colour in _COLOURS)
        images = [_image(shape, rgb, size) for shape in _SHAPES for rgb in _COLOURS.values()]
        self.means = torch.stack(images).to(self.device, self.dtype)
        flow, ancestral = family == "flow", family == "ancestral"
        self.schedule = _flow_schedule(num_steps) if flow else _ddim_schedule(num_steps, ancestral)

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Tensor:
        """Return the log weight of each component, one row per prompt; negative prompts exclude components."""
        negative = negative_prompts or [""] * len(prompts)
        rows = [self._log_weights(prompt, excluded) for prompt, excluded in zip(prompts, negative, strict=True)]
        return torch.stack(rows).to(self.device, self.dtype)

    def predict(self, z: Tensor, row: Row, condition: Tensor) -> Tensor:
        """Return the posterior mean of the noise, or of the velocity x - n for the flow family."""
        signal, noise = self.levels(row.time)
        variance = signal**2 * self.deviation**2 + noise**2
        residual = z[:, None] - signal * self.means
        logits = condition - residual.flatten(2).square().sum(2) / (2 * variance)
        posterior = logits.softmax(1)
        mean = torch.einsum("bi,ichw->bchw", posterior, self.means)
        residual_mean = z - signal * mean
        noise_mean = noise / variance * residual_mean
        if self.family != "flow":
            return noise_mean
        return mean + signal * self.deviation**2 / variance * residual_mean - noise_mean

    def decode(self, z: Tensor) -> Tensor:
        """Return an image in [0, 1]."""
        return (z / 2 + 0.5).clamp(0, 1)

    def encode(self, image: Tensor) -> Tensor:
        """Return the state that decodes to an image."""
        return image * 2 - 1

    def levels(self, t: float) -> tuple[float, float]:
        """Return signal level alpha and noise level sigma at time t."""
        return flow_levels(t) if self.family == "flow" else _ddim_levels(t)

    def _log_weights(self, prompt: str, excluded: str) -> Tensor:
        wanted, unwanted = set(prompt.lower().split()), set(excluded.lower().split())
        allowed = [name for name in self.names if not unwanted & set(name.split())] or self.names
        scores = {name: len(wanted & set(name.split())) for name in allowed}
        best = max(scores.values())
        return torch.tensor([0.0 if scores.get(name) == best else -math.inf for name in self.names])


def _ddim_levels(time: float) -> tuple[float, float]:
    level = alpha_bar("float64")[round(time)]
    return math.sqrt(level), math.sqrt(1 - level)


def _ddim_row(ancestral: bool, start: float, end: float) -> tuple[float, float, float, float]:
    levels = [alpha_bar("float64")[round(time)] for time in (start, end)]
    a = math.sqrt(levels[1] / levels[0])
    sigma, sigma_end = (math.sqrt((1 - level) / level) for level in levels)
    # In units of the clean signal the step goes down to sigma_down and back up to sigma_end with fresh noise.
    sigma_down = sigma_end**2 / sigma if ancestral and end > 0 else sigma_end
    b = math.sqrt(levels[1]) * sigma_down - a * math.sqrt(1 - levels[0])
    return a, b, math.sqrt(levels[1]) * math.sqrt(sigma_end**2 - sigma_down**2), -b / a


def _ddim_schedule(num_steps: int, ancestral: bool) -> Schedule:
    times = [1000 * (num_steps - k) // num_steps - 1 for k in range(num_steps)]
    path = NoisePath(_ddim_levels, partial(_ddim_row, ancestral), spacing=1)
    rows = [_ddim_row(ancestral, *ends) for ends in itertools.pairwise([*times, 0])]
    state, output, noise, gain = zip(*rows, strict=True)
    return Schedule(tuple(times), state, output, noise, gain, path=path)


def _flow_row(start: float, end: float) -> tuple[float, float, float, float]:
    return 1.0, (start - end) / 1000, 0.0, 1.0


def _flow_schedule(num_steps: int) -> Schedule:
    times = tuple(1000 * (1 - k / num_steps) for k in range(num_steps))
    ones, path = (1.0,) * num_steps, NoisePath(flow_levels, _flow_row)
    return Schedule(times=times, state=ones, output=(1 / num_steps,) * num_steps, path=path)


def _image(shape: str, colour: tuple[float, float, float], size: int) -> Tensor:
    """Draw one anti-aliased shape on a light background, in [-1, 1]."""
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = (x**2 + y**2).sqrt()
    distance = {
        "disc": radius - 0.65,
        "ring": (radius - 0.55).abs() - 0.18,
        "square": torch.maximum(x.abs(), y.abs()) - 0.55,
        "diamond": x.abs() + y.abs() - 0.8,
    }[shape]
    inside = torch.sigmoid(-distance * size)
    ink = torch.tensor(colour, dtype=torch.float64).view(3, 1, 1)
    return inside * ink + (1 - inside) * _BACKGROUND


def _prompt_noise(prompt: str, entries: int) -> Tensor:
    if not prompt:
        return torch.zeros(entries)
    generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
    return torch.randn(entries, generator=generator) / 2
