"""Builds the encoder's ONNX graph from the published weights.

    python -m safeguard_streams.prefilter.encoder.graph [FILE]

Equal weights give equal bytes. The network is a sum over tokens: three convolutions of two layers each, over windows of
2, 3 and 5 tokens, beside the token's own embedding; then a dense part for each text.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from safeguard_streams.prefilter.encoder import files
from safeguard_streams.prefilter.encoder.tokens import BEGINNING, END, LEFT

ORDERS = ((2, 0), (3, 1), (5, 2))  # of the convolutions: tokens of a window, and those before its own token
CHANNELS = 256  # of each convolution
MAX_WEIGHT = 63  # times 255, twice, fits the 16 bits of older processors' instructions
ZERO = 128  # the code of an activation of 0
OPSET, IR_VERSION = 18, 9
# Sequences of pieces from the whole vocabulary, which measure how large activations get.
SEQUENCES, SEQUENCE, STEP = 300, 64, 7919
LEAST_RANGE = 0.5

Floats = NDArray[np.float64]


class Builder:
    """Collects nodes and constants. Each method adds an operation and returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"{kind}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def quantised(self, x: str) -> str:
        """Activations in steps of 1, as codes around ZERO."""
        return str(self.add("QuantizeLinear", x, self.constant(1), self.constant(ZERO, np.uint8)))

    def product(self, codes: str, weights: Floats, bias: Floats | None = None, zero: int = ZERO) -> str:
        """The product of codes and weights, which get a scale for each column."""
        steps, scale = in_steps(weights)
        inputs = [codes, self.constant(steps, np.int8), self.constant(1), self.constant(scale)]
        inputs += [self.constant(zero, np.uint8), ""]
        inputs += [] if bias is None else [self.constant(bias)]
        return str(self.add("MatMulIntegerToFloat", *inputs, domain="com.microsoft"))

    def dense(self, x: str, weights: Floats) -> str:
        """The product of activations and weights. Each row of activations, a text, has a scale of its own."""
        largest = self.add("ReduceMax", self.add("Abs", x), self.constant([-1], np.int64))
        scale = self.add("Div", self.add("Max", largest, self.constant(1e-6)), self.constant(127))
        return str(self.add("Mul", self.product(self.quantised(self.add("Div", x, scale)), weights), scale))


def in_steps(weights: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights [rows, columns] in steps of -63 to 63, and the size of a step for each column."""
    scale = (np.abs(weights).max(axis=0) / MAX_WEIGHT).astype(np.float32)
    return np.rint(weights / scale).astype(np.int8), scale


def build(weights: dict[str, Floats], ranges: Floats) -> bytes:
    """The graph. ranges [768]: the largest activation of each channel of the convolutions' first layers."""
    graph = Builder()
    scale = ranges / 127
    embedding, x = _input(graph, weights, scale)
    branches = graph.add("Split", x, outputs=len(ORDERS), axis=1, num_outputs=len(ORDERS))
    features = [embedding]
    for number, branch in enumerate(branches):
        of_branch = scale[number * CHANNELS : (number + 1) * CHANNELS]
        features.append(_convolutions(graph, weights, branch, ORDERS[number], of_branch))
    joined = graph.add("Concat", *features, axis=1)
    _text(graph, weights, _normalised(graph, joined, weights["ln_g"], weights["ln_b"], weights["eps"]))
    return _model(graph)


def _normalised(graph: Builder, x: str, gain: Floats, shift: Floats, epsilon: Floats) -> str:
    inputs = [x, graph.constant(gain), graph.constant(shift)]
    return str(graph.add("LayerNormalization", *inputs, axis=-1, epsilon=float(epsilon)))


def _input(graph: Builder, weights: dict[str, Floats], scale: Floats) -> tuple[str, str]:
    """The embeddings of all tokens, and their projections in steps of `scale`."""
    step, low = [graph.add("Gather", graph.constant(weights[n][:, None]), "chunk") for n in ("scale", "lo")]
    values = graph.add("Cast", "codes", to=TensorProto.FLOAT)
    embedding = graph.add("Add", graph.add("Mul", values, step), low)
    projection, bias = _joined(weights, "proj"), _joined(weights, "proj_b")
    steps, size = in_steps(projection)
    of_low = weights["lo"][:, None] * (steps.sum(axis=0, dtype=np.int64) * size) + bias  # [chunks, channels]
    product = graph.add("Mul", graph.product("codes", projection, zero=0), step)
    x = graph.add("Add", product, graph.add("Gather", graph.constant(of_low), "chunk"))
    gain, shift = _joined(weights, "ln_g") / scale, _joined(weights, "ln_b") / scale
    return embedding, _normalised(graph, x, gain, shift, weights["eps"])


def _joined(weights: dict[str, Floats], name: str) -> Floats:
    return np.concatenate([weights[f"{name}{order}"] for order, _ in ORDERS], axis=-1)


def _convolutions(graph: Builder, weights: dict[str, Floats], x: str, order: tuple[int, int], scale: Floats) -> str:
    """Two layers over windows of x, which is in steps of `scale`. Each adds what it finds to its input."""
    size, _ = order
    name = f"_{size}"
    rows = np.tile(scale, size)[:, None]
    found = graph.product(_windows(graph, x, order), weights[f"w1{name}"] * rows / scale, weights[f"b1{name}"] / scale)
    h = graph.add("Add", graph.add("Relu", found), x)
    found = graph.product(_windows(graph, h, order), weights[f"w2{name}"] * rows, weights[f"b2{name}"])
    return str(graph.add("Add", graph.add("Relu", found), graph.add("Mul", h, graph.constant(scale))))


def _windows(graph: Builder, x: str, order: tuple[int, int]) -> str:
    """The codes of the tokens of each window, side by side. Beyond the ends of a text they are ZERO."""
    size, before = order
    outside = graph.constant(np.full((1, CHANNELS), ZERO), np.uint8)
    codes = graph.add("Concat", graph.quantised(x), outside, axis=0)
    first, last = LEFT - before, LEFT - before + size
    bounds = [graph.constant([place], np.int64) for place in (first, last, 1)]
    inside = graph.add("Gather", codes, graph.add("Slice", "window", *bounds), axis=0)
    return str(graph.add("Reshape", inside, graph.constant([-1, size * CHANNELS], np.int64)))


def _text(graph: Builder, weights: dict[str, Floats], features: str) -> None:
    """The vector of each text from the features of its tokens."""
    width = graph.constant([features_width()], np.int64)
    texts = graph.add("Slice", graph.add("Shape", "length"), *[graph.constant([place], np.int64) for place in (0, 1)])
    empty = graph.add("ConstantOfShape", graph.add("Concat", texts, width, axis=0))
    total = graph.add("ScatterND", empty, "text", features, reduction="add")
    shift = graph.add("Mul", "length", graph.constant(weights["cnn_b"]))
    mean = graph.add("Add", graph.dense(total, weights["cnn_W"]), shift)
    mean = graph.add("Div", mean, graph.add("Sqrt", "length"))
    first = graph.add("Relu", graph.dense(mean, weights["d0"]))
    second = graph.add("Relu", graph.add("Add", graph.dense(mean, weights["p1"]), graph.dense(first, weights["d1"])))
    third = graph.add("Relu", graph.dense(second, weights["d2"]))
    z = graph.add("Tanh", graph.add("Add", graph.dense(second, weights["p3"]), graph.dense(third, weights["d3"])))
    squares = graph.add("ReduceSum", graph.add("Mul", z, z), graph.constant([-1], np.int64))
    norm = graph.add("Sqrt", graph.add("Max", squares, graph.constant(1e-12)))
    graph.nodes.append(helper.make_node("Div", [z, norm], ["vectors"]))


def features_width() -> int:
    """Features of a token: its embedding and the convolutions' channels."""
    return files.WIDTH + len(ORDERS) * CHANNELS


def _model(graph: Builder) -> bytes:
    value = helper.make_tensor_value_info
    inputs = [
        value("codes", TensorProto.UINT8, ["tokens", files.WIDTH]),
        value("chunk", TensorProto.INT64, ["tokens"]),
        value("window", TensorProto.INT64, ["tokens", None]),
        value("text", TensorProto.INT64, ["tokens", 1]),
        value("length", TensorProto.FLOAT, ["texts", 1]),
    ]
    outputs = [value("vectors", TensorProto.FLOAT, ["texts", files.WIDTH])]
    body = helper.make_graph(graph.nodes, "encoder", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)
    return bytes(model.SerializeToString(deterministic=True))


def activation_ranges(weights: dict[str, Floats]) -> Floats:
    """The largest activation of each channel [768] on sequences from the whole vocabulary, to three digits.

    Rounding keeps the last bits of a processor's arithmetic out of the graph.
    """
    table, size = files.embeddings(), files.CHUNKS * files.CHUNK_ROWS
    ranges = np.full(len(ORDERS) * CHANNELS, LEAST_RANGE)
    for number in range(SEQUENCES):
        ids = (np.arange(SEQUENCE) + number * SEQUENCE) * STEP % size
        ids[0], ids[-1] = BEGINNING, END
        embedding = table[ids] * weights["scale"][ids % files.CHUNKS, None] + weights["lo"][ids % files.CHUNKS, None]
        x = embedding @ _joined(weights, "proj") + _joined(weights, "proj_b")
        x -= x.mean(axis=1, keepdims=True)
        x *= _joined(weights, "ln_g") / np.sqrt((x * x).mean(axis=1, keepdims=True) + weights["eps"])
        x += _joined(weights, "ln_b")
        for branch, (order, before) in enumerate(ORDERS):
            channels = slice(branch * CHANNELS, (branch + 1) * CHANNELS)
            padded = np.pad(x[:, channels], ((before, order - 1 - before), (0, 0)))
            windows = np.concatenate([padded[place : place + SEQUENCE] for place in range(order)], axis=1)
            h = np.maximum(windows @ weights[f"w1_{order}"] + weights[f"b1_{order}"], 0) + x[:, channels]
            largest = np.maximum(np.abs(x[:, channels]), np.abs(h)).max(axis=0)
            ranges[channels] = np.maximum(ranges[channels], largest)
    return np.array([float(f"{value:.3g}") for value in ranges])


def main() -> None:
    """Write the graph to the given file, or replace the shipped one."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else files.GRAPH
    weights = {name: value.astype(np.float64) for name, value in files.weights().items()}
    out.write_bytes(build(weights, activation_ranges(weights)))


if __name__ == "__main__":
    main()
