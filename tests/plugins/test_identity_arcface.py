"""The arcface backend on tiny ONNX files with random weights, laid out as insightface's packs."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from guideflow.errors import InvalidArgument
from guideflow_identity import Identity, arcface
from guideflow_identity.arcface import ArcFaces, Scrfd, WeightsLicence, find_pack
from guideflow_identity.onnx_network import OnnxNetwork, load_network, read_onnx

onnx = pytest.importorskip("onnx")
numpy_helper, helper = onnx.numpy_helper, onnx.helper
reference = pytest.importorskip("onnx.reference")
FLOAT = onnx.TensorProto.FLOAT


class Graph:
    """Builds an ONNX model node by node."""

    def __init__(self):
        self.nodes, self.weights = [], []
        self.generator = np.random.default_rng(0)

    def weight(self, values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def random(self, *shape, scale=0.3):
        return self.weight((self.generator.standard_normal(shape) * scale).astype(np.float32))

    def __call__(self, op, *inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"{op}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x, inputs, outputs, size=3, stride=1):
        pads, kernel = [size // 2] * 4, [size, size]
        weight, bias = self.random(outputs, inputs, size, size), self.random(outputs)
        return self("Conv", x, weight, bias, kernel_shape=kernel, strides=[stride, stride], pads=pads)

    def batch_norm(self, x, width):
        ones = self.weight(np.ones(width, np.float32) * 0.7)
        parts = [self.random(width), self.random(width), ones]
        return self("BatchNormalization", x, self.random(width), *parts, epsilon=2e-5)

    def model(self, shape, outputs, version=11):
        ends = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
        start = helper.make_tensor_value_info("input.1", FLOAT, shape)
        graph = helper.make_graph(self.nodes, "net", [start], ends, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


def recogniser():
    """An IResNet of one block: PRelu, batch norms, a sum, flatten, a matrix and a batch norm."""
    g = Graph()
    x = g("PRelu", g.conv("input.1", 3, 4, stride=2), g.random(4, 1, 1))
    y = g("PRelu", g.conv(g.batch_norm(x, 4), 4, 4), g.random(4, 1, 1))
    x = g("Add", g.conv(y, 4, 4, stride=2), g.conv(x, 4, 4, 1, stride=2))
    x = g("AveragePool", g.batch_norm(x, 4), kernel_shape=[4, 4], strides=[4, 4])
    x = g("Gemm", g("Flatten", x), g.random(512, 4 * 7 * 7), g.random(512), transB=1)
    # Before version 14 the reference of onnx updates the running mean of batch norms even at inference.
    return g.model(["None", 3, 112, 112], [g.batch_norm(x, 512)], version=15)


def detector():
    """SCRFD with one convolution to each grid, and upsampling that asks for shapes, as its exporter writes it."""
    g = Graph()
    levels = [g("Relu", g.conv("input.1", 3, 6, stride=8))]
    for _ in range(2):
        levels.append(g("MaxPool", g.conv(levels[-1], 6, 6), kernel_shape=[2, 2], strides=[2, 2]))
    shape = g("Slice", g("Shape", levels[0]), *(g.weight(np.array([n])) for n in (2, 4, 0)))
    start = g("Slice", g("Shape", levels[1]), *(g.weight(np.array([n])) for n in (0, 2, 0)))
    size = g("Cast", g("Concat", start, shape, axis=0), to=7)
    nothing = g.weight(np.zeros(0, np.float32))
    up = g("Resize", levels[1], nothing, nothing, size, mode="nearest", coordinate_transformation_mode="asymmetric")
    levels[0] = g("Add", levels[0], up)
    outputs = []
    for width in (1, 4, 10):
        for level in levels:
            x = g("Transpose", g.conv(level, 6, 2 * width), perm=[2, 3, 0, 1])
            x = g("Reshape", x, g.weight(np.array([-1, width])))
            outputs.append(g("Sigmoid" if width == 1 else "Relu", x))
    return g.model([1, 3, "h", "w"], outputs)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack in a folder within a folder of the same name, beside a file of another kind."""
    folder = tmp_path_factory.mktemp("models")
    inner = folder / "antelopev2" / "antelopev2"
    inner.mkdir(parents=True)
    onnx.save(detector(), inner / "scrfd_10g_bnkps.onnx")
    onnx.save(recogniser(), inner / "glintr100.onnx")
    g = Graph()
    onnx.save(g.model([1, 3, 96, 96], [g("Relu", "input.1")]), inner / "genderage.onnx")
    return folder


@pytest.fixture
def backend(pack):
    arcface._told.clear()
    with pytest.warns(WeightsLicence, match="non-commercial research only"):
        return ArcFaces(pack, detector_size=64)


def evaluate(model, image):
    return reference.ReferenceEvaluator(model).run(None, {"input.1": image.numpy()})


@pytest.mark.parametrize("make", [recogniser, detector])
def test_the_interpreter_agrees_with_the_reference_of_onnx(make):
    model = make()
    image = torch.rand(1, 3, 112, 112) if make is recogniser else torch.rand(1, 3, 64, 96)
    found = load_network(model)(image)
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
    torch.testing.assert_close(load_network(model)(image)[0], torch.from_numpy(evaluate(model, image)[0]))


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
    torch.testing.assert_close(load_network(model)(image)[0], torch.from_numpy(evaluate(model, image)[0]))


def test_linear_resizing_agrees_with_the_reference_of_onnx():
    g = Graph()
    scales = g.weight(np.array([1, 1, 2, 2], np.float32))
    model = g.model([1, 2, 4, 4], [g("Resize", "input.1", g.weight(np.zeros(0, np.float32)), scales, mode="linear")])
    image = torch.rand(1, 2, 4, 4)
    torch.testing.assert_close(load_network(model)(image)[0], torch.from_numpy(evaluate(model, image)[0]))


def test_an_unknown_operator_is_named_with_the_cure(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx2torch", None)
    g = Graph()
    model = g.model([1, 3, 8, 8], [g("Erf", g("Sin", "input.1"))])
    with pytest.raises(InvalidArgument, match=r"not known here: Erf, Sin.*pip install onnx2torch"):
        load_network(model)


def test_onnx2torch_converts_what_is_not_known_here():
    pytest.importorskip("onnx2torch")
    g = Graph()
    model = g.model([1, 3, 8, 8], [g("Erf", "input.1")])
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(load_network(model)(image)[0], image.erf())


def test_the_recogniser_has_a_true_gradient_in_float64():
    network = OnnxNetwork(recogniser()).double()
    image = torch.rand(1, 3, 112, 112, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(image)[0].square().sum(), image)
    step = 1e-6 * gradient / gradient.norm()
    slope = (network(image + step)[0].square().sum() - network(image - step)[0].square().sum()) / 2e-6
    torch.testing.assert_close(slope.detach(), gradient.norm(), rtol=1e-5, atol=0)


def test_a_nested_pack_is_found_and_its_licence_told_once(pack, backend):
    ArcFaces(pack)  # warnings are errors here, so a second one would be seen
    found, recognised = find_pack(pack)
    assert len(found.graph.output) == 9
    assert len(recognised.graph.output) == 1


def test_a_folder_without_a_pack_is_refused_with_the_cure(pack, tmp_path):
    with pytest.raises(InvalidArgument, match=r"no \.onnx file.*pack='FOLDER'"):
        find_pack(tmp_path)
    onnx.save(recogniser(), tmp_path / "w600k.onnx")
    with pytest.raises(InvalidArgument, match=r"both a detector with landmarks.*Found: w600k\.onnx"):
        find_pack(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no onnx")
    with pytest.raises(InvalidArgument, match=r"broken\.onnx cannot be read as an ONNX file"):
        read_onnx(tmp_path / "broken.onnx")


def test_descriptions_are_unit_vectors_of_rgb_in_minus_one_to_one(backend):
    chips = torch.rand(2, 3, 112, 112)
    raw = backend.recogniser(chips * 2 - 1)[0]
    torch.testing.assert_close(backend.describe(chips), F.normalize(raw, dim=1))
    torch.testing.assert_close(
        backend.distance(chips.flatten(1), chips.flatten(1)).diagonal(), torch.zeros(2), atol=1e-5, rtol=0
    )


class Marks(torch.nn.Module):
    """SCRFD outputs by hand: one face at column 3, row 2 of the grid of stride 8, where red is bright."""

    def forward(self, picture):
        outputs = [[], [], []]
        for stride in Scrfd.STRIDES:
            rows, columns = picture.shape[2] // stride, picture.shape[3] // stride
            score = torch.zeros(rows, columns, 2)
            if stride == 8:
                score[2, 3, 1] = (picture[0, 0, 16, 24] > 0.9).float()
            outputs[0].append(score.view(-1, 1))
            outputs[1].append(torch.ones(rows * columns * 2, 4) * torch.tensor([1.0, 2, 3, 4]))
            outputs[2].append(torch.arange(10.0).expand(rows * columns * 2, 10))
        return [one for kind in outputs for one in kind]


def test_the_detector_is_decoded_and_sees_rgb():
    picture = torch.zeros(2, 3, 64, 64)
    picture[1, 0] = 1
    score, box, points = Scrfd(Marks())(picture)
    assert score.sum(1).tolist() == [0, 1]
    best = score[1].argmax()
    assert box[1, best].tolist() == [24.5 - 8, 16.5 - 16, 24.5 + 24, 16.5 + 32]
    assert points[1, best].tolist() == [[24.5 + 16 * i, 16.5 + 16 * i + 8] for i in range(5)]


def test_faces_are_found_aligned_and_told_apart_end_to_end(backend):
    backend.detector.network = Marks()
    red = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5
    red[:, 0] = 1
    loss = Identity(red[:1], backend=backend, on_missing="skip")
    x = torch.cat([red, torch.zeros(1, 3, 64, 64)]).requires_grad_()
    value = loss(x)
    assert value[0] < 1e-5 < value[1]
    assert value[2] == 2
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient[1].any()
    assert not gradient[2].any()
