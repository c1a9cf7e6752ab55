"""The `arcface` backend: a pack of insightface, its detector as it is, its recogniser with gradient."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.weights import one_line
from guideflow_identity.faces import FaceBackend, Faces
from guideflow_identity.onnx_network import OnnxNetwork, read_onnx

PACKS = Path("~/.insightface/models")
"""Where insightface keeps its packs."""

TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Eyes, nose and corners of the mouth in an aligned face of 112 pixels; 0 is the centre of the first pixel."""

_CURE = "Fetch antelopev2 or buffalo_l from insightface yourself (non-commercial research only) and type pack='FOLDER'."
_told: set[str] = set()


class WeightsLicence(UserWarning):
    """Says once which licence the weights of a pack have."""


class ArcFaces(FaceBackend):
    """insightface's detector, and its ArcFace recogniser as a torch network.

    Faces are found by insightface itself, without gradient. Alignment and recogniser have gradient and are held equal
    to insightface's. The distance is 1 - cosine, in [0, 2]: about 0.3 to 0.6 for two images of a person, near 1 for
    different people. insightface's weights are for non-commercial research only; none are shipped or fetched here.

    Arguments:
        pack: Name of a pack in insightface's own folder (antelopev2, buffalo_l, ...), or a folder with a pack in it at
            any depth; by default the first pack of insightface's folder.
        detector_size: Side of the square the image is fitted into for the detector, a multiple of 32.
        antialias: See `FaceBackend`; False cuts faces out as insightface does.

    Raises:
        InvalidArgument: If there is no detector with landmarks or no recogniser in the folder.
        MissingExtra: If insightface is not installed.
    """

    licence = "non-commercial research only (insightface)"
    size = 112
    grid = 0.0

    def __init__(self, pack: str | Path | None = None, detector_size: int = 640, antialias: bool = True) -> None:
        super().__init__()
        models = load_pack(pack)
        self.antialias = antialias
        self.detector = models["detection"]
        self.detector.prepare(0, input_size=(detector_size, detector_size))
        recogniser = models["recognition"]
        self.recogniser = OnnxNetwork(read_onnx(recogniser.model_file)).eval().requires_grad_(False)
        self._mean, self._std = float(recogniser.input_mean), float(recogniser.input_std)
        _check_recogniser(self.recogniser, self.size)
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
        index, found = [], [image.new_zeros(0, 15)]
        for i, pixels in enumerate((image.detach().clamp(0, 1) * 255).round().nan_to_num().byte().cpu()):
            blue_first = np.ascontiguousarray(pixels.flip(0).permute(1, 2, 0).numpy())
            boxes, points = self.detector.detect(blue_first, det_thresh=floor)
            rows = torch.from_numpy(np.concatenate([boxes, points.reshape(-1, 10)], axis=1)).to(image)
            found.append(rows[rows[:, 4].argsort(descending=True, stable=True)])
            index += [i] * len(rows)
        box, score, points = torch.cat(found).split((4, 1, 10), dim=1)
        # insightface counts from the centre of the first pixel.
        where = torch.tensor(index, dtype=torch.long, device=image.device)
        return Faces(where, score[:, 0], box + 0.5, points.unflatten(1, (5, 2)) + 0.5)

    def embed(self, chips: Tensor) -> Tensor:
        """Return unit vectors, (M, 512)."""
        found: Tensor = self.recogniser((chips * 255 - self._mean) / self._std)[0]
        return F.normalize(found.flatten(1), dim=1)

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return 1 - cosine."""
        return 1 - F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T


def _check_recogniser(network: OnnxNetwork, size: int) -> None:
    """Refuse a graph that does not turn a face into numbers before it is needed."""
    try:
        with torch.no_grad():
            found = network(torch.zeros(1, 3, size, size))
    except (RuntimeError, MemoryError) as error:  # of one face: no graph that is whole takes as much
        why = f"needs more memory for one face than there is ({one_line(error)})"
        raise InvalidArgument(f"The recogniser of the pack {why}. Give another pack.") from error
    if not found or not isinstance(found[0], Tensor) or not found[0].is_floating_point() or len(found[0]) != 1:
        raise InvalidArgument("The recogniser of the pack returns no embedding of a face. Give another pack.")


def _loadable(place: Path) -> dict[str, Any]:
    """Load what can be loaded of a pack of which some file is damaged."""
    models: dict[str, Any] = {}
    for file in sorted(place.glob("*.onnx")):
        try:
            model = require("insightface.model_zoo", extra="face").get_model(str(file))
        except Exception:  # onnxruntime raises its own
            continue
        if model is not None:
            models.setdefault(model.taskname, model)
    return models


def load_pack(pack: str | Path | None = None) -> dict[str, Any]:
    """Load the models "detection" and "recognition" of a pack with insightface; nothing is downloaded.

    Some packs unpack into a folder within a folder of the same name. Of several packs the first by name is taken.
    """
    folder = PACKS.expanduser() if pack is None else Path(os.path.expanduser(pack))
    if not folder.is_dir():
        folder = PACKS.expanduser() / str(pack)
    files = sorted(folder.rglob("*.onnx"))
    if not files:
        raise InvalidArgument(f"There is no insightface pack in {folder}: no .onnx file in it. {_CURE}")
    if odd := [file for file in files if not file.is_file()]:  # a pipe would hang
        raise InvalidArgument(f"{odd[0]} is no file. Expected ONNX files only.")
    app = require("insightface.app", extra="face")
    for place in sorted({parent for file in files for parent in file.parents if parent.is_relative_to(folder)}):
        try:
            models: dict[str, Any] = app.FaceAnalysis(str(place), allowed_modules=["detection", "recognition"]).models
        except AssertionError:  # how insightface says that there is no detector
            continue
        except Exception as error:  # onnxruntime raises its own
            models = _loadable(place)
            if not {"detection", "recognition"} <= models.keys():
                raise InvalidArgument(f"insightface cannot load {place}: {one_line(error)}") from error
        if "recognition" in models and models["detection"].use_kps:
            return models
    listing = ", ".join(str(file.relative_to(folder)) for file in files)
    raise InvalidArgument(
        f"No folder in {folder} has both a detector with landmarks and a recogniser. Found: {listing}. {_CURE}"
    )
