"""`avatars-subject`: distance of pictures, or of what is found in them, in features learnt without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from guideflow_avatars.identity import SIZE, WEIGHTS
from guideflow_subject import Detector, Subject
from guideflow_subject.references import References


class AvatarsSubject(Subject):
    """Distance between portraits in the features of a small vision transformer that was trained without labels.

        loss(x) = mean over subjects s of  d(crop(x, box s), crop(reference s))
        d(a, b) = 1 - cos(f(a), f(b)) + l1 mean |a - b|

    `subject` with a network of DINOv2's layout for 64x64 portraits. Its features know skin and hair colour best, shapes
    of hair partly, beards hardly; place, size, mirror image, background and clothes matter little. 0 is a perfect
    likeness. Without a detector whole pictures are compared; with one, several people in one picture are told apart.

    Arguments:
        reference: A picture of the subject: a path, or a tensor (1, 3, H, W) or (3, H, W) in [0, 1]. With a detector,
            a list with one entry for each subject: a picture, or a list of pictures of that subject. Subjects are
            matched with what is found so that the sum of distances is least, and no box is used twice.
        text: What the subject is, for a detector that reads.
        same_subject: A flat list of pictures shows one subject.
        combine: With several pictures of a subject: "mean", distance to the mean of their features, or "best", to the
            nearest of them.
        l1: Weight of the mean difference of pixels.
        network: Folder, name on the Hub, or a module from pictures (M, 3, size, size), normalised as ImageNet's, to
            features (M, C); None for the bundled one.
        size: Side of the crops that the network sees, in pixels.
        detector: A `guideflow_subject.Detector`, name on the Hub or folder; None to compare whole pictures.
        floor: Score in [0, 1] under which nothing is taken for a subject.
        on_missing: If a subject is not found in a picture: "last", "center", "skip" or "raise".
        missing_penalty: Loss of a subject that is not found; by default nothing is farther.
        device: Where the networks run.

    Raises:
        InvalidArgument: If options are outside their range or disagree.
        InvalidImage: If a reference cannot be read.
        MissingExtra: If transformers or torchvision is not installed.
        MissingWeights: If `network` names no network.
        NoSubjectFound: If a subject is not in its reference, or in a picture with `on_missing="raise"`.

    Not for a likeness in every feature, for which `avatars-identity` has the better network.

    Source: Sun et al., RectifID (2024), appendix C, with features trained by InfoNCE (van den Oord et al., 2018).
    """

    name = "avatars-subject"

    def __init__(
        self,
        reference: References,
        *,
        text: str | Sequence[str] | None = None,
        same_subject: bool = False,
        combine: str = "mean",
        l1: float = 0.0,
        network: str | Path | nn.Module | None = None,
        size: int = SIZE,
        detector: str | Path | Detector | None = None,
        floor: float = 0.1,
        on_missing: str = "last",
        missing_penalty: float | None = None,
        device: str = "cpu",
    ) -> None:
        """Load the bundled network, unless another is given, and describe the subjects."""
        super().__init__(
            reference,
            text=text,
            same_subject=same_subject,
            combine=combine,
            l1=l1,
            network=WEIGHTS / "subject" if network is None else network,
            size=size,
            detector=detector,
            floor=floor,
            on_missing=on_missing,
            missing_penalty=missing_penalty,
            device=device,
        )
