"""Judges that no loss uses: held-out identity, segmentation and style networks, and an attribute classifier.

The identity judge has another architecture, another seed and other training identities than the network behind
`avatars-identity`, so an image that merely fools the latter does not fool it; so has the segmentation judge.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow._given import one_of
from guideflow.types import Image, PerImage
from guideflow_avatars.identity import SIZE, WEIGHTS, load_recogniser
from guideflow_avatars.words import asked_attributes
from guideflow_segmentation import Segmenter, load_segmenter

FOLDER = WEIGHTS / "evaluation"


@functools.cache
def network(name: str) -> nn.Module:
    """Load a judge, "identity", "attributes" or "style", frozen."""
    return load_recogniser(FOLDER / name).eval().requires_grad_(False)


@torch.no_grad()
def embed_identity(images: Image) -> Tensor:
    """Unit-norm embeddings by the held-out identity network, (B, 128)."""
    return F.normalize(network("identity")(images.float() * 2 - 1).logits, dim=1)


def identity_similarity(images: Image, reference: Tensor) -> PerImage:
    """Cosine similarity of each image to a reference portrait by the held-out identity network, in [-1, 1].

    Arguments:
        images: (B, 3, 128, 128) in [0, 1].
        reference: (1, 3, 128, 128) or one per image.
    """
    return (embed_identity(images) * embed_identity(reference)).sum(1)


@torch.no_grad()
def style_distance(images: Image, reference: Tensor) -> PerImage:
    """Distance of each image's style to a reference's by the held-out style network: 1 - cosine of its features.

    It was trained on more styles and on other people than the network behind `avatars-style`, with pooled features in
    place of Gram matrices.

    Arguments:
        images: (B, 3, 128, 128) in [0, 1].
        reference: (1, 3, 128, 128) or one per image.
    """
    judge: Any = network("style")
    one, other = (judge.resnet(x.float() * 2 - 1).pooler_output.flatten(1) for x in (images, reference))
    return 1 - F.cosine_similarity(one, other, dim=1)


@functools.cache
def attribute_words() -> dict[str, tuple[str, ...]]:
    """Attributes of the world and their words, in the order of the classifier's outputs."""
    names = [name.split(":") for _, name in sorted(network("attributes").config.id2label.items())]  # type: ignore[union-attr]
    return {key: tuple(word for k, word in names if k == key) for key in dict.fromkeys(k for k, _ in names)}


def check_attributes(attributes: Sequence[str]) -> None:
    """Refuse attributes that the classifier does not know."""
    for one in attributes:
        one_of("attributes", one, tuple(attribute_words()))


@torch.no_grad()
def prompt_accuracy(
    images: Image, prompts: Sequence[str], attributes: Sequence[str] = ("background", "colour", "clothes")
) -> PerImage:
    """Share of the attributes asked for by each prompt that the attribute classifier sees in the image.

    Arguments:
        images: (B, 3, 128, 128) in [0, 1].
        prompts: One per image.
        attributes: The ones that count, of those of `guideflow_avatars.words.WORDS`.

    Returns:
        One number per image in [0, 1]; nan where the prompt asks for none of them.
    """
    words = attribute_words()
    parts = network("attributes")(images.float() * 2 - 1).logits.split([len(w) for w in words.values()], dim=1)
    seen = {key: [words[key][i] for i in part.argmax(1).tolist()] for key, part in zip(words, parts, strict=True)}
    scores = []
    for row, prompt in enumerate(prompts):
        asked = {key: word for key, word in asked_attributes(prompt).items() if key in attributes}
        right = [seen[key][row] == word for key, word in asked.items()]
        scores.append(sum(right) / len(right) if right else float("nan"))
    return torch.tensor(scores)


def layout_iou(images: Image, layouts: Tensor) -> PerImage:
    """How far images have a layout by the held-out segmentation network: `mean_iou` of what it sees.

    Arguments:
        images: (B, 3, 128, 128) in [0, 1].
        layouts: Class numbers (128, 128), or (B, 128, 128), one per image; 255 is free.
    """
    return mean_iou(segment(images), layouts.expand(len(images), -1, -1))


@torch.no_grad()
def segment(images: Image) -> Tensor:
    """Class numbers (B, 128, 128) by the held-out segmentation network."""
    return segmenter().logits(images, (SIZE, SIZE)).argmax(1)


@functools.cache
def segmenter() -> Segmenter:
    """Load the segmentation judge."""
    return load_segmenter(FOLDER / "segmentation")


def mean_iou(seen: Tensor, wanted: Tensor, free: int = 255) -> PerImage:
    """Intersection over union of maps of classes (B, H, W), mean over the classes that are wanted, for each image."""
    counts = wanted != free
    scores = []
    for number in wanted[counts].unique().tolist():
        there, here = (wanted == number) & counts, (seen == number) & counts
        iou = (there & here).sum((1, 2)) / (there | here).sum((1, 2))
        scores.append(iou.where(there.any(2).any(1), float("nan")))
    return torch.stack(scores).nanmean(0)
