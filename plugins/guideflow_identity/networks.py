"""The three networks of the `dlib` backend: where faces are, where their features are, and who they show.

Layouts follow the npm package @vladmandic/face-api, whose weights they carry (`tools/faces` converts them). All are
plain torch, batched and differentiable. `tests/plugins/test_identity_networks.py` compares them with the package's own
code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guideflow.losses.weights import read_weights

WEIGHTS = Path(__file__).parent / "weights"
CELL = 32
"""Pixels of the detector's input per cell of its output."""

ANCHORS = ((1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308))
"""Width and height of the detector's five prior boxes, in cells."""

_DETECTOR_MEAN = (117.001, 114.697, 97.404)
_MEAN = (122.782, 117.001, 104.298)

Network = TypeVar("Network", bound=nn.Module)


def load(network: Network, name: str) -> Network:
    """Fill a network with the weights that ship with this package, frozen and in evaluation mode.

    weight = byte * range[0] + range[1] where a tensor is stored as bytes.
    """
    stored = read_weights(WEIGHTS / f"{name}.safetensors")
    weights = {}
    for key, values in stored.items():
        if key.endswith(".range"):
            continue
        if (extent := stored.get(f"{key}.range")) is not None:
            values = values.double() * extent[0] + extent[1]
        weights[key] = values.float()
    network.float().load_state_dict(weights)  # whatever torch's default dtype is
    return network.eval().requires_grad_(False)


def _normalise(image: Tensor, mean: tuple[float, float, float]) -> Tensor:
    return image - image.new_tensor(mean).view(3, 1, 1) / 255


def _halved(x: Tensor) -> Tensor:
    """Return the largest of each four neighbours, as `max_pool2d` does: on CPUs that takes several times as long."""
    if any(odd := (x.shape[3] % 2, x.shape[2] % 2)):
        x = F.pad(x, (0, odd[0], 0, odd[1]), value=-torch.inf)
    x = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
    return torch.maximum(x[..., ::2], x[..., 1::2])


class Separable(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size, or halve an even one: then only the far side is padded, as TensorFlow does."""
        x = F.pad(x, (1, 1, 1, 1) if self.depthwise.stride == (1, 1) else (0, 1, 0, 1))
        return self.pointwise(self.depthwise(x))


class FaceDetector(nn.Module):
    """TinyFaceDetector: a small YOLO with five prior boxes per cell of 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 16, 3)
        widths = (16, 32, 64, 128, 256, 512)
        for i in range(5):
            self.add_module(f"conv{i + 1}", Separable(widths[i], widths[i + 1]))
        self.conv8 = nn.Conv2d(512, 5 * len(ANCHORS), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return raw outputs (B, H / 32, W / 32, 5 boxes, 5) of images (B, 3, H, W) in [0, 1], sides multiples of 32.

        The five numbers of a box are those that `boxes` reads.
        """
        x = self.conv0(_normalise(image, _DETECTOR_MEAN))
        for i in range(1, 6):
            x = self.get_submodule(f"conv{i}")(F.leaky_relu(_halved(x), 0.1))  # which commutes with the largest of four
        x = F.leaky_relu(x, 0.1)
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, stride=1)
        return self.conv8(x).permute(0, 2, 3, 1).unflatten(3, (len(ANCHORS), 5))

    def boxes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B, N) in [0, 1] and boxes (B, N, 4) as x0, y0, x1, y1 in pixels of every prior box."""
        raw = self(image)
        rows, columns = raw.shape[1:3]
        y, x = torch.meshgrid(*(torch.arange(n, device=raw.device) for n in (rows, columns)), indexing="ij")
        cell = torch.stack([x, y], dim=-1)[:, :, None]
        centre = (cell + raw[..., :2].sigmoid()) * CELL
        half = raw[..., 2:4].clamp(max=8).exp() * raw.new_tensor(ANCHORS) * CELL / 2
        boxes = torch.cat([centre - half, centre + half], dim=-1)
        return raw[..., 4].sigmoid().flatten(1), boxes.flatten(1, 3)


class _Block(nn.Module):
    """Four convolutions, each of which sees the sum of those before it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        first = inputs == 3
        self.conv0 = nn.Conv2d(3, outputs, 3, 2) if first else Separable(inputs, outputs, 2)
        for i in range(1, 4):
            self.add_module(f"conv{i}", Separable(outputs, outputs))
        self.padding = (0, 1, 0, 1) if first else (0, 0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = total = F.relu(self.conv0(F.pad(x, self.padding)))
        for i in range(1, 4):
            total = total + self.get_submodule(f"conv{i}")(x)
            x = F.relu(total)
        return x


class FaceLandmarks(nn.Module):
    """FaceLandmark68: the 68 points of the usual annotation of faces."""

    SIZE = 112

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        for i in range(4):
            self.add_module(f"dense{i}", _Block(widths[i], widths[i + 1]))
        self.fc = nn.Linear(256, 136)

    def forward(self, crops: Tensor) -> Tensor:
        """Return points (B, 68, 2) as fractions of the crop, of crops (B, 3, 112, 112) in [0, 1]."""
        x = _normalise(crops, _MEAN)
        for i in range(4):
            x = self.get_submodule(f"dense{i}")(x)
        return self.fc(x.mean((2, 3))).unflatten(1, (68, 2))


class _Scaled(nn.Module):
    """A convolution with a factor and an offset for each channel."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding=0 if stride > 1 else size // 2)
        self.scale = nn.Module()
        self.scale.weight = nn.Parameter(torch.ones(outputs))
        self.scale.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale.weight.view(-1, 1, 1) + self.scale.bias.view(-1, 1, 1)


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = _Scaled(inputs, outputs, stride=stride)
        self.conv2 = _Scaled(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        if self.stride > 1:
            x = F.avg_pool2d(x, 2)
            # dlib adds tensors of different sizes as if the smaller one were continued with zeros.
            size = [max(a, b) for a, b in zip(x.shape, out.shape, strict=True)]
            x, out = (
                F.pad(t, (0, size[3] - t.shape[3], 0, size[2] - t.shape[2], 0, size[1] - t.shape[1])) for t in (x, out)
            )
        return F.relu(out + x)


class FaceRecogniser(nn.Module):
    """dlib's face recognition network of 29 layers: 128 numbers, Euclidean distance under 0.6 for the same person."""

    SIZE = 150

    def __init__(self) -> None:
        super().__init__()
        self.conv32_down = _Scaled(3, 32, 7, 2)
        self.blocks = []
        width = 32
        for name, outputs in (
            *((f"conv32_{i}", 32) for i in (1, 2, 3)),
            *((f"conv64_{i}", 64) for i in ("down", 1, 2, 3)),
            *((f"conv128_{i}", 128) for i in ("down", 1, 2)),
            *((f"conv256_{i}", 256) for i in ("down", 1, 2, "down_out")),
        ):
            self.add_module(name, _Residual(width, outputs, 2 if "down" in name else 1))
            self.blocks.append(name)
            width = outputs
        self.fc = nn.Linear(256, 128, bias=False)

    def forward(self, chips: Tensor) -> Tensor:
        """Return descriptors (B, 128) of aligned faces (B, 3, 150, 150) in [0, 1]."""
        x = F.max_pool2d(F.relu(self.conv32_down(_normalise(chips, _MEAN))), 3, 2)
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))
