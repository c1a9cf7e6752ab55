"""An independent judge of likeness: another detector, no alignment, another network, trained on other pictures.

Faces are found by MTCNN (facenet-pytorch) and told apart by FaceRes, a MobileNet (HSE_FaceRec, by way of the npm
package @vladmandic/human). Nothing of it takes part in guidance. `photos.py` fetches both.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

JUDGE = Path(__file__).parent / "data" / "judge"
SAME = 0.65
"""Cosines above this are the same person: pairs of one have 0.7 to 0.8, pairs of two at most 0.6."""


class FaceRes:
    """Interprets the published tfjs graph, up to the average over places: 1024 numbers."""

    OUTPUT = "global_pooling/Mean"
    MEAN = (103.939, 116.779, 123.68)

    def __init__(self) -> None:
        """Read graph and weights."""
        model = json.loads((JUDGE / "faceres.json").read_text())
        data = (JUDGE / "faceres.bin").read_bytes()
        self.nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
        self.weights: dict[str, Tensor] = {}
        offset = 0
        for entry in model["weightsManifest"][0]["weights"]:
            dtype = np.dtype(entry.get("quantization", entry)["dtype"])
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
            self.weights[entry["name"]] = torch.from_numpy(values.astype(np.float32))
            offset += count * dtype.itemsize

    def __call__(self, crops: Tensor) -> Tensor:
        """Return 1024 numbers for each crop (B, 3, 224, 224), RGB in [0, 1]."""
        x = crops.flip(1) * 255 - crops.new_tensor(self.MEAN).view(3, 1, 1)
        return self._value(self.OUTPUT, {"input_1": x})

    def _value(self, name: str, known: dict[str, Any]) -> Tensor:
        if name in self.weights:
            return self.weights[name]
        if name not in known:
            node = self.nodes[name]
            inputs = [self._value(one.split(":")[0], known) for one in node["input"]]
            known[name] = self._run(node["op"], node.get("attr", {}), *inputs)
        return known[name]

    def _run(self, op: str, attributes: dict[str, Any], x: Tensor, *rest: Tensor) -> Tensor:
        if op in ("Conv2D", "DepthwiseConv2dNative"):
            return self._convolve(attributes, x, rest[0], depthwise=op != "Conv2D")
        if op == "Mean":
            return x.mean((2, 3))
        other = rest[0].view(-1, 1, 1) if rest else None  # per channel, or a number
        simple = {"Add": torch.add, "Mul": torch.mul, "Minimum": torch.minimum, "Maximum": torch.maximum}
        return F.relu(x) if op == "Relu" else simple[op](x, other)

    def _convolve(self, attributes: dict[str, Any], x: Tensor, weight: Tensor, *, depthwise: bool) -> Tensor:
        stride = int(attributes["strides"]["list"]["i"][1])
        weight = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(3, 2, 0, 1)
        if base64.b64decode(attributes["padding"]["s"]) == b"SAME":
            pads = []
            for side, reach in zip(reversed(x.shape[2:]), reversed(weight.shape[2:]), strict=True):
                total = max(0, (-(-side // stride) - 1) * stride + reach - side)
                pads += [total // 2, total - total // 2]
            x = F.pad(x, pads)
        return F.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)


class Judge:
    """Finds the surest face in a picture and compares faces."""

    def __init__(self) -> None:
        """Load both networks."""
        sys.path.append(str(JUDGE))
        from mtcnn.models.mtcnn import MTCNN

        self.detector = MTCNN(keep_all=True, device="cpu")
        self.recogniser = FaceRes()

    @torch.no_grad()
    def describe(self, image: Tensor) -> Tensor | None:
        """Return a unit vector (1024,) for the surest face of a picture (1, 3, H, W), or None if there is no face."""
        pixels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        boxes, sure = self.detector.detect(pixels)
        if boxes is None or float(sure[0]) < 0.9:
            return None
        left, top, right, bottom = (float(n) for n in boxes[int(np.argmax(sure.astype(float)))])
        side = max(right - left, bottom - top) * 1.15
        x, y = (left + right - side) / 2, (top + bottom - side) / 2
        axis = (torch.arange(224) + 0.5) / 224 * side
        rows, columns = torch.meshgrid(y + axis, x + axis, indexing="ij")
        grid = torch.stack([columns / image.shape[3], rows / image.shape[2]], -1)[None] * 2 - 1
        blurred = image
        if side > 448:  # an ordinary resize: pixels are averaged, not skipped
            size = [round(n * 224 / side) for n in image.shape[2:]]
            blurred = F.interpolate(image, size, mode="bilinear", antialias=True)
        crop = F.grid_sample(blurred, grid, align_corners=False)
        return F.normalize(self.recogniser(crop)[0], dim=0)

    def similarity(self, one: Tensor, other: Tensor) -> float | None:
        """Return the cosine between the faces of two pictures, or None if there is no face in one."""
        faces = [self.describe(picture) for picture in (one, other)]
        if faces[0] is None or faces[1] is None:
            return None
        return float(faces[0] @ faces[1])
