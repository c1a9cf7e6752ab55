"""The `arcface` backend: detector and recogniser of an insightface pack from the user's own folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow_identity.faces import FaceBackend, Faces, suppress
from guideflow_identity.onnx_network import load_network, read_onnx

PACKS = Path("~/.insightface/models")
"""Where insightface keeps the packs it has fetched."""

TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Eyes, nose and corners of the mouth in an aligned face of 112 pixels; 0 is the centre of the first pixel."""

_told: set[str] = set()


class WeightsLicence(UserWarning):
    """Says once which licence the weights of a pack have."""


class ArcFaces(FaceBackend):
    """insightface's SCRFD detector and an ArcFace recogniser, as torch networks.

    The distance is 1 - cosine, in [0, 2]: about 0.3 to 0.6 for two pictures of a person, near 1 for different people.
    insightface's weights are for non-commercial research only; none are shipped or fetched here.

    Arguments:
        pack: Folder of a pack (antelopev2, buffalo_l, ...), at any depth; by default insightface's own folder.
        detector_size: Side of the square the picture is fitted into for the detector, a multiple of 32.
        antialias: See `FaceBackend`; False cuts faces out as insightface does.

    Raises:
        InvalidArgument: If there is no detector with landmarks or no recogniser in the folder.
        MissingExtra: If onnx is not installed.
    """

    licence = "non-commercial research only (insightface)"
    size = 112

    def __init__(self, pack: str | Path | None = None, detector_size: int = 640, antialias: bool = True) -> None:
        """Find the two files and read them."""
        super().__init__()
        detector, recogniser = find_pack(Path(PACKS if pack is None else pack).expanduser())
        self.detector_size, self.antialias = detector_size, antialias
        self.detector = Scrfd(load_network(detector))
        self.recogniser = load_network(recogniser)
        self._mean, self._std = (0.0, 1.0) if _normalises(recogniser) else (127.5, 127.5)
        self.register_buffer("template", torch.tensor(TEMPLATE) + 0.5)
        if self.licence not in _told:
            _told.add(self.licence)
            warnings.warn(
                "insightface's weights may be used for non-commercial research only. backend='dlib' is free of that.",
                WeightsLicence,
                stacklevel=3,
            )

    @torch.no_grad()
    def find(self, image: Tensor, floor: float) -> Faces:
        """Find faces with their five points."""
        image = image.detach().clamp(0, 1)
        scale = self.detector_size / max(image.shape[-2:])
        height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
        small = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
        score, box, points = self.detector(
            F.pad(small, (0, self.detector_size - width, 0, self.detector_size - height))
        )
        place, score, kept = suppress(score, box, overlap=0.6)
        index, rank = (kept & (score >= floor)).nonzero(as_tuple=True)
        which = place[index, rank]
        return Faces(index, score[index, rank], box[index, which] / scale, points[index, which] / scale)

    def describe(self, chips: Tensor) -> Tensor:
        """Return unit vectors, (M, 512)."""
        found: Tensor = self.recogniser((chips * 255 - self._mean) / self._std)[0]
        return F.normalize(found.flatten(1), dim=1)

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return 1 - cosine."""
        return 1 - F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T


class Scrfd(nn.Module):
    """Reads the outputs of SCRFD: scores, distances to the sides and five points, for every place of three grids.

    The networks take RGB: insightface's Python functions expect BGR arrays, and swap.

    Arguments:
        network: Pictures to nine outputs, (N, 1), (N, 4) and (N, 10) for the strides 8, 16 and 32 each.
    """

    STRIDES = (8, 16, 32)

    def __init__(self, network: nn.Module) -> None:
        """Keep the network."""
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores (B, N), boxes (B, N, 4) and points (B, N, 5, 2) in pixels, of pictures in [0, 1]."""
        # One by one: the published graphs flatten a batch into one list of places.
        found = [self._one((picture * 255 - 127.5) / 128) for picture in image.split(1)]
        score, box, points = (torch.stack(parts) for parts in zip(*found, strict=True))
        return score, box, points

    def _one(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.network(picture)
        scores, boxes, points = [], [], []
        for i, stride in enumerate(self.STRIDES):
            score, sides, offsets = (outputs[i + 3 * k].reshape(-1, width) for k, width in enumerate((1, 4, 10)))
            rows, columns = picture.shape[2] // stride, picture.shape[3] // stride
            y, x = torch.meshgrid(*(torch.arange(n, device=picture.device) for n in (rows, columns)), indexing="ij")
            each = len(score) // (rows * columns)
            # insightface counts from the centre of the first pixel.
            centre = (torch.stack([x, y], -1).view(-1, 2).repeat_interleave(each, 0) * stride + 0.5).to(picture)
            scores.append(score[:, 0])
            boxes.append(torch.cat([centre - sides[:, :2] * stride, centre + sides[:, 2:] * stride], 1))
            points.append(centre[:, None] + offsets.view(-1, 5, 2) * stride)
        return torch.cat(scores), torch.cat(boxes), torch.cat(points)


def find_pack(folder: Path) -> tuple[Any, Any]:
    """Read the detector and the recogniser of a pack, told by their inputs and outputs, at any depth of a folder.

    Some packs unpack into a folder within a folder of the same name. Of several packs the first by name is taken; of
    several recognisers the largest.

    Raises:
        InvalidArgument: If one is missing. The message says what was found.
    """
    files = sorted(folder.rglob("*.onnx")) if folder.is_dir() else []
    cure = (
        "Fetch antelopev2 or buffalo_l from insightface yourself (non-commercial research only) and type pack='FOLDER'."
    )
    if not files:
        raise InvalidArgument(f"There is no insightface pack in {folder}: no .onnx file in it. {cure}")
    for names in _packs(files):
        models = {path: read_onnx(path) for path in names}
        detectors = [model for model in models.values() if len(model.graph.output) == 9]
        recognisers = [path for path, model in models.items() if _is_recogniser(model)]
        if detectors and recognisers:
            return detectors[0], models[max(recognisers, key=lambda path: path.stat().st_size)]
    listing = ", ".join(str(path.relative_to(folder)) for path in files)
    raise InvalidArgument(
        f"No folder in {folder} has both a detector with landmarks (nine outputs) and a recogniser (pictures of "
        f"112 pixels to one vector). Found: {listing}. {cure}"
    )


def _packs(files: list[Path]) -> Iterator[list[Path]]:
    for parent in sorted({path.parent for path in files}):
        yield [path for path in files if path.parent == parent]


def _is_recogniser(model: Any) -> bool:
    weights = {entry.name for entry in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        return False
    return [d.dim_value for d in inputs[0].type.tensor_type.shape.dim][1:] == [3, 112, 112]


def _normalises(model: Any) -> bool:
    """Whether the graph itself begins with a subtraction and a multiplication, as those made from MXNet do."""
    names = [node.name for node in model.graph.node[:8]]
    return any(n.startswith(("Sub", "_minus")) for n in names) and any(n.startswith(("Mul", "_mul")) for n in names)
