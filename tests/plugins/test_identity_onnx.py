"""The interpreter of ONNX files against onnx's own reference."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, reference

from guideflow.errors import InvalidArgument
from guideflow_identity.onnx_network import OnnxNetwork
from onnx_graphs import Graph, recogniser


def evaluate(model, image):
    return reference.ReferenceEvaluator(model).run(None, {"input.1": image.numpy()})


def test_the_interpreter_agrees_with_the_reference_of_onnx():
    model = recogniser()
    image = torch.rand(1, 3, 112, 112)
    found = OnnxNetwork(model)(image)
    for one, expected in zip(found, evaluate(model, image), strict=True):
        torch.testing.assert_close(one, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


OPERATORS = {
    "Clip": dict(inputs=[np.float32(-0.5), np.float32(0.5)]),
    "Div": dict(inputs=[np.float32(3)]),
    "Flatten": dict(axis=2),
    "Gather": dict(inputs=[np.array([[2, 0], [-1, 1]])], axis=1),
    "GlobalAveragePool": {},
    "LeakyRelu": dict(alpha=0.2),
    "LpNormalization": dict(axis=1),
    "MatMul": dict(inputs=[np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)]),
    "Mul": dict(inputs=[np.float32(3)]),
    "Pow": dict(inputs=[np.float32(2)]),
    "ReduceMean": dict(axes=[2, 3], keepdims=0),
    "Softmax": dict(axis=3),
    "Squeeze": dict(axes=[0]),
    "Sub": dict(inputs=[np.float32(3)]),
    "Unsqueeze": dict(axes=[0, 2]),
    "Transpose": dict(perm=[0, 3, 1, 2]),
    "Identity": {},
    "Dropout": {},
}


@pytest.mark.parametrize("op", OPERATORS)
def test_an_operator_agrees_with_the_reference_of_onnx(op):
    g, given = Graph(), dict(OPERATORS[op])
    inputs = [g.weight(values) for values in given.pop("inputs", [])]
    model = g.model([1, 4, 6, 6], [g(op, "input.1", *inputs, **given)])
    image = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(OnnxNetwork(model)(image)[0], torch.from_numpy(evaluate(model, image)[0]))


@pytest.mark.parametrize(
    ("op", "given"),
    [
        ("Conv", dict(auto_pad="SAME_UPPER", strides=[2, 2])),
        ("Conv", dict(auto_pad="SAME_LOWER", strides=[2, 2])),
        ("Conv", dict(pads=[0, 1, 2, 3], dilations=[2, 1])),
        ("AveragePool", dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
        ("AveragePool", dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)),
        ("MaxPool", dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    ],
)
def test_padding_agrees_with_the_reference_of_onnx(op, given):
    g = Graph()
    model = g.model([1, 4, 9, 8], [g(op, "input.1", *([g.random(2, 4, 3, 3)] if op == "Conv" else []), **given)])
    image = torch.randn(1, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(OnnxNetwork(model)(image)[0], torch.from_numpy(evaluate(model, image)[0]))


def test_an_unknown_operator_is_named_with_the_cure():
    g = Graph()
    model = g.model([1, 3, 8, 8], [g("Erf", g("Sin", "input.1"))])
    with pytest.raises(InvalidArgument, match=r"not known here: Erf, Sin. Give another"):
        OnnxNetwork(model)


def test_the_recogniser_has_a_true_gradient_in_float64():
    network = OnnxNetwork(recogniser()).double()
    image = torch.rand(1, 3, 112, 112, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(image)[0].square().sum(), image)
    step = 1e-6 * gradient / gradient.norm()
    slope = (network(image + step)[0].square().sum() - network(image - step)[0].square().sum()) / 2e-6
    torch.testing.assert_close(slope.detach(), gradient.norm(), rtol=1e-5, atol=0)


def malformed():
    """A recogniser with one thing wrong, and what the message names."""
    whole = recogniser()
    for number, node in enumerate(whole.graph.node):
        lost = recogniser()
        del lost.graph.node[number]
        yield f"without {node.op_type} {number}", lost
        unread = recogniser()
        unread.graph.node[number].input[0] = "nowhere"
        yield f"{node.op_type} {number} reads nothing", unread
    for number, entry in enumerate(whole.graph.initializer):
        short = recogniser()
        short.graph.initializer[number].dims[0] += 1
        yield f"{entry.name} is short", short
    no_output = recogniser()
    no_output.graph.output[0].name = "nowhere"
    yield "no output", no_output
    name = no_output.graph.node[3].output[0]
    spoilt = recogniser().SerializeToString().replace(name.encode(), b"\xff" * len(name), 1)
    yield f"{name} is no text", onnx.load_from_string(spoilt)


@pytest.mark.parametrize(("what", "model"), list(malformed()), ids=[what for what, _ in malformed()])
def test_malformed_graphs_are_refused_in_one_line(what, model):
    with pytest.raises(InvalidArgument, match=r"cannot be (evaluated at|read)|inputs") as caught:
        OnnxNetwork(model)(torch.zeros(1, 3, 112, 112))
    assert "\n" not in str(caught.value)


def test_weights_of_16_bits_are_read():
    model = recogniser()
    expected = OnnxNetwork(recogniser())(torch.full((1, 3, 112, 112), 0.3))[0]
    for entry in model.graph.initializer:
        values = numpy_helper.to_array(entry)
        if values.dtype == np.float32:
            entry.CopyFrom(numpy_helper.from_array(values.astype(np.float16), entry.name))
    found = OnnxNetwork(model)(torch.full((1, 3, 112, 112), 0.3))[0]
    torch.testing.assert_close(found, expected, atol=0.02 * expected.abs().max().item(), rtol=0)
