"""Where described things are in images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guideflow.errors import InvalidArgument
from guideflow.losses.processors import preparation_from, read_processor
from guideflow.losses.texts import warn_of_cut
from guideflow.losses.vision import Preparation
from guideflow_subject import DETECTOR
from guideflow_subject.features import CLIP, EXTRA, load

SAME = 0.5
"""Overlap (intersection over union) from which two boxes are of one thing."""


@dataclass(frozen=True)
class Query:
    """What a detector looks for.

    Arguments:
        embedding: In the detector's own terms, (D,).
        box: Left, top, right, bottom of the thing in the image it was taken from, in pixels, (4,).
        score: How sure the detector is of that box, in [0, 1].
    """

    embedding: Tensor
    box: Tensor
    score: float


class Detector(nn.Module, ABC):
    """Finds things that look like one in a reference. Both functions are called without gradient, on float32 images."""

    @abstractmethod
    def query(self, image: Tensor, text: str | None) -> Query | None:
        """Embed a thing in a reference image.

        Arguments:
            image: (1, 3, H, W) in [0, 1].
            text: What it is, such as "a cat"; None for what the image shows as a whole.

        Returns:
            What to look for, or None if there is nothing.
        """

    @abstractmethod
    def find(self, image: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Find candidates.

        Arguments:
            image: (B, 3, H, W) in [0, 1].
            queries: One for each subject, (S, D).

        Returns:
            Boxes (B, N, 4) as left, top, right, bottom in pixels, and scores (B, S, N) in [0, 1].
        """


class OwlViT(Detector):
    """OWL-ViT: with text on the reference, and image-guided on other images.

    The text finds the token of the reference whose box fits it best; its class embedding is the query that image-guided
    detection uses for that box. It is computed once; a look at a batch costs one pass of the vision tower, whatever the
    number of subjects. Scores are sigmoids of the logits, not rescaled.

    Arguments:
        where: Name on the Hub or folder.

    Source: Minderer et al., Simple Open-Vocabulary Object Detection with Vision Transformers (ECCV 2022), section 4.4.
    """

    def __init__(self, where: str = DETECTOR) -> None:
        super().__init__()
        self.network: Any = load("OwlViTForObjectDetection", where, "detector")
        side = self.network.config.vision_config.image_size
        self._where, self._preparation = where, Preparation((side, side), *CLIP, "bicubic")
        if Path(where).is_dir() and (processor := read_processor(where, extra=EXTRA)) is not None:
            found = preparation_from(processor)
            if found.size != (side, side) or found.middle not in (None, (side, side)):
                raise InvalidArgument(f"{where} has no whole images of {side} x {side}. Expected a detector that does.")
            self._preparation = replace(found, middle=None)

    @torch.no_grad()
    def query(self, image: Tensor, text: str | None) -> Query | None:
        """Embed the thing that fits the text best, or else the object that fills the image best."""
        tokens, grid = self._tokens(image)
        boxes = self._boxes(tokens, grid, image)[0]
        _, embeddings = self.network.class_predictor(tokens)
        if text is None:
            _, index, _ = self.network.embed_image_query(tokens, grid)
            if index is None:
                return None
            best, score = int(index.flatten()[0]), 1.0
        else:
            logits = self.network.class_predictor(tokens, self._text(text)[None])[0][0, :, 0]
            best = int(logits.argmax())
            score = float(logits[best].sigmoid())
        return Query(embeddings[0, best], boxes[best], score)

    @torch.no_grad()
    def find(self, image: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Score the box of every token for every query."""
        tokens, grid = self._tokens(image)
        logits = self.network.class_predictor(tokens, queries[None].expand(len(image), -1, -1))[0]
        return self._boxes(tokens, grid, image), logits.sigmoid().transpose(1, 2)

    def _tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vision tower's answer, (B, N, D) and (B, h, w, D)."""
        grid = self.network.image_embedder(pixel_values=self._preparation(image))[0]
        return grid.flatten(1, 2), grid

    def _boxes(self, tokens: Tensor, grid: Tensor, image: Tensor) -> Tensor:
        """Return the box of every token in pixels, within the image, (B, N, 4)."""
        centre, size = self.network.box_predictor(tokens, grid).split(2, dim=-1)
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(0, 1)
        height, width = image.shape[-2:]
        return corners * corners.new_tensor([width, height, width, height])

    def _text(self, text: str) -> Tensor:
        """Return the query of a text, (1, D)."""
        tokenizer = load("AutoTokenizer", self._where, "detector")
        length = self.network.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        warn_of_cut([text], lambda one: tokenizer([one], **options).input_ids, "the detector")
        tokens = tokenizer([text], **options).to(self.network.device)
        found = self.network.owlvit.get_text_features(tokens.input_ids, tokens.attention_mask)
        return found if isinstance(found, Tensor) else found.pooler_output


def candidates(boxes: Tensor, scores: Tensor, floor: float, smallest: float, each: int | None = None) -> list[int]:
    """Choose among boxes (N, 4) of scores (S, N) the best `each` of every subject, without doubles, the best first.

    By default eight more than twice the number of subjects: those of a kind, in a group of that kind, compete for the
    same boxes. Nothing under the score `floor` is a subject, and nothing with a side under `smallest` is looked at.
    """
    best = scores.amax(0)
    usable = (best >= floor) & ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= smallest)
    chosen: list[int] = []
    quota = [2 * len(scores) + 8 if each is None else each] * len(scores)
    for n in torch.where(usable, best, -1.0).argsort(descending=True, stable=True).tolist():
        if not usable[n] or not any(quota):
            break
        wanted = [s for s, left in enumerate(quota) if left and scores[s, n] >= floor]
        if not wanted or any(overlap(boxes[n], boxes[m]) > SAME for m in chosen):
            continue
        chosen.append(n)
        for s in wanted:
            quota[s] -= 1
    return chosen


def overlap(one: Tensor, other: Tensor) -> float:
    """Return the intersection over union of two boxes (4,)."""
    inside = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0).prod()
    union = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - inside
    return float(inside / union.clamp(min=1e-12))
