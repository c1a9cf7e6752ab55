"""A sampler that begins at a picture, and may change a part of it only: a wrapper, so solvers need not know."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow._answers import answered, check_image_size, check_sampler
from guideflow._given import one_of, plain_number
from guideflow._told import said
from guideflow.errors import InvalidArgument
from guideflow.paths import NoisePath
from guideflow.sampler import AffineSampler, Row, Sampler, Schedule
from guideflow.starts import read_masks, read_starts
from guideflow.types import Image, Latent

_COLUMNS: Final = ("times", "state", "output", "noise", "gain")
_SAME: Final = 1e-6
"""Of all time: no difference."""


@dataclass(frozen=True)
class Edit:
    """What a solve began at.

    Arguments:
        picture: (1 or B, 3, H, W) in [0, 1], in the sampler's size.
        mask: where it may change, (1 or B, 1, H, W) in [0, 1]; None for everywhere.
        strength: noise level of the first state, in (0, 1].
        paste_back: whether what is outside the mask is put back, pixel by pixel.
    """

    picture: Tensor
    mask: Tensor | None
    strength: float
    paste_back: bool

    def begin(self, sampler: Sampler) -> Started:
        """Return the sampler that begins so."""
        return Started(sampler, self.picture, strength=self.strength, mask=self.mask, paste_back=self.paste_back)


class Bound(NamedTuple):
    """A condition of the sampler that is wrapped, and the noise that images are drawn from."""

    inner: Any
    noise: Tensor | None


@final
class Started(AffineSampler):
    """A sampler that begins at a picture instead of noise, and may change a part of it only.

        z_0 = alpha_t x + sigma_t n,    x = encode(picture),    t where `strength` of the noise is left
        f(z, t) = f'(m z + (1 - m) (alpha_t x + sigma_t n), t)
        image = M y + (1 - M) picture,    y = decode'(m z_K + (1 - m) x)

    with f' and decode' those of the sampler that is wrapped, n the image's own noise, M the mask and m its means over
    the pixels of a latent one. The kept part is at every window what the picture is at that window's noise level. So
    nothing that is done to a state outside the mask counts, controls included, and its gradient there is 0; states
    themselves go on there as they would. Without `paste_back` the image is y. Strength 1 without a mask is the sampler
    itself.

    Arguments:
        sampler: Affine, with `encode` and a schedule that has a path, as all loaded by name.
        picture: One for all images or one for each: paths, tensors (3, H, W), arrays or Pillow images. Of the sampler's
            proportions; it is resized.
        strength: Noise level to begin at, in (0, 1]; larger ones change more. Steps above it are left out and the first
            one left is shortened. For flows it is sigma, for diffusion models the share of the noise schedule.
        mask: White where the picture may change, black where not, of the picture's size; one or one for each. Grey
            changes in part. None for everywhere.
        paste_back: Whether to put pixels outside the mask back exactly; otherwise they are those that encoding and
            decoding make of them.

    Raises:
        InvalidArgument: If the sampler cannot begin at a picture, or not at that strength.
        InvalidImage: If a picture or mask cannot be read or has another size.
    """

    def __init__(
        self,
        sampler: Sampler,
        picture: Any,
        *,
        strength: float = 0.6,
        mask: Any = None,
        paste_back: bool = False,
    ) -> None:
        if not isinstance(sampler, AffineSampler):
            raise InvalidArgument(
                f"Got a {type(sampler).__name__} to begin at a picture. Expected a `gf.AffineSampler`, whose steps can "
                "begin at any noise level."
            )
        one_of("paste_back", paste_back, (True, False))
        check_sampler(sampler)
        check_image_size(sampler)
        if paste_back and mask is None:
            raise InvalidArgument(
                "Got paste_back=True without a mask, outside of which to paste. Give mask=."
            ).as_typed("Got --paste-back without a mask, outside of which to paste. Give --mask FILE.")
        self.sampler: AffineSampler = sampler.sampler if isinstance(sampler, Started) else sampler
        strength = plain_number(strength)  # type: ignore[assignment]
        self.schedule = beginning_at(self.sampler.schedule, strength)
        for name in ("latent_shape", "image_size", "device", "dtype"):
            setattr(self, name, getattr(self.sampler, name))
        like: Any = {"device": self.device, "dtype": self.state_dtype}
        pictures, sizes = read_starts(picture, self.image_size)
        masks = None if mask is None else read_masks(mask, sizes, self.image_size).to(**like)
        self.edit = Edit(pictures.to(**like), masks, float(strength), bool(paste_back))
        self._latents, self._mask = None, None
        if strength < 1 or masks is not None:
            with torch.no_grad():  # one by one: a start does not depend on what it is solved beside
                found = [self.sampler.encode(image[None]) for image in self.edit.picture]
            shape = (1, *self.latent_shape)
            one = [answered(sampler, "encode", z, f"a state {shape}", lambda z: z.shape == shape) for z in found]
            self._latents = torch.cat([z.to(self.state_dtype) for z in one])
        if masks is not None:
            if len(self.latent_shape) != 3:
                raise InvalidArgument(f"Got a mask for latents of shape {self.latent_shape}, which are no images.")
            path_of(self.schedule)
            self._mask = F.adaptive_avg_pool2d(masks, self.latent_shape[1:])

    @property
    def images(self) -> int:
        """Number of different pictures or masks; 1 for any number of images."""
        return max(len(self.edit.picture), 1 if self.edit.mask is None else len(self.edit.mask))

    @property
    def end_levels(self) -> tuple[float, ...]:
        """Time at the end of each window, as a share of the time at which the whole sampling would start."""
        return tuple(time / self.sampler.schedule.times[0] for time in self.schedule.end_times)

    def condition(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Bound:
        """Encode prompts; `bind` adds the noise."""
        if self.images not in (1, len(prompts)):
            raise InvalidArgument(
                f"Got {self.images} start pictures or masks for {len(prompts)} images. Give one, or one per image."
            )
        return Bound(self.sampler.condition(prompts, negative_prompts), None)

    def bind(self, condition: Bound, noise: Latent) -> Bound:
        """Add the noise, which the kept part of the picture is shown with."""
        return Bound(self.sampler.bind(condition.inner, noise), noise)

    def prepare(self, noise: Latent) -> Tensor:
        """Return the picture at the noise level of the start; pure noise for strength 1."""
        return self.sampler.prepare(noise) if self.edit.strength == 1 else self._at(self.schedule.times[0], noise)

    def predict(self, z: Latent, row: Row, condition: Bound) -> Tensor:
        """Evaluate the network, shown the picture outside the mask."""
        if self._mask is not None:
            if condition.noise is None:
                raise InvalidArgument("Got a condition without noise. Use `sampler.bind(condition, noise)`.")
            z = self._blend(z, self._at(row.time, condition.noise))
        return self.sampler.predict(z, row, condition.inner)

    def encode(self, image: Image) -> Tensor:
        """Encode images as the sampler does that is wrapped."""
        return self.sampler.encode(image)

    def decode(self, z: Latent) -> Tensor:
        """Decode, with the picture outside the mask."""
        return self._images(z, self.sampler.decode)

    def preview(self, z: Latent) -> Tensor:
        """Preview, with the picture outside the mask."""
        return self._images(z, self.sampler.preview)

    def _images(self, z: Latent, decode: Callable[[Latent], Tensor]) -> Tensor:
        if self._mask is None or self._latents is None:
            return decode(z)
        images = decode(self._blend(z, self._latents))
        if not self.edit.paste_back or self.edit.mask is None:
            return images
        mask, picture = self.edit.mask.to(images.dtype), self.edit.picture.to(images.dtype)
        return mask * images + (1 - mask) * picture

    def checkpointing(self, least: bool) -> AbstractContextManager[None]:
        """Return the context of the sampler that is wrapped."""
        return self.sampler.checkpointing(least)

    def _at(self, time: float, noise: Tensor) -> Tensor:
        """Return the picture at the noise level of a time."""
        assert self._latents is not None
        signal, level = path_of(self.sampler.schedule).levels(time)
        return signal * self._latents + level * noise

    def _blend(self, z: Tensor, kept: Tensor) -> Tensor:
        assert self._mask is not None
        return self._mask * z + (1 - self._mask) * kept


def started(sampler: Sampler, start: Any, strength: float | None, mask: Any, paste_back: bool) -> Sampler:
    """Return the sampler that begins at a picture, as `solve` takes it, or the sampler itself where there is none."""
    if start is not None:
        return Started(sampler, start, strength=0.6 if strength is None else strength, mask=mask, paste_back=paste_back)
    given = {"strength": strength is not None, "mask": mask is not None, "paste_back": bool(paste_back)}
    if names := [name for name, there in given.items() if there]:
        told, typed = ", ".join(names), ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise InvalidArgument(
            f"Got {told} without a picture to begin at. Give start='photo.png', or leave it out."
        ).as_typed(f"Got {typed} without a picture to begin at. Give --start photo.png, or leave it out.")
    return sampler


def beginning_at(schedule: Schedule, strength: float) -> Schedule:
    """Return the steps that are left from a noise level on, the first of them shortened.

    Arguments:
        schedule: With a path, unless strength is 1.
        strength: The level as a share of the way from picture to noise, in (0, 1]: of sigma for flows, and of the
            noise schedule's 1000 times for diffusion models. 1 is the schedule itself.

    Raises:
        InvalidArgument: If it is out of range, or the sampler cannot begin there; the message says where it can.
    """
    if isinstance(strength, bool) or not isinstance(strength, numbers.Real) or not 0 < strength <= 1:
        raise InvalidArgument(
            f"Got strength={said(strength)}. Expected a number above 0, which would keep the picture as it is, and "
            "at most 1, which forgets it; such as 0.6."
        )
    if strength == 1:
        return schedule
    path, times = path_of(schedule), schedule.times
    time = min(path.time(strength), times[0])
    same = _SAME * path.full
    left = next((k for k, start in enumerate(times) if start <= time + same), len(times))
    table: dict[str, Any] = {name: getattr(schedule, name)[left:] for name in _COLUMNS}
    if table["times"] and time - table["times"][0] <= same:
        return replace(schedule, **table)
    if path.row is None:
        there = sorted({*(f"{path.strength(start):.6g}" for start in times[1:]), "1"})
        more = (
            "or more steps" if len(times) > 1 else "which forgets what no mask keeps, or take a sampler of more steps"
        )
        raise InvalidArgument(
            f"Got strength={strength}, where this sampler cannot begin, only where one of its steps does. "
            f"Expected {', '.join(there)}, {more}."
        )
    state, output, noise, gain = path.row(time, table["times"][0] if table["times"] else 0.0)
    for name, first in zip(_COLUMNS, (time, state, output, noise, gain), strict=True):
        table[name] = (first, *table[name])
    return replace(schedule, **table)


def path_of(schedule: Schedule) -> NoisePath:
    """Return the path of a schedule, or say that there is none."""
    if schedule.path is None:
        raise InvalidArgument(
            "This sampler cannot begin at a picture: its schedule does not say how noisy its states are. Give "
            "gf.Schedule(..., path=gf.NoisePath(...)), or leave start= out."
        )
    return schedule.path
