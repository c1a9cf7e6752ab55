"""`segmentation`: distance to a layout, drawn or taken from a reference image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from guideflow._given import one_of
from guideflow._process import own_state
from guideflow.errors import InvalidArgument
from guideflow.images import check_image
from guideflow.losses.base import Loss
from guideflow.losses.needed import as_needed
from guideflow.losses.vision import cut_middle, read_images, resize
from guideflow.types import PerImage
from guideflow_segmentation.classes import Classes
from guideflow_segmentation.layout import Colour, Layout, draw_layout, read_layout, resize_layout
from guideflow_segmentation.networks import load_segmenter
from guideflow_segmentation.target import Target


class Segmentation(Loss):
    """Cross-entropy between what a network sees where, and the layout that is wanted.

        loss(x) = sum over pixels p of  w[y_p] CE(net(x)_p, y_p)  /  sum over pixels p of  w[y_p]

    y is a layout that you draw, or the classes that the same network sees in a reference image; w is 0 for what is
    ignored. 0 is a perfect layout; log(number of classes) is a network that has no idea.

    Arguments:
        layout: Path of a PNG with a palette or of grey values whose numbers are the classes, such an image of Pillow's,
            or whole numbers (H, W) as tensor or array. It is stretched over the image.
        reference: An image whose layout is wanted, instead of a layout: a path, or a tensor (3, H, W) in [0, 1].
        network: "lraspp" or another segmentation network of torchvision; a folder that `save_pretrained` of
            transformers or segmentation_models_pytorch wrote; "owner/name" on the Hub; or a module from images
            (B, 3, H, W) to logits (B, classes, h, w), which is frozen in place.
        checkpoint: For torchvision's: a file of weights in place of the published ones.
        names: Of the classes, in order, in place of the network's own.
        labels: Names or numbers of the classes that count; by default all.
        others: With labels: "ignore", pixels of other classes are free; "merge", all other classes are one, so what is
            wanted is wanted exactly there.
        ignore_index: Number of pixels in the layout that do not count.
        class_weights: Weight of each class by name or number, 1 for those left out; or one number for every class.
        colours: For a layout drawn in colours: the colour of each class by name or number, such as "#ff8000".
        size: Side or (height, width) at which images are segmented; by default what the checkpoint says (520 for
            torchvision), or the size of the images. A network that was trained on the middle of images sees the middle
            only, unless a size is given.
        mean: Normalisation in place of the checkpoint's, for images in [0, 1]; by default none for a module.
        std: The same.
        device: Where the network runs.

    Raises:
        InvalidArgument: If not exactly one of layout and reference is given, a class is not the network's, nothing
            counts, or options disagree.
        InvalidImage: If a file cannot be read.
        MissingWeights: If the weights are not here and cannot be downloaded.

    Source: Bansal et al. 2023 (Universal Guidance), with LRASPP at 520 x 520, all classes, and weight 400.
    """

    name = "segmentation"

    def __init__(
        self,
        layout: Layout | None = None,
        *,
        reference: str | Path | Tensor | None = None,
        network: str | Path | nn.Module = "lraspp",
        checkpoint: str | Path | None = None,
        names: Sequence[str] | None = None,
        labels: str | int | Sequence[str | int] | None = None,
        others: str = "ignore",
        ignore_index: int = 255,
        class_weights: Mapping[str | int, float] | Mapping[str, float] | Sequence[float] | None = None,
        colours: Mapping[str, Colour] | Mapping[int, Colour] | None = None,
        size: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str = "cpu",
    ) -> None:
        one_of("others", others, ("ignore", "merge"))
        if (layout is None) == (reference is None):
            raise InvalidArgument(
                f"Got {'neither' if layout is None else 'both'} of layout and reference. Expected one of them: "
                "layout='layout.png' or reference='photograph.png'."
            )
        if others == "merge" and labels is None:
            raise InvalidArgument("Got others='merge' without labels. Type labels=['...'], the classes that count.")
        if colours is not None and layout is None:
            raise InvalidArgument("Got colours= without a layout. They say what the colours of a layout mean.")
        self._references = () if reference is None else read_images(reference)
        if len(self._references) > 1:
            raise InvalidArgument(f"Got {len(self._references)} references. Expected one: an image has one layout.")
        self._segmenter = load_segmenter(network, checkpoint, names=names, size=size, mean=mean, std=std, device=device)
        self._references = as_needed(self._references, self._segmenter.preparation.size)
        self._device, self._ignore = device, ignore_index
        self.draw: Callable[[Tensor, int], Tensor] = draw_layout  # how a layout is shown
        self._layout: Tensor | None = None
        classes = Classes(self._segmenter.names, self._count(given=names is not None))
        if layout is not None:
            known = None if colours is None else {classes.number(key): colour for key, colour in colours.items()}
            self._layout = read_layout(layout, known, ignore_index).to(device)
            classes.check(self._layout, ignore_index)
        chosen = classes.numbers(labels)
        self._classes = classes
        self._target = Target(chosen, others == "merge", classes.weights(class_weights), ignore_index)
        self._wanted: dict[tuple[int, int], Tensor] = {}
        if self._layout is not None or self._segmenter.preparation.size is not None:
            given = self._layout if self._layout is not None else self._references[0]
            self._target.require_any(self.wanted(self._segmenter.size(given.float())), classes)

    def __call__(self, image: Tensor) -> PerImage:
        """Return the mean cross-entropy of each image, at least 0."""
        return self._target.cross_entropy(self.logits(image), self.wanted(self._segmenter.size(image)))

    def logits(self, image: Tensor) -> Tensor:
        """Return what the network sees in images (B, 3, H, W) in [0, 1]: logits (B, classes, h, w)."""
        check_image(image)
        return self._segmenter.logits(image, self._segmenter.size(image))

    def segment(self, image: Tensor) -> Tensor:
        """Return the class of each pixel, (B, h, w), without gradient."""
        with torch.no_grad():
            return self.logits(image).argmax(1)

    def iou(self, image: Tensor) -> PerImage:
        """Return how well images obey the layout: intersection over union, mean over its classes that count, (B,)."""
        return self._target.iou(self.segment(image), self.wanted(self._segmenter.size(image)))

    def wanted(self, size: tuple[int, int]) -> Tensor:
        """Return the wanted classes (height, width): resized, or seen in the reference, once for each size.

        Of a network that crops they are those of the middle, whose size it is then.
        """
        if size not in self._wanted:
            if self._layout is not None:
                whole, middle = resize_layout(self._layout, size), self._segmenter.preparation.middle
                self._wanted[size] = whole if middle is None else cut_middle(whole, middle, self._ignore)
            else:
                picture = self._references[0][None].to(self._device)
                with own_state(), torch.no_grad():
                    self._wanted[size] = self._segmenter.logits(resize(picture, size), size)[0].argmax(0)
        return self._wanted[size]

    def references(self) -> tuple[Tensor, ...]:
        """Return the reference image, or the layout drawn in colours, (3, H, W)."""
        return self._references or (self.draw(self._layout, self._ignore),)  # type: ignore[arg-type]

    def describe(self) -> str:
        """Return one line that says what is minimised: the network, and how much of which class is wanted."""
        if not self._wanted:
            return f"{self.name}: the layout that {self._segmenter.title} sees in the reference"
        wanted = next(iter(self._wanted.values()))
        counts = self._target.counted(wanted).to(torch.int64)
        shares = [(float(((wanted == c) & (counts > 0)).float().mean()), c) for c in wanted.unique().tolist()]
        shown = [f"{self._classes.name(c)} {share:.0%}" for share, c in sorted(shares, reverse=True) if share > 0]
        more = ", ..." if len(shown) > 6 else ""
        return f"{self.name} by {self._segmenter.title}: {', '.join(shown[:6])}{more}"

    def _count(self, given: bool) -> int:
        """Number of classes: what the checkpoint names, or as many logits as the network returns for a grey image."""
        names = self._segmenter.names
        if names is not None and not given:
            return len(names)
        side = 2 * self._segmenter.multiple
        size = self._segmenter.size(torch.empty(1, 3, max(side, 64), max(side, 64)))
        with torch.no_grad():
            count = self._segmenter.logits(torch.full((1, 3, *size), 0.5, device=self._device), size).shape[1]
        if names is not None and len(names) != count:
            raise InvalidArgument(f"Got {len(names)} names. Expected {count}, one for each class of the network.")
        return count
