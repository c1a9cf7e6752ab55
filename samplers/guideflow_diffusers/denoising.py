"""`denoise-error`: how natural the generator itself finds a picture under its prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor

from guideflow._given import one_of
from guideflow._told import said
from guideflow.errors import InvalidArgument
from guideflow.metrics import Case, Measured, Metric, measured
from guideflow.registry import find, load_sampler
from guideflow.sampler import Row, Schedule, alpha_bar
from guideflow_diffusers.family import Family
from guideflow_diffusers.flow import FlowSampler
from guideflow_diffusers.hub import locate
from guideflow_diffusers.latent import LatentSampler
from guideflow_diffusers.parts import load_parts
from guideflow_diffusers.rectified_flow import instaflow_schedule, rectified_flow_schedule

PREDICTIONS: Final = ("epsilon", "v_prediction", "sample", "flow")
TRAIN_STEPS: Final = 1000


@final
class DenoiseError(Metric):
    """The error of the generator's network in predicting the noise that was added to a finished picture.

        m(x) = mean over t of  mean (n_t - n^(z_t, t, prompt))^2,    z_t = a_t E(x) + s_t n_t

    for t = 100, 250, 400 of 1000 with the same noise n_t for every picture: a bound on its likelihood under its prompt.
    E is the encoder of the autoencoder; a_t and s_t are those of the network's noise schedule, or 1 - t/1000 and t/1000
    for flows. Garish or broken pictures, which no recogniser minds, have twice the error of the unguided ones.

    Judged by what the sampler was distilled from where that is known, which is its checkpoint without the LoRA that
    makes it fast; else by the sampler's own network. To compare families, name one checkpoint for all.

    Arguments:
        checkpoint: Diffusers folder or Hub id of the model that judges; None for that of each job's sampler.
        times: Steps of the noise schedule, 1 to 999.
        prediction: What the network predicts: "epsilon", "v_prediction", "sample" or "flow" (image minus noise); None
            reads it from the checkpoint, "epsilon" where it is silent.
        dtype: Of the denoiser.
        device: Where the networks run.

    Raises:
        InvalidArgument: If an option is out of range.
        MissingWeights: If the checkpoint is on the Hub and cannot be fetched.
    """

    name = "denoise-error"
    better: ClassVar[str] = "lower"
    needs: ClassVar[tuple[str, ...]] = ("prompt",)
    digits: ClassVar[int] = 4

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        times: Sequence[int] = (100, 250, 400),
        prediction: str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        one_of("prediction", prediction, (None, *PREDICTIONS))
        several = isinstance(times, list | tuple) and bool(times)
        if not several or not all(type(t) is int and 1 <= t < TRAIN_STEPS for t in times):
            raise InvalidArgument(f"Got times={said(times)}. Expected whole numbers from 1 to {TRAIN_STEPS - 1}.")
        self._checkpoint, self._times, self._prediction = checkpoint, tuple(times), prediction
        self._loading = {"dtype": dtype, "device": device}
        self._judges: dict[str, tuple[Any, str]] = {}
        if checkpoint is not None:
            self._judge({})

    def judges(self) -> None:
        """No loss looks through a denoiser."""

    @torch.no_grad()
    def __call__(self, cases: Sequence[Case]) -> Sequence[Measured]:
        """Measure cases in batches of one sampler and size."""
        images = [case.image for case in cases]
        groups: dict[Hashable, list[int]] = {}
        for i, (case, image) in enumerate(zip(cases, images, strict=True)):
            groups.setdefault((json.dumps(case.sampler, sort_keys=True, default=str), image.shape), []).append(i)
        found: dict[int, float] = {}
        for rows in groups.values():
            judge, prediction = self._judge(cases[rows[0]].sampler)
            batch = torch.stack([images[i] for i in rows]).to(judge.device)
            if isinstance(judge, LatentSampler):
                judge = judge.replace(image_size=(batch.shape[-2], batch.shape[-1]))
            condition = judge.condition([cases[i].prompt for i in rows])
            latents = judge.encode(batch).to(judge.state_dtype)
            error = denoise_error(judge.predict, latents, condition, self._times, prediction)
            found |= dict(zip(rows, error.tolist(), strict=True))
        return [measured(found[i]) for i in range(len(cases))]

    def _judge(self, sampler: Any) -> tuple[Any, str]:
        """Load what judges the pictures of a sampler, and tell what it predicts; the last one is kept."""
        key = json.dumps(sampler, sort_keys=True, default=str) if self._checkpoint is None else ""
        if key not in self._judges:
            found = self._of_checkpoint(self._checkpoint) if self._checkpoint is not None else self._of_sampler(sampler)
            self._judges = {key: found}
        return self._judges[key]

    def _of_checkpoint(self, checkpoint: str | Path) -> tuple[Any, str]:
        parts = load_parts(checkpoint, **self._loading)  # type: ignore[arg-type]
        schedule = Schedule((TRAIN_STEPS - 1,), (1.0,), (0.0,))  # never stepped: only the network is asked
        return LatentSampler(parts, schedule), self._prediction or predicted(checkpoint)

    def _of_sampler(self, sampler: Any) -> tuple[Any, str]:
        name, options = sampler.get("name", ""), dict(sampler.get("options") or {})
        family = find("sampler", name).entry.resolve()
        if not isinstance(family, Family):
            raise InvalidArgument(f"The sampler {name!r} is not made of diffusers parts. Give checkpoint=PATH.")
        model = {"checkpoint": family.checkpoint, **options, **family.fixed}["checkpoint"]
        fast = family.fixed.get("lora") is not None or str(model) in family.loras
        if fast and not options.get("base"):
            return self._of_checkpoint(model)
        made: Any = load_sampler(name, **{**options, **self._loading})
        if isinstance(made, FlowSampler):
            return made, "velocity"
        flow = family.schedule in (rectified_flow_schedule, instaflow_schedule)
        return made.replace(guidance_scale=1.0), self._prediction or ("flow" if flow else predicted(model))


def denoise_error(
    predict: Callable[[Tensor, Row, Any], Tensor],
    latents: Tensor,
    condition: Any,
    times: Sequence[int] = (100, 250, 400),
    prediction: str = "epsilon",
) -> Tensor:
    """Return the mean square error of predicted noise on latents (B, ...), (B,).

    Arguments:
        predict: Evaluates the network on a noisy latent at `row.time`.
        latents: Finished latents.
        condition: Encoded prompts.
        times: At which noise is added.
        prediction: One of `PREDICTIONS`, or "velocity", noise minus image.
    """
    errors = []
    for t in times:
        noise = torch.randn(latents[0].shape, generator=torch.Generator().manual_seed(t)).to(latents).expand_as(latents)
        level = t / TRAIN_STEPS if prediction in ("flow", "velocity") else None
        a, s = (1 - level, level) if level is not None else (math.sqrt(alpha_bar()[t]), math.sqrt(1 - alpha_bar()[t]))
        noisy = a * latents + s * noise
        output = predict(noisy, Row(0, float(t), 0.0, 1.0, 0.0, 0.0, 1.0), condition).to(latents.dtype)
        expected = noise_of(prediction, output, noisy, a, s)
        errors.append((expected - noise).square().flatten(1).mean(1))
    return torch.stack(errors).mean(0)


def noise_of(prediction: str, output: Tensor, z: Tensor, a: float, s: float) -> Tensor:
    """Return the noise n that a network means by what it predicts at z = a x + s n."""
    if prediction == "v_prediction":  # a n - s x
        return s * z + a * output
    if prediction == "sample":  # x
        return (z - a * output) / s
    if prediction == "flow":  # x - n, where a + s = 1
        return z - a * output
    if prediction == "velocity":  # n - x, where a + s = 1
        return z + a * output
    return output


def predicted(checkpoint: str | Path) -> str:
    """Read what the network of a checkpoint predicts; "epsilon" where nothing says so."""
    file = locate(checkpoint) / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return "epsilon"
    found = json.loads(file.read_text(encoding="utf-8")).get("prediction_type", "epsilon")
    return found if found in PREDICTIONS else "epsilon"
