"""The table of steps that a scheduler of diffusers takes, measured at the scheduler itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow.losses.weights import one_line
from guideflow_diffusers.reading_levels import with_path

AFFINE = (
    "DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, LCMScheduler, "
    "TCDScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler"
)
"""Schedulers of diffusers whose steps are affine."""

_SEED = 20
_LANES = (16, 1, 1, 1)
_TOLERANCE = 1e-5  # some schedulers compute in float32


class _Step(NamedTuple):
    state: float
    output: float
    noise: float


def read_schedule(
    scheduler: Any,
    num_inference_steps: int | None = None,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
    eta: float = 0.0,
    **more: Any,
) -> gf.Schedule:
    """Read off a scheduler what its steps do, whatever its class, if they are affine.

        x' = a x + b f(s x, t) + d n,      z = s x

    with s = `scale_model_input`. States are z, what the network sees: for schedulers that count in sigma those are the
    variance-preserving ones. a, b and d are measured by steps from unit states, outputs and noises; other steps, far
    from these and with another past, then have to agree.

    Arguments:
        scheduler: With `set_timesteps` and `step` as diffusers has them, the user's own too. A copy is used.
        num_inference_steps: Number of steps; the arguments up to here as `scheduler.set_timesteps` takes them.
        timesteps: Instead of the number of steps.
        sigmas: Instead of the number of steps.
        mu: Shift of the grid by image size, where the scheduler takes one.
        eta: Share of new noise, where the scheduler's step takes one.
        more: Further arguments of `set_timesteps`.

    Returns:
        The schedule.

    Raises:
        InvalidArgument: If a step is not affine in its state and one output of the network, as of multistep methods,
            or the scheduler does not take the arguments.
    """
    own, name = copy.deepcopy(scheduler), type(scheduler).__name__
    for attribute, value in vars(own).items():
        if isinstance(value, Tensor):
            setattr(own, attribute, value.cpu())
    given = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu, **more}
    given = {key: value for key, value in given.items() if value is not None}
    if timesteps is None and sigmas is None:
        given["num_inference_steps"] = num_inference_steps
    takes = inspect.signature(own.set_timesteps).parameters
    if mu is not None and "mu" not in takes:
        del given["mu"]  # pipelines of one class offer it to every scheduler
    if unknown := given.keys() - takes.keys():
        raise InvalidArgument(f"{name}.set_timesteps does not take {', '.join(sorted(unknown))}. Leave it out.")
    scales, steps = [], []
    try:
        own.set_timesteps(**given)
        times, fresh = own.timesteps.cpu(), copy.deepcopy(own)
        for t in times:
            scales.append(_input_scale(own, t))
            step, own = _measure(own, t, eta)
            steps.append(step)
    except InvalidArgument:
        raise
    except Exception as error:  # the classes are many, and some are users' own
        raise InvalidArgument(f"{name} cannot be read: {one_line(error)}. Expected one of {AFFINE}.") from error
    ends = [*scales[1:], 1.0]
    columns = zip(steps, scales, ends, strict=True)
    state, output, noise = zip(*((a * e / s, b * e, d * e) for (a, b, d), s, e in columns), strict=True)
    init = float(getattr(own, "init_noise_sigma", 1.0)) * scales[0]
    schedule = gf.Schedule(tuple(times.tolist()), state, output, noise, init_scale=init)
    return with_path(schedule, fresh, times, scales)


def _input_scale(own: Any, t: Tensor) -> float:
    """Return s of the coming step; some schedulers find their place in the grid when asked."""
    one = torch.ones(_LANES, dtype=torch.float64)
    return float(own.scale_model_input(one, t).flatten()[0]) if hasattr(own, "scale_model_input") else 1.0


def _measure(own: Any, t: Tensor, eta: float) -> tuple[_Step, Any]:
    """Measure one step of a scheduler, and return the scheduler after it."""
    generator = torch.Generator().manual_seed(_SEED + 1)
    zero, one = torch.zeros(_LANES, dtype=torch.float64), torch.ones(_LANES, dtype=torch.float64)
    sizes = torch.logspace(-2, 2, len(one), dtype=torch.float64).view(_LANES)
    x, f = (sizes * torch.randn(_LANES, dtype=torch.float64, generator=generator) for _ in range(2))
    offset, _ = _take(own, t, zero, zero, eta)
    a, b = ((_take(own, t, *probe, eta)[0] - offset).flatten()[0] for probe in ((one, zero), (zero, one)))
    d = _noise_factor(offset)
    found, after = _take(own, t, x, f, eta)
    error = (found - a * x - b * f - offset).abs()
    if d is None or not (error <= _TOLERANCE * ((a * x).abs() + (b * f).abs() + offset.abs())).all():
        raise InvalidArgument(_not_affine(own))
    return _Step(float(a), float(b), d), after


def _take(own: Any, t: Tensor, sample: Tensor, output: Tensor, eta: float) -> tuple[Tensor, Any]:
    """Take one step with a copy of a scheduler, from a fixed random state."""
    own, takes = copy.deepcopy(own), inspect.signature(own.step).parameters
    more = {"generator": torch.Generator().manual_seed(_SEED), "eta": eta, "return_dict": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)  # for those that take no generator
        made = own.step(output, t, sample, **{key: value for key, value in more.items() if key in takes})
    return made[0].double(), own


def _noise_factor(offset: Tensor) -> float | None:
    """Tell how much of the noise from the fixed random state went into a step; None if something else did.

    Without state and output nothing but noise is left, unless the step remembers earlier ones.
    """
    if not offset.any():
        return 0.0
    for dtype in (torch.float64, torch.float32):  # schedulers draw in that of the output or in their own
        n = torch.randn(_LANES, dtype=dtype, generator=torch.Generator().manual_seed(_SEED)).double()
        d = float((offset * n).sum() / n.square().sum())
        if (offset - d * n).abs().max() <= _TOLERANCE * abs(d):
            return d
    return None


def _not_affine(own: Any) -> str:
    name, config = type(own).__name__, getattr(own, "config", {})
    for option in ("thresholding", "clip_sample"):
        if config.get(option):
            return (
                f"Got {name} with {option}=True, which is not affine: it clips its estimate of the image, and latents "
                f"are none. Type: pipe.scheduler = {name}.from_config(pipe.scheduler.config, {option}=False)"
            )
    cure = "FlowMatchEulerDiscreteScheduler" if "Flow" in name else "EulerDiscreteScheduler"
    return (
        f"Got {name}, whose step is not affine in the state and one output of the network: it combines several. "
        f"Expected one of {AFFINE}. Type: pipe.scheduler = {cure}.from_config(pipe.scheduler.config)"
    )
