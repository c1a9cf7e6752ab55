"""The ONNX operators that face networks are made of, in torch: all differentiable where they can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from guideflow.errors import InvalidArgument

Attributes = dict[str, Any]
Operator = Callable[..., Any]


def _whole(values: Tensor | Sequence[int] | None) -> list[int]:
    return [] if values is None else [int(v) for v in (values.tolist() if isinstance(values, Tensor) else values)]


def _pads(a: Attributes, x: Tensor, size: Sequence[int]) -> list[int]:
    """Padding in torch's order (last dimension first), from `pads` or `auto_pad`."""
    spatial = len(size)
    auto = a.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        strides, dilations = a.get("strides", [1] * spatial), a.get("dilations", [1] * spatial)
        pads = []
        for i in reversed(range(spatial)):
            reach = (size[i] - 1) * dilations[i] + 1
            total = max(0, (-(-x.shape[2 + i] // strides[i]) - 1) * strides[i] + reach - x.shape[2 + i])
            small, large = total // 2, total - total // 2
            pads += [small, large] if auto == "SAME_UPPER" else [large, small]
        return pads
    given = a.get("pads", [0] * 2 * spatial)
    return [pad for i in reversed(range(spatial)) for pad in (given[i], given[i + spatial])]


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    convolve = cast(Operator, (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3])
    stride, dilation = a.get("strides", 1), a.get("dilations", 1)
    stride, dilation = (tuple(v) if isinstance(v, list) else v for v in (stride, dilation))
    padded = F.pad(x, _pads(a, x, weight.shape[2:]))
    return cast(Tensor, convolve(padded, weight, bias, stride, 0, dilation, a.get("group", 1)))


def _pool(a: Attributes, x: Tensor, *, maximum: bool) -> Tensor:
    size, stride, ceil = list(a["kernel_shape"]), list(a.get("strides", [1, 1])), bool(a.get("ceil_mode", 0))
    pads = _pads(a, x, size)
    if maximum:
        return F.max_pool2d(F.pad(x, pads, value=-torch.inf), size, stride, ceil_mode=ceil)
    total = F.avg_pool2d(F.pad(x, pads), size, stride, ceil_mode=ceil)
    if not any(pads) or a.get("count_include_pad", 0):
        return total
    return total / F.avg_pool2d(F.pad(torch.ones_like(x), pads), size, stride, ceil_mode=ceil)


def _gemm(a: Attributes, x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
    product = a.get("alpha", 1.0) * (x.T if a.get("transA") else x) @ (y.T if a.get("transB") else y)
    return product if z is None else product + a.get("beta", 1.0) * z


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = [x.shape[i] if n == 0 and not a.get("allowzero") else n for i, n in enumerate(_whole(shape))]
    return x.reshape(wanted)


def _slice(a: Attributes, x: Tensor, *more: Tensor) -> Tensor:
    starts, ends, axes, steps = ([_whole(m) for m in more] + [[], [], [], []])[:4]
    starts, ends, axes = starts or a["starts"], ends or a["ends"], axes or a.get("axes", [])
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[i] if steps else 1
        if step < 0:
            raise InvalidArgument("The network slices backwards, which is not known here.")
        place: list[Any] = [slice(None)] * x.dim()
        place[axes[i] if axes else i] = slice(start, end, step)
        x = x[tuple(place)]
    return x


def _gather(a: Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    found = x.index_select(axis, index.reshape(-1).to(x.device) % x.shape[axis])
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _axes(a: Attributes, more: tuple[Tensor, ...]) -> list[int]:
    return _whole(more[0]) if more else a.get("axes", [])


def _unsqueeze(a: Attributes, x: Tensor, *more: Tensor) -> Tensor:
    for axis in sorted(_axes(a, more)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(a: Attributes, x: Tensor, *more: Tensor) -> Tensor:
    for axis in sorted((n % x.dim() for n in _axes(a, more)), reverse=True):
        x = x.squeeze(axis)
    return x


def _cast(a: Attributes, x: Tensor) -> Tensor:
    kinds = {1: x.dtype if x.is_floating_point() else torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}
    if a["to"] not in kinds:
        raise InvalidArgument(f"The network casts to the ONNX type {a['to']}, which is not known here.")
    return x.to(kinds[a["to"]])


OPERATORS: dict[str, Operator] = {
    "Add": lambda _, x, y: x + y,
    "AveragePool": lambda a, x: _pool(a, x, maximum=False),
    "BatchNormalization": lambda a, x, w, b, mean, var: F.batch_norm(x, mean, var, w, b, eps=a.get("epsilon", 1e-5)),
    "Cast": _cast,
    "Clip": lambda a, x, low=None, high=None: x.clamp(a.get("min", low), a.get("max", high)),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "Div": lambda _, x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc"),
    "Dropout": lambda _, x, *more: x,
    "Flatten": lambda a, x: x.reshape(math.prod(x.shape[: a.get("axis", 1)]), -1),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda _, x: x,
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "LpNormalization": lambda a, x: F.normalize(x, a.get("p", 2), a.get("axis", -1)),
    "MatMul": lambda _, x, y: x @ y,
    "MaxPool": lambda a, x: _pool(a, x, maximum=True),
    "Mul": lambda _, x, y: x * y,
    "PRelu": lambda _, x, slope: torch.where(x >= 0, x, x * slope),
    "Pow": lambda _, x, y: x**y,
    "ReduceMean": lambda a, x, *more: x.mean(_axes(a, more) or list(range(x.dim())), bool(a.get("keepdims", 1))),
    "Relu": lambda _, x: F.relu(x),
    "Reshape": _reshape,
    "Shape": lambda _, x: torch.tensor(x.shape),
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Slice": _slice,
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Sqrt": lambda _, x: x.sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda _, x, y: x - y,
    "Transpose": lambda a, x: x.permute(a.get("perm", tuple(reversed(range(x.dim()))))),
    "Unsqueeze": _unsqueeze,
}
"""What each operator does, with its attributes first; versions 9 to 21 of the standard set."""
