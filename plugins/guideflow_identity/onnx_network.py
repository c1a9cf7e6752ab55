"""Run an ONNX file in torch, with gradient: a small interpreter of the operators that face recognisers are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.losses.weights import one_line
from guideflow.memory import ran_out
from guideflow_identity.onnx_operators import OPERATORS, Attributes


def read_onnx(path: str | Path) -> Any:
    """Read an ONNX file; the message names the file where it is none."""
    onnx = require("onnx", extra="face")
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf, missing external data, ...
        raise InvalidArgument(f"{path} cannot be read as an ONNX file ({type(error).__name__}: {error}).") from error


class OnnxNetwork(nn.Module):
    """An ONNX graph as a torch module: one input, a list of outputs, weights as buffers.

    Arguments:
        model: What `read_onnx` returned.

    Raises:
        InvalidArgument: If the graph uses an operator or an attribute that is not known here; all are named.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        numpy_helper = require("onnx.numpy_helper", extra="face")
        graph = model.graph
        self._values: dict[str, str | Tensor] = {}
        for i, entry in enumerate(graph.initializer):
            self._keep(_text(entry.name), _array(entry, numpy_helper), f"weight{i}")
        helper = require("onnx.helper", extra="face")
        self._nodes: list[tuple[str, Attributes, tuple[str, ...], tuple[str, ...]]] = []
        for i, node in enumerate(graph.node):
            op, inputs, outputs = _text(node.op_type), tuple(map(_text, node.input)), tuple(map(_text, node.output))
            try:
                attributes = {_text(a.name): helper.get_attribute_value(a) for a in node.attribute}
            except ValueError as error:
                raise InvalidArgument(f"The ONNX network's {op} cannot be read: {one_line(error)}") from error
            if op == "Constant":
                self._keep(outputs[0] if outputs else "", _constant(attributes, numpy_helper), f"constant{i}")
                continue
            self._nodes.append((op, attributes, inputs, outputs))
        if unknown := sorted({op for op, *_ in self._nodes} - OPERATORS.keys()):
            names = ", ".join(unknown)
            raise InvalidArgument(f"ONNX operators that are not known here: {names}. Give another recogniser.")
        given = [name for entry in graph.input if (name := _text(entry.name)) not in self._values]
        if len(given) != 1:
            raise InvalidArgument(f"The network has the inputs {given}. Expected one: images.")
        self._input, self._outputs = given[0], [_text(entry.name) for entry in graph.output]

    def _keep(self, name: str, value: Tensor, buffer: str) -> None:
        """Floats move with the module, in float32 at least; whole numbers are shapes and indices and stay."""
        value = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        if value.is_floating_point():
            self.register_buffer(buffer, value)
        self._values[name] = buffer if value.is_floating_point() else value

    def forward(self, image: Tensor) -> list[Tensor]:
        """Evaluate the graph, node by node."""
        values: dict[str, Any] = {self._input: image, "": None}
        for name, value in self._values.items():
            values[name] = getattr(self, value) if isinstance(value, str) else value
        op, outputs = "its outputs", tuple(self._outputs)
        try:
            for op, attributes, inputs, outputs in self._nodes:
                result = OPERATORS[op](attributes, *(values[name] for name in inputs))
                for name, one in zip(outputs, result if isinstance(result, tuple) else (result,), strict=False):
                    values[name] = one
            return [values[name] for name in self._outputs]
        except InvalidArgument:
            raise
        except Exception as error:  # a malformed graph makes torch raise many kinds
            if ran_out(error):
                raise
            where = f"{op} ({', '.join(outputs)})"
            raise InvalidArgument(f"The ONNX network cannot be evaluated at {where}: {one_line(error)}") from error


def _text(name: str | bytes) -> str:
    """Return a name of a graph; of one that is no text protobuf returns the bytes."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def _constant(attributes: Attributes, numpy_helper: Any) -> Tensor:
    if "value" in attributes:
        return _array(attributes["value"], numpy_helper)
    found = next(iter(attributes.values()), None)
    if not isinstance(found, float | int | list):
        raise InvalidArgument(f"The ONNX network has a constant that is not known here: {sorted(attributes)}.")
    return torch.as_tensor(found)


def _array(entry: Any, numpy_helper: Any) -> Tensor:
    try:
        return torch.from_numpy(numpy_helper.to_array(entry).copy())
    except Exception as error:  # fewer bytes than its shape takes, a type that torch does not have, ...
        raise InvalidArgument(
            f"The ONNX network's {_text(entry.name) or 'constant'} cannot be read: {one_line(error)}"
        ) from error
