"""What a sampler says of itself and returns, looked at before anything goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guideflow._devices import cannot_compute
from guideflow._told import said
from guideflow.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import Tensor


def check_sampler(sampler: object) -> None:
    """Refuse a sampler that lacks what it has to say of itself, or is where nothing can be computed."""
    import torch  # only here, as samplers are made without it

    device, dtype = _its(sampler, "device"), _its(sampler, "dtype")
    if not isinstance(device, torch.device):
        raise _odd(sampler, "device", device, "a torch.device, such as `torch.device('cpu')`")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise _odd(sampler, "dtype", dtype, "a floating-point torch.dtype, such as `torch.float32`")
    if device.type != "cpu" and (why := cannot_compute(device)):
        raise InvalidArgument(
            f"The sampler {type(sampler).__name__} is on the device '{device}', where nothing can be computed here "
            f"({why}). Load it with device='cpu'."
        )
    count, shape = _its(sampler, "num_steps"), _its(sampler, "latent_shape")
    if not _whole([count]) or not _whole(shape):
        raise InvalidArgument(
            f"The sampler {type(sampler).__name__} has num_steps={said(count)} and latent_shape={said(shape)}. "
            "Expected a whole number from 1 on, and a tuple of such."
        )
    stochastic = _its(sampler, "stochastic")
    if not isinstance(stochastic, tuple | list) or len(stochastic) != count:
        raise _odd(sampler, "stochastic", stochastic, f"one True or False for each of its {count} steps")


def check_image_size(sampler: object) -> None:
    """Refuse a sampler that does not say how large its pictures are."""
    size = _its(sampler, "image_size")
    if not _whole(size) or len(size) != 2:
        raise _odd(sampler, "image_size", size, "(height, width), two whole numbers from 1 on")


def _its(sampler: object, name: str) -> Any:
    return getattr(sampler, name, None)


def _whole(sizes: object) -> bool:
    given = isinstance(sizes, tuple | list) and bool(sizes)
    return given and all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes)  # type: ignore[attr-defined]


def _odd(sampler: object, name: str, found: object, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"The sampler {type(sampler).__name__} has {name}={said(found)}. Expected {wanted}.")


def answered(sampler: object, what: str, found: Any, wanted: str, fits: Callable[[Tensor], bool]) -> Tensor:
    """Refuse what no sampler returns: PyTorch would go on with one state in the place of many."""
    from torch import Tensor

    if isinstance(found, Tensor) and found.is_floating_point() and fits(found):
        return found
    given = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise InvalidArgument(
        f"The sampler {type(sampler).__name__} returned {given} from `{what}`. Expected a floating-point "
        f"tensor: {wanted}."
    )


def state_like(sampler: object, what: str, found: Any, z: Tensor) -> Tensor:
    """Refuse what is no batch of states such as `z`."""
    return answered(sampler, what, found, f"a state {tuple(z.shape)}", lambda one: one.shape == z.shape)


def pictures_of(sampler: object, what: str, found: Any, z: Tensor) -> Tensor:
    """Refuse what is not one picture for each state; if they are pictures at all, of the sampler's size.

    A preview may be of any size.
    """
    batch = len(z)
    images = answered(sampler, what, found, f"{batch} images", lambda one: one.shape[:1] == z.shape[:1])
    given, (height, width) = tuple(images.shape[1:]), _its(sampler, "image_size")
    if len(given) != 3 or given[1:] == (height, width) or (what == "preview" and given[0] == 3):
        return images
    cure = "end with `.permute(0, 3, 1, 2)`" if given[:2] == (height, width) else "let image_size be what it draws"
    raise InvalidArgument(
        f"The sampler {type(sampler).__name__} returned pictures {tuple(images.shape)} from `{what}`, and its "
        f"image_size is {(height, width)}. Expected {(batch, 3, height, width)}: {cure}."
    )
