"""`clip`: distance to a text or to reference images in CLIP's space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow._given import as_texts, one_of
from guideflow.errors import InvalidArgument
from guideflow.images import check_image
from guideflow.losses.base import Loss
from guideflow.losses.needed import as_needed
from guideflow.losses.networks import freeze, precision
from guideflow.losses.texts import warn_of_cut
from guideflow.losses.vision import ImageSources, given, read_images
from guideflow.types import PerImage
from guideflow_clip.models import load_clip, preparation_of


class Clip(Loss):
    """Distance between an image and a text, or an image and reference images, as CLIP sees them.

        loss(x) = 1 - cos(E(x), t),    t = E_text(text)  or  E(reference)

    With several texts or references t is the mean of their unit vectors, or with `combine="best"` the nearest counts.
    For a text and images at once, add two losses, and share the network: `network=first.network`.

    Arguments:
        text: What the image should show; one text or several.
        reference: What it should look like: a path, a tensor (3, H, W) or (N, 3, H, W) in [0, 1], or several.
        combine: "mean" or "best".
        network: A name of open_clip, a folder with `open_clip_config.json` and weights, "owner/name" on the Hub, or a
            module with `encode_image` (and `encode_text` for texts), which is frozen in place.
        checkpoint: Tag of published weights, by default "openai", or a file of weights: safetensors, or a state dict
            that torch.save wrote.
        quick_gelu: Whether weights from a file were trained with QuickGELU, where that cannot be told.
        random_weights: Take random weights, to try things out.
        allow_pickle: Also read weights that run code of whoever made them while they load: any pickle, and TorchScript
            archives, such as OpenAI's own. A saved run cannot ask for it: to go on, give the loss again.
        tokenizer: For a module and texts: callable from a list of texts to tokens (N, L).
        size: Side or (height, width) of the network's images in place of its own.
        mean: In place of the network's own normalisation, for images in [0, 1].
        std: In place of the network's own normalisation.
        device: Where the network runs.

    Raises:
        InvalidArgument: If not exactly one of text and reference is given, or options disagree.
        InvalidImage: If a reference cannot be read.
        MissingWeights: If the weights are not here and cannot be downloaded.

    Source: Radford et al. 2021 (CLIP); guidance as in Bansal et al. 2023 (Universal Guidance), whose loss is 100 times
    this, with ImageNet's normalisation in place of CLIP's.
    """

    name = "clip"

    def __init__(
        self,
        text: str | Sequence[str] | None = None,
        *,
        reference: ImageSources | None = None,
        combine: str = "mean",
        network: str | Path | nn.Module = "ViT-B-32",
        checkpoint: str | Path | None = None,
        quick_gelu: bool | None = None,
        random_weights: bool = False,
        allow_pickle: bool = False,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        size: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str = "cpu",
    ) -> None:
        one_of("combine", combine, ("mean", "best"))
        texts = as_texts("text", text)
        if bool(texts) == (reference is not None) or not all(one.strip() for one in texts):
            found = "both" if texts and reference is not None else "an empty text" if texts else "neither"
            raise InvalidArgument(
                f"Got {found} of text and reference. Expected one of them: text='a red boat' or reference='boat.png'. "
                "For both, add two losses."
            )
        self._references = () if reference is None else read_images(reference)
        if isinstance(network, nn.Module):
            _require_method(network, "encode_image")
            title, preparation = type(network).__name__, preparation_of(network)
        else:
            loaded = load_clip(
                network, checkpoint, quick_gelu=quick_gelu, random_weights=random_weights, allow_pickle=allow_pickle
            )
            network, preparation, title = loaded.network, loaded.preparation, loaded.title
            tokenizer = tokenizer or loaded.tokenizer
        self.network = freeze(network, device)
        self._preparation = replace(preparation, **given(size, mean, std))
        self._references = as_needed(self._references, self._preparation.size)
        with torch.no_grad():
            if texts:
                targets = self._encode_texts(texts, tokenizer, device)
            else:
                targets = torch.cat([self.embed(one[None].to(device)) for one in self._references])
        self._targets = F.normalize(targets.mean(0, keepdim=True), dim=1) if combine == "mean" else targets
        what = ", ".join(map(repr, texts)) if texts else f"{len(self._references)} reference(s)"
        self._description = f"{self.name}: distance to {what} ({title})"

    def __call__(self, image: Tensor) -> PerImage:
        """Return 1 - cosine for each image, in [0, 2]."""
        return 1 - (self.embed(image) @ self._targets.T).amax(1)

    def embed(self, image: Tensor) -> Tensor:
        """Return the unit vectors of images (B, 3, H, W) in [0, 1], (B, C)."""
        check_image(image)
        prepared = self._preparation(image, precision(self.network))
        return F.normalize(self.network.encode_image(prepared), dim=1)  # type: ignore[operator]

    def describe(self) -> str:
        """Return one line that says what is minimised."""
        return self._description

    def _encode_texts(self, texts: list[str], tokenizer: Callable[[list[str]], Tensor] | None, device: str) -> Tensor:
        _require_method(self.network, "encode_text")
        if tokenizer is None:
            raise InvalidArgument(
                "Got a module and a text, and no tokenizer. Expected a callable from texts to tokens: type "
                "tokenizer=open_clip.get_tokenizer('ViT-B-32'), or whichever belongs to the network."
            )
        warn_of_cut(texts, lambda one: tokenizer([one]), "CLIP")
        return F.normalize(self.network.encode_text(tokenizer(texts).to(device)), dim=1)  # type: ignore[operator]


def _require_method(network: nn.Module, name: str) -> None:
    if not callable(getattr(network, name, None)):
        raise InvalidArgument(
            f"Got a {type(network).__name__} without {name}() as network. Expected a CLIP network, with encode_image "
            "and encode_text; for any other network of images use the loss 'style' with backend='cosine'."
        )
