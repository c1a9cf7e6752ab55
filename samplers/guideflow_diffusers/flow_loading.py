"""Load a flow-matching model from a diffusers folder or the Hub, and join it with a schedule."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import guideflow as gf
from guideflow._devices import as_device, as_dtype
from guideflow._given import in_range
from guideflow._require import require, without_progress_bars
from guideflow.errors import InvalidArgument

if TYPE_CHECKING:
    import torch

    from guideflow_diffusers.flow import FlowSampler
    from guideflow_diffusers.flow_models import FlowModel
    from guideflow_diffusers.text_parts import PipelineText

FOLDERS = (
    "transformer",
    "vae",
    *(f"{part}{end}" for part in ("tokenizer", "text_encoder") for end in ("", "_2", "_3")),
)


def load_flow(
    schedule: gf.Schedule,
    checkpoint: str | Path,
    *,
    model: str,
    guidance_scale: float = 1.0,
    image_size: tuple[int, int] | int | None = None,
    max_sequence_length: int | None = None,
    reference: Any = None,
    dtype: str = "float32",
    device: str = "cpu",
    decoder_gradient: str | Path = "full",
    keep_text_encoder: bool = True,
    base: str | Path | None = None,
    variant: str | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
) -> FlowSampler:
    """Load the networks of a flow-matching checkpoint and join them with a schedule.

    Arguments:
        schedule: The few-step family.
        checkpoint: Hub id or local folder of the model; of the transformer alone together with `base`.
        model: Which one: "sd3", "z-image", "flux2", "sana" or "qwen-image".
        guidance_scale: Of classifier-free guidance, which doubles the cost; 1 or less switches it off. SANA-Sprint is
            told it at no cost.
        image_size: (height, width) in pixels, or one number for a square; by default the model's own.
        max_sequence_length: How many tokens of a prompt are read; by default as many as the pipeline's.
        reference: Picture to draw after, or several: paths, pictures of Pillow's, arrays or tensors. They become tokens
            beside the image's.
        dtype: "float32", "bfloat16", "float16" or "float64" of transformer and text encoders; states and autoencoder
            stay in float32 at least.
        device: Where it runs.
        decoder_gradient: "full"; or for less memory "tiled", or the folder or Hub id of a small decoder.
        keep_text_encoder: Whether the text encoders stay in memory. If not, they are loaded for the first prompt and
            dropped; a prompt that is new has them loaded again, which a warning tells.
        base: Checkpoint to take everything from but the transformer.
        variant: Which files of a Hub repository to take, such as "fp16".
        lora: LoRA to merge into the transformer. A family that was published as LoRAs takes its own onto the model it
            was made for.
        lora_scale: How strongly to merge it.

    Returns:
        The sampler.

    Raises:
        InvalidArgument: If an option is out of range, or the checkpoint cannot be read.
        MissingWeights: If something is on the Hub and cannot be fetched.
        MissingExtra: If diffusers is not installed, or too old for the model.
    """
    from guideflow_diffusers import checkpoints  # these need torch
    from guideflow_diffusers.flow import FlowSampler
    from guideflow_diffusers.flow_models import MODELS
    from guideflow_diffusers.hub import find_weights, locate
    from guideflow_diffusers.lora import merge_lora
    from guideflow_diffusers.text_parts import TextOnDemand
    from guideflow_diffusers.weights import Weights

    in_range("guidance_scale", guidance_scale, 0)
    kind, numbers, where = MODELS[model], as_dtype(dtype), as_device(device)
    source = locate(checkpoint, variant=variant, components=FOLDERS if base is None else ("transformer",))
    rest = source if base is None else locate(base, option="base", variant=variant, components=FOLDERS)
    _require_complete(source, rest)
    with without_progress_bars("diffusers"):
        transformer = checkpoints.load_denoiser(source, variant=variant, strict=True, dtype=numbers)
        if not isinstance(transformer, kind.made("transformer")):
            raise InvalidArgument(f"{checkpoint} has a {type(transformer).__name__}. Expected a {kind.transformer}.")
        vae = checkpoints.load_network(
            kind.made("vae"), rest / "vae", variant=variant, torch_dtype=checkpoints.vae_dtype(numbers)
        )
    if lora is not None:
        merge_lora({"transformer": transformer}, Weights(find_weights(lora, option="lora")), lora_scale)
    transformer, vae = transformer.to(where), vae.to(where)
    text = _TextLoader(model, rest, transformer, variant, numbers, max_sequence_length)
    told: dict[str, Any] = {"guidance": guidance_scale} if kind.embedded else {}
    if reference is not None:
        from guideflow_diffusers.flux2 import encode_pictures

        told["references"] = encode_pictures(vae, reference)
    return FlowSampler(
        transformer,
        vae,
        kind.adapter(**told),
        schedule,
        text.kept(where) if keep_text_encoder else TextOnDemand(text, where),
        guidance_scale=1.0 if kind.embedded else guidance_scale,
        image_size=image_size,
        decoder_gradient=decoder_gradient,
    )


class _TextLoader:
    """Loads the text encoders of a checkpoint, each time it is called; a transformer tells widths."""

    def __init__(
        self,
        model: str,
        folder: Path,
        transformer: Any,
        variant: str | None,
        dtype: torch.dtype,
        max_sequence_length: int | None,
    ) -> None:
        self.model, self.folder, self.transformer = model, folder, transformer
        self.variant, self.dtype, self.max_sequence_length = variant, dtype, max_sequence_length

    def __call__(self) -> PipelineText:
        import torch

        return self.kept(torch.device("cpu"))

    def kept(self, device: torch.device) -> PipelineText:
        """Load them onto a device."""
        from guideflow_diffusers.flow_models import MODELS
        from guideflow_diffusers.text_parts import PipelineText

        kind = MODELS[self.model]
        pipeline = kind.made("pipeline")
        options = {name: p.default for name, p in inspect.signature(pipeline.__call__).parameters.items()}
        if self.max_sequence_length is not None:
            options["max_sequence_length"] = self.max_sequence_length
        with without_progress_bars("diffusers"):
            parts = self._parts(kind)
        encoders = {name: part for name, part in parts.items() if name.startswith("text_encoder") and part is not None}
        for encoder in encoders.values():
            encoder.to(device).eval().requires_grad_(False)
        pipe = pipeline(**parts, scheduler=None, vae=None, transformer=self.transformer)
        return PipelineText(pipe, kind.encode, options, device, encoders)

    def _parts(self, kind: FlowModel) -> dict[str, Any]:
        """Load text encoders and tokenizers, of the classes that the folder names; None where it has none."""
        from guideflow.losses.networks import read_config
        from guideflow.losses.weights import one_line
        from guideflow_diffusers.checkpoints import load_network

        transformers = require("transformers", extra="diffusers")
        index = read_config(str(self.folder), "model_index.json") or {}
        bases = {"text_encoder": transformers.PreTrainedModel, "tokenizer": transformers.PreTrainedTokenizerBase}
        found: dict[str, Any] = {}
        for name in inspect.signature(kind.made("pipeline").__init__).parameters:
            base = next((one for start, one in bases.items() if name.startswith(start)), None)
            if base is None:
                continue
            library, named = index.get(name) or (None, None)
            if named is None:
                found[name] = None
                continue
            own = getattr(transformers, named, None) if library == "transformers" else None
            if not (isinstance(own, type) and issubclass(own, base)):  # a repository may bring code along
                raise InvalidArgument(
                    f"{self.folder / 'model_index.json'} names {library}.{named} as {name}, which is no class of "
                    f"transformers. Expected what `pipeline.save_pretrained(folder)` writes."
                )
            if base is bases["text_encoder"]:
                found[name] = load_network(own, self.folder / name, variant=self.variant).to(self.dtype)
                continue
            try:
                found[name] = own.from_pretrained(self.folder / name)
            except Exception as error:  # what is damaged makes it raise many kinds
                why = f"{self.folder / name} cannot be loaded as a tokenizer: {one_line(error)}"
                raise InvalidArgument(why) from error
        return found


def _require_complete(source: Path, rest: Path) -> None:
    """Refuse a checkpoint that lacks something."""
    from guideflow_diffusers.checkpoints import denoiser_folder

    missing = [] if denoiser_folder(source) is not None else ["transformer"]
    missing += [name for name in ("vae", "tokenizer", "text_encoder") if not (rest / name).is_dir()]
    if missing:
        raise InvalidArgument(
            f"{rest} is no diffusers folder of the model: {', '.join(missing)} not found in it. Expected a folder "
            "written by `pipeline.save_pretrained(folder)`. Or give base=, a whole checkpoint that provides the rest."
        )
