"""Small ONNX files with random weights, laid out as insightface's."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

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
        ends = [
            helper.make_tensor_value_info(*((n, FLOAT, None) if isinstance(n, str) else (n[0], FLOAT, n[1])))
            for n in outputs
        ]
        start = helper.make_tensor_value_info("input.1", FLOAT, shape)
        graph = helper.make_graph(self.nodes, "net", [start], ends, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


def recogniser(normalises=False):
    """An IResNet of one block: PRelu, batch norms, a sum, flatten, a matrix and a batch norm."""
    g, x = Graph(), "input.1"
    if normalises:  # as those made from MXNet do
        x = g("Mul", g("Sub", x, g.weight(np.float32(127.5))), g.weight(np.float32(1 / 128)))
    x = g("PRelu", g.conv(x, 3, 4, stride=2), g.random(4, 1, 1))
    y = g("PRelu", g.conv(g.batch_norm(x, 4), 4, 4), g.random(4, 1, 1))
    x = g("Add", g.conv(y, 4, 4, stride=2), g.conv(x, 4, 4, 1, stride=2))
    x = g("AveragePool", g.batch_norm(x, 4), kernel_shape=[4, 4], strides=[4, 4])
    x = g("Gemm", g("Flatten", x), g.random(512, 4 * 7 * 7), g.random(512), transB=1)
    # Before version 14 the reference of onnx updates the running mean of batch norms even at inference.
    return g.model(["None", 3, 112, 112], [(g.batch_norm(x, 512), ["None", 512])], version=15)


BOX, POINTS = [1.0, 2.0, 3.0, 4.0], [float(n) for n in range(10)]


def detector():
    """SCRFD that finds pure red in the grid of stride 8, with a box and points of its strides as given."""
    g = Graph()
    outputs = [[], [], []]
    for stride in (8, 16, 32):
        mean = g("AveragePool", "input.1", kernel_shape=[stride, stride], strides=[stride, stride])
        red = np.array([[40, -40, 0], [0, 0, 0]], np.float32).reshape(2, 3, 1, 1)
        for kind, values in enumerate(([-30.0 if stride == 8 else -200.0], BOX, POINTS)):
            weight = red if kind == 0 else np.zeros((2 * len(values), 3, 1, 1), np.float32)
            bias = np.array([*values, -200.0] if kind == 0 else values * 2, np.float32)
            x = g("Transpose", g("Conv", mean, g.weight(weight), g.weight(bias)), perm=[2, 3, 0, 1])
            x = g("Reshape", x, g.weight(np.array([-1, len(values)])))
            outputs[kind].append((g("Sigmoid", x) if kind == 0 else x, ["places", len(values)]))
    return g.model([1, 3, "h", "w"], [one for kind in outputs for one in kind])
