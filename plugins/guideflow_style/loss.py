"""`style`: distance to the style of reference images."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow._given import one_of
from guideflow.errors import InvalidArgument
from guideflow.images import check_image
from guideflow.losses.base import Loss
from guideflow.losses.needed import as_needed
from guideflow.losses.networks import freeze, precision
from guideflow.losses.sharing import shared
from guideflow.losses.vision import ImageSources, Preparation, given, read_images
from guideflow.types import PerImage
from guideflow_clip.models import load_clip, preparation_of
from guideflow_style.features import VGG_LAYERS, ClipTokens, VggFeatures

BACKENDS = ("clip", "clip-gram", "vgg-gram", "cosine", "gram")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Style(Loss):
    """Distance between the style of an image and the style of reference images.

        cosine:  loss(x) = 1 - cos(E(x), E(reference))
        Gram:    loss(x) = mean over layers l of  norm(G_l(x) - G_l(reference))^2 / norm(G_l(reference))^2
                 G_l = F_l^T F_l / tokens,    F_l: features of layer l, (tokens, C)

    Both are 0 for a reference, and near 1 or beyond for what has nothing in common with it. Gram matrices are means
    over places and distances are relative, so a weight that suits one size of images suits others. Of several
    references the target is the mean (of unit vectors, or of Gram matrices), or with `combine="best"` the nearest
    counts.

    Arguments:
        reference: A path, a tensor (3, H, W) or (N, 3, H, W) in [0, 1], or several.
        backend: "clip": cosine of the image embeddings of CLIP RN50, the style of Universal Guidance. "clip-gram":
            Gram matrix of the patch tokens after block 2 (from 0) of CLIP ViT-B/16, that of FreeDoM. "vgg-gram":
            VGG-19, five layers, that of Gatys et al. "cosine" and "gram": the same distances on `network`.
        combine: "mean" or "best".
        network: For the backends of CLIP a name of open_clip, a folder or "owner/name" in place of the published one.
            For every backend a module of images (B, 3, H, W), which is frozen in place: to embeddings (B, C) for a
            cosine; to features (B, C, h, w) or (B, tokens, C), or a list of them, for Gram matrices.
        checkpoint: Tag or file of the weights of the backend's network.
        quick_gelu: Whether weights of CLIP from a file were trained with QuickGELU, where that cannot be told.
        allow_pickle: For the backends of CLIP, as in the loss `clip`: also read weights that run code of their maker's.
        layers: Blocks for "clip-gram", by default [2]; names for "vgg-gram", by default relu1_1 to relu5_1.
        size: Side or (height, width) to which every image is brought; by default what the network was trained on,
            256 for VGG, and images as they are for a module.
        crop: Whether images of other proportions are cropped to their middle (True) or stretched (False); by default
            as the network was trained, cropped for the published ones.
        mean: Normalisation in place of the network's own, for images in [0, 1]; by default none for a module.
        std: The same.
        device: Where the network runs.

    Raises:
        InvalidArgument: If options are unknown or disagree.
        InvalidImage: If a reference cannot be read.
        MissingWeights: If the weights are not here and cannot be downloaded.

    Source: Bansal et al. 2023 (Universal Guidance), Yu et al. 2023 (FreeDoM), Gatys et al. 2016. The first multiplies
    by 100, normalises as for ImageNet and stretches images (`crop=False`); the second takes the norm over the whole
    batch, so that images disturb each other. Not for content: "clip" takes over what is shown as well as how.
    """

    name = "style"

    def __init__(
        self,
        reference: ImageSources,
        *,
        backend: str = "clip",
        combine: str = "mean",
        network: str | Path | nn.Module | None = None,
        checkpoint: str | Path | None = None,
        quick_gelu: bool | None = None,
        allow_pickle: bool = False,
        layers: Sequence[int] | Sequence[str] | None = None,
        size: int | Sequence[int] | None = None,
        crop: bool | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str = "cpu",
    ) -> None:
        one_of("backend", backend, BACKENDS)
        one_of("combine", combine, ("mean", "best"))
        self._references = read_images(reference)
        _refuse_unread(backend, network, checkpoint, quick_gelu, layers)
        if isinstance(network, nn.Module):
            preparation = preparation_of(network) if hasattr(network, "visual") else Preparation()
            if hasattr(network, "encode_image"):  # a whole CLIP network
                network = network.visual
            if backend == "clip-gram" and hasattr(getattr(network, "transformer", None), "resblocks"):
                network = ClipTokens(network, _blocks(layers))
        elif backend == "vgg-gram":
            network = shared(VggFeatures)(
                VGG_LAYERS if layers is None else [str(layer) for layer in layers], checkpoint
            )
            preparation = Preparation((256, 256), *_IMAGENET, "bicubic", crop=True)
        else:
            name = network or ("RN50" if backend == "clip" else "ViT-B-16")
            loaded = load_clip(name, checkpoint, quick_gelu=quick_gelu, allow_pickle=allow_pickle, extra="style")
            network, preparation = loaded.network.visual, loaded.preparation
            network = ClipTokens(network, _blocks(layers)) if backend == "clip-gram" else network
        self.network = freeze(network, device)
        fit = {} if crop is None else {"crop": crop}
        self._preparation = replace(preparation, **given(size, mean, std), **fit)
        self._backend, self._cosine, self._nearest = backend, backend in ("clip", "cosine"), combine == "best"
        self._device = device
        self._references = as_needed(self._references, self._preparation.size)
        self._targets = self._embed_references()

    def towards(self, reference: ImageSources) -> Style:
        """Return this loss with another reference, on the same network."""
        other = copy(self)
        other._references = as_needed(read_images(reference), self._preparation.size)
        other._targets = other._embed_references()
        return other

    @torch.no_grad()
    def _embed_references(self) -> list[Tensor]:
        each = [self.embed_style(one[None].to(self._device)) for one in self._references]
        targets = [torch.cat(layer) for layer in zip(*each, strict=True)]
        if not self._nearest:
            targets = [layer.mean(0, keepdim=True) for layer in targets]
        return [F.normalize(layer, dim=1) for layer in targets] if self._cosine else targets

    def __call__(self, image: Tensor) -> PerImage:
        """Return the distance for each image, at least 0."""
        found = self.embed_style(image)
        if self._cosine:
            return 1 - (found[0] @ self._targets[0].T).amax(1)
        each = torch.stack([_relative(*pair) for pair in zip(found, self._targets, strict=True)])
        return each.mean(0).amin(1)

    def embed_style(self, image: Tensor) -> list[Tensor]:
        """Return what is compared: unit embeddings [(B, C)], or a Gram matrix (B, C, C) of each layer.

        Raises:
            InvalidArgument: If the network returns something else than its backend takes.
        """
        check_image(image)
        output: Any = self.network(self._preparation(image, precision(self.network)))
        features = list(output) if isinstance(output, list | tuple) else [output]
        dims = (2,) if self._cosine else (3, 4)
        for one in features:
            if not isinstance(one, Tensor) or one.dim() not in dims or len(one) != len(image):
                shape = tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__
                wanted = "embeddings (B, C)" if self._cosine else "features (B, C, h, w) or (B, tokens, C)"
                raise InvalidArgument(
                    f"The network returned {shape} for {len(image)} images. backend={self._backend!r} expects "
                    f"{wanted}; type backend={'gram' if self._cosine else 'cosine'!r} for the other kind."
                )
        return [F.normalize(features[0], dim=1)] if self._cosine else [gram(one) for one in features]

    def describe(self) -> str:
        """Return one line that says what is minimised."""
        count = len(self._references)
        return f"{self.name} ({self._backend}, {count} reference{'' if count == 1 else 's'})"


def gram(features: Tensor) -> Tensor:
    """Return Gram matrices, as means over places: G = F^T F / tokens.

    Arguments:
        features: (B, C, h, w) or (B, tokens, C).

    Returns:
        (B, C, C), independent of the number of places.
    """
    tokens = features.flatten(2).transpose(1, 2) if features.dim() == 4 else features
    return tokens.transpose(1, 2) @ tokens / tokens.shape[1]


def _relative(found: Tensor, target: Tensor) -> Tensor:
    """Squared relative distance (B, R) of Gram matrices (B, C, C) to those of the references (R, C, C)."""
    distance = (found[:, None] - target).square().sum((2, 3))
    return distance / target.square().sum((1, 2)).clamp_min(torch.finfo(target.dtype).tiny)


def _blocks(layers: Sequence[int] | Sequence[str] | None) -> list[int]:
    return [2] if layers is None else list(layers)  # type: ignore[arg-type]  # ClipTokens refuses names


def _refuse_unread(backend: str, network: object, checkpoint: object, quick_gelu: object, layers: object) -> None:
    """Refuse options that the backend does not read, rather than ignoring them."""
    module = isinstance(network, nn.Module)
    if not module and backend in ("cosine", "gram"):
        raise InvalidArgument(
            f"Got network={network!r} for backend={backend!r}. Expected a module: network=my_features. For published "
            "networks type backend='clip', 'clip-gram' or 'vgg-gram'."
        )
    if network is not None and not module and backend == "vgg-gram":
        raise InvalidArgument(f"Got network={network!r} for 'vgg-gram'. Expected a module, or checkpoint='vgg19.pth'.")
    unread = {
        "checkpoint": checkpoint is not None and module,
        "quick_gelu": quick_gelu is not None and (module or backend == "vgg-gram"),
        "layers": layers is not None and not (backend == "clip-gram" or (backend == "vgg-gram" and not module)),
    }
    for option, was_given in unread.items():
        if was_given:
            on = "a module" if module else f"backend={backend!r}"
            raise InvalidArgument(f"Got {option}=, which {on} does not read. Leave it out.")
