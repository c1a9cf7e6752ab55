"""A few-step family as a record: its schedule and what it was published with. One loader serves them all."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import guideflow as gf
from guideflow.errors import InvalidArgument
from guideflow.registry.loading import arguments

if TYPE_CHECKING:
    from guideflow_diffusers.latent import LatentSampler

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def load(
    schedule: gf.Schedule,
    checkpoint: str | Path,
    *,
    guidance_scale: float | None = None,
    image_size: tuple[int, int] | int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    preview_decoder: str | Path | None = None,
    base: str | Path | None = None,
    variant: str | None = None,
    delta: str | Path | Sequence[str | Path] | None = None,
    style: str | Path | None = None,
    style_base: str | Path = SD15,
    keep_text_encoder: bool = True,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
) -> LatentSampler:
    """Load the networks of a checkpoint and join them with a schedule. Every family takes these options.

    Arguments:
        schedule: The few-step family.
        checkpoint: Hub id, local folder or single file of the model; a denoiser or a LoRA by itself together with
            `base`.
        guidance_scale: Of classifier-free guidance, which doubles the cost; 1 or less switches it off. A denoiser that
            takes it as an embedding (full LCM models) is told it at no cost; None is 8.5 for such a one, else off.
        image_size: (height, width) in pixels, or one number for a square; by default what the denoiser was trained on.
        dtype: "float32", "bfloat16", "float16" or "float64" of the denoiser; states and autoencoder stay in float32 at
            least. Prefer "bfloat16" to "float16" for SD 2.1, whose attention overflows in the latter.
        device: Where it runs.
        decoder_gradient: "full"; or for less memory "tiled", or the folder or Hub id of a small decoder.
        preview_decoder: Folder or Hub id of a small decoder for the pictures that only solvers see.
        base: Checkpoint to take everything from but the denoiser.
        variant: Which files of a Hub repository to take, such as "fp16".
        delta: Difference of weights to add to the denoiser.
        style: Fine-tuned model of the same base: what it changed in the denoiser is added, and its autoencoder and text
            encoder are used. RectifID's own results with 2-rectified flow have "Lykon/dreamshaper-7".
        style_base: What `style` was fine-tuned from.
        keep_text_encoder: Whether the text encoders stay in memory. If not, they are dropped once they have encoded the
            prompts; a prompt that is new has the checkpoint read again, which a warning tells.
        lora: LoRA to merge. A family that was published as LoRAs takes its own onto the model it was made for; any
            other checkpoint counts as distilled already.
        lora_scale: How strongly to merge it.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed.
    """
    from guideflow_diffusers.latent import LatentSampler  # needs torch
    from guideflow_diffusers.parts import load_parts
    from guideflow_diffusers.text_parts import without_text_encoders

    if style is not None:
        if delta is not None:
            raise InvalidArgument("Got both style and delta. Expected one of them: a style is a difference of weights.")
        base, delta = base or style, (style, style_base)
    given: dict[str, Any] = {"base": base, "variant": variant, "delta": delta, "dtype": dtype}
    given |= {"lora": lora, "lora_scale": lora_scale}
    parts = load_parts(checkpoint, device=device, **given)
    if not keep_text_encoder:
        parts = without_text_encoders(parts, partial(load_parts, checkpoint, **given))
    return LatentSampler(
        parts,
        schedule,
        guidance_scale=guidance_scale,
        image_size=image_size,
        decoder_gradient=decoder_gradient,
        preview_decoder=preview_decoder,
    )


@final
@dataclass(frozen=True, eq=False)
class Family:
    """A few-step family: its schedule, and the networks it was published with.

    Called with options, those of its schedule and of its loader, it loads a sampler; its signature and its docstring
    list them. A variant is `dataclasses.replace(family, ...)`; other defaults of the schedule are
    `functools.partial(schedule, ...)`.

    Arguments:
        schedule: Makes the table; takes options by keyword, `num_steps` among them.
        checkpoint: The model that is loaded by default.
        base: The model family it builds on, for listings and to refuse others: "SD 1.5", "SD 2.1 at 512x512", "SDXL",
            or several with "or".
        summary: What it is, in a few words.
        steps: The numbers of steps it can take, in words.
        licence: Of its weights.
        commercial: Whether the licence allows commercial use: "yes", "no", a condition, or "not verified".
        guidance_scale: Default of that option; None leaves it to the denoiser.
        image_size: Default of that option.
        told_guidance: Whether the denoiser is told the guidance scale, at no cost.
        loras: For each model it was published for as LoRAs, the LoRA by number of steps; none where the user has to
            choose.
        lora_hint: What to type then.
        lora_steps: Tells from the options of the schedule for how many steps the LoRA has to be.
        denoisers: For each such model, denoisers that take its denoiser's place, by number of steps.
        variants: For each published checkpoint, which of its files to take, where there are no plain ones.
        fixed: Options of the loader that the family decides itself, and does not offer.
        loader: What joins the schedule with the networks of a checkpoint, and takes the options.
        check_prompts: Called with the prompts of a batch before they are encoded, to warn of what is not understood.
    """

    schedule: Callable[..., gf.Schedule]
    checkpoint: str | Path
    base: str
    summary: str
    steps: str
    licence: str
    commercial: str = "not verified"
    guidance_scale: float | None = 1.0
    image_size: tuple[int, int] | int | None = None
    told_guidance: bool = False
    loras: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    lora_hint: str = "lora=PATH"
    lora_steps: Callable[[Mapping[str, Any]], int] = operator.itemgetter("num_steps")
    denoisers: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    loader: Callable[..., Any] = load
    check_prompts: Callable[[Sequence[str]], None] | None = None

    def __post_init__(self) -> None:
        # What a family takes and says is what its schedule and `load` do.
        defaults = {name: getattr(self, name) for name in ("checkpoint", "guidance_scale", "image_size")}
        loading = dict(inspect.signature(self.loader).parameters)
        del loading["schedule"]
        options = [p for name, p in inspect.signature(self.schedule).parameters.items() if name not in loading]
        options += [p.replace(default=defaults.get(p.name, p.default)) for p in loading.values()]
        offered = [p.replace(kind=p.KEYWORD_ONLY) for p in options if p.name not in self.fixed]
        object.__setattr__(self, "__signature__", inspect.Signature(offered))
        texts = "".join(arguments(made) for made in (getattr(self.schedule, "func", self.schedule), self.loader))
        object.__setattr__(self, "__doc__", f"{self.summary}\n\nArguments:\n{texts}")

    def __call__(self, **options: Any) -> Any:
        """Load a sampler, with options as the signature lists them; a checkpoint of another base is refused."""
        given = inspect.signature(self).bind(**options)
        given.apply_defaults()
        chosen = {**given.arguments, **self.fixed}
        takes = inspect.signature(self.loader).parameters
        own = {name: chosen[name] for name in inspect.signature(self.schedule).parameters}
        chosen = {name: value for name, value in chosen.items() if name in takes}
        if hasattr(chosen["checkpoint"], "components"):
            raise InvalidArgument("Got a loaded pipeline as checkpoint. Type: guideflow_diffusers.from_pipeline(pipe)")
        schedule = self.schedule(**own)
        model = str(chosen["checkpoint"])
        if chosen["variant"] is None:
            chosen["variant"] = self.variants.get(model)
        if chosen["lora"] is None:
            chosen |= self._published(model, self.lora_steps(own))
        sampler = self.loader(schedule, **chosen)
        if self.loader is load:
            self._require_base(model, sampler.parts.base)
            sampler.check_prompts = self.check_prompts
        return sampler

    def _published(self, model: str, num_steps: int) -> dict[str, str]:
        """Tell what turns a model into the family; nothing for one that must be distilled already."""
        if file := self.denoisers.get(model, {}).get(num_steps):
            return {"checkpoint": file, "base": model}
        files = self.loras.get(model)
        if files is None:
            return {}
        if not files:
            raise InvalidArgument(f"{model} is not distilled by itself. Give a LoRA: {self.lora_hint}.")
        if num_steps not in files:
            raise InvalidArgument(
                f"Got num_steps={num_steps}, for which no LoRA is published. Expected one of "
                f"{', '.join(map(str, files))}, or give the LoRA of your choice: lora=PATH."
            )
        return {"lora": files[num_steps]}

    def _require_base(self, model: str, found: str | None) -> None:
        """Refuse another base's model: it would sample, and draw nothing but noise."""
        only_xl = self.base.startswith("SDXL")
        if (only_xl and found is None) or (found is not None and found not in self.base):
            raise InvalidArgument(
                f"Got checkpoint={model!r}, which is {found or 'no SDXL'}, for a sampler of {self.base}. Take one "
                "of its own base; `guideflow list samplers` tells them."
            )

    def entry(self, **more: Any) -> gf.Entry:
        """Say about the family what listings show; `more` are the `downloads` and the `footprint`."""
        return gf.Entry(
            self,
            summary=self.summary,
            extra="diffusers",
            licence=self.licence,
            commercial=self.commercial,
            needs=("prompt",),
            base=self.base.partition(" at ")[0],
            steps=self.steps,
            **more,
        )
