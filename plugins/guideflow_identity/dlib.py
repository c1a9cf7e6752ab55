"""The `dlib` backend: public-domain recogniser, with a small detector and landmarks, all shipped with this package."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow_identity.faces import FaceBackend, Faces, suppress
from guideflow_identity.geometry import apply, invert, square, warp
from guideflow_identity.networks import CELL, FaceDetector, FaceLandmarks, FaceRecogniser, load

_CORNERS = (45, 42, 36, 39, 33)
"""Among the 68 points: the corners of the eyes, and the base of the nose."""

_TEMPLATE = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)
_OVERLAP = 0.4
"""As insightface has it: boxes of one face share more, those of two faces in a crowd less."""

_PADDING = 0.25
_MARGIN = 1.1
"""Side of what the landmarks see, relative to the box."""


class DlibFaces(FaceBackend):
    """dlib's face recognition network behind face-api's detector and landmarks.

    The distance is the squared Euclidean distance, which the network was trained for: under 0.2 for two good images
    of a person, 0.34 to 1.1 for different people.

    Arguments:
        detector_sizes: Longest sides of the image in the detector, in pixels. Large ones find small faces, small ones
            those that fill the image.
    """

    licence = "public domain (recogniser), MIT (detector, landmarks)"
    size = FaceRecogniser.SIZE

    def __init__(self, detector_sizes: tuple[int, ...] = (512, 256)) -> None:
        super().__init__()
        self.detector_sizes = detector_sizes
        self.detector = load(FaceDetector(), "detector")
        self.landmarks = load(FaceLandmarks(), "landmarks")
        self.recogniser = load(FaceRecogniser(), "recogniser")
        template = (torch.tensor(_TEMPLATE) + _PADDING) / (1 + 2 * _PADDING) * self.size
        self.register_buffer("template", template)

    @torch.no_grad()
    def find(self, image: Tensor, floor: float) -> Faces:
        """Find faces and the 68 points in each: in the box, then twice in an upright cut about the last points."""
        image = image.detach().clamp(0, 1)
        found = [self._boxes(image, size) for size in self.detector_sizes]
        score, box = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        index, place = suppress(score, box, floor, _OVERLAP)
        score, box = score[index, place], box[index, place]
        points = self._points(image, index, square(box, FaceLandmarks.SIZE, _MARGIN))
        for _ in range(2):  # the landmarks expect an upright face
            points = self._points(image, index, _upright(points))
        return Faces(index, score, box, points[:, _CORNERS])

    def _boxes(self, image: Tensor, size: int) -> tuple[Tensor, Tensor]:
        scale = size / max(image.shape[-2:])
        height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
        small = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
        score, box = self.detector.boxes(F.pad(small, (0, -width % CELL, 0, -height % CELL)))
        return score, box / scale

    def _points(self, image: Tensor, index: Tensor, matrix: Tensor) -> Tensor:
        crops = warp(image, index, matrix, FaceLandmarks.SIZE)
        return apply(invert(matrix), self.landmarks(crops) * FaceLandmarks.SIZE)

    def embed(self, chips: Tensor) -> Tensor:
        """Return 128 numbers for each face."""
        return self.recogniser(chips)

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return squared Euclidean distances."""
        return (one[:, None] - other[None]).square().sum(-1)


def _upright(points: Tensor) -> Tensor:
    """Return the transforms that cut faces out with level eyes, of 68 points each."""
    across = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    cosine, sine = F.normalize(across, dim=1).unbind(1)
    turn = torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], -2)
    level = points @ turn.transpose(-1, -2)
    cut = square(torch.cat([level.amin(1), level.amax(1)], dim=1), FaceLandmarks.SIZE, _MARGIN)
    return torch.cat([cut[:, :, :2] @ turn, cut[:, :, 2:]], dim=2)
